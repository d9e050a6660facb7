"""What running containers and ready pods use: from memory and counters, filtered as the other lists are."""

from __future__ import annotations

import time
from typing import Any

import pytest
import trio
import trio_asyncio
from grpclib.const import Status

from ocid.cri import encoded
from ocid.cri.stubs import api_pb2 as pb
from ocid.errors import Unavailable
from ocid.ports.usage import CgroupUsage
from tests.cri.daemon import Daemon, pod_config, refused
from tests.fakes.usage import MIB, link


async def sampled(daemon: Daemon, seconds: float) -> None:
    """Let the sampler run for so long."""
    with trio.move_on_after(seconds):
        await daemon.facade.sampler.run()


async def stats(daemon: Daemon, **fields: Any) -> list[pb.ContainerStats]:
    request = pb.ListContainerStatsRequest(filter=pb.ContainerStatsFilter(**fields))
    return list((await daemon.client.ListContainerStats(request)).stats)


async def pod_stats(daemon: Daemon, **fields: Any) -> list[pb.PodSandboxStats]:
    request = pb.ListPodSandboxStatsRequest(filter=pb.PodSandboxStatsFilter(**fields))
    return list((await daemon.client.ListPodSandboxStats(request)).stats)


async def one(daemon: Daemon, container_id: str) -> pb.ContainerStats:
    response = await daemon.client.ContainerStats(pb.ContainerStatsRequest(container_id=container_id))
    found: pb.ContainerStats = response.stats
    return found


async def one_pod(daemon: Daemon, pod_id: str) -> pb.PodSandboxStats:
    response = await daemon.client.PodSandboxStats(pb.PodSandboxStatsRequest(pod_sandbox_id=pod_id))
    found: pb.PodSandboxStats = response.stats
    return found


async def streamed(daemon: Daemon, method: str, request: Any) -> list[Any]:
    got = []
    async with trio_asyncio.aio_as_trio(getattr(daemon.client, method).open()) as stream:
        await trio_asyncio.aio_as_trio(stream.send_message)(request, end=True)
        while (message := await trio_asyncio.aio_as_trio(stream.recv_message)()) is not None:
            got.append(message)
    return got


async def kubelet_pod(daemon: Daemon, name: str) -> str:
    """A pod with a cgroup of its own."""
    config = pod_config(name)
    config.linux.cgroup_parent = f"/kubepods/pod-{name}"
    response = await daemon.client.RunPodSandbox(pb.RunPodSandboxRequest(config=config))
    pod_id: str = response.pod_sandbox_id
    return pod_id


# --- one container ---------------------------------------------------------------------------------------------------


async def test_all_of_one_container(daemon: Daemon) -> None:
    await daemon.pull()
    container_id = await daemon.run(await daemon.run_pod())
    await sampled(daemon, 1)
    found = await one(daemon, container_id[:13])

    assert found.cpu.timestamp == found.memory.timestamp > 10**18
    assert found.cpu.usage_core_nano_seconds.value > 0
    assert found.cpu.psi.Some == pb.PsiData(Total=7000, Avg10=1.5, Avg60=0.5, Avg300=0.25)
    assert found.cpu.psi.Full.Total == found.io.psi.Full.Total == found.memory.psi.Full.Total == 3000
    memory = found.memory
    assert (memory.usage_bytes.value, memory.working_set_bytes.value) == (10 * MIB, 8 * MIB)
    assert (memory.available_bytes.value, memory.rss_bytes.value) == (56 * MIB, 5 * MIB)
    assert (memory.page_faults.value, memory.major_page_faults.value) == (11, 2)
    assert (found.swap.swap_usage_bytes.value, found.swap.swap_available_bytes.value) == (MIB, 2 * MIB)
    layer = found.writable_layer
    assert (layer.used_bytes.value, layer.inodes_used.value) == (8192, 4)
    assert layer.fs_id.mountpoint == "/var/lib/ocid"


async def test_who_it_is_is_what_the_lists_say(daemon: Daemon) -> None:
    await daemon.pull()
    pod_id = await daemon.run_pod()
    container_id = await daemon.run(pod_id)
    (listed,) = (await daemon.client.ListContainers(pb.ListContainersRequest())).containers
    (pod,) = (await daemon.client.ListPodSandbox(pb.ListPodSandboxRequest())).items

    for who in ((await one(daemon, container_id)).attributes, (await stats(daemon))[0].attributes):
        assert (who.id, who.metadata) == (listed.id, listed.metadata)
        assert (dict(who.labels), dict(who.annotations)) == (dict(listed.labels), dict(listed.annotations))
    for whose in ((await one_pod(daemon, pod_id)).attributes, (await pod_stats(daemon))[0].attributes):
        assert (whose.id, whose.metadata) == (pod.id, pod.metadata)
        assert (dict(whose.labels), dict(whose.annotations)) == (dict(pod.labels), dict(pod.annotations))


