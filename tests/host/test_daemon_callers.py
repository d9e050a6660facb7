"""Who asks, on a real host: a program of another name, deleted while it runs, and one inside a container."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocid.cri.stubs import api_pb2 as pb
from ocid.events.envelope import Envelope
from ocid.events.node import PeerMeasured, PeerSeen, UnusualCall, UsualPeerSet
from tests.host import daemon as host
from tests.host.daemon import IMAGE, Daemon, Kubelet, Stage, wait_for
from tests.host.nodes import SLOW

pytestmark = [pytest.mark.host, pytest.mark.timeout(90 * SLOW)]
stage, kubelet, nothing_leaks = host.stage, host.kubelet, host.nothing_leaks

# Enters a cgroup, forgets its own file, and stops a container: argv is socket, container, cgroup or "".
CLIENT = """
import asyncio, os, pathlib, sys
from grpclib.client import Channel
from ocid.cri.stubs import api_grpc, api_pb2 as pb
path, container_id, cgroup = sys.argv[1:]
os.unlink(os.readlink("/proc/self/exe"))
for root in ("", "unified", "memory", "pids") if cgroup else ():
    procs = pathlib.Path("/sys/fs/cgroup", root, cgroup.lstrip("/"), "cgroup.procs")
    if procs.exists():
        procs.write_text(str(os.getpid()))
async def main():
    channel = Channel(path=path)
    await api_grpc.RuntimeServiceStub(channel).StopContainer(pb.StopContainerRequest(container_id=container_id))
    channel.close()
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def daemon(stage: Stage, private_mounts: None) -> Iterator[Daemon]:
    """A daemon to which this process is usual, whoever logged in to run it."""
    with stage.daemon({"audit": {"usual_peers": [os.readlink("/proc/self/exe")]}}) as one:
        with one.client() as cri:
            cri.call("PullImage", image=pb.ImageSpec(image=IMAGE))
        yield one
        one.check_log()


def run_client(program: Path, daemon: Daemon, container_id: str, cgroup: str = "") -> str:
    """Run the client as *program*, a copy of this interpreter, and return the copy's sha256."""
    shutil.copy(os.path.realpath(sys.executable), program)
    digest = hashlib.sha256(program.read_bytes()).hexdigest()
    env = {
        **os.environ,
        "PYTHONHOME": f"{sys.base_prefix}:{sys.base_exec_prefix}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), *sys.path])),
        "TOKEN": "canary-env-71aa",
    }
    command = [program, "-c", CLIENT, str(daemon.socket), container_id, cgroup]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return digest


def cgroup_of(daemon: Daemon, container_id: str) -> str:
    """Return a cgroup of the container, as the kernel writes it."""
    created = daemon.view().containers.rows[container_id].state.created
    assert created is not None
    lines = Path(f"/proc/{created.pid}/cgroup").read_text().splitlines()
    return next(path for line in lines if container_id in (path := line.split(":", 2)[2]))


@pytest.mark.parametrize("inside", [False, True])
def test_an_unusual_caller_is_told_with_what_it_runs(
    daemon: Daemon, kubelet: Kubelet, tmp_path: Path, inside: bool
) -> None:
    pod_id = kubelet.run_pod()
    container_id = kubelet.start(pod_id, "sleep", "300")
    usual = [one.event for one in daemon.events() if isinstance(one.event, UsualPeerSet)]
    assert [(one.exes, one.uid) for one in usual] == [((os.readlink("/proc/self/exe"),), 0)]

    other = kubelet.start(pod_id, "sleep", "300", name="other")
    wait_for(lambda: PeerMeasured.TYPE in daemon.types(), "the kubelet is measured")
    seq = daemon.last_seq()
    digest = run_client(tmp_path / "intruder", daemon, container_id, cgroup_of(daemon, other) if inside else "")

    def told() -> list[Envelope]:
        return [one for one in daemon.events(seq + 1) if one.stream == "node/self"]

    wait_for(lambda: PeerMeasured.TYPE in {one.type for one in told()}, "the hash is told")
    by_type = {one.type: one for one in told()}
    seen, call, measured = (by_type.pop(kind.TYPE) for kind in (PeerSeen, UnusualCall, PeerMeasured))
    assert not by_type
    assert isinstance(seen.event, PeerSeen)
    assert seen.event.exe == f"{tmp_path}/intruder (deleted)"
    assert seen.event.container_id == (other if inside else seen.event.container_id)
    assert isinstance(call.event, UnusualCall)
    assert (call.event.rpc, call.event.subject) == ("StopContainer", f"container/{container_id}")
    assert call.context.who == seen.seq
    assert f"it runs {tmp_path}/intruder" in call.event.reason
    stopped = next(one for one in daemon.events(seq + 1) if one.type == "container.stop_requested")
    assert call.seq < stopped.seq
    assert call.context == stopped.context
    assert measured.event == PeerMeasured(
        peer=seen.seq, exe_hash=digest, size_bytes=os.stat(os.path.realpath(sys.executable)).st_size, reason=""
    )
    assert b"canary-env-71aa" not in (daemon.root / "log" / "data.mdb").read_bytes()
    assert b"api_grpc.RuntimeServiceStub" not in (daemon.root / "log" / "data.mdb").read_bytes()
