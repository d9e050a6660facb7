"""Who is at the other end of a socket, and when the log is told."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from ocid.cri import peers
from ocid.cri.peers import Identity
from ocid.cri.stubs import api_pb2 as pb
from ocid.events import codec, container, image, layer, pod
from ocid.events.node import PeerSeen
from tests.cri.daemon import Daemon, pod_config

CONNECT = """
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
print("connected", flush=True)
sys.stdin.read()
"""


def identify(connection: socket.socket) -> PeerSeen:
    """What is seen; the executable is let go."""
    seen, executable = peers.identify(connection)
    if executable is not None:
        executable.close()
    return seen


def own_start_ticks() -> int:
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])


@pytest.fixture
def pair() -> Iterator[socket.socket]:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        yield one


def test_this_very_process(pair: socket.socket) -> None:
    peer = identify(pair)

    assert (peer.pid, peer.uid, peer.gid) == (os.getpid(), os.getuid(), os.getgid())
    assert peer.start_ticks == own_start_ticks()
    assert peer.exe == os.readlink("/proc/self/exe")
    assert peer.comm == Path("/proc/self/comm").read_text().strip()
    assert [str(peer.login_uid), str(peer.session_id)] == [
        Path("/proc/self", name).read_text() for name in ("loginuid", "sessionid")
    ]
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    assert peer.cgroup in {line.split(":", 2)[2] for line in lines}


def test_another_process_while_it_lives_and_when_it_is_gone(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        command = [sys.executable, "-S", "-c", CONNECT, path]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            accepted, _ = listener.accept()
            assert child.stdout is not None
            child.stdout.readline()
            alive = identify(accepted)
            child.kill()
        gone = identify(accepted)
        accepted.close()

    assert alive.pid == child.pid
    assert alive.start_ticks >= own_start_ticks()
    assert alive.exe == os.path.realpath(sys.executable)
    assert gone == PeerSeen(
        pid=child.pid, start_ticks=0, uid=os.getuid(), gid=os.getgid(), exe="", comm="", cgroup=""
    ), "the socket still tells pid, uid and gid; nothing else is made up"


def test_what_a_later_process_of_the_same_pid_shows_is_not_taken(
    pair: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pidfd becomes ready while /proc is read: what was read may be that of whoever got the pid next."""
    monkeypatch.setattr(select, "select", lambda *lists: (lists[0], [], []))

    peer = identify(pair)

    assert peer.pid == os.getpid()
    assert (peer.start_ticks, peer.exe, peer.comm, peer.cgroup) == (0, "", "", "")


def test_no_descriptor_is_left(pair: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(os.listdir("/proc/self/fd"))
    identify(pair)
    monkeypatch.setattr(peers, "_read", lambda *_: None)
    identify(pair)

    monkeypatch.setattr(select, "select", lambda *lists: (lists[0], [], []))
    identify(pair)

    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("pidfd_of_socket", [True, False])
def test_an_older_kernel_gives_no_pidfd_for_a_socket(
    pair: socket.socket, monkeypatch: pytest.MonkeyPatch, pidfd_of_socket: bool
) -> None:
    """Then one is opened by pid."""
    if not pidfd_of_socket:
        monkeypatch.setattr(peers, "SO_PEERPIDFD", 9999)
    opened: list[int] = []
    monkeypatch.setattr(os, "pidfd_open", lambda pid, real=os.pidfd_open: opened.append(pid) or real(pid))

    assert identify(pair).exe == os.readlink("/proc/self/exe")
    if not pidfd_of_socket:
        assert opened == [os.getpid()]


def test_neither_arguments_nor_environment_are_read(tmp_path: Path) -> None:
    """They hold secrets: what is seen goes into the log as it is."""
    path, canary = str(tmp_path / "s"), "canary-3f2c"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        command = [sys.executable, "-S", "-c", CONNECT, path, f"--token={canary}"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "TOKEN": canary}
        ) as child:
            accepted, _ = listener.accept()
            assert child.stdout is not None
            child.stdout.readline()
            seen = identify(accepted)
            argv = Path(f"/proc/{child.pid}/cmdline").read_bytes()
            child.kill()
        accepted.close()

    assert canary.encode() in argv
    assert seen.exe
    stored = codec.payload_of(seen)
    assert canary.encode() not in stored
    assert path.encode() not in stored


@pytest.mark.parametrize("name", [b"\xff\xfe\x80", "é".encode() * 120, b"n" * 255, b"a\nb\x1b[2J"])
def test_a_program_of_any_name_fits_a_record(tmp_path: Path, name: bytes) -> None:
    directory = os.path.join(os.fsencode(tmp_path), *[b"d" * 200] * 3)
    os.makedirs(directory)
    program = os.path.join(directory, name)
    shutil.copy(os.path.realpath("/bin/sleep"), program)
    with subprocess.Popen([program, b"60"]) as child:
        seen = peers._read(child.pid, 0, 0)
        child.kill()

    assert seen is not None
    assert len(codec.payload_of(seen)) <= codec.PAYLOAD_BYTES_MAX
    assert len(seen.exe.encode()) <= peers.TEXT_BYTES_MAX


ID, OTHER = "ab" * 32, "cd" * 32


