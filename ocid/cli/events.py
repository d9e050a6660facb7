"""``ocid events``: the log as it happens."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

from ocid import tables
from ocid.cli.client import Deps
from ocid.cli.log import reading
from ocid.config import Loaded
from ocid.events.envelope import Envelope
from ocid.journal.looking import damage_named, envelopes, peers
from ocid.journal.reader import Reader
from ocid.projections.fields import plain
from ocid.projections.finding import Finder
from ocid.projections.selection import Selection, parse_time
from ocid.projections.text import short, time_text
from ocid.projections.words import words

COLUMNS = (("SEQ", 7), ("TIME", 24), ("STREAM", 22), ("EVENT", 26), ("DETAIL", 0))


def run(args: argparse.Namespace, loaded: Loaded, deps: Deps) -> int:
    """Print the events that the options select; with ``--follow``, until interrupted."""
    now_ns = time.time_ns()
    selection = Selection(
        pod=args.pod,
        container=args.container,
        types=tuple(args.type),
        since_ns=parse_time(args.since, now_ns) if args.since else 0,
        until_ns=parse_time(args.until, now_ns) if args.until else 0,
    )
    with reading(loaded) as reader:
        found = selected(reader, selection, follow=args.follow)
        if args.output == "json":
            tables.json_lines(map(plain, found), at_once=args.follow)
        else:
            tables.stream(COLUMNS, map(row, found), at_once=args.follow)
    return 0


def selected(reader: Reader, selection: Selection, *, follow: bool) -> Iterator[Envelope]:
    """Return what *selection* admits, in order."""
    finder = Finder(reader, selection, peers(reader))
    with damage_named():
        yield from finder.history()
    if follow:
        yield from filter(finder.admits, envelopes(reader, finder.next_seq, follow=True))


def row(envelope: Envelope) -> tuple[str, ...]:
    """Return an event's row. Pure."""
    aggregate, _, name = envelope.stream.partition("/")
    at = time_text(envelope.wall_ns)
    return str(envelope.seq), at, f"{aggregate}/{short(name)}", envelope.type, words(envelope.event)
