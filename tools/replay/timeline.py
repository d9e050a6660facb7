"""``ocid-replay timeline``: what happened, record by record, filtered and in order."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from ocid import tables
from ocid.errors import InvalidRequest
from ocid.events.envelope import Envelope
from ocid.events.node import PeerSeen
from ocid.journal.looking import look, peers
from ocid.projections.fields import plain
from ocid.projections.text import short, time_text
from ocid.projections.words import who, words

from .exits import OK
from .reading import log_directory, selected, selection_of

COLUMNS: Final = (
    ("SEQ", 7), ("TIME(UTC)", 24), ("Δ", 9), ("STREAM", 22), ("EVENT", 26), ("WHO", 14), ("DETAIL", 0),
)  # fmt: skip
_S: Final = 10**9


def run(args: argparse.Namespace) -> int:
    """Print the records that the filters select; with ``--follow``, until interrupted."""
    if args.follow and args.output == "json":
        raise InvalidRequest("a JSON document has an end, and --follow has none: use -o jsonl")
    selection = selection_of(args)
    with look(log_directory(args)) as reader:
        found = selected(reader, selection, follow=args.follow)
        if args.output == "json":
            tables.json({"records": list(map(facts, found))})
        elif args.output == "jsonl":
            tables.json_lines(map(facts, found), at_once=args.follow)
        else:
            tables.stream(COLUMNS, rows(found, peers(reader)), at_once=args.follow)
    return OK


def facts(envelope: Envelope) -> dict[str, Any]:
    """Return a record as JSON-ready data, its words included. Pure."""
    return plain(envelope) | {"words": words(envelope.event)}


def rows(found: Iterable[Envelope], peer: Callable[[int], PeerSeen | None]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each record. Pure but for *peer*, which finds who asked."""
    before = None
    for envelope in found:
        aggregate, _, name = envelope.stream.partition("/")
        asker = envelope.context.who
        yield (
            str(envelope.seq),
            time_text(envelope.wall_ns),
            "" if before is None else elapsed(before, envelope),
            f"{aggregate}/{short(name)}",
            envelope.type,
            who(peer(asker) if asker else None, asker),
            words(envelope.event),
        )
        before = envelope


def elapsed(before: Envelope, after: Envelope) -> str:
    """Say how much later *after* was: as "+0.012s", "+3m20s", "+5h00m" or "+2d03h". Pure.

    Within one boot the boot clock counts, which nobody sets; from one boot to another there is only the wall clock, and
    a "~" before it says so.
    """
    same = before.boot_id == after.boot_id
    ns = after.boot_ns - before.boot_ns if same else after.wall_ns - before.wall_ns
    return ("" if same else "~") + ("-" if ns < 0 else "+") + _length(abs(ns))


def _length(ns: int) -> str:
    seconds = ns // _S
    if seconds < 60:
        return f"{ns / _S:.3f}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02}s"
    if seconds < 86_400:
        return f"{seconds // 3600}h{seconds // 60 % 60:02}m"
    return f"{seconds // 86_400}d{seconds // 3600 % 24:02}h"
