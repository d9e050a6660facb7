"""ExecSync: codes, time limits, callers that go away, and what the log says of it."""

from __future__ import annotations

import pytest
import trio
from grpclib.const import Status
from grpclib.exceptions import StreamTerminatedError

from ocid.cri.stubs import api_pb2 as pb
from ocid.events import exec as events
from ocid.events.node import PeerSeen
from ocid.projections.words import words
from tests.cri.daemon import Call, Daemon, refused


@pytest.fixture
async def container_id(daemon: Daemon) -> str:
    """A running container."""
    await daemon.pull()
    return await daemon.run(await daemon.run_pod())


async def exec_sync(daemon: Daemon, container_id: str, *cmd: str, timeout: int = 0) -> pb.ExecSyncResponse:
    request = pb.ExecSyncRequest(container_id=container_id, cmd=cmd, timeout=timeout)
    response: pb.ExecSyncResponse = await daemon.client.ExecSync(request)
    return response


@pytest.mark.parametrize("code", [0, 3, 255])
async def test_code_and_output(daemon: Daemon, container_id: str, code: int) -> None:
    response = await exec_sync(daemon, container_id[:13], "run:0.5", f"code:{code}", timeout=10)

    assert response == pb.ExecSyncResponse(stdout=b"out", stderr=b"", exit_code=code)


async def test_it_is_in_the_log_before_it_runs(daemon: Daemon, container_id: str) -> None:
    await exec_sync(daemon, container_id, "run:1", "--password=hunter2", timeout=7)

    requested, finished = daemon.log(events.Requested, events.Finished)
    assert isinstance(requested.event, events.Requested)
    assert (requested.event.container_id, requested.event.timeout_s) == (container_id, 7)
    assert requested.event.argv_brief.startswith("run:1 ")
    assert "hunter2" not in "".join(map(str, daemon.log()))
    assert requested.context.who == daemon.log(PeerSeen)[0].seq
    assert isinstance(finished.event, events.Finished)
    assert 1000 <= finished.event.took_ms < 1200
    assert finished.context.correlation == requested.context.correlation


async def test_what_a_client_claims_of_its_api_request_is_recorded(daemon: Daemon, container_id: str) -> None:
    await exec_sync(daemon, container_id, "env", "SPO_EXEC_REQUEST_UID=dbbf5fca-c955", "TOKEN=hunter2", "run:1")

    (requested,) = daemon.log(events.Requested)
    assert isinstance(requested.event, events.Requested)
    assert requested.event.audit_hints == ("SPO_EXEC_REQUEST_UID=dbbf5fca-c955",)
    assert words(requested.event).endswith(" [its client claims SPO_EXEC_REQUEST_UID=dbbf5fca-c955]")
    assert "hunter2" not in "".join(map(str, daemon.log()))


async def test_a_command_is_killed_when_its_time_is_up(daemon: Daemon, container_id: str) -> None:
    before = trio.current_time()
    with refused(Status.DEADLINE_EXCEEDED, "command 'serve' did not end within 2 s and was killed"):
        await exec_sync(daemon, container_id, "serve", timeout=2)

    assert 2 <= trio.current_time() - before < 3
    assert not daemon.node.world.commands
    (finished,) = daemon.log(events.Finished)
    assert isinstance(finished.event, events.Finished)
    assert finished.event.timed_out


async def test_no_limit_is_no_limit(daemon: Daemon, container_id: str) -> None:
    assert (await exec_sync(daemon, container_id, "run:100000", "code:4")).exit_code == 4


@pytest.mark.parametrize("how", ["cancelled", "disconnected"])
async def test_a_command_is_killed_when_its_caller_is_gone(daemon: Daemon, container_id: str, how: str) -> None:
    """A probe's command must not outlive its probe; nothing of it is kept either."""
    request = pb.ExecSyncRequest(container_id=container_id, cmd=["serve"])
    async with trio.open_nursery() as nursery:
        if how == "cancelled":
            with trio.move_on_after(1):
                await daemon.client.ExecSync(request)
        else:
            async with daemon.connect() as client:
                nursery.start_soon(deserted, client.ExecSync, request)
                await trio.sleep(1)
    await trio.sleep(1)

    assert not daemon.node.world.commands
    assert len(daemon.log(events.Finished)) == 1
    assert not daemon.core.exec_effects.jobs
    assert not daemon.view.execs.rows


async def deserted(call: Call, request: pb.ExecSyncRequest) -> None:
    with pytest.raises(StreamTerminatedError):
        await call(request)


async def test_nothing_is_kept_of_what_has_ended(daemon: Daemon, container_id: str) -> None:
    await exec_sync(daemon, container_id, "run:1")
    daemon.node.faults.script("runtime.exec_sync", "fail")
    with refused(Status.UNKNOWN, "injected failure"):
        await exec_sync(daemon, container_id, "run:1")
    with refused(Status.DEADLINE_EXCEEDED):
        await exec_sync(daemon, container_id, "serve", timeout=1)

    assert not daemon.core.exec_effects.jobs
    assert not daemon.view.execs.rows


async def test_commands_run_side_by_side(daemon: Daemon, container_id: str) -> None:
    before = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(exec_sync, daemon, container_id, "run:5")

    assert trio.current_time() - before < 6


async def test_a_container_that_ends_takes_its_commands_with_it(daemon: Daemon) -> None:
    await daemon.pull()
    container_id = await daemon.run(await daemon.run_pod(), "app", "run:3")

    assert (await exec_sync(daemon, container_id, "serve")).exit_code == 137


async def test_what_does_not_run_takes_no_commands(daemon: Daemon) -> None:
    await daemon.pull()
    pod_id = await daemon.run_pod()
    created, ended = await daemon.create(pod_id), await daemon.run(pod_id, "done", "run:0.1")
    await daemon.exited(ended)
    for container_id in (created, ended):
        with refused(Status.NOT_FOUND, f"running container '{container_id}' not found"):
            await exec_sync(daemon, container_id, "true")
    assert daemon.log(events.Requested) == []


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (pb.ExecSyncRequest(container_id="x"), "cmd"),
        (pb.ExecSyncRequest(container_id="x", cmd=["a\0b"]), "NUL"),
        (pb.ExecSyncRequest(container_id="x", cmd=["true"], timeout=-1), "timeout is -1"),
    ],
)
async def test_refusals(daemon: Daemon, request_: pb.ExecSyncRequest, words: str) -> None:
    with refused(Status.INVALID_ARGUMENT, words):
        await daemon.client.ExecSync(request_)


async def test_a_command_that_a_dead_daemon_left_is_ended(daemon: Daemon, container_id: str) -> None:
    async with trio.open_nursery() as nursery:
        request = pb.ExecSyncRequest(container_id=container_id, cmd=["serve"])
        nursery.start_soon(deserted, daemon.client.ExecSync, request)
        await trio.sleep(1)
        assert daemon.node.world.commands
        await daemon.restart()
        assert not daemon.node.world.commands

    assert len(daemon.log(events.Abandoned)) == 1