async def test_what_does_not_run_has_none(daemon: Daemon) -> None:
    await daemon.pull()
    pod_id = await daemon.run_pod()
    created = await daemon.create(pod_id, "created")
    ended = await daemon.run(pod_id, "ended", "run:1")
    await daemon.exited(ended)

    for name in (created, ended, "0" * 64):
        with refused(Status.NOT_FOUND, name):
            await one(daemon, name)
    with refused(Status.INVALID_ARGUMENT):
        await one(daemon, "")
    assert await stats(daemon) == []


async def test_a_container_whose_cgroup_has_just_gone(daemon: Daemon) -> None:
    await daemon.pull()
    pod_id = await daemon.run_pod()
    container_id, other = await daemon.run(pod_id), await daemon.run(pod_id, "other")
    row = daemon.view.containers.rows[container_id]
    assert row.state.declared is not None
    daemon.node.usage.gone.add(row.state.declared.cgroup)

    assert [found.attributes.id for found in await stats(daemon)] == [other]
    with refused(Status.NOT_FOUND):
        await one(daemon, container_id)
    (pod,) = await pod_stats(daemon)
    assert [found.attributes.id for found in pod.linux.containers] == [other]


# --- rates -----------------------------------------------------------------------------------------------------------


async def test_the_rate_appears_when_it_is_known(daemon: Daemon) -> None:
    """Absent until then, not 0: the kubelet makes its own of a missing one."""
    await daemon.pull()
    container_id = await daemon.run(await daemon.run_pod())
    assert not (await one(daemon, container_id)).cpu.HasField("usage_nano_cores")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(daemon.facade.sampler.run)
        await trio.sleep(1)
        assert not (await one(daemon, container_id)).cpu.HasField("usage_nano_cores"), "too short a time to tell"
        await trio.sleep(5)
        for _ in range(30):
            await trio.sleep(1.1)
            rate = (await one(daemon, container_id)).cpu.usage_nano_cores.value
            assert rate == pytest.approx(500_000_000, rel=0.001)
        nursery.cancel_scope.cancel()


