"""What the log says of callers: traces, the usual peer, calls of anybody else, and what they run."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio_asyncio
from grpclib.const import Status

from ocid.cri import executable, peers
from ocid.cri.callers import Callers
from ocid.cri.executable import Executable
from ocid.cri.facade import Streaming
from ocid.cri.peers import Identity
from ocid.cri.stubs import api_pb2 as pb
from ocid.events import container, node, pod, session
from ocid.events.envelope import Envelope
from ocid.events.node import PeerSeen, UnusualCall, UsualPeerSet
from tests.cri.daemon import Client, Daemon, pod_config, refused, running
from tests.fakes.tokens import FakeTokens

KUBELET, CRICTL = "/usr/bin/kubelet", "/usr/bin/crictl"
TRACE = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PEERS = (PeerSeen, UsualPeerSet, UnusualCall, node.PeerMeasured)


class Machine:
    """Says who connects, without anybody having to be it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._pid = 100
        self._next = self.process(KUBELET)
        monkeypatch.setattr(peers, "identify", lambda _: Identity(self._next, None))

    def process(self, exe: str, **fields: Any) -> PeerSeen:
        self._pid += 1
        known = {"pid": self._pid, "start_ticks": self._pid, "uid": 0, "gid": 0, "comm": "", "cgroup": "/"}
        return PeerSeen(**{**known, "exe": exe, **fields})

    @contextlib.asynccontextmanager
    async def connected(self, daemon: Daemon, exe: str, **fields: Any) -> AsyncIterator[Client]:
        """A connection of a new process that runs *exe*."""
        async with daemon.connect() as client:
            self._next = self.process(exe, **fields)
            await client.UpdateRuntimeConfig(pb.UpdateRuntimeConfigRequest())  # a change, so that it is identified
            yield client


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def names(envelopes: list[Envelope]) -> list[str]:
    return [one.type.removeprefix("node.") for one in envelopes]


# --- the usual peer --------------------------------------------------------------------------------------------------


async def test_the_first_that_runs_a_pod_is_usual(daemon: Daemon, machine: Machine) -> None:
    async with machine.connected(daemon, KUBELET) as kubelet:
        await kubelet.RunPodSandbox(pb.RunPodSandboxRequest(config=pod_config()))
        await kubelet.RunPodSandbox(pb.RunPodSandboxRequest(config=pod_config("job")))

    seen, learned = daemon.log(*PEERS)
    assert learned.event == UsualPeerSet(exes=(KUBELET,), uid=0, contained=False, peer=seen.seq)
    assert learned.context.who == seen.seq
    assert learned.context.correlation == daemon.log(pod.Declared)[0].context.correlation
    assert daemon.view.node.usual_peer == learned.event


async def test_before_anybody_is_usual_nothing_is_unusual(daemon: Daemon, machine: Machine) -> None:
    async with machine.connected(daemon, CRICTL) as crictl:
        await crictl.RemoveImage(pb.RemoveImageRequest(image=pb.ImageSpec(image="none")))

    assert names(daemon.log(*PEERS)) == ["peer_seen"]


async def test_a_pod_that_was_refused_teaches_nothing(daemon: Daemon, machine: Machine) -> None:
    async with machine.connected(daemon, CRICTL) as crictl:
        with refused(Status.INVALID_ARGUMENT):
            await crictl.RunPodSandbox(pb.RunPodSandboxRequest())

    assert names(daemon.log(*PEERS)) == ["peer_seen"]


async def test_a_person_is_not_learned(daemon: Daemon, machine: Machine) -> None:
    async with machine.connected(daemon, CRICTL, login_uid=1004, session_id=3) as crictl:
        await crictl.RunPodSandbox(pb.RunPodSandboxRequest(config=pod_config("by-hand")))
        async with machine.connected(daemon, KUBELET) as kubelet:
            await kubelet.RunPodSandbox(pb.RunPodSandboxRequest(config=pod_config()))
        await crictl.RemoveImage(pb.RemoveImageRequest(image=pb.ImageSpec(image="none")))

    assert names(daemon.log(*PEERS)) == ["peer_seen", "peer_seen", "usual_peer_set", "unusual_call"]
    assert daemon.view.node.usual_peer is not None
    assert daemon.view.node.usual_peer.exes == (KUBELET,)


