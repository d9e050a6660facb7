"""``ocid-replay prove``: a record, the checkpoint that covers it, and the hashes between them.

Whoever has the proof needs neither the log nor ocid to check it: docs/proofs.md has a script that does.
"""

from __future__ import annotations

import argparse
import base64
from typing import Final

from ocid import tables
from ocid.domain import merkle, note
from ocid.errors import InvalidRequest, NotFound
from ocid.events import codec
from ocid.events.log import LOG, Founded, KeyReplaced, KeyRotated, Sealed
from ocid.journal.looking import look
from ocid.journal.reader import Reader
from ocid.journal.seals import check_seals

from .exits import CONTRADICTED, OK
from .reading import log_directory
from .verify import key_of

FORMAT: Final = "ocid-proof-1"


def run(args: argparse.Namespace) -> int:
    """Print the proof. It is checked before, as whoever gets it will check it."""
    key = key_of(args.key)
    with look(log_directory(args)) as reader:
        seals = check_seals(reader, key=key)
        if seals.faults:
            fault = seals.faults[0]
            raise InvalidRequest(f"the log proves nothing: {fault.what}; 'ocid-replay verify' says more")
        written, signer = covering(reader, args.seq)
        proof = prove(reader, args.seq, written, signer)
    if proof is None:
        tables.json({"format": FORMAT, "seq": args.seq, "error": "the record is not the one that was signed for"})
        return CONTRADICTED
    tables.json(proof)
    return OK


def covering(reader: Reader, seq: int) -> tuple[str, str]:
    """Return the first checkpoint that covers a record, as a note, and the key that signed it.

    Raises:
        NotFound: there is no such record.
        InvalidRequest: it is not signed for yet.
    """
    last_seq = reader.last_seq()
    if seq > last_seq:
        raise NotFound("record", str(seq))
    signer = ""
    for envelope in reader.read_stream(LOG):
        match envelope.event:
            case Founded(key=key) | KeyRotated(key=key) | KeyReplaced(key=key):
                signer = key
            case Sealed(size=size, note=digest) if size >= seq:
                return reader.document(digest).decode(), signer
    raise InvalidRequest(f"record {seq} is not signed for yet: the daemon signs once a minute, and when it stops")


def prove(reader: Reader, seq: int, written: str, signer: str) -> dict[str, object] | None:
    """Return the proof as JSON-ready data; None when the record is not part of what was signed for."""
    head = note.checkpoint_of(note.parse(written).text)
    ((found, record),) = reader.records(seq, 1)
    assert found == seq
    codec.check(record)
    leaf = codec.hash_of(record)
    hashes = merkle.inclusion_proof(seq - 1, head.size, reader.subtree)
    if merkle.inclusion_root(leaf, seq - 1, head.size, hashes) != head.root:
        return None
    return {
        "format": FORMAT,
        "seq": seq,
        "record": base64.b64encode(record).decode(),
        "leaf_hash": leaf.hex(),
        "proof": [each.hex() for each in hashes],
        "checkpoint": written,
        "key": signer,
    }
