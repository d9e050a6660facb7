"""The log that a command was told to read, and the records of it that were asked for."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from ocid import config
from ocid.events import codec
from ocid.events.envelope import Envelope
from ocid.journal.looking import damage_named, envelopes, peers
from ocid.journal.reader import Reader
from ocid.projections.finding import Finder
from ocid.projections.selection import Selection, parse_time

from . import partial


def log_directory(args: argparse.Namespace) -> Path:
    """Return ``--log``, or else the log of the configured root.

    Raises:
        InvalidRequest: the configuration cannot be.
    """
    if args.log is not None:
        return Path(args.log)
    return config.load(args.config).config.log_dir


def selection_of(args: argparse.Namespace) -> Selection:
    """Return what the command line's filters select.

    Raises:
        InvalidRequest: a time is none.
    """
    now_ns = time.time_ns()
    return Selection(
        pod=args.pod,
        container=args.container,
        stream=args.stream,
        types=tuple(args.type),
        since_ns=parse_time(args.since, now_ns) if args.since else 0,
        until_ns=parse_time(args.until, now_ns) if args.until else 0,
        from_seq=args.from_seq,
        to_seq=args.to_seq,
        who=args.who,
        image=args.image,
    )


def selected(reader: Reader, selection: Selection, *, follow: bool = False) -> Iterator[Envelope]:
    """Return what *selection* admits, in order; with *follow*, for ever. Says so where some of it was trimmed.

    Raises:
        Damaged: a record is not what was written.
    """
    partial.note(reader, selection)
    finder = Finder(reader, selection, peers(reader))
    with damage_named():
        yield from finder.history()
    if not follow:
        return
    for envelope in envelopes(reader, finder.next_seq, follow=True):
        if finder.is_over(envelope):
            return
        if finder.admits(envelope):
            yield envelope


def headers(reader: Reader) -> Iterator[tuple[codec.Header, bytes]]:
    """Yield every record with its header alone decoded, for a fast look through all of the log.

    Raises:
        Damaged: a record is not what was written.
    """
    partial.note(reader)
    seq = 1
    while chunk := reader.records(seq):
        for _, record in chunk:
            codec.check(record)
            yield codec.header_of(record), record
        seq = chunk[-1][0] + 1
