"""A real daemon's stats and metrics: what containers really do shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.cri.stubs import api_pb2 as pb
from tests.host import daemon as host
from tests.host.daemon import IMAGE, Daemon, Kubelet, Stage, refused, wait_for
from tests.host.nodes import SLOW

pytestmark = [pytest.mark.host, pytest.mark.timeout(90 * SLOW)]
stage, kubelet, nothing_leaks = host.stage, host.kubelet, host.nothing_leaks

MIB = 1 << 20
SLEEP = ("sleep", "1000")


@pytest.fixture(scope="module")
def daemon(stage: Stage, private_mounts: None) -> Iterator[Daemon]:
    """A daemon that looks every second."""
    with stage.daemon({"stats": {"period_s": 1}}) as one:
        with one.client() as cri:
            cri.call("PullImage", image=pb.ImageSpec(image=IMAGE))
        yield one


def stats(kubelet: Kubelet, container_id: str) -> pb.ContainerStats:
    found: pb.ContainerStats = kubelet.call("ContainerStats", container_id=container_id).stats
    return found


def pod_stats(kubelet: Kubelet, pod_id: str) -> pb.LinuxPodSandboxStats:
    found: pb.LinuxPodSandboxStats = kubelet.call("PodSandboxStats", pod_sandbox_id=pod_id).stats.linux
    return found


def metrics(kubelet: Kubelet, container_id: str) -> dict[str, int]:
    """The first value of every metric of a container."""
    pods = kubelet.call("ListPodSandboxMetrics").pod_metrics
    (found,) = [one for pod in pods for one in pod.container_metrics if one.container_id == container_id]
    return {metric.name: metric.value.value for metric in reversed(found.metrics)}


def eventually(read: Callable[[], Any], holds: Callable[[Any], bool], what: str) -> Any:
    """Wait until what is read holds, and return it."""
    seen: list[Any] = []

    def look() -> bool:
        seen.append(read())
        return holds(seen[-1])

    wait_for(look, f"{what}; is {seen[-1:]}", 15)
    return seen[-1]


def test_a_busy_loop_takes_about_a_core(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    busy = kubelet.start(pod_id, "sh", "-c", "while :; do :; done", name="busy")
    idle = kubelet.start(pod_id, *SLEEP, name="idle")
    rate = eventually(
        lambda: stats(kubelet, busy).cpu.usage_nano_cores.value,
        lambda found: 300_000_000 < found < 1_300_000_000,
        "a busy loop uses a core",
    )
    assert stats(kubelet, idle).cpu.usage_nano_cores.value < 50_000_000 < rate
    first = stats(kubelet, busy)
    time.sleep(0.5)
    second = stats(kubelet, busy)
    assert second.cpu.usage_core_nano_seconds.value > first.cpu.usage_core_nano_seconds.value + 50_000_000
    assert second.cpu.timestamp > first.cpu.timestamp
    whole = eventually(
        lambda: pod_stats(kubelet, pod_id).cpu, lambda found: found.usage_nano_cores.value > 300_000_000, "the pod, too"
    )
    assert whole.usage_core_nano_seconds.value >= second.cpu.usage_core_nano_seconds.value
    eventually(
        lambda: metrics(kubelet, busy)["container_cpu_usage_seconds_total"],
        lambda found: found >= 1,
        "a second is used",
    )


def test_memory_shows(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    container_id = kubelet.start(pod_id, *SLEEP, memory=256 * MIB)
    before = stats(kubelet, container_id).memory
    assert before.usage_bytes.value < 20 * MIB, "it only sleeps"
    kubelet.sh(container_id, f"head -c {40 * MIB} /dev/zero > /dev/shm/full")
    after = stats(kubelet, container_id).memory

    assert after.usage_bytes.value >= 40 * MIB
    assert after.working_set_bytes.value >= 40 * MIB, "shared memory is not to be had back"
    assert after.available_bytes.value == 256 * MIB - after.working_set_bytes.value
    assert after.page_faults.value > before.page_faults.value
    assert pod_stats(kubelet, pod_id).memory.usage_bytes.value >= 40 * MIB
    found = metrics(kubelet, container_id)
    assert found["container_spec_memory_limit_bytes"] == 256 * MIB
    assert found["container_memory_max_usage_bytes"] >= 40 * MIB
    assert found["container_memory_working_set_bytes"] >= 40 * MIB


def test_a_written_file_shows_in_the_writable_layer(daemon: Daemon, kubelet: Kubelet) -> None:
    container_id = kubelet.start(kubelet.run_pod(), *SLEEP)
    before = eventually(
        lambda: stats(kubelet, container_id), lambda found: found.HasField("writable_layer"), "it is measured"
    ).writable_layer
    assert before.fs_id.mountpoint == str(daemon.root)
    kubelet.sh(container_id, f"head -c {3 * MIB} /dev/zero > /big && mkdir /made && touch /made/a /made/b && sync")
    after = eventually(
        lambda: stats(kubelet, container_id).writable_layer,
        lambda found: found.used_bytes.value >= before.used_bytes.value + 3 * MIB,
        "the file shows",
    )
    assert after.inodes_used.value >= before.inodes_used.value + 4
    assert after.timestamp > before.timestamp
    assert metrics(kubelet, container_id)["container_fs_usage_bytes"] >= 3 * MIB


def test_the_network_shows_from_inside(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    container_id = kubelet.start(pod_id, *SLEEP)
    before = eventually(
        lambda: pod_stats(kubelet, pod_id).network, lambda found: found.default_interface.name == "eth0", "it shows"
    ).default_interface
    gateway = kubelet.sh(container_id, "ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p'")
    kubelet.sh(container_id, f"ping -c 3 -s 1000 -i 0.1 {gateway} || ping -c 3 -s 1000 {gateway}")
    after = eventually(
        lambda: pod_stats(kubelet, pod_id).network.default_interface,
        lambda found: found.tx_bytes.value >= before.tx_bytes.value + 3000,
        "packets are counted",
    )
    assert after.rx_bytes.value >= before.rx_bytes.value + 3000
    assert (after.rx_errors.value, after.tx_errors.value) == (0, 0)
    (pod,) = kubelet.call("ListPodSandboxMetrics").pod_metrics
    (sent,) = [one for one in pod.metrics if one.name == "container_network_transmit_packets_total"]
    assert sent.value.value >= 3
    assert sent.label_values[-1] == "eth0"


def test_pods_on_the_hosts_network_have_none(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod(network=pb.NODE)
    kubelet.start(pod_id, *SLEEP)
    time.sleep(1.5)
    assert not pod_stats(kubelet, pod_id).HasField("network")


def test_processes_are_counted(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    container_id = kubelet.start(pod_id, "sh", "-c", "sleep 1000 & sleep 1000 & sleep 1000 & wait")
    eventually(lambda: pod_stats(kubelet, pod_id).process.process_count.value, lambda found: found == 4, "four")
    kubelet.start(pod_id, *SLEEP, name="more")
    assert pod_stats(kubelet, pod_id).process.process_count.value == 5
    found = eventually(
        lambda: metrics(kubelet, container_id), lambda found: found.get("container_processes") == 4, "metrics, too"
    )
    assert found["container_threads"] == 4
    assert found["container_file_descriptors"] >= 12
    assert found["container_sockets"] == 0


def test_pressure_is_told_where_the_kernel_tells_it(kubelet: Kubelet) -> None:
    """On a hybrid host by the v2 half."""
    if not Path("/proc/pressure/cpu").exists():
        pytest.skip("this kernel measures no pressure: /proc/pressure/cpu is not there")
    pod_id = kubelet.run_pod()
    container_ids = [kubelet.start(pod_id, "sh", "-c", "while :; do :; done", name=f"busy{n}") for n in range(4)]
    found = eventually(
        lambda: stats(kubelet, container_ids[0]), lambda found: found.cpu.psi.Some.Total > 10_000_000, "it has to wait"
    )
    assert found.cpu.psi.Some.Avg10 >= 0
    assert found.HasField("io")


def test_what_does_not_run_has_no_stats(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    ended = kubelet.start(pod_id, "true", name="ended")
    created = kubelet.create(pod_id, *SLEEP, name="created")
    running = kubelet.start(pod_id, *SLEEP, name="running")
    kubelet.exited(ended)

    assert [one.attributes.id for one in kubelet.call("ListContainerStats").stats] == [running]
    for container_id in (ended, created, "0" * 64):
        with pytest.raises(GRPCError) as error:
            stats(kubelet, container_id)
        assert refused(error)[0] is Status.NOT_FOUND
    kubelet.call("StopPodSandbox", pod_sandbox_id=pod_id)
    assert not kubelet.call("ListPodSandboxStats").stats
    assert not kubelet.call("ListContainerStats").stats


def test_everything_of_one_container_is_told(kubelet: Kubelet) -> None:
    """What the public tests of container runtimes ask of one with CPU and memory limits, soon after its start."""
    pod_id = kubelet.run_pod()
    config = kubelet.container_config(*SLEEP)
    resources = config.linux.resources
    resources.cpu_period, resources.cpu_quota, resources.cpu_shares = 100_000, 20_000, 1024
    resources.memory_limit_in_bytes = resources.memory_swap_limit_in_bytes = 64 * MIB
    container_id = kubelet.start(pod_id, config=config)
    described = {one.name: one for one in kubelet.call("ListMetricDescriptors").descriptors}
    host_dependent = {name for name in described if any(word in name for word in ("hugetlb", "pressure", "blkio"))}
    host_dependent |= {name for name in described if name.startswith(("container_fs_reads", "container_fs_writes"))}
    expected = {name for name in described if not name.startswith("container_network_")} - host_dependent

    found = eventually(
        lambda: metrics(kubelet, container_id), lambda found: not expected - found.keys(), "the sampler has looked"
    )
    assert not found.keys() - described.keys()
    assert (found["container_spec_cpu_quota"], found["container_spec_cpu_period"]) == (20_000, 100_000)
    assert found["container_spec_cpu_shares"] == pytest.approx(1024, rel=0.05)
    assert found["container_spec_memory_swap_limit_bytes"] == 0


def test_stats_after_a_crash(daemon: Daemon, kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    container_id = kubelet.start(pod_id, *SLEEP)
    daemon.kill()
    daemon.start()
    found = eventually(
        lambda: stats(kubelet, container_id), lambda found: found.cpu.HasField("usage_nano_cores"), "rates come back"
    )
    assert found.writable_layer.inodes_used.value > 0
    assert pod_stats(kubelet, pod_id).network.default_interface.name == "eth0"
