"""``ocid-replay export``: records for other programs, once or for ever, from a place that outlives this process.

At least once: records are written, flushed (a file: synced), and only then does the cursor move past them. Whoever is
killed in between writes them again; every format gives each record an identity that does not change, by which the
second can be dropped.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from ocid import __version__
from ocid.errors import InvalidRequest
from ocid.events import codec
from ocid.events.codec import Damaged
from ocid.events.envelope import Envelope
from ocid.journal import structure
from ocid.journal.looking import look, peers
from ocid.journal.reader import Reader

from .cloudevents import cloud_event
from .cursor import Cursor, CursorFile, origin_of, place
from .exits import OK
from .names import Names
from .naming import Log
from .native import native
from .ocsf import ocsf
from .outputs import Output, open_output, refuse_inside
from .reading import log_directory, selection_of
from .scan import Batch, Scan

SOURCE_CHARS_MAX: Final = 2048
WRITE_BYTES: Final = 1 << 20  # gathered before they are written
SYNC_S: Final = 1.0  # while an export has much to catch up with, it syncs no more often: the daemon syncs there, too

Convert = Callable[[Envelope], dict[str, Any]]


def run(args: argparse.Namespace) -> int:
    """Write the records that the filters select."""
    _check(args)
    directory = log_directory(args)
    refuse_inside(directory, args.write, args.cursor)
    try:
        _export(args, directory)
    except structure.DAMAGE as error:
        raise Damaged(str(error)) from error
    return OK


def _export(args: argparse.Namespace, directory: Path) -> None:
    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(CursorFile(Path(args.cursor))) if args.cursor else None
        cursor = kept.load() if kept is not None else None
        reader = stack.enter_context(look(directory))
        if cursor is not None:
            place(reader, cursor)
        scan = Scan(reader, selection_of(args), cursor.next_seq if cursor is not None else 0)
        output = open_output(args.write, grows=args.follow or kept is not None)
        stack.callback(output.close)
        export = Export(reader, args, output, kept)
        for batch in scan.batches(follow=args.follow):
            export.write(batch)
        export.finish()


def _check(args: argparse.Namespace) -> None:
    source = args.source
    if source and (not source.isprintable() or " " in source or len(source) > SOURCE_CHARS_MAX):
        raise InvalidRequest("--source: wanted a URI reference of at most 2048 characters")
    if args.cursor and args.until:
        raise InvalidRequest("--cursor would move past what is later than --until, which would then never be exported")


class Export:
    """One export under way."""

    def __init__(self, reader: Reader, args: argparse.Namespace, output: Output, kept: CursorFile | None) -> None:
        self._reader = reader
        self._args = args
        self._output = output
        self._kept = kept
        self._endless = args.follow or kept is not None  # each batch must be whole, and out
        self._framing = _FRAMINGS[args.format, self._endless]
        self._buffer = bytearray()
        self._written = 0
        self._origin = ""
        self._reached: Cursor | None = None  # past all that is written, and not told yet
        self._unsynced = False  # whether anything was written since
        self._synced_at = time.monotonic()
        self._convert: Convert | None = None

    def write(self, batch: Batch) -> None:
        """Write a batch; see that it is out, and then move the cursor past it, once a second or where the log ends."""
        if batch.wanted:
            begin, between, end = self._framing
            encode_into = _encoder.encode_into
            convert, buffer = self._converter(), self._buffer
            for envelope in batch.wanted:
                buffer += between if self._written else begin
                encode_into(convert(envelope), buffer, -1)
                self._written += 1
            if self._endless:
                buffer += end
                self._written = 0
        if self._endless or len(self._buffer) >= WRITE_BYTES:
            self._drain()
        if self._kept is not None:
            self._reached = self._cursor(batch)
        if self._endless and ((batch.caught_up and self._unsynced) or time.monotonic() - self._synced_at >= SYNC_S):
            self._output.flush()
            self._move()

    def finish(self) -> None:
        """Write what ends the export."""
        begin, _, end = self._framing
        if not self._endless:
            self._buffer += end if self._written else (begin + end if begin else b"")
        self._drain()
        self._output.finish()
        self._move()

    def _move(self) -> None:
        """Let the cursor say what is out now."""
        if self._kept is not None and self._reached is not None:
            self._kept.store(self._reached)
        self._reached, self._unsynced = None, False
        self._synced_at = time.monotonic()

    def _drain(self) -> None:
        if self._buffer:
            self._output.write(self._buffer)
            self._buffer.clear()
            self._unsynced = True

    def _cursor(self, batch: Batch) -> Cursor:
        self._origin = self._origin or origin_of(self._reader)
        return Cursor(
            origin=self._origin,
            genesis=self._reader.genesis().hex(),
            next_seq=batch.next_seq,
            last_hash=batch.last_hash.hex(),
        )

    def _converter(self) -> Convert:
        """Return what makes the format of a record; it is made when there is one, for the log's name is in it."""
        if self._convert is None:
            self._convert = converter(self._reader, self._args.format, self._args.source)
        return self._convert


def converter(reader: Reader, format: str, source: str = "") -> Convert:
    """Return the function from a record of the log to its JSON-ready form in *format*."""
    log = log_of(reader)
    if format == "jsonl":
        return lambda envelope: native(envelope, log.origin)
    if format == "ocsf":
        names = Names(log, reader, peers(reader))
        return lambda envelope: ocsf(envelope, names.of(envelope))
    source = source or "/" + urllib.parse.quote(log.origin)
    return lambda envelope: cloud_event(envelope, source)


def log_of(reader: Reader) -> Log:
    """Return what the log is called; one that was never given a name is called after this host and its first record."""
    origin = origin_of(reader)
    kind, _, rest = origin.partition("/")
    host = rest.rpartition("/")[0] if kind == "ocid" else ""
    host = host or platform.node() or "unknown"
    if not origin and (found := reader.records(1, 1)):
        origin = f"ocid/{host}/{codec.hash_of(found[0][1]).hex()[:16]}"
    return Log(origin or f"ocid/{host}", host, __version__)


_encoder: Final = msgspec.json.Encoder()
_LINES: Final = (b"", b"\n", b"\n")  # before the first record, between two, after the last
_FRAMINGS: Final = {
    ("jsonl", False): _LINES,
    ("jsonl", True): _LINES,
    ("cloudevents", False): _LINES,
    ("cloudevents", True): _LINES,
    ("ocsf", False): _LINES,
    ("ocsf", True): _LINES,
    ("cloudevents-batch", False): (b"[", b",\n", b"]\n"),
    ("cloudevents-batch", True): (b"[", b",", b"]\n"),  # an array a line, each whole
}
