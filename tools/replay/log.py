"""``ocid-replay log``: the log, filtered and in order."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, Final

from ocid import tables
from ocid.events.envelope import Envelope
from ocid.events.node import PeerSeen
from ocid.journal.looking import look, peers
from ocid.projections.fields import plain
from ocid.projections.text import short, time_text
from ocid.projections.words import who, words

from .exits import OK
from .reading import log_directory, selected, selection_of

COLUMNS: Final = (
    ("SEQ", 7), ("TIME(UTC)", 24), ("STREAM", 22), ("EVENT", 26), ("WHO", 14), ("DETAIL", 0),
)  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Print the records that the filters select; with ``--follow``, until interrupted."""
    selection = selection_of(args)
    with look(log_directory(args)) as reader:
        found = selected(reader, selection, follow=args.follow)
        peer = peers(reader)
        if args.output == "json":
            tables.json_lines(map(facts, found), at_once=args.follow)
        else:
            tables.stream(COLUMNS, (row(envelope, peer) for envelope in found), at_once=args.follow)
    return OK


def facts(envelope: Envelope) -> dict[str, Any]:
    """Return a record as JSON-ready data, its words included. Pure."""
    return plain(envelope) | {"words": words(envelope.event)}


def row(envelope: Envelope, peer: Callable[[int], PeerSeen | None]) -> tuple[str, ...]:
    """Return a record's row. Pure but for *peer*, which finds who asked."""
    aggregate, _, name = envelope.stream.partition("/")
    asker = envelope.context.who
    return (
        str(envelope.seq),
        time_text(envelope.wall_ns),
        f"{aggregate}/{short(name)}",
        envelope.type,
        who(peer(asker) if asker else None, asker),
        words(envelope.event),
    )