async def test_two_that_run_their_first_pods_at_once(daemon: Daemon, machine: Machine) -> None:
    async with (
        machine.connected(daemon, KUBELET) as one,
        machine.connected(daemon, "/usr/bin/k3s") as other,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(one.RunPodSandbox, pb.RunPodSandboxRequest(config=pod_config("one")))
        nursery.start_soon(other.RunPodSandbox, pb.RunPodSandboxRequest(config=pod_config("other")))

    assert len(daemon.log(UsualPeerSet)) == 1


async def test_it_is_remembered_over_the_daemons_lives(daemon: Daemon, machine: Machine) -> None:
    async with machine.connected(daemon, KUBELET) as kubelet:
        await kubelet.RunPodSandbox(pb.RunPodSandboxRequest(config=pod_config()))
    await daemon.restart()
    async with machine.connected(daemon, CRICTL) as crictl:
        await crictl.RunPodSandbox(pb.RunPodSandboxRequest(config=pod_config("by-hand")))

    assert names(daemon.log(*PEERS)) == ["peer_seen", "usual_peer_set", "peer_seen", *["unusual_call"] * 2]


async def test_a_configured_one_comes_first_and_goes_again(daemon: Daemon, machine: Machine) -> None:
    def configured(*exes: str) -> None:
        daemon.facade.callers = Callers(daemon.core, exes)

    async with machine.connected(daemon, KUBELET) as kubelet:
        await kubelet.RunPodSandbox(pb.RunPodSandboxRequest(config=pod_config()))
    for exes in (("/opt/agent",), ("/opt/agent",), ()):
        configured(*exes)
        async with machine.connected(daemon, KUBELET), machine.connected(daemon, "/opt/agent", uid=os.geteuid()):
            pass

    settled = [one.event for one in daemon.log(UsualPeerSet)]
    assert [(one.exes, one.configured) for one in settled if isinstance(one, UsualPeerSet)] == [
        ((KUBELET,), False), (("/opt/agent",), True), ((), True),
    ]  # fmt: skip
    assert [one.context.who for one in daemon.log(UsualPeerSet)][1:] == [0, 0]
    seen = {one.seq: one.event for one in daemon.log(PeerSeen)}
    blamed = [seen[one.context.who] for one in daemon.log(UnusualCall)]
    assert [one.exe for one in blamed if isinstance(one, PeerSeen)] == [KUBELET, KUBELET, "/opt/agent"]
    assert daemon.view.node.usual_peer == settled[0]


# --- anybody else ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exe", "fields", "reason"),
    [
        (CRICTL, {}, "it runs /usr/bin/crictl; the usual peer runs /usr/bin/kubelet"),
        (KUBELET, {"uid": 1000}, "its uid is 1000"),
        (KUBELET, {"container_id": "ab" * 32}, "it runs in container abababababab"),
        ("", {"start_ticks": 0}, "what it runs is not known"),
    ],
)
async def test_a_change_by_anybody_else_is_told_before_it_is_made(
    daemon: Daemon, machine: Machine, exe: str, fields: dict[str, Any], reason: str
) -> None:
    await daemon.pull()
    async with machine.connected(daemon, KUBELET) as kubelet:
        run = await kubelet.RunPodSandbox(pb.RunPodSandboxRequest(config=pod_config()))
    container_id = await daemon.run(run.pod_sandbox_id)
    before = daemon.log()[-1].seq
    async with machine.connected(daemon, exe, **fields) as other:
        await other.StopContainer(pb.StopContainerRequest(container_id=container_id[:12]))

    (stopped,) = daemon.log(container.StopRequested)
    call = next(one for one in daemon.log(UnusualCall) if one.context.command_id == "StopContainer")
    assert isinstance(call.event, UnusualCall)
    assert (call.event.rpc, call.event.subject) == ("StopContainer", f"container/{container_id}")
    assert reason in call.event.reason
    assert before < call.seq < stopped.seq
    assert call.context == stopped.context


