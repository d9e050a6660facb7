"""A real daemon that changes what lives, and is killed while it does."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.adapters.cgroups import Cgroups
from ocid.cri.stubs import api_pb2 as pb
from ocid.events import checkpoint as checkpoint_events, container as events
from tests.host import daemon as host
from tests.host.daemon import IMAGE, Daemon, Kubelet, Stage, refused, wait_for
from tests.host.nodes import SLOW
from tests.host.test_checkpoints import criu_refusal as criu_refusal
from tests.host.test_daemon_kills import BROKEN

pytestmark = [pytest.mark.host, pytest.mark.timeout(120 * SLOW)]
stage, nothing_leaks = host.stage, host.nothing_leaks

MIB = 1 << 20
SLOW_PACKING = "import time, ocid.adapters.checkpoints as c; c.pack = lambda *_: time.sleep(60)"
TICKING = "while true; do echo tick; sleep 0.02; done"


@pytest.fixture(autouse=True)
def version_1() -> None:
    cgroups = Cgroups()
    if cgroups.version != 1 or not {"memory", "cpu", "cpuset"} <= set(cgroups.hierarchies):
        pytest.skip(f"reads the files of cgroup version 1; here is {cgroups.version}: {sorted(cgroups.hierarchies)}")


@contextlib.contextmanager
def serving(stage: Stage, **options: Any) -> Iterator[tuple[Daemon, Kubelet]]:
    """A daemon of the test's own, with the image pulled, and its kubelet."""
    with stage.daemon(**options) as one:
        with one.client() as cri:
            kubelet = Kubelet(cri, one.directory, one.cgroup_parent)
            kubelet.call("PullImage", image=pb.ImageSpec(image=IMAGE))
            yield one, kubelet
        with one.client() as cri:
            Kubelet(cri, one.directory, one.cgroup_parent).remove_everything()
        one.check_log()


def update(kubelet: Kubelet, container_id: str, **limits: Any) -> None:
    kubelet.call("UpdateContainerResources", container_id=container_id, linux=pb.LinuxContainerResources(**limits))


def kernel(kubelet: Kubelet, container_id: str) -> dict[str, int]:
    """What the kernel has, by the names of CRI."""
    inner = kubelet.info(container_id)["runtimeSpec"]["linux"]["cgroupsPath"]
    found = {}
    for field, controller, file in (
        ("memory_limit_in_bytes", "memory", "memory.limit_in_bytes"),
        ("cpu_shares", "cpu", "cpu.shares"),
        ("cpu_quota", "cpu", "cpu.cfs_quota_us"),
    ):
        found[field] = int(Path(f"/sys/fs/cgroup/{controller}{inner}/{file}").read_text())
    return found


def shown(kubelet: Kubelet, container_id: str) -> dict[str, int]:
    """What the status says, the same."""
    linux = kubelet.status(container_id).resources.linux
    return {
        "memory_limit_in_bytes": linux.memory_limit_in_bytes,
        "cpu_shares": linux.cpu_shares,
        "cpu_quota": linux.cpu_quota or -1,
    }


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_limits_of_created_and_running_containers(
    stage: Stage, private_mounts: None, crun_refusal: str, runtime: str
) -> None:
    if runtime == "crun" and crun_refusal:
        pytest.skip(f"crun cannot run here: {crun_refusal}")
    handlers = {f"runtime.handlers.{runtime}": {"path": shutil.which(runtime)}}
    with serving(stage, config=handlers) as (_, kubelet):
        pod_id = kubelet.run_pod(handler=runtime)
        container_id = kubelet.create(pod_id, "sleep", "1000", memory=64 * MIB)
        update(kubelet, container_id, cpuset_cpus="0", cpu_shares=300)
        assert kubelet.status(container_id).state == pb.CONTAINER_CREATED
        kubelet.call("StartContainer", container_id=container_id)
        update(kubelet, container_id, memory_limit_in_bytes=96 * MIB, cpu_quota=20_000, cpu_period=50_000)

        expected = {"memory_limit_in_bytes": 96 * MIB, "cpu_shares": 300, "cpu_quota": 20_000}
        assert kernel(kubelet, container_id) == shown(kubelet, container_id) == expected
        assert kubelet.sh(container_id, "grep Cpus_allowed_list /proc/self/status").split()[-1] == "0"
        for limits, status, words in (
            ({"memory_limit_in_bytes": 4096}, Status.FAILED_PRECONDITION, "bytes, not 4096 at most"),
            ({"cpu_quota": 5}, Status.INVALID_ARGUMENT, "change of limits"),
            ({"cpuset_cpus": "4095", "cpu_shares": 2}, Status.INVALID_ARGUMENT, "change of limits"),
        ):
            with pytest.raises(GRPCError) as caught:
                update(kubelet, container_id, **limits)
            assert refused(caught)[0] is status
            assert words in refused(caught)[1]
            assert kernel(kubelet, container_id) == shown(kubelet, container_id) == expected
        update(kubelet, container_id, cpu_quota=-1)
        assert kernel(kubelet, container_id)["cpu_quota"] == -1


