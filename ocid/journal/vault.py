"""The pods' confidential texts on disk, and how they are erased. No Trio here.

One database, ``se``, whose rows of one pod begin with its id::

    pod ‖ 0x00                  → the pod's key (32 bytes)
    pod ‖ 0x00 ‖ commitment     → nonce (12 bytes) ‖ salt ‖ text, encrypted with it: ChaCha20-Poly1305, RFC 8439
    0x00 ‖ commitment           → the pod
    0x01 ‖ pod                  → seq of the record that erased its texts (8 bytes)

Erasing takes the pod's key, in the commit of the record that says so; from then on no text of the pod can be read. The
encrypted texts follow in small pieces, and what finds a commitment's pod stays. A commitment that is there already
costs nothing, so a command that is run every ten seconds is kept once.
"""

from __future__ import annotations

import contextlib
import os
import time
from hashlib import sha256
from typing import Any, Final, TypeAlias

import lmdb
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from ocid.domain.confidential import SALT_BYTES, Confidential
from ocid.errors import Erased
from ocid.events.codec import Damaged
from ocid.ids import Digest, PodId

NAME: Final = b"se"
KEY_BYTES: Final = 32
DIGEST_BYTES: Final = 32
NONCE_BYTES: Final = 12
SEQ_BYTES: Final = 8
OVERHEAD_BYTES: Final = NONCE_BYTES + SALT_BYTES + 16  # of an encrypted text; RFC 8439 section 2.8
POD_KEY_BYTES: Final = 64 + 1  # of the row of a pod's key
TEXT_KEY_BYTES: Final = POD_KEY_BYTES + 32  # of the row of a text

_END: Final = b"\0"
_POD_OF: Final = b"\0"
_ERASED: Final = b"\1"

Txn: TypeAlias = "lmdb.Transaction[bytes]"


def put(txn: Txn, db: Any, confidential: Confidential) -> None:
    """Keep a text, encrypted; one that is there already stays, and one of an erased pod is as good as erased."""
    commitment = _raw(confidential.digest)
    pod = confidential.pod_id.encode()
    assert pod > b"\2", f"{confidential.pod_id!r} is no pod's id"
    assert _END not in pod, f"{confidential.pod_id!r} is no pod's id"
    if not txn.put(_POD_OF + commitment, pod, db=db, overwrite=False):
        return
    if txn.get(_ERASED + pod, db=db) is not None:
        return
    key = txn.get(pod + _END, db=db)
    if key is None:
        key = ChaCha20Poly1305.generate_key()
        txn.put(pod + _END, key, db=db)
    txn.put(pod + _END + commitment, encrypted(key, commitment, confidential), db=db)


def get(txn: Txn, db: Any, digest: Digest) -> Confidential | None:
    """Return a text, or None where no pod has one with this commitment.

    Raises:
        Erased: it was erased.
        Damaged: it is not what was kept.
    """
    commitment = _raw(digest)
    pod = txn.get(_POD_OF + commitment, db=db)
    if pod is None:
        return None
    if (erased := txn.get(_ERASED + pod, db=db)) is not None:
        raise Erased(digest, _pod(pod), int.from_bytes(erased, "big"))
    key, stored = txn.get(pod + _END, db=db), txn.get(pod + _END + commitment, db=db)
    if key is None or stored is None:
        raise Damaged(f"the confidential document {digest} is missing, and nothing says that it was erased")
    return decrypted(key, commitment, stored, _pod(pod))


def check(txn: Txn, db: Any, after: bytes, until: float) -> tuple[int, bytes | None]:
    """Read every text from the row *after* on, until time.monotonic() is *until*; return their count and the next row.

    Raises:
        Damaged: one is not what was kept.
    """
    checked = 0
    with txn.cursor(db) as cursor:
        more = cursor.set_range(after or _POD_OF)
        while more and cursor.key().startswith(_POD_OF):
            if time.monotonic() > until:
                return checked, cursor.key()
            with contextlib.suppress(Erased):
                get(txn, db, Digest("sha256:" + cursor.key()[1:].hex()))
                checked += 1
            more = cursor.next()
    return checked, None


