"""``ocid-replay recovery``: what each start of the daemon found and did."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from ocid.events import node
from ocid.events.envelope import Envelope
from ocid.journal.looking import look
from ocid.journal.reader import Reader
from ocid.projections.phrases import duration
from ocid.projections.text import exact_time_text, time_text
from ocid.projections.words import words

from . import output, partial
from .exits import NO_LOG, OK
from .reading import log_directory

COLUMNS: Final = (
    "SEQ", "TIME(UTC)", "EPOCH", "VERSION", "BEFORE", "REBOOT", "PODS", "CONTAINERS", "ADOPTED", "LOST", "TOOK",
    "WROTE", "DEALT WITH",
)  # fmt: skip
RECORDS_MAX: Final = 4096  # looked at after each start


class Start(msgspec.Struct, kw_only=True):
    """One start of the daemon."""

    seq: int
    time: str
    wall_ns: int
    epoch: int
    version: str
    pid: int
    after_clean_stop: bool
    rebooted: bool
    recovered_seq: int = 0  # 0: it never came so far as to serve
    pods: int = 0
    containers: int = 0
    adopted: int = 0
    lost: int = 0
    took_ms: int | None = None
    correlation: str = ""  # of what the recovery wrote; "" where it wrote under none
    wrote: dict[str, int] = {}  # type → how many records
    records: list[int] = []  # of these, in order
    dealt_with: list[dict[str, Any]] = []  # orphans, faulty networks, logs set aside
    stopped_seq: int = 0  # of its clean stop
    complete: bool = True  # whether all that it wrote was looked at


def run(args: argparse.Namespace) -> int:
    """Print every start."""
    with look(log_directory(args)) as reader:
        partial.note(reader)
        stream = reader.read_stream(node.NODE)
        found = list(starts(stream, lambda seq: _after(reader, seq)))
    output.listed(args.output, "starts", found, COLUMNS, map(row, found))
    return OK if found else NO_LOG


def _after(reader: Reader, seq: int) -> Sequence[Envelope]:
    found: list[Envelope] = []
    while len(found) < RECORDS_MAX and (some := reader.read(seq, RECORDS_MAX - len(found))):
        found += some
        seq = some[-1].seq + 1
    return found


def starts(stream: Sequence[Envelope], after: Any) -> Iterator[Start]:
    """Yield the starts that the node's own *stream* tells of. Pure but for *after*.

    Args:
        stream: of the node.
        after: returns records from a seq on, a bounded number of them.
    """
    begun = [place for place, each in enumerate(stream) if isinstance(each.event, node.Started)]
    for place, until in zip(begun, [*begun[1:], len(stream)], strict=False):
        yield _start(stream[place], stream[place + 1 : until], after, stream[:place])


def _start(at: Envelope, life: Sequence[Envelope], after: Any, before: Sequence[Envelope]) -> Start:
    event = at.event
    assert isinstance(event, node.Started), "only these begin a life"
    found = Start(
        seq=at.seq,
        time=exact_time_text(at.wall_ns),
        wall_ns=at.wall_ns,
        epoch=event.epoch,
        version=event.ocid_version,
        pid=event.pid,
        after_clean_stop=event.after_clean_stop,
        rebooted=event.rebooted,
    )
    # A log that was set aside is told of before the start, in the same life.
    own = [each for each in before if each.epoch == at.epoch and isinstance(each.event, node.LogQuarantined)]
    for each in (*own, *life):
        _take(found, each)
    if found.recovered_seq:
        _wrote(found, [each for each in after(at.seq + 1) if each.epoch == at.epoch])
    return found


def _take(found: Start, each: Envelope) -> None:
    match each.event:
        case node.Recovered() as recovered if not found.recovered_seq:
            found.recovered_seq, found.correlation = each.seq, each.context.correlation
            found.pods, found.containers = recovered.pods, recovered.containers
            found.adopted, found.lost, found.took_ms = recovered.adopted, recovered.lost, recovered.took_ms
        case node.OrphanFound() | node.NetworkFaulty() | node.LogQuarantined():
            found.dealt_with.append({"seq": each.seq, "type": each.type, "text": words(each.event)})
        case node.Stopped():
            found.stopped_seq = each.seq
        case _:
            pass


def _wrote(found: Start, later: Sequence[Envelope]) -> None:
    """Note what the recovery wrote: all of its correlation, or where it had none, what came before it was over."""
    if found.correlation:
        mine = [each for each in later if each.context.correlation == found.correlation]
        found.complete = len(later) < RECORDS_MAX
    else:
        mine = [each for each in later if each.seq <= found.recovered_seq and not each.context.who]
        found.complete = not later or later[-1].seq >= found.recovered_seq
    found.wrote = dict(sorted(Counter(each.type for each in mine).items()))
    found.records = [each.seq for each in mine]


def row(one: Start) -> tuple[str, ...]:
    """Return its row. Pure."""
    wrote = ", ".join(f"{count} {kind}" for kind, count in one.wrote.items()) or "-"
    dealt = "; ".join(f"[{each['seq']}] {each['text']}" for each in one.dealt_with) or "-"
    served = one.recovered_seq > 0
    return (
        str(one.seq),
        time_text(one.wall_ns),
        str(one.epoch),
        one.version,
        "clean stop" if one.after_clean_stop else "crash",
        "yes" if one.rebooted else "no",
        *(str(count) if served else "-" for count in (one.pods, one.containers, one.adopted, one.lost)),
        "never served" if one.took_ms is None else duration(one.took_ms),
        f"{wrote}{'' if one.complete else ' (and perhaps more)'}{f' [{one.records[0]}…]' if one.records else ''}",
        dealt,
    )