async def test_a_counter_that_went_backwards_gives_no_rate(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    await daemon.pull()
    container_id = await daemon.run(await daemon.run_pod())
    await sampled(daemon, 25)
    monkeypatch.setattr(daemon.node.world, "boot_ns", lambda: int(trio.current_time() * 10**9) - 20 * 10**9)
    await sampled(daemon, 1)
    monkeypatch.undo()
    monkeypatch.setattr(daemon.node.usage, "cgroup", _cgroup_with(cpu_ns=1))
    await trio.sleep(30)

    assert not (await one(daemon, container_id)).cpu.HasField("usage_nano_cores")


def _cgroup_with(**fields: Any) -> Any:
    return lambda path: CgroupUsage(**fields)


async def test_what_the_kernel_does_not_tell_is_left_out(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    await daemon.pull()
    container_id = await daemon.run(await daemon.run_pod())
    monkeypatch.setattr(daemon.node.usage, "cgroup", _cgroup_with(cpu_ns=5, memory_bytes=7, inactive_file_bytes=9))
    found = await one(daemon, container_id)

    assert found.cpu.usage_core_nano_seconds.value == 5
    assert found.memory.working_set_bytes.value == 0
    assert not found.memory.HasField("available_bytes")
    assert not found.cpu.HasField("psi")
    absent = [field for field in ("swap", "io", "writable_layer") if not found.HasField(field)]
    assert absent == ["swap", "io", "writable_layer"]


# --- filters ---------------------------------------------------------------------------------------------------------


async def test_filters(daemon: Daemon) -> None:
    await daemon.pull()
    pods = [await daemon.run_pod(name) for name in ("web", "job")]
    running = [await daemon.run(pod_id, name) for pod_id in pods for name in ("app", "side")]

    async def ids(**fields: Any) -> list[str]:
        return [found.attributes.id for found in await stats(daemon, **fields)]

    assert await ids() == running
    assert await ids(id=running[2]) == await ids(id=running[2][:12]) == [running[2]]
    assert await ids(pod_sandbox_id=pods[1]) == await ids(pod_sandbox_id=pods[1][:12]) == running[2:]
    assert await ids(label_selector={"name": "side"}) == [running[1], running[3]]
    assert await ids(label_selector={"name": "side"}, pod_sandbox_id=pods[0]) == [running[1]]
    assert await ids(label_selector={"name": "nobody"}) == await ids(id="f" * 64) == []
    assert [found.attributes.id for found in await pod_stats(daemon)] == pods
    assert [found.attributes.id for found in await pod_stats(daemon, id=pods[0][:10])] == [pods[0]]
    assert [found.attributes.id for found in await pod_stats(daemon, label_selector={"name": "job"})] == [pods[1]]
    nil = await daemon.client.ListContainerStats(pb.ListContainerStatsRequest())
    assert [found.attributes.id for found in nil.stats] == running


# --- pods ------------------------------------------------------------------------------------------------------------


async def test_a_pod_with_its_own_cgroup(daemon: Daemon) -> None:
    await daemon.pull()
    pod_id = await kubelet_pod(daemon, "web")
    for name in ("one", "two"):
        await daemon.run(pod_id, name)
    await sampled(daemon, 25)
    found = (await one_pod(daemon, pod_id[:12])).linux

    assert found.memory.usage_bytes.value == 20 * MIB
    assert found.memory.HasField("available_bytes"), "the cgroup's own limit counts"
    assert found.cpu.psi.Some.Total == 7000
    assert found.io.psi.Some.Total == 7000
    assert found.cpu.usage_nano_cores.value == pytest.approx(10**9, rel=0.001)
    assert found.process.process_count.value == 2
    assert [one.attributes.metadata.name for one in found.containers] == ["one", "two"]
    alone = (await stats(daemon))[0]
    assert found.containers[0].attributes == alone.attributes
    assert found.containers[0].memory.usage_bytes == alone.memory.usage_bytes
    default, (other,) = found.network.default_interface, found.network.interfaces
    assert (default.name, other.name) == ("eth0", "net1")
    sent = link("eth0")
    assert (default.rx_bytes.value, default.tx_bytes.value) == (sent.rx_bytes, sent.tx_bytes)
    assert (default.rx_errors.value, default.tx_errors.value) == (sent.rx_errors, sent.tx_errors)


async def test_pods_that_share_a_cgroup_are_their_containers(daemon: Daemon) -> None:
    """The default parent is everybody's: what it has used says nothing of one pod."""
    await daemon.pull()
    pods = [await daemon.run_pod(name) for name in ("web", "job")]
    for pod_id in pods:
        await daemon.run(pod_id)
    await daemon.run(pods[1], "second")
    await sampled(daemon, 25)
    web, job = [found.linux for found in await pod_stats(daemon)]

    assert (web.memory.usage_bytes.value, job.memory.usage_bytes.value) == (10 * MIB, 20 * MIB)
    assert (web.process.process_count.value, job.process.process_count.value) == (1, 2)
    assert job.cpu.usage_nano_cores.value == pytest.approx(10**9, rel=0.001)
    assert not web.memory.HasField("available_bytes")


async def test_pods_that_are_not_ready(daemon: Daemon) -> None:
    await daemon.pull()
    pod_id = await daemon.run_pod()
    await daemon.run(pod_id)
    await sampled(daemon, 1)
    assert daemon.facade.sampler.networks
    await daemon.client.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=pod_id))
    await sampled(daemon, 1)

    assert await pod_stats(daemon) == []
    assert not daemon.facade.sampler.networks
    for name in (pod_id, "0" * 64):
        with refused(Status.NOT_FOUND, name):
            await one_pod(daemon, name)


async def test_pods_without_containers_and_on_the_hosts_network(daemon: Daemon) -> None:
    config = pod_config("host")
    config.linux.security_context.namespace_options.network = pb.NODE
    await daemon.client.RunPodSandbox(pb.RunPodSandboxRequest(config=config))
    await sampled(daemon, 1)
    (found,) = await pod_stats(daemon)

    assert not found.linux.HasField("network")
    assert found.linux.process.process_count.value == 0
    assert found.linux.cpu.timestamp > 0


# --- the sampler -----------------------------------------------------------------------------------------------------


async def test_what_begins_is_looked_at_soon_and_alone(daemon: Daemon) -> None:
    await daemon.pull()
    pod_id = await kubelet_pod(daemon, "web")
    first = await daemon.run(pod_id)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(daemon.facade.sampler.run)
        await trio.sleep(3)
        assert len(daemon.node.usage.orders) == 1
        second = await daemon.run(pod_id, "second")
        await trio.sleep(0.2)
        assert (await one(daemon, second)).HasField("writable_layer")
        new = daemon.node.usage.orders[1:]
        assert {name for order in new for name in order.cpu} == {second}
        assert {name for order in new for name in order.processes} == {second}
        await trio.sleep(20)
        whole = daemon.node.usage.orders[-1]
        assert whole.cpu.keys() == {first, second, pod_id}
        assert whole.networks.keys() == {pod_id}
        assert not whole.processes, "nobody asks for metrics"
        nursery.cancel_scope.cancel()