def test_kills_in_the_middle_of_changes(stage: Stage, private_mounts: None) -> None:
    """What the log says is in force is in the kernel, however often the daemon died on the way."""
    with serving(stage) as (daemon, kubelet):
        pod_id = kubelet.run_pod()
        container_id = kubelet.start(pod_id, "sleep", "1000", memory=64 * MIB)
        acknowledged = [0]
        over = threading.Event()

        def change() -> None:
            number = 0
            with contextlib.suppress(*BROKEN), daemon.client() as cri:
                mine = Kubelet(cri, daemon.directory, daemon.cgroup_parent)
                while not over.is_set():
                    number += 1
                    limits = {"cpu_shares": 100 + number % 50, "memory_limit_in_bytes": (64 + number % 7) * MIB}
                    if number % 5 == 0:
                        limits["cpu_quota"] = 5  # refused
                    try:
                        update(mine, container_id, **limits)
                        acknowledged[0] += 1
                    except GRPCError as error:
                        if error.status is not Status.INVALID_ARGUMENT:
                            raise

        for round_ in range(6):
            clients = [threading.Thread(target=change, daemon=True) for _ in range(2)]
            for client in clients:
                client.start()
            time.sleep(0.15 + 0.037 * round_)
            daemon.kill()
            for client in clients:
                client.join(10)
            daemon.start()
            with daemon.client() as cri:
                mine = Kubelet(cri, daemon.directory, daemon.cgroup_parent)
                wait_for(lambda: not daemon.view().containers.rows[container_id].state.limits.wanted, "all is settled")
                assert kernel(mine, container_id) == shown(mine, container_id)
        assert acknowledged[0] > 6
        assert len([one for one in daemon.events() if isinstance(one.event, events.Updated)]) >= acknowledged[0]


def test_a_checkpoint_of_a_pod_with_network_and_mounts(
    stage: Stage, private_mounts: None, criu_refusal: str, tmp_path: Path
) -> None:
    if criu_refusal:
        pytest.skip(criu_refusal)
    with serving(stage) as (_, kubelet):
        pod_id = kubelet.run_pod()
        container_id = kubelet.start(pod_id, "sh", "-c", f"echo state > /tmp/file; nc -l -p 99 & {TICKING}")
        log = Path(kubelet.status(container_id).log_path)
        wait_for(lambda: log.stat().st_size > 100, "it runs")
        kubelet.call("CheckpointContainer", container_id=container_id, location=str(tmp_path / "one.tar"), timeout=60)

        before = log.stat().st_size
        wait_for(lambda: log.stat().st_size > before + 100, "it goes on")
        with tarfile.open(tmp_path / "one.tar") as archive:
            names = archive.getnames()
            config = json.load(archive.extractfile("config.dump") or pytest.fail("no config.dump"))
        assert {"checkpoint/inventory.img", "spec.dump", "rootfs-diff.tar", "container.log"} <= set(names)
        assert (config["id"], config["name"], config["runtime"]) == (container_id, "main", "runc")
        assert config["rootfsImage"] == "busybox:1"


def test_a_kill_in_the_middle_of_a_checkpoint(
    stage: Stage, private_mounts: None, criu_refusal: str, tmp_path: Path
) -> None:
    """The container stands still until the next life finds the wish in the log, clears away, and lets it go on."""
    if criu_refusal:
        pytest.skip(criu_refusal)
    with serving(stage, prelude=SLOW_PACKING) as (daemon, kubelet):
        pod_id = kubelet.run_pod()
        container_id = kubelet.start(pod_id, "sh", "-c", TICKING)
        log = Path(kubelet.status(container_id).log_path)
        location = str(tmp_path / "one.tar")
        kubelet.begin("CheckpointContainer", container_id=container_id, location=location, timeout=60)
        wait_for(lambda: os.listdir(tmp_path), "the archive is being written")
        before = log.stat().st_size
        daemon.kill()
        time.sleep(0.3)
        assert log.stat().st_size == before
        daemon.start()

        wait_for(lambda: log.stat().st_size > before + 100, "it goes on")
        assert os.listdir(tmp_path) == []
        (failed,) = [one.event for one in daemon.events() if isinstance(one.event, checkpoint_events.Failed)]
        assert failed.message == "the daemon ended while the checkpoint was made"