def pods(txn: Txn, db: Any, beginning: str, limit: int) -> list[PodId]:
    """Return up to *limit* pods that have texts and whose ids begin so."""
    found: list[PodId] = []
    prefix = beginning.encode()
    with txn.cursor(db) as cursor:
        more = cursor.set_range(prefix or b"\2")
        while more and cursor.key().startswith(prefix) and len(found) < limit:
            pod = cursor.key().partition(_END)[0]
            if cursor.key() == pod + _END:
                found.append(_pod(pod))
            more = cursor.set_range(pod + b"\1")
    return found


def count(txn: Txn, db: Any, pod_id: PodId) -> int:
    """Return how many texts of a pod there are."""
    prefix = pod_id.encode() + _END
    found = 0
    with txn.cursor(db) as cursor:
        more = cursor.set_range(prefix)
        while more and cursor.key().startswith(prefix):
            found += len(cursor.key()) > len(prefix)
            more = cursor.next()
    return found


def erase(txn: Txn, db: Any, pod_id: PodId, seq: int) -> None:
    """Take the pod's key, and remember which record said so. ``sweep`` takes what nobody can read any more."""
    pod = pod_id.encode()
    txn.put(_ERASED + pod, seq.to_bytes(SEQ_BYTES, "big"), db=db)
    txn.delete(pod + _END, db=db)


def sweep(txn: Txn, db: Any, limit: int) -> int:
    """Delete up to *limit* texts of erased pods, and return how many that were."""
    swept = 0
    with txn.cursor(db) as cursor:
        pods_erased = []
        more = cursor.set_range(_ERASED)
        while more and cursor.key().startswith(_ERASED):
            pods_erased.append(cursor.key()[1:])
            more = cursor.next()
        for pod in pods_erased:
            more = cursor.set_range(pod + _END)
            while more and cursor.key().startswith(pod + _END):
                if swept == limit:
                    return swept
                more = cursor.delete() and bool(cursor.key())
                swept += 1
    return swept


def drop(txn: Txn, db: Any, pod_id: PodId) -> None:
    """Remove all texts of a pod, and what says whose they are, because no record cites them any more."""
    pod = pod_id.encode()
    gone = [pod + _END, _ERASED + pod]
    with txn.cursor(db) as cursor:
        more = cursor.set_range(pod + _END)
        while more and cursor.key().startswith(pod + _END):
            if len(commitment := cursor.key()[len(pod) + 1 :]) == DIGEST_BYTES:
                gone += [cursor.key(), _POD_OF + commitment]
            more = cursor.next()
    for key in gone:
        txn.delete(key, db=db)


def encrypted(key: bytes, commitment: bytes, confidential: Confidential) -> bytes:
    """Return salt and text, encrypted."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, confidential.salt + confidential.text, commitment)


def decrypted(key: bytes, commitment: bytes, stored: bytes, pod_id: PodId) -> Confidential:
    """Return the text that *stored* is.

    Raises:
        Damaged: key, text and commitment do not belong together.
    """
    try:
        plain = ChaCha20Poly1305(key).decrypt(stored[:NONCE_BYTES], stored[NONCE_BYTES:], commitment)
    except (InvalidTag, ValueError):
        plain = b""
    if len(plain) < SALT_BYTES or sha256(plain).digest() != commitment:
        raise Damaged(f"the confidential document sha256:{commitment.hex()} is not what was kept")
    return Confidential(pod_id, plain[:SALT_BYTES], plain[SALT_BYTES:])


def _pod(raw: bytes) -> PodId:
    return PodId(raw.decode("utf-8", "replace"))  # the log may be anybody's


def _raw(digest: Digest) -> bytes:
    return bytes.fromhex(digest.removeprefix("sha256:"))