async def test_samples_of_what_is_gone_are_dropped(daemon: Daemon) -> None:
    await daemon.pull()
    pod_id = await kubelet_pod(daemon, "web")
    await daemon.run(pod_id)
    await sampled(daemon, 1)
    sampler = daemon.facade.sampler
    assert (len(sampler._windows), len(sampler.networks), len(sampler.processes)) == (2, 1, 1)
    await daemon.client.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod_id))
    await sampled(daemon, 1)
    await stats(daemon)
    await pod_stats(daemon)

    assert (len(sampler._windows), len(sampler.networks), len(sampler.processes)) == (0, 0, 0)
    assert (len(daemon.facade.container_heads), len(daemon.facade.pod_heads)) == (0, 0)


async def test_a_sample_that_fails_is_not_the_last(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    await daemon.pull()
    container_id = await daemon.run(await daemon.run_pod())

    async def failing(*_: Any) -> Any:
        raise Unavailable("no thread is left")

    monkeypatch.setattr(daemon.node.usage, "sample", failing)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(daemon.facade.sampler.run)
        await trio.sleep(25)
        assert (await one(daemon, container_id)).HasField("memory")
        monkeypatch.undo()
        await trio.sleep(25)
        assert (await one(daemon, container_id)).cpu.HasField("usage_nano_cores")
        nursery.cancel_scope.cancel()


async def test_a_parent_that_the_driver_cannot_have_is_nobodys(daemon: Daemon) -> None:
    assert daemon.facade.sampler.path_of("/a/../b") == ""
    assert daemon.facade.sampler.path_of("/kubepods/pod1") == "/kubepods/pod1"


# --- streams ---------------------------------------------------------------------------------------------------------


async def test_streams_give_what_the_lists_give(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "BATCH_BYTES_MAX", 1500)
    await daemon.pull()
    pods = [await daemon.run_pod(f"pod-{number}") for number in range(3)]
    running = [await daemon.run(pod_id, name) for pod_id in pods for name in ("app", "side")]
    of_containers = await streamed(daemon, "StreamContainerStats", pb.StreamContainerStatsRequest())
    of_pods = await streamed(daemon, "StreamPodSandboxStats", pb.StreamPodSandboxStatsRequest())

    assert len(of_containers) > 1
    assert all(message.container_stats for message in of_containers)
    assert [found.attributes.id for message in of_containers for found in message.container_stats] == running
    assert [found.attributes.id for message in of_pods for found in message.pod_sandbox_stats] == pods
    first = of_pods[0].pod_sandbox_stats[0].linux.containers
    assert [found.attributes.id for found in first] == running[:2]
    only = pb.StreamContainerStatsRequest(filter=pb.ContainerStatsFilter(id=running[3][:12]))
    (message,) = await streamed(daemon, "StreamContainerStats", only)
    assert [found.attributes.id for found in message.container_stats] == [running[3]]
    nobody = pb.StreamPodSandboxStatsRequest(filter=pb.PodSandboxStatsFilter(id="f" * 64))
    assert await streamed(daemon, "StreamPodSandboxStats", nobody) == []


@pytest.mark.parametrize(
    "method", ["ListContainerStats", "ListPodSandboxStats", "ListPodSandboxMetrics", "StreamPodSandboxMetrics"]
)
async def test_others_get_their_turn_and_what_goes_meanwhile_is_left_out(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    await daemon.pull()
    pods = [await daemon.run_pod(f"pod-{number}") for number in range(4)]
    for pod_id in pods:
        await daemon.run(pod_id)
    usage, answered = daemon.node.usage.cgroup, trio.Event()

    def slow(path: str) -> CgroupUsage | None:
        time.sleep(0.006)
        return usage(path)

    async def ask() -> None:
        request = getattr(pb, f"{method}Request")()
        if method.startswith("Stream"):
            await streamed(daemon, method, request)
        else:
            await getattr(daemon.client, method)(request)
        answered.set()

    monkeypatch.setattr(daemon.node.usage, "cgroup", slow)
    async with trio.open_nursery() as nursery, daemon.connect() as other:
        nursery.start_soon(ask)
        await other.Version(pb.VersionRequest())
        for name in [*daemon.view.containers.rows][2:]:
            daemon.view.containers.changed(name, daemon.view.containers.rows.pop(name), None)
        daemon.view.pods.changed(pods[3], daemon.view.pods.rows.pop(pods[3]), None)
        assert not answered.is_set()
        with trio.fail_after(5):
            await answered.wait()
