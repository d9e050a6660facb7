"""Tables of malformed requests: what is sent, and the status and words that it gets.

A case is a good request with something changed. ``at`` changes one field by its path, ``text`` merges protobuf text,
and any function of the message does. To cover another RPC, write a table and give it to ``check``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import trio
from google.protobuf import text_format
from google.protobuf.message import Message
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.cri.status import MESSAGE_BYTES_MAX
from ocid.events import container as container_events, node as node_events, pod as pod_events
from ocid.projections import containers, pods
from tests.cri import fuzzing
from tests.cri.daemon import Daemon
from tests.cri.played import call

Change = Callable[[Any], None]
Case = tuple[str, Change, Status, str]  # what it is, what is done, what it gets

INVALID = Status.INVALID_ARGUMENT
ABSENT = Status.NOT_FOUND
STATE = Status.FAILED_PRECONDITION
MISSING = Status.UNIMPLEMENTED
OK = Status.OK
PATIENCE_S = 60.0


def at(path: str, value: Any) -> Change:
    """Set one field: names and indices, dotted; a list replaces a repeated field, ``...`` clears."""

    def change(message: Any) -> None:
        *steps, last = path.split(".")
        target = message
        for step in steps:
            target = target[int(step)] if step.isdigit() else getattr(target, step)
        if value is ...:
            target.ClearField(last)
        elif isinstance(value, list):
            target.ClearField(last)
            getattr(target, last).extend(value)
        elif isinstance(value, dict):
            target.ClearField(last)
            getattr(target, last).update(value)
        else:
            setattr(target, last, value)

    return change


def text(more: str) -> Change:
    """Merge what protobuf's text format says."""
    return lambda message: message.MergeFrom(text_format.Parse(more, type(message)()))


def cases(table: Iterable[Case]) -> list[Any]:
    """The parameters of a test, with readable ids."""
    return [pytest.param(*case[1:], id=case[0]) for case in table]


async def check(daemon: Daemon, rpc: str, ids: dict[str, str], change: Change, status: Status, words: str) -> None:
    """Send the RPC's good request with *change*; it gets *status*, *words* are in its message, and nothing is made."""
    method = next(one for one in fuzzing.METHODS if one.name == rpc)
    message: Message = fuzzing.good(method)
    change(message)
    before, answer = made(daemon), (OK, "")
    try:
        with trio.fail_after(PATIENCE_S * 2):
            await call(daemon.client, method, fuzzing.resolved(message, ids), PATIENCE_S)
    except GRPCError as error:
        answer = (error.status, error.message or "")

    assert answer[0] is status, answer
    assert status is OK or words in answer[1], answer
    assert len(answer[1].encode()) < MESSAGE_BYTES_MAX + 100
    assert "\n" not in answer[1]
    assert status is OK or made(daemon) == before


async def prepared(daemon: Daemon) -> dict[str, str]:
    """Make an image, a pod, and a container of each state; return their ids by marker."""
    await daemon.pull()
    pod_id = await daemon.run_pod()
    return {
        "@pod": pod_id,
        "@running": await daemon.run(pod_id),
        "@created": await daemon.create(pod_id, "waits"),
        "@exited": (await daemon.exited(await daemon.run(pod_id, "short", "run:0.01"))).id,
    }


def made(daemon: Daemon) -> tuple[int, ...]:
    """How many pods, containers, images, sessions and changes of limits there are."""
    listed_pods = [row for row in daemon.view.pods.rows.values() if pods.is_listed(row.state)]
    listed = [row for row in daemon.view.containers.rows.values() if containers.is_listed(row.state)]
    updates = daemon.log(container_events.Updated, node_events.RuntimeConfigured, pod_events.ResourcesUpdated)
    counts = (listed_pods, listed, daemon.facade.catalog_state().images, daemon.view.sessions.rows, updates)
    return (*map(len, counts), len(daemon.core.checkpoints))
