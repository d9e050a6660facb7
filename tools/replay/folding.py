"""Fold a log to canonical bytes. Also run as a program of its own, in a process with another hash seed.

Nothing here is imported from beside this file, so that a child can run it: ``python -P folding.py DIRECTORY SEQ``
prints the digest.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import msgspec

from ocid.events.codec import Damaged
from ocid.journal.looking import envelopes, look
from ocid.journal.reader import Reader
from ocid.projections import summary
from ocid.projections.view import View, schema_hash

SNAPSHOT = "view"  # the name that the daemon keeps its view's snapshots under


def fold(reader: Reader, to_seq: int, *, with_snapshot: bool = False) -> tuple[bytes, int]:
    """Return the canonical bytes of the state after record *to_seq*, and the seq of the snapshot it began with.

    Args:
        reader: the log.
        to_seq: the last record.
        with_snapshot: begin with the newest snapshot, where the log has one that fits; else with record 1.
    """
    view = View(reader.document)
    if with_snapshot:
        view = _from_snapshot(reader, to_seq)
    began = view.seq
    for envelope in envelopes(reader, view.seq + 1):
        if envelope.seq > to_seq:
            break
        view.apply(envelope)
    return canonical(view), began


def canonical(view: View) -> bytes:
    """Write down everything that the log folds to, and what lists show of it, in one order. Pure."""
    shown = {
        "pods": summary.pods(view),
        "strays": summary.strays(view),
        "images": summary.images(view),
        "leases": summary.leases(view),
        "living": {name: list(each.rows) for name, each in view.living()},
        "unknown": view.unknown,
    }
    state = msgspec.msgpack.decode(view.snapshot())
    return msgspec.json.encode([shown, _plain(state)], order="deterministic")


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value


def _from_snapshot(reader: Reader, to_seq: int) -> View:
    snapshot = reader.snapshot(SNAPSHOT, bytes.fromhex(schema_hash()))
    view = View(reader.document)
    if snapshot is None or snapshot.seq > to_seq:
        return view
    try:
        view.restore(snapshot.state)
    except (msgspec.MsgspecError, Damaged):
        return View(reader.document)
    return view


def digest(folded: bytes) -> str:
    """Return the digest by which foldings are compared."""
    return f"sha256:{hashlib.sha256(folded).hexdigest()}"


def main(argv: list[str]) -> int:
    """Print the digest of the folding that the arguments ask for."""
    directory, to_seq = argv
    with look(Path(directory)) as reader:
        sys.stdout.write(digest(fold(reader, int(to_seq))[0]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