async def test_the_usual_peer_and_reads_tell_nothing(daemon: Daemon, machine: Machine) -> None:
    async with machine.connected(daemon, KUBELET) as kubelet:
        await kubelet.RunPodSandbox(pb.RunPodSandboxRequest(config=pod_config()))
        await kubelet.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id="00"))
    async with daemon.connect() as crictl:
        machine._next = machine.process(CRICTL)
        for name in ("Version", "Status", "ListPodSandbox", "ListContainers", "ListImages"):
            await getattr(crictl, name)(getattr(pb, f"{name}Request")())
    async with machine.connected(daemon, f"{KUBELET} (deleted)") as upgraded:
        await upgraded.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id="00"))

    assert daemon.log(UnusualCall) == []
    assert CRICTL not in {one.event.exe for one in daemon.log(PeerSeen) if isinstance(one.event, PeerSeen)}


async def test_an_attempt_that_was_refused_is_told_too(daemon: Daemon, machine: Machine) -> None:
    async with machine.connected(daemon, KUBELET) as kubelet:
        await kubelet.RunPodSandbox(pb.RunPodSandboxRequest(config=pod_config()))
    async with machine.connected(daemon, CRICTL) as crictl:
        with refused(Status.UNAVAILABLE):  # no streaming server runs
            await crictl.Exec(pb.ExecRequest(container_id="ff", cmd=["sh"], stdout=True))
        with refused(Status.INVALID_ARGUMENT):
            await crictl.PullImage(pb.PullImageRequest(image=pb.ImageSpec(image="a:hunter2@b/c")))

    calls = [one for one in daemon.log(UnusualCall) if one.context.command_id != "UpdateRuntimeConfig"]
    failed = daemon.log(node.RequestRefused)
    assert [one.event.rpc for one in calls if isinstance(one.event, UnusualCall)] == ["Exec", "PullImage"]
    assert [one.context for one in failed] == [one.context for one in calls], "one call, one correlation"
    assert [one.seq for one in failed] == [one.seq + 1 for one in calls]
    assert all("hunter2" not in one.event.named for one in calls if isinstance(one.event, UnusualCall))


async def test_a_process_that_became_another_program_is_another_peer(daemon: Daemon, machine: Machine) -> None:
    process = {"pid": 7, "start_ticks": 7}
    for exe in (KUBELET, "/bin/sh", KUBELET):
        async with machine.connected(daemon, exe, **process):
            pass

    assert [one.event.exe for one in daemon.log(PeerSeen) if isinstance(one.event, PeerSeen)] == [KUBELET, "/bin/sh"]


# --- traces ----------------------------------------------------------------------------------------------------------


async def traced(client: Client, rpc: str, request: Any, headers: list[tuple[str, str]]) -> Any:
    """Call *rpc* with further headers."""
    call = getattr(client, rpc)

    async def talk() -> Any:
        async with call.open(metadata=headers) as stream:
            await stream.send_message(request, end=True)
            return await stream.recv_message()

    return await trio_asyncio.aio_as_trio(talk)()


async def test_a_callers_trace_goes_where_the_correlation_goes(daemon: Daemon) -> None:
    run = pb.RunPodSandboxRequest(config=pod_config())
    answer = await traced(daemon.client, "RunPodSandbox", run, [("traceparent", f"00-{TRACE}"), ("tracestate", "x=y")])

    own = [one for one in daemon.log() if one.stream == f"pod/{answer.pod_sandbox_id}"]
    assert len(own) > 1
    assert {one.context.trace for one in own} == {TRACE}
    await daemon.client.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=answer.pod_sandbox_id))
    (stopped,) = daemon.log(pod.StopRequested)
    assert stopped.context.trace == ""


@pytest.mark.parametrize("headers", [["00-junk"], [f"00-{TRACE}", f"00-{TRACE}"], ["0" * 4000], [f"01-{TRACE}"]])
async def test_a_broken_trace_is_no_trace_and_no_error(daemon: Daemon, headers: list[str]) -> None:
    run = pb.RunPodSandboxRequest(config=pod_config())
    assert await traced(daemon.client, "RunPodSandbox", run, [("traceparent", value) for value in headers])

    assert {one.context.trace for one in daemon.log()} == {""}


