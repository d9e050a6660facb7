"""``ocid-replay state``: the node as it was after any record, by folding the log from its beginning."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from ocid import tables
from ocid.errors import InvalidRequest
from ocid.events.envelope import Envelope
from ocid.journal.looking import envelopes, look
from ocid.journal.reader import Reader
from ocid.projections import summary
from ocid.projections.selection import parse_time
from ocid.projections.text import exact_time_text, short, size, time_text
from ocid.projections.view import View

from . import partial
from .exits import NO_LOG, OK
from .reading import log_directory

POD_COLUMNS: Final = ("ID", "NAME", "STATE", "CREATED", "ADDRESSES", "SEQ", "REASON")
CONTAINER_COLUMNS: Final = ("ID", "NAME", "POD", "STATE", "STARTED", "IMAGE", "SEQ", "REASON")
IMAGE_COLUMNS: Final = ("ID", "SIZE", "NAMES")
LEASE_COLUMNS: Final = ("ADDRESS", "POD ID", "POD")


def run(args: argparse.Namespace) -> int:
    """Print the state after ``--seq``, before the first record later than ``--time``, or after the last one."""
    until_ns = parse_time(args.time, time.time_ns()) if args.time else 0
    with look(log_directory(args)) as reader:
        view, at_ns = view_at(reader, args.seq, until_ns)
        facts = describe(view, at_ns)
    if args.output == "json":
        tables.json(facts)
    else:
        show(view, at_ns)
    return OK if view.seq else NO_LOG


def view_at(reader: Reader, seq: int, until_ns: int) -> tuple[View, int]:
    """Return the view as of record *seq*, or before the clock first passes *until_ns*, and when its last record was.

    Raises:
        InvalidRequest: the log has no such record, or was trimmed since.
    """
    if seq > (last := reader.last_seq()):
        raise InvalidRequest(f"record {seq} is not in the log, which ends at {last}")
    view = View(reader.document)
    at_ns = 0
    for envelope in until(envelopes(reader), seq, until_ns):
        view.apply(envelope)
        at_ns = envelope.wall_ns
    partial.require_state(reader, view.seq)
    return view, at_ns


def until(log: Iterable[Envelope], seq: int, wall_ns: int) -> Iterator[Envelope]:
    """Yield records up to *seq* and up to the last one before the clock first passes *wall_ns*; 0 for no end. Pure."""
    for envelope in log:
        if (seq and envelope.seq > seq) or (wall_ns and envelope.wall_ns > wall_ns):
            return
        yield envelope


def describe(view: View, at_ns: int) -> dict[str, Any]:
    """Return the state as JSON-ready data. Pure."""
    started = view.node.started
    return {
        "seq": view.seq,
        "time": exact_time_text(at_ns) if view.seq else None,
        "epoch": started.epoch if started is not None else 0,
        "daemon_stopped": view.node.stopped,
        "pods": summary.pods(view),
        "containers_without_pod": summary.strays(view),
        "images": summary.images(view),
        "leases": summary.leases(view),
        "unknown_events": view.unknown,
    }


def show(view: View, at_ns: int) -> None:
    """Print the state as sections of tables."""
    if not view.seq:
        tables.line("nothing had been recorded")
        return
    stopped = ", stopped" if view.node.stopped else ""
    epoch = view.node.started.epoch if view.node.started is not None else 0
    tables.line(f"state after record {view.seq}, written {time_text(at_ns)}; daemon epoch {epoch}{stopped}")
    if view.unknown:
        tables.line(f"{view.unknown} records are of kinds that this build does not know: the state may lack things")
    pods, strays = summary.pods(view), summary.strays(view)
    _section("PODS", POD_COLUMNS, [_pod_row(pod) for pod in pods])
    names = {pod.id: f"{pod.namespace}/{pod.name}" for pod in pods}
    containers = [*(container for pod in pods for container in pod.containers), *strays]
    _section("CONTAINERS", CONTAINER_COLUMNS, [_container_row(each, names) for each in containers])
    images = [(short(i.id), size(i.size_bytes), ", ".join(i.names)) for i in summary.images(view)]
    _section("IMAGES", IMAGE_COLUMNS, images)
    _section("LEASES", LEASE_COLUMNS, [(x.address, short(x.pod_id), x.pod) for x in summary.leases(view)])


def _section(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    tables.line("")
    tables.line(f"{title} ({len(rows)})")
    if rows:
        tables.show(columns, rows)


def _pod_row(pod: summary.PodLine) -> tuple[str, ...]:
    name, created = f"{pod.namespace}/{pod.name}", time_text(pod.created_at_ns)
    return short(pod.id), name, pod.state, created, ", ".join(pod.addresses), str(pod.seq), pod.reason


def _container_row(line: summary.ContainerLine, names: dict[str, str]) -> tuple[str, ...]:
    state = line.state if line.exit_code is None else f"{line.state} ({line.exit_code})"
    started = time_text(line.started_at_ns) if line.started_at_ns else "-"
    pod = names.get(line.pod_id, short(line.pod_id))
    return short(line.id), line.name, pod, state, started, line.image, str(line.seq), line.reason
