"""CheckpointContainer, as far as the facade and the core go: CRIU is for tests on a host."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from grpclib.const import Status

from ocid.cri.container_checkpoint import TIMEOUT_S_DEFAULT, TIMEOUT_S_MAX
from ocid.cri.stubs import api_pb2 as pb
from ocid.errors import TimedOut, Unsupported
from ocid.events import checkpoint, node
from tests.cri.daemon import Daemon, refused

ARCHIVE = "/var/lib/kubelet/checkpoints/one.tar"


@pytest.fixture
async def app(daemon: Daemon) -> str:
    """A running container."""
    await daemon.pull()
    return await daemon.run(await daemon.run_pod(), "app", "run:1000")


async def ask(daemon: Daemon, container_id: str, location: str = ARCHIVE, timeout: int = 0) -> None:
    request = pb.CheckpointContainerRequest(container_id=container_id, location=location, timeout=timeout)
    await daemon.client.CheckpointContainer(request)


async def test_a_checkpoint_is_in_the_log_before_and_after(daemon: Daemon, app: str) -> None:
    await ask(daemon, app)

    asked, made = daemon.log(checkpoint.Requested, checkpoint.Made)
    assert isinstance(asked.event, checkpoint.Requested)
    assert (asked.event.container_id, asked.event.location) == (app, ARCHIVE)
    assert asked.event.timeout_s == TIMEOUT_S_DEFAULT
    assert asked.context.who == daemon.log(node.PeerSeen)[0].seq
    assert asked.stream == made.stream == f"checkpoint/{asked.event.checkpoint_id}"
    assert isinstance(made.event, checkpoint.Made)
    assert made.event.size_bytes == 5
    assert (await daemon.status(app)).state == pb.CONTAINER_RUNNING
    assert not daemon.node.world.frozen
    assert not daemon.view.checkpoints.rows, "one that is over is forgotten"


async def test_timeouts(daemon: Daemon, app: str) -> None:
    for timeout in (7, TIMEOUT_S_MAX + 1):
        await ask(daemon, app, timeout=timeout)

    asked = [one.event for one in daemon.log(checkpoint.Requested)]
    assert [one.timeout_s for one in asked if isinstance(one, checkpoint.Requested)] == [7, TIMEOUT_S_MAX]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unsupported("no criu"), Status.UNIMPLEMENTED),
        (TimedOut("not within 5 s"), Status.DEADLINE_EXCEEDED),
    ],
    ids=["unsupported", "timed out"],
)
async def test_a_checkpoint_that_fails_says_why(
    daemon: Daemon, app: str, monkeypatch: pytest.MonkeyPatch, error: Any, status: Status
) -> None:
    async def fails(*_: Any) -> int:
        raise error

    monkeypatch.setattr(daemon.core.host.runtime, "checkpoint", fails)
    with refused(status, f"checkpoint of container 'app': {error.message}"):
        await ask(daemon, app)
    (failed,) = daemon.log(checkpoint.Failed)
    assert failed.event == checkpoint.Failed(error=type(error).__name__, message=error.message)


async def test_one_at_a_time(daemon: Daemon, app: str) -> None:
    daemon.node.faults.script("runtime.checkpoint", "slow")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, daemon, app)
        await trio.sleep(1)
        with refused(Status.UNAVAILABLE, "another checkpoint of container"):
            await ask(daemon, app)
    await ask(daemon, app)


async def test_who_loses_patience_gets_an_archive_all_the_same(daemon: Daemon, app: str) -> None:
    daemon.node.faults.script("runtime.checkpoint", "slow")
    with trio.move_on_after(1):
        await ask(daemon, app)
    await trio.sleep(60)

    assert len(daemon.log(checkpoint.Made)) == 1


async def test_what_the_daemons_death_cut_short_is_cleared_away(daemon: Daemon, app: str) -> None:
    daemon.node.faults.script("runtime.checkpoint", "slow")
    with trio.move_on_after(1):
        await ask(daemon, app)
    await daemon.restart()

    (failed,) = daemon.log(checkpoint.Failed)
    assert failed.event == checkpoint.Failed(
        error="Unavailable", message="the daemon ended while the checkpoint was made"
    )
    assert "runtime.abandon_checkpoint ends" in daemon.node.steps
    assert (await daemon.status(app)).state == pb.CONTAINER_RUNNING


async def test_what_cannot_be_checkpointed(daemon: Daemon, app: str) -> None:
    with refused(Status.NOT_FOUND, "container 'none' not found"):
        await ask(daemon, "none")
    with refused(Status.INVALID_ARGUMENT, "location is 'here.tar', wanted an absolute path"):
        await ask(daemon, app, "here.tar")
    with refused(Status.INVALID_ARGUMENT, "location is '/a/../b', wanted an absolute path without '..'"):
        await ask(daemon, app, "/a/../b")
    with refused(Status.INVALID_ARGUMENT, "location is 1025 bytes, the limit is 1024"):
        await ask(daemon, app, "/" + "x" * 1024)
    with refused(Status.INVALID_ARGUMENT, "timeout is -1"):
        await ask(daemon, app, timeout=-1)
    await daemon.client.StopContainer(pb.StopContainerRequest(container_id=app, timeout=0))
    with refused(Status.FAILED_PRECONDITION, "is exited, not running"):
        await ask(daemon, app)
    assert daemon.log(checkpoint.Requested) == []


async def test_a_location_as_long_as_may_be(daemon: Daemon, app: str) -> None:
    await ask(daemon, app, "/" + "x" * 1023)
    assert len(daemon.log(checkpoint.Made)) == 1