@pytest.mark.parametrize(
    ("text", "container_id"),
    [
        (f"0::/system.slice/docker-{ID}.scope\n", ID),
        (f"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope\n", ID),
        (f"0::/kubepods/burstable/pod12/{ID}\n", ID),
        (f"0::/docker/{OTHER}/kubepods/pod12/{ID}/sub\n", ID),  # the innermost
        (f"5:memory:/docker/{ID}\n1:name=systemd:/\n0::/\n", ID),
        (f"5:memory:/docker/{OTHER}\n4:cpu:/docker/{OTHER}/x/{ID}\n", ID),
        (f"0::/{ID}a\n", ""),  # 65 digits
        (f"0::/{ID[:63]}\n", ""),
        (f"0::/{ID.upper()}\n", ""),
        ("0::/system.slice/kubelet.service\n", ""),
        ("0::/\n", ""),
        ("", ""),
        (f"{ID}\n", ""),  # no line of that file
    ],
)
def test_the_container_that_a_cgroup_is_of(text: str, container_id: str) -> None:
    assert peers.container_of(text) == container_id


@pytest.mark.parametrize(
    ("text", "cgroup"),
    [
        ("0::/system.slice/kubelet.service\n", "/system.slice/kubelet.service"),
        ("5:memory:/m\n1:name=systemd:/s\n0::/\n", "/s"),
        ("5:memory:/kube:let\n2:cpu,cpuacct:/c\n", "/kube:let"),
        ("0::/\n", "/"),
        ("", ""),
    ],
)
def test_the_cgroup_that_tells_most(text: str, cgroup: str) -> None:
    assert peers._cgroup(text) == cgroup


# --- and in the log --------------------------------------------------------------------------------------------------


def process(number: int) -> PeerSeen:
    return PeerSeen(pid=number, start_ticks=number, uid=0, gid=0, exe=f"/bin/{number}", comm="", cgroup="/")


async def test_reads_record_nothing(daemon: Daemon) -> None:
    before = len(daemon.log())
    for name in ("Version", "Status", "RuntimeConfig", "ListPodSandbox", "ListContainers", "ListImages"):
        await getattr(daemon.client, name)(getattr(pb, f"{name}Request")())
    await daemon.client.ImageStatus(pb.ImageStatusRequest(image=pb.ImageSpec(image="none")))

    assert len(daemon.log()) == before


async def test_the_first_change_tells_who_before_what(daemon: Daemon) -> None:
    pod_id = await daemon.run_pod()

    seen, declared = daemon.log(PeerSeen, pod.Declared)
    assert isinstance(seen.event, PeerSeen)
    assert (seen.event.pid, seen.event.uid) == (os.getpid(), os.getuid())
    assert seen.event.start_ticks == own_start_ticks()
    assert declared.stream == f"pod/{pod_id}"
    assert declared.context.who == seen.seq
    assert declared.context.command_id == "RunPodSandbox"
    assert len(declared.context.correlation) == 16


async def test_a_process_is_recorded_once_for_all_its_connections_and_calls(daemon: Daemon) -> None:
    """Also when its first two calls come at the same time."""
    async with daemon.connect() as one, daemon.connect() as other, trio.open_nursery() as nursery:
        for index, client in enumerate((one, one, other, other)):
            nursery.start_soon(client.RunPodSandbox, pb.RunPodSandboxRequest(config=pod_config(f"pod-{index}")))

    (seen,) = daemon.log(PeerSeen)
    assert {one.context.who for one in daemon.log(pod.Declared)} == {seen.seq}
    assert len({one.context.correlation for one in daemon.log(pod.Declared)}) == 4


async def test_each_process_is_recorded_and_blamed_for_its_own(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    await daemon.pull()
    who = {"web": process(1), "job": process(2)}
    ids: list[str] = []
    for name, peer in who.items():
        monkeypatch.setattr(peers, "identify", lambda _, peer=peer: Identity(peer, None))
        async with daemon.connect() as client:
            response = await client.RunPodSandbox(pb.RunPodSandboxRequest(config=pod_config(name)))
            ids.append(response.pod_sandbox_id)

    seen = {one.seq: one.event for one in daemon.log(PeerSeen)}
    assert [seen[one.context.who] for one in daemon.log(pod.Declared)] == list(who.values())
    assert daemon.view.node.peers == seen


async def test_a_peer_that_cannot_be_known_is_never_taken_for_another(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a start time, the next process of that pid may be any."""
    nobody = PeerSeen(pid=7, start_ticks=0, uid=0, gid=0, exe="", comm="", cgroup="")
    monkeypatch.setattr(peers, "identify", lambda _: Identity(nobody, None))
    for name in ("web", "job"):
        async with daemon.connect() as client:
            await client.RunPodSandbox(pb.RunPodSandboxRequest(config=pod_config(name)))

    assert len(daemon.log(PeerSeen)) == 2


async def test_what_follows_by_itself_names_nobody_but_what_it_follows_from(daemon: Daemon) -> None:
    await daemon.pull()
    pod_id = await daemon.run_pod()
    await daemon.exited(await daemon.run(pod_id, "app", "run:1"))

    requested, exited = daemon.log(container.StartRequested)[0], daemon.log(container.Exited)[0]
    assert requested.context.who
    assert exited.context.who == 0
    assert exited.context.correlation == requested.context.correlation
    assert exited.context.cause >= requested.seq


async def test_what_one_actor_asks_of_another_follows_from_what_was_asked_of_the_first(daemon: Daemon) -> None:
    await daemon.pull()
    pod_id = await daemon.run_pod()
    await daemon.run(pod_id, "app", "run:1000")
    async with daemon.connect() as client:
        await client.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=pod_id))

    for fact, intent in (
        (container.StopRequested, pod.StopRequested),
        (image.ImageAdded, image.PullRequested),
        (layer.Wanted, image.PullRequested),
    ):
        of_fact, of_intent = daemon.log(fact)[0].context, daemon.log(intent)[0]
        assert (of_fact.who, of_fact.correlation) == (0, of_intent.context.correlation)
        stream = next(one.stream for one in daemon.log() if one.seq == of_fact.cause)
        assert stream == of_intent.stream
