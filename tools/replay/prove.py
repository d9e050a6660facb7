"""``ocid-replay prove``: a record, the checkpoint that covers it, and the hashes between them.

Whoever has the proof needs neither the log nor ocid to check it: docs/proofs.md has a script that does.
"""

from __future__ import annotations

import argparse
import base64
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

import msgspec

from ocid import tables
from ocid.domain import merkle, note
from ocid.errors import InvalidRequest, NotFound
from ocid.events import codec
from ocid.events.codec import Damaged
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
        if args.seq > reader.last_seq():
            raise NotFound("record", str(args.seq))
        coverings = all_coverings(reader)
        if not coverings or coverings[-1].size < args.seq:
            raise InvalidRequest(
                f"record {args.seq} is not signed for yet: the daemon signs once a minute, and when it stops"
            )
        proof = prove(reader, args.seq, coverings)
    if proof is None:
        tables.json({"format": FORMAT, "seq": args.seq, "error": "the record is not the one that was signed for"})
        return CONTRADICTED
    tables.json(proof)
    return OK


class Covering(msgspec.Struct, frozen=True):
    """A checkpoint of the log."""

    size: int  # it signs for the first so many records
    note: str
    key: str  # that signed it


def all_coverings(reader: Reader) -> list[Covering]:
    """Return every checkpoint of the log, smallest first."""
    found: list[Covering] = []
    signer = ""
    for envelope in reader.read_stream(LOG):
        match envelope.event:
            case Founded(key=key) | KeyRotated(key=key) | KeyReplaced(key=key):
                signer = key
            case Sealed(size=size, note=digest):
                found.append(Covering(size, reader.document(digest).decode(), signer))
    return found


def prove(reader: Reader, seq: int, coverings: Sequence[Covering]) -> dict[str, object] | None:
    """Return the proof as JSON-ready data, to the first checkpoint that covers record *seq* and can be led to.

    One that ends among records that were trimmed cannot be. None when the record is not part of what was signed for.
    """
    at = bisect_left(coverings, seq, key=lambda each: each.size)
    assert at < len(coverings), f"no checkpoint covers record {seq}"
    try:
        return proof_to(reader, seq, coverings[at])
    except Damaged:
        beyond = bisect_left(coverings, reader.trimmed()[0], lo=at, key=lambda each: each.size)
        if beyond in (at, len(coverings)):
            raise
    return proof_to(reader, seq, coverings[beyond])


def proof_to(reader: Reader, seq: int, covering: Covering) -> dict[str, object] | None:
    """Return the proof that leads to one checkpoint, see ``prove``."""
    head = note.checkpoint_of(note.parse(covering.note).text)
    found, record = (reader.records(seq, 1) or [(0, b"")])[0]
    if found != seq:
        raise InvalidRequest(f"record {seq} was trimmed: an archive has it")
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
        "checkpoint": covering.note,
        "key": covering.key,
    }