async def test_the_sessions_of_exec_carry_the_trace(daemon: Daemon) -> None:
    """They come by RPC, and their clients come later, by HTTP."""
    daemon.facade.streaming = Streaming(base_url="http://127.0.0.1:1", tokens=FakeTokens(), sessions_max=5)
    await daemon.pull()
    container_id = await daemon.run(await daemon.run_pod())
    headers = [("traceparent", f"00-{TRACE}")]
    await traced(daemon.client, "Exec", pb.ExecRequest(container_id=container_id, cmd=["sh"], stdout=True), headers)
    await traced(daemon.client, "Attach", pb.AttachRequest(container_id=container_id, stdout=True), headers)

    requested = daemon.log(session.Requested)
    assert [(one.context.command_id, one.context.trace) for one in requested] == [("Exec", TRACE), ("Attach", TRACE)]


# --- what they run ---------------------------------------------------------------------------------------------------


def held(path: str) -> Executable:
    return Executable(os.open(path, os.O_PATH | os.O_CLOEXEC))


class Measuring:
    """A daemon of real time that measures; in virtual time a thread takes for ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.process = 0
        self.path = os.path.realpath(sys.executable)
        monkeypatch.setattr(peers, "identify", self.identify)

    def identify(self, _: object) -> Identity:
        self.process += 1
        seen = PeerSeen(pid=self.process, start_ticks=1, uid=0, gid=0, exe=self.path, comm="", cgroup="/")
        return Identity(seen, held(self.path))


async def measured(daemon: Daemon, count: int) -> list[node.PeerMeasured]:
    with trio.fail_after(20):
        for _ in range(1000):
            if len(found := daemon.log(node.PeerMeasured)) >= count:
                break
            await trio.sleep(0.02)
    return [one.event for one in found if isinstance(one.event, node.PeerMeasured)]


async def change(daemon: Daemon) -> None:
    async with daemon.connect() as client:
        await client.UpdateRuntimeConfig(pb.UpdateRuntimeConfigRequest())


async def test_what_a_peer_runs_is_hashed_once_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measuring, before = Measuring(monkeypatch), len(os.listdir("/proc/self/fd"))
    async with running(tmp_path, lambda one, nursery: nursery.start_soon(one.facade.callers.measure)) as daemon:
        await change(daemon)
        await change(daemon)
        first, second = await measured(daemon, 2)
        seen = daemon.log(PeerSeen)

        expected = hashlib.sha256(await trio.Path(measuring.path).read_bytes()).hexdigest()
        assert (first.peer, second.peer) == tuple(one.seq for one in seen)
        assert (first.exe_hash, first.reason) == (expected, "")
        assert (second.exe_hash, second.size_bytes) == (expected, os.stat(measuring.path).st_size)
        assert daemon.view.node.hashes == {one.seq: expected for one in seen}
    assert len(os.listdir("/proc/self/fd")) <= before


async def test_a_file_system_that_does_not_answer_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the call, not those after it; what could not be read is told."""
    Measuring(monkeypatch)
    monkeypatch.setattr("ocid.cri.callers.STUCK_S", 0.05)
    monkeypatch.setattr("ocid.cri.callers.READERS_MAX", 1)
    asked, answer = executable.threading.Event(), executable.threading.Event()

    def stuck(program: Executable, known: object) -> Any:
        fd = program.take()
        asked.set()
        answer.wait(20)
        os.close(fd)

    monkeypatch.setattr(executable, "measure", stuck)
    try:
        async with running(tmp_path, lambda one, nursery: nursery.start_soon(one.facade.callers.measure)) as daemon:
            with trio.fail_after(10):
                await change(daemon)
                await change(daemon)
            first, second = await measured(daemon, 2)
    finally:
        answer.set()
    assert asked.is_set()
    assert (first.exe_hash, first.reason) == ("", "its file system does not answer")
    assert (second.exe_hash, second.reason) == ("", "file systems that do not answer keep all readers busy")


async def test_where_nobody_measures_no_file_is_held(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    Measuring(monkeypatch)
    await change(daemon)
    gc.collect()  # what other tests left open
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        await change(daemon)

    with trio.fail_after(5):
        while len(os.listdir("/proc/self/fd")) > before:  # noqa: ASYNC110 (the server hangs up a moment later)
            await trio.sleep(0.01)
    assert len(daemon.log(PeerSeen)) == 4
