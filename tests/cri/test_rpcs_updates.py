"""What changes of what lives: limits of containers, resources of pods, the node's pod CIDR."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
import trio
from grpclib.const import Status

from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.container_update import WAITING_MAX
from ocid.domain.nri import ContainerFacts, Event, PodFacts, Resources
from ocid.domain.spec.inputs import HostFacts
from ocid.events import container, node, pod
from ocid.ids import ContainerId
from tests.cri.daemon import Daemon, container_config, refused
from tests.fakes.plugins import MEMORY_NODES
from tests.fakes.runtime import USED_BYTES

Limits = pb.LinuxContainerResources
GIB = 1 << 30


@pytest.fixture
async def pod_id(daemon: Daemon) -> str:
    """A pod, with an image pulled."""
    await daemon.pull()
    return await daemon.run_pod()


async def update(daemon: Daemon, container_id: str, **limits: Any) -> None:
    request = pb.UpdateContainerResourcesRequest(container_id=container_id, linux=Limits(**limits))
    await daemon.client.UpdateContainerResources(request)


async def limited(daemon: Daemon, pod_id: str, **limits: Any) -> str:
    """A running container with these limits."""
    config = container_config("app", "run:1000")
    config.linux.resources.CopyFrom(Limits(**limits))
    response = await daemon.client.CreateContainer(pb.CreateContainerRequest(pod_sandbox_id=pod_id, config=config))
    await daemon.start(response.container_id)
    container_id: str = response.container_id
    return container_id


async def limits_of(daemon: Daemon, container_id: str) -> Limits:
    return (await daemon.status(container_id)).resources.linux


# --- containers ------------------------------------------------------------------------------------------------------


async def test_a_change_is_in_the_kernel_the_status_and_the_log(daemon: Daemon, pod_id: str) -> None:
    app = await limited(daemon, pod_id, cpu_shares=512, memory_limit_in_bytes=GIB)
    other = await daemon.run(pod_id, "other", "run:1000")
    await update(daemon, app, cpu_shares=256, cpu_quota=20_000, cpu_period=50_000, unified={"memory.high": "9"})

    expected = Limits(
        cpu_shares=256, cpu_quota=20_000, cpu_period=50_000, memory_limit_in_bytes=GIB, unified={"memory.high": "9"}
    )  # fmt: skip
    assert await limits_of(daemon, app) == expected
    assert not (await daemon.status(other)).HasField("resources")
    assert daemon.node.world.limits[app] == {
        "cpu": {"shares": 256, "quota": 20_000, "period": 50_000},
        "memory": {"limit": GIB, "swap": GIB},
        "unified": {"memory.high": "9"},
    }
    verbose = pb.ContainerStatusRequest(container_id=app, verbose=True)
    spec = json.loads((await daemon.client.ContainerStatus(verbose)).info["info"])["runtimeSpec"]
    assert spec["linux"]["resources"]["cpu"] == {"shares": 256, "quota": 20_000, "period": 50_000}
    asked, done = daemon.log(container.UpdateRequested, container.Updated)
    assert isinstance(asked.event, container.UpdateRequested)
    assert asked.event.brief == "cpu_period=50000 cpu_quota=20000 cpu_shares=256 unified=memory.high:9"
    assert asked.context.who == daemon.log(node.PeerSeen)[0].seq
    assert done.context.correlation == asked.context.correlation

    pod_status = await daemon.client.PodSandboxStatus(pb.PodSandboxStatusRequest(pod_sandbox_id=pod_id))
    shown = {one.id: one.resources.linux for one in pod_status.containers_statuses}
    assert shown[app] == expected


async def test_limits_survive_a_restart(daemon: Daemon, pod_id: str) -> None:
    app = await limited(daemon, pod_id, cpu_shares=512)
    await update(daemon, app, memory_limit_in_bytes=GIB)
    await daemon.restart()

    assert await limits_of(daemon, app) == Limits(cpu_shares=512, memory_limit_in_bytes=GIB)
    await update(daemon, app, cpu_shares=2)
    assert await limits_of(daemon, app) == Limits(cpu_shares=2, memory_limit_in_bytes=GIB)


async def test_a_change_right_after_the_creation_follows_it(daemon: Daemon, pod_id: str) -> None:
    """As the CPU manager does: the OCI runtime is still at work."""
    daemon.node.faults.script("runtime.create", "slow")
    app = await daemon.create(pod_id, "app", "run:1000")
    assert (await daemon.status(app)).state == pb.CONTAINER_CREATED
    await update(daemon, app, cpuset_cpus="0-1")

    steps = [step for step in daemon.node.steps if step.startswith(("runtime.create", "runtime.update"))]
    assert steps[-3:] == ["runtime.update begins", "runtime.update cpu", "runtime.update ends"]
    assert steps[-4] == "runtime.create ends"
    assert (await limits_of(daemon, app)).cpuset_cpus == "0-1"
    await daemon.start(app)
    assert (await daemon.status(app)).state == pb.CONTAINER_RUNNING


async def test_a_refused_change_leaves_all_as_it_was(daemon: Daemon, pod_id: str) -> None:
    app = await limited(daemon, pod_id, cpu_shares=512, memory_limit_in_bytes=GIB)
    before = dict(daemon.node.world.limits[app])
    with refused(Status.FAILED_PRECONDITION, "limits of container 'app': memory of container", "not 1048575 at most"):
        await update(daemon, app, memory_limit_in_bytes=USED_BYTES - 1, cpu_shares=2)

    assert await limits_of(daemon, app) == Limits(cpu_shares=512, memory_limit_in_bytes=GIB)
    assert daemon.node.world.limits[app] == before
    (fact,) = daemon.log(container.UpdateRefused)
    assert isinstance(fact.event, container.UpdateRefused)
    assert fact.event.error == "WrongState"
    assert fact.event.message == f"memory of container {app!r} is 1048576 bytes, not 1048575 at most"
    await update(daemon, app, cpu_shares=2)
    assert (await limits_of(daemon, app)).cpu_shares == 2


async def test_changes_at_once_are_applied_one_after_the_other(daemon: Daemon, pod_id: str) -> None:
    app = await limited(daemon, pod_id, cpu_shares=512)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: update(daemon, app, cpu_shares=2))
        nursery.start_soon(lambda: update(daemon, app, memory_limit_in_bytes=GIB))
        nursery.start_soon(lambda: update(daemon, app, cpuset_cpus="0"))

    assert await limits_of(daemon, app) == Limits(cpu_shares=2, memory_limit_in_bytes=GIB, cpuset_cpus="0")


async def test_too_many_changes_at_once_are_refused(daemon: Daemon, pod_id: str) -> None:
    app = await limited(daemon, pod_id)
    daemon.node.faults.script("runtime.update", "slow")
    async with trio.open_nursery() as nursery:
        for number in range(WAITING_MAX):
            nursery.start_soon(lambda number=number: update(daemon, app, cpu_shares=2 + number))
        await trio.sleep(1)
        with refused(Status.RESOURCE_EXHAUSTED, "changes of its limits waiting"):
            await update(daemon, app, cpu_shares=99)


async def test_who_loses_patience_does_not_undo_the_change(daemon: Daemon, pod_id: str) -> None:
    app = await limited(daemon, pod_id)
    daemon.node.faults.script("runtime.update", "slow")
    with trio.move_on_after(1):
        await update(daemon, app, cpu_shares=7)
    assert (await limits_of(daemon, app)).cpu_shares == 0
    await trio.sleep(30)

    assert (await limits_of(daemon, app)).cpu_shares == 7


async def test_a_change_that_changes_nothing_is_not_recorded(daemon: Daemon, pod_id: str) -> None:
    app = await limited(daemon, pod_id)
    await update(daemon, app)

    assert daemon.log(container.UpdateRequested) == []


async def test_what_has_ended_or_is_not_there_takes_no_change(daemon: Daemon, pod_id: str) -> None:
    app = await daemon.run(pod_id, "app", "run:1")
    await daemon.exited(app)
    with refused(Status.FAILED_PRECONDITION, "is exited, not created or running"):
        await update(daemon, app, cpu_shares=2)
    with refused(Status.NOT_FOUND, "container 'none' not found"):
        await update(daemon, "none", cpu_shares=2)


async def test_a_stop_does_not_wait_for_a_change(daemon: Daemon, pod_id: str) -> None:
    app = await limited(daemon, pod_id)
    daemon.node.faults.script("runtime.update", "hang")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(daemon.client.StopContainer, pb.StopContainerRequest(container_id=app, timeout=0), 5.0)
        with refused(Status.FAILED_PRECONDITION, "not created or running"):
            await update(daemon, app, cpu_shares=2)
    assert (await daemon.status(app)).state == pb.CONTAINER_EXITED


async def test_a_hanging_change_is_given_up_by_a_stop(daemon: Daemon, pod_id: str) -> None:
    app = await limited(daemon, pod_id)
    daemon.node.faults.script("runtime.update", "hang")

    async def change() -> None:
        with refused(Status.FAILED_PRECONDITION, "is stopping, not created or running"):
            await update(daemon, app, cpu_shares=2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        await trio.sleep(1)
        await daemon.client.StopContainer(pb.StopContainerRequest(container_id=app, timeout=0), 5.0)


async def test_limits_that_the_host_does_not_have(daemon: Daemon, pod_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app = await limited(daemon, pod_id)
    monkeypatch.setattr(daemon.core.host.runtime, "host_facts", lambda: HostFacts(cgroup_version=1))
    with refused(Status.UNIMPLEMENTED, "unified names 'memory.high', but this host's cgroups are version 1"):
        await update(daemon, app, unified={"memory.high": "1"}, cpu_shares=2)

    assert await limits_of(daemon, app) == Limits()


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"cpu_period": 10}, "linux.cpu_period is 10, wanted 1000 to 1000000"),
        ({"cpu_quota": -2}, "linux.cpu_quota is -2"),
        ({"cpuset_cpus": "all"}, "linux.cpuset_cpus is 'all', wanted a list such as '0-2,7'"),
        ({"oom_score_adj": 1001}, "linux.oom_score_adj is 1001"),
        ({"unified": {"../x.y": "1"}}, "linux.unified has '../x.y'"),
        ({"unified": {"memory.high": "1\0"}}, "holds a NUL byte"),
    ],
)
async def test_a_malformed_change(daemon: Daemon, pod_id: str, limits: Any, words: str) -> None:
    app = await limited(daemon, pod_id)
    with refused(Status.INVALID_ARGUMENT, words):
        await update(daemon, app, **limits)
    assert daemon.log(container.UpdateRequested) == []


async def test_limits_without_the_linux_part(daemon: Daemon, pod_id: str) -> None:
    app = await limited(daemon, pod_id)
    with refused(Status.INVALID_ARGUMENT, "linux is missing"):
        await daemon.client.UpdateContainerResources(pb.UpdateContainerResourcesRequest(container_id=app))


async def test_a_very_long_change_fits(daemon: Daemon, pod_id: str) -> None:
    app = await limited(daemon, pod_id)
    odd = ",".join(str(number) for number in range(1, 4096, 2))
    await update(daemon, app, cpuset_cpus=odd)

    assert (await limits_of(daemon, app)).cpuset_cpus == odd


# --- pods and the node -----------------------------------------------------------------------------------------------


async def resources_of(daemon: Daemon, pod_id: str) -> dict[str, Any]:
    request = pb.PodSandboxStatusRequest(pod_sandbox_id=pod_id, verbose=True)
    info = json.loads((await daemon.client.PodSandboxStatus(request)).info["info"])
    linux: dict[str, Any] = info["config"]["linux"]
    return {name: linux[name] for name in ("overhead", "resources") if name in linux}


async def test_resources_of_a_pod_are_recorded_and_shown(daemon: Daemon, pod_id: str) -> None:
    assert await resources_of(daemon, pod_id) == {}
    for _ in range(2):
        await daemon.client.UpdatePodSandboxResources(
            pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id=pod_id, resources=Limits(cpu_shares=7))
        )
    await daemon.client.UpdatePodSandboxResources(
        pb.UpdatePodSandboxResourcesRequest(
            pod_sandbox_id=pod_id, overhead=Limits(memory_limit_in_bytes=GIB), resources=Limits(cpu_shares=8)
        )
    )
    expected = {"overhead": {"memory_limit_in_bytes": GIB}, "resources": {"cpu_shares": 8}}
    assert await resources_of(daemon, pod_id) == expected
    first, second = daemon.log(pod.ResourcesUpdated)
    assert isinstance(second.event, pod.ResourcesUpdated)
    assert second.event.brief == f"overhead memory_limit_in_bytes={GIB}; resources cpu_shares=8"
    assert first.context.command_id == "UpdatePodSandboxResources"

    await daemon.restart()
    assert await resources_of(daemon, pod_id) == expected


async def test_plugins_hear_of_a_pods_resources_before_and_after_and_may_refuse(daemon: Daemon, pod_id: str) -> None:
    daemon.node.watched = True
    await daemon.restart()
    told = daemon.node.told
    told.clear()
    heard: list[dict[str, object]] = []
    plugins = daemon.core.host.plugins
    tell = plugins.tell

    async def listen(event: Event, pod: PodFacts, container: ContainerFacts | None = None) -> None:
        heard.append({"event": event.name, "resources": pod.resources, "overhead": pod.overhead})
        await tell(event, pod, container)

    plugins.tell = listen  # type: ignore[method-assign]
    request = pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id=pod_id, resources=Limits(cpu_shares=7))
    await daemon.client.UpdatePodSandboxResources(request)
    after = {"resources": Resources(cpu_shares=7), "overhead": None}
    assert heard == [{"event": "UPDATE_POD_SANDBOX", **after}, {"event": "POST_UPDATE_POD_SANDBOX", **after}]

    daemon.node.faults.script("plugins.UPDATE_POD_SANDBOX", "fail")
    request.resources.cpu_shares = 8
    with refused(Status.UNKNOWN, "plugin 10-fake refuses UPDATE_POD_SANDBOX"):
        await daemon.client.UpdatePodSandboxResources(request)
    assert await resources_of(daemon, pod_id) == {"resources": {"cpu_shares": 7}}, "a refused change is none"
    assert told[-1] == ("UPDATE_POD_SANDBOX", pod_id)


async def test_the_status_shows_what_plugins_made_of_a_change(daemon: Daemon, pod_id: str) -> None:
    daemon.node.watched = True
    await daemon.restart()
    app = await limited(daemon, pod_id, cpu_shares=512)
    await update(daemon, app, cpu_quota=20_000)
    await daemon.core.update_resources(
        ContainerId(app), Resources(memory_reservation=5, pids_limit=9), ("10-fake",), wait=True
    )

    assert await limits_of(daemon, app) == Limits(cpu_shares=512, cpu_quota=20_000, cpuset_mems=MEMORY_NODES)
    verbose = pb.ContainerStatusRequest(container_id=app, verbose=True)
    spec = json.loads((await daemon.client.ContainerStatus(verbose)).info["info"])["runtimeSpec"]
    assert spec["linux"]["resources"]["memory"] == {"reservation": 5}, "CRI has no field for it, but it is there"
    assert spec["linux"]["resources"]["pids"] == {"limit": 9}


async def test_resources_of_no_pod(daemon: Daemon, pod_id: str) -> None:
    with refused(Status.NOT_FOUND, "pod 'none' not found"):
        await daemon.client.UpdatePodSandboxResources(pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id="none"))
    with refused(Status.INVALID_ARGUMENT, "pod_sandbox_id is empty"):
        await daemon.client.UpdatePodSandboxResources(pb.UpdatePodSandboxResourcesRequest())
    with refused(Status.INVALID_ARGUMENT, "overhead.cpu_shares is -1"):
        await daemon.client.UpdatePodSandboxResources(
            pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id=pod_id, overhead=Limits(cpu_shares=-1))
        )


def told(cidr: str) -> pb.UpdateRuntimeConfigRequest:
    network = pb.NetworkConfig(pod_cidr=cidr)
    return pb.UpdateRuntimeConfigRequest(runtime_config=pb.RuntimeConfig(network_config=network))


async def test_the_pod_cidr_is_recorded_once(daemon: Daemon) -> None:
    for cidr in ("10.1.0.0/24", "10.1.0.0/24", "", "10.2.0.0/24,fd00::/64"):
        await daemon.client.UpdateRuntimeConfig(told(cidr))

    events = [one.event for one in daemon.log(node.RuntimeConfigured)]
    assert [msgspec.to_builtins(event)["pod_cidr"] for event in events] == ["10.1.0.0/24", "10.2.0.0/24,fd00::/64"]
    assert daemon.view.node.pod_cidr == "10.2.0.0/24,fd00::/64"
    await daemon.restart()
    await daemon.client.UpdateRuntimeConfig(told("10.2.0.0/24,fd00::/64"))
    assert len(daemon.log(node.RuntimeConfigured)) == 2


async def test_a_pod_cidr_that_is_too_long(daemon: Daemon) -> None:
    with refused(Status.INVALID_ARGUMENT, "pod_cidr is 257 bytes, the limit is 256"):
        await daemon.client.UpdateRuntimeConfig(told("1" * 257))
