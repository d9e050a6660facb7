"""Check a proof that "ocid-replay prove" wrote: python3 check_proof.py PROOF.json KEY. Nothing of ocid is needed."""

import base64
import hashlib
import json
import sys

P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493  # RFC 8032 section 5.1
D = -121665 * pow(121666, -1, P) % P


def need(holds, what):
    return holds or sys.exit(f"NOT PROVEN: {what}")


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def add(a, b):
    (x1, y1), (x2, y2) = a, b
    t = D * x1 * x2 * y1 * y2
    return (x1 * y2 + x2 * y1) * pow(1 + t, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - t, -1, P) % P


def times(n, point):
    total = (0, 1)
    for bit in f"{n:b}":
        total = add(total, total)
        total = add(total, point) if bit == "1" else total
    return total


def point(data):
    y = int.from_bytes(data, "little") & (1 << 255) - 1
    xx = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(xx, (P + 3) // 8, P)
    x = x if x * x % P == xx else x * pow(2, (P - 1) // 4, P) % P
    need(y < P and x * x % P == xx, "the signature is none")
    return (x if x & 1 == data[31] >> 7 else P - x), y


def verified(public, message, signature):
    s = int.from_bytes(signature[32:], "little")
    h = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L
    base = point((4 * pow(5, -1, P) % P).to_bytes(32, "little"))
    return s < L and times(s, base) == add(point(signature[:32]), times(h, point(public)))


with open(sys.argv[1]) as file:
    proof = json.load(file)
name, key_id, key = sys.argv[2].strip().split("+", 2)
record, public = base64.b64decode(proof["record"]), base64.b64decode(key)[1:]
node, at = sha(b"\0", record[3:-32]), proof["seq"] - 1
text, _, below = proof["checkpoint"].rpartition("\n\n")
origin, size, root = f"{text}\n".split("\n")[:3]
last = int(size) - 1
need(origin == name and 0 <= at <= last, "the checkpoint is another log's, or too old")
for other in map(bytes.fromhex, proof["proof"]):  # RFC 9162 section 2.1.3.2
    need(last, "too many hashes")
    left = at & 1 or at == last
    node = sha(b"\1", other, node) if left else sha(b"\1", node, other)
    while left and not at & 1 and at:
        at, last = at >> 1, last >> 1
    at, last = at >> 1, last >> 1
need(not last and node == base64.b64decode(root), "the record is not the one that was signed for")
signatures = [base64.b64decode(line.split()[2]) for line in below.splitlines() if line.split()[1] == name]
ours = [one[4:] for one in signatures if one[:4].hex() == key_id]
need(any(verified(public, f"{text}\n".encode(), one) for one in ours), "this key did not sign the checkpoint")
print(f"record {proof['seq']} is one of the {size} that {name} signed for\n{record[3:-32]!r}")
