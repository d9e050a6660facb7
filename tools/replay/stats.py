"""``ocid-replay stats``: how many records of which kinds, how large, and how fast they come."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from ocid import tables
from ocid.events import base
from ocid.events.codec import Header
from ocid.journal.looking import look
from ocid.projections.text import exact_time_text, size, time_text

from . import output
from .exits import NO_LOG, OK
from .reading import headers, log_directory

COLUMNS: Final = ("EVENT", "COUNT", "SHARE", "BYTES", "SHARE", "A DAY", "FIRST SEQ", "LAST SEQ")
_DAY_NS: Final = 86_400 * 10**9


class Kind(msgspec.Struct, kw_only=True):
    """All records of one type."""

    type: str
    known: bool  # to this build
    count: int = 0
    bytes: int = 0  # as stored, without what LMDB and the indexes add
    per_day: float | None = None  # None where the clock gives no span
    first_seq: int = 0
    last_seq: int = 0


class Stats(msgspec.Struct, kw_only=True):
    """A whole log in numbers."""

    records: int = 0
    bytes: int = 0
    first_seq: int = 0
    last_seq: int = 0
    first_ns: int = 0
    last_ns: int = 0
    first: str | None = None
    last: str | None = None
    epochs: int = 0
    boots: int = 0
    clock_steps: int = 0  # how often the wall clock went backwards from one record to the next
    per_day: float | None = None
    documents: int = 0
    file_bytes: int = 0  # as long as the file is
    disk_bytes: int = 0  # as it takes on the disk
    kinds: list[Kind] = []


def run(args: argparse.Namespace) -> int:
    """Print the numbers."""
    directory = log_directory(args)
    with look(directory) as reader:
        found = count(headers(reader))
        found.documents = reader.check_documents()
        status = (directory / "data.mdb").stat()
        found.file_bytes, found.disk_bytes = status.st_size, status.st_blocks * 512
    if args.output == "table":
        for line in text(found):
            tables.line(line)
        tables.line("")
        tables.show(COLUMNS, [row(kind, found) for kind in found.kinds])
    else:
        output.told(args.output, msgspec.to_builtins(found), ())
    return OK if found.records else NO_LOG


def count(log: Iterable[tuple[Header, bytes]]) -> Stats:
    """Count a log that goes by. Pure."""
    found = Stats()
    kinds: dict[str, Kind] = {}
    epochs: set[int] = set()
    boots: set[bytes] = set()
    for header, record in log:
        if not found.records:
            found.first_seq, found.first_ns = header.seq, header.wall_ns
        found.clock_steps += header.wall_ns < found.last_ns
        found.records += 1
        found.bytes += len(record)
        found.last_seq, found.last_ns = header.seq, header.wall_ns
        epochs.add(header.epoch)
        boots.add(header.boot_id)
        kind = kinds.get(header.type)
        if kind is None:
            known = header.type in base.REGISTRY
            kind = kinds[header.type] = Kind(type=header.type, known=known, first_seq=header.seq)
        kind.count += 1
        kind.bytes += len(record)
        kind.last_seq = header.seq
    found.epochs, found.boots = len(epochs), len(boots)
    if found.records:
        found.first, found.last = exact_time_text(found.first_ns), exact_time_text(found.last_ns)
    span_ns = found.last_ns - found.first_ns
    if span_ns > 0:
        found.per_day = round(found.records * _DAY_NS / span_ns, 1)
        for kind in kinds.values():
            kind.per_day = round(kind.count * _DAY_NS / span_ns, 1)
    found.kinds = sorted(kinds.values(), key=lambda kind: (-kind.count, kind.type))
    return found


def text(found: Stats) -> Iterator[str]:
    """Yield the numbers of the whole as lines. Pure."""
    if not found.records:
        yield "the log holds no records"
        return
    yield (
        f"{found.records} records, [{found.first_seq}] to [{found.last_seq}], {time_text(found.first_ns)} to "
        f"{time_text(found.last_ns)}, epochs: {found.epochs}, boots: {found.boots}"
    )
    rate = "not known: its clock gives no span" if found.per_day is None else f"{found.per_day:.1f} records"
    yield f"a day: {rate}"
    if found.clock_steps:
        yield f"the wall clock went backwards {found.clock_steps} times: times are not in order, seqs are"
    yield (
        f"records {size(found.bytes)}, {found.documents} documents; file {size(found.file_bytes)}, "
        f"of which {size(found.disk_bytes)} are on the disk"
    )


def row(kind: Kind, found: Stats) -> tuple[str, ...]:
    """Return a type's row. Pure."""
    return (
        kind.type if kind.known else f"{kind.type} (unknown)",
        str(kind.count),
        f"{100 * kind.count / max(found.records, 1):.1f} %",
        str(kind.bytes),
        f"{100 * kind.bytes / max(found.bytes, 1):.1f} %",
        "-" if kind.per_day is None else f"{kind.per_day:.1f}",
        str(kind.first_seq),
        str(kind.last_seq),
    )
