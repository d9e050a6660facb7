"""ExecSync as the kubelet's probes use it: the same command again and again, answered each time, counted in the log."""

from __future__ import annotations

import itertools

import pytest
import trio
from grpclib.const import Status

from ocid.cri import peers
from ocid.cri.peers import Identity
from ocid.cri.stubs import api_pb2 as pb
from ocid.events import exec as events
from ocid.events.node import PeerSeen, RequestRefused
from ocid.projections.words import words
from tests.cri.daemon import Client, Daemon, refused

FIRST = ["exec.requested", "exec.finished"] * 2


@pytest.fixture
async def container_id(daemon: Daemon) -> str:
    """A running container whose health is good."""
    daemon.node.world.moods["health"] = ("run:0.1",)
    await daemon.pull()
    return await daemon.run(await daemon.run_pod())


async def probe(
    daemon: Daemon, container_id: str, *more: str, client: Client | None = None, timeout: int = 2
) -> pb.ExecSyncResponse:
    request = pb.ExecSyncRequest(container_id=container_id, cmd=["health", *more], timeout=timeout)
    response: pb.ExecSyncResponse = await (client or daemon.client).ExecSync(request)
    return response


def told(daemon: Daemon) -> list[str]:
    return [one.type for one in daemon.log() if one.stream.startswith("exec/")]


async def test_every_call_is_answered_and_the_log_has_a_count(daemon: Daemon, container_id: str) -> None:
    for _ in range(9):
        assert await probe(daemon, container_id) == pb.ExecSyncResponse(stdout=b"out", exit_code=0)
    assert told(daemon) == FIRST
    await trio.sleep(61)
    assert told(daemon) == [*FIRST, "exec.repeated"]
    (counted,) = daemon.log(events.Repeated)
    assert words(counted.event).startswith("ran again 7 times from ")
    daemon.node.world.moods["health"] = ("run:0.1", "code:1")
    for _ in range(3):
        assert (await probe(daemon, container_id)).exit_code == 1
    assert told(daemon) == [*FIRST, "exec.repeated", "exec.changed"]
    (changed,) = daemon.log(events.Changed)
    assert changed.context.who == daemon.log(PeerSeen)[0].seq
    assert changed.context.command_id == "ExecSync"


async def test_a_time_limit_is_told_each_time(daemon: Daemon, container_id: str) -> None:
    for _ in range(3):
        await probe(daemon, container_id)
    daemon.node.world.moods["health"] = ("run:1000",)
    for _ in range(3):
        before = trio.current_time()
        with refused(Status.DEADLINE_EXCEEDED, "command 'health' did not end within 2 s and was killed"):
            await probe(daemon, container_id)
        assert 2 <= trio.current_time() - before < 3
    assert not daemon.node.world.commands
    assert told(daemon) == [*FIRST, "exec.repeated", *["exec.changed"] * 3]
    assert len(daemon.log(RequestRefused)) == 3


async def test_what_cannot_be_run_is_told_each_time(daemon: Daemon, container_id: str) -> None:
    for _ in range(3):
        await probe(daemon, container_id)
    daemon.node.faults.script("runtime.exec_sync", "fail", "unavailable")
    with refused(Status.UNKNOWN, "injected failure"):
        await probe(daemon, container_id)
    with refused(Status.UNAVAILABLE, "injected, try again"):
        await probe(daemon, container_id)
    assert told(daemon) == [*FIRST, "exec.repeated", "exec.failed", "exec.requested", "exec.failed"]
    assert (await probe(daemon, container_id)).exit_code == 0


async def test_secrets_stay_out_of_the_log(daemon: Daemon, container_id: str) -> None:
    for word in ("--password=hunter2", "--password=hunter3"):
        for _ in range(3):
            await probe(daemon, container_id, word)
    await trio.sleep(700)

    assert told(daemon).count("exec.requested") == 4, "two secrets are two commands, though they look the same"
    assert "hunter" not in "".join(map(str, daemon.log()))


async def test_a_caller_that_goes_away_ends_its_run_alone(daemon: Daemon, container_id: str) -> None:
    for _ in range(3):
        await probe(daemon, container_id)
    daemon.node.world.moods["health"] = ("run:1000",)
    with trio.move_on_after(1):
        await probe(daemon, container_id, timeout=2)
    await trio.sleep(0.5)
    assert not daemon.node.world.commands
    assert not daemon.core.exec_effects.jobs
    daemon.node.world.moods["health"] = ("run:0.1",)
    assert (await probe(daemon, container_id)).exit_code == 0
    assert [one.event.exit_code for one in daemon.log(events.Changed)] == [137, 0]  # type: ignore[attr-defined]


async def test_another_process_is_another_client(
    daemon: Daemon, container_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person's crictl is never counted with the kubelet, whatever it runs."""
    for _ in range(3):
        await probe(daemon, container_id)
    pids = itertools.count(1000)

    def identify(socket: object) -> Identity:
        seen = PeerSeen(pid=next(pids), start_ticks=1, uid=0, gid=0, exe="/usr/bin/crictl", comm="crictl", cgroup="/")
        return Identity(seen, None)

    monkeypatch.setattr(peers, "identify", identify)
    for _ in range(3):
        async with daemon.connect() as crictl:
            await probe(daemon, container_id, client=crictl)

    requested = daemon.log(events.Requested)
    assert len(requested) == 5
    assert len({one.context.who for one in requested}) == 4
    assert [bool(one.event.repeats) for one in requested] == [False, True, False, False, False]  # type: ignore[attr-defined]


async def test_a_connection_of_the_same_process_changes_nothing(daemon: Daemon, container_id: str) -> None:
    for _ in range(4):
        async with daemon.connect() as client:
            await probe(daemon, container_id, client=client)

    assert told(daemon) == FIRST


async def test_a_restart_tells_what_is_not_known(daemon: Daemon, container_id: str) -> None:
    for _ in range(5):
        await probe(daemon, container_id)
    last = daemon.log(events.Finished)[-1]
    await daemon.restart()

    (left,) = daemon.log(events.Abandoned)
    assert left.stream == last.stream
    assert words(left.event).startswith(f"how often it ran after record {last.seq}, and how it ended, is not known: ")
    for _ in range(3):
        assert (await probe(daemon, container_id)).exit_code == 0
    assert told(daemon) == [*FIRST, "exec.abandoned", *FIRST]


async def test_a_container_that_comes_again_is_another_one(daemon: Daemon, container_id: str) -> None:
    for _ in range(3):
        await probe(daemon, container_id)
    pod_id = (await daemon.client.ListContainers(pb.ListContainersRequest())).containers[0].pod_sandbox_id
    await daemon.client.StopContainer(pb.StopContainerRequest(container_id=container_id))
    again = await daemon.run(pod_id, "app", attempt=1)
    await trio.sleep(1)
    assert told(daemon) == [*FIRST, "exec.repeated", "exec.ended"]
    for _ in range(3):
        await probe(daemon, again)
    assert told(daemon).count("exec.requested") == 4
    with refused(Status.NOT_FOUND):
        await probe(daemon, container_id)
