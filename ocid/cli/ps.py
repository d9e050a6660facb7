"""``ocid ps``: pods and their containers, from the log."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import msgspec

from ocid import tables
from ocid.cli.client import Deps
from ocid.cli.log import current_view, reading
from ocid.config import Loaded
from ocid.projections import summary
from ocid.projections.summary import ContainerLine, PodLine
from ocid.projections.text import age, short

COLUMNS = ("ID", "NAME", "STATE", "AGE", "DETAIL")


def run(args: argparse.Namespace, loaded: Loaded, deps: Deps) -> int:
    """Print pods with their containers, a pod's own line first."""
    with reading(loaded) as reader:
        view = current_view(reader)
        pods, strays = summary.pods(view), summary.strays(view)
    shown = pods if args.all else [without_ended(pod) for pod in pods if not _has_ended(pod)]
    strays = [line for line in strays if args.all or not line.is_over]
    if args.output == "json":
        tables.json({"seq": view.seq, "pods": shown, "containers_without_pod": strays})
    else:
        tables.show(COLUMNS, rows(shown, strays, time.time_ns()))
    return 0


def _has_ended(pod: PodLine) -> bool:
    """A stopped pod that still has a container running is not at its end."""
    return pod.is_over and all(container.is_over for container in pod.containers)


def without_ended(pod: PodLine) -> PodLine:
    """Return the pod's line with those of its containers that have not ended."""
    running = tuple(container for container in pod.containers if not container.is_over)
    return msgspec.structs.replace(pod, containers=running)


def rows(pods: list[PodLine], strays: list[ContainerLine], now_ns: int) -> Iterator[tuple[str, ...]]:
    """Yield the table's rows. Pure."""
    for pod in pods:
        detail = pod.reason or ", ".join(pod.addresses) or f"{pod.network} network"
        name = f"{pod.namespace}/{pod.name}" + (f" #{pod.attempt}" if pod.attempt else "")
        yield short(pod.id), name, pod.state, age(pod.created_at_ns, now_ns), detail
        for container in pod.containers:
            yield _container_row("  └ ", container, now_ns)
    for container in strays:
        yield _container_row("(no pod) ", container, now_ns)


def _container_row(indent: str, line: ContainerLine, now_ns: int) -> tuple[str, ...]:
    state = line.state if line.exit_code is None else f"{line.state} ({line.exit_code})"
    name = indent + line.name + (f" #{line.attempt}" if line.attempt else "")
    detail = f"{line.image}, {line.reason}" if line.reason not in ("", "Completed", "Error") else line.image
    since_ns = line.finished_at_ns or line.started_at_ns or line.created_at_ns
    return short(line.id), name, state, age(since_ns, now_ns), detail
