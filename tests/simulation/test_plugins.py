"""What plugins are told, in which order, and what the log knows of it, wherever the daemon dies."""

from __future__ import annotations

import contextlib
from functools import partial

import msgspec
import pytest
import trio

from ocid.actors.core import Core
from ocid.domain.configs import LinuxResources
from ocid.domain.nri import Change, Resources
from ocid.errors import EffectFailed, NotFound, OcidError, Unsupported, WrongState
from ocid.events import container as events, pod as pod_events
from ocid.ids import ContainerId
from ocid.journal.memory import MemoryLog
from tests.fakes.invariants import check, log_of
from tests.fakes.kubelet import Kubelet, container_config, pod_config
from tests.fakes.node import Node, simulate
from tests.fakes.plugins import MEMORY_NODES, VARIABLE
from tests.fakes.runtime import USED_BYTES
from tests.simulation.scenarios import SCENARIOS, image_of
from tests.simulation.test_crashes import moments

CONTAINER = [
    "CREATE_CONTAINER",
    "POST_CREATE_CONTAINER",
    "START_CONTAINER",
    "POST_START_CONTAINER",
    "STOP_CONTAINER",
    "REMOVE_CONTAINER",
]
POD = ["RUN_POD_SANDBOX", "STOP_POD_SANDBOX", "REMOVE_POD_SANDBOX"]


def in_order(told: list[tuple[str, str]], about: str, order: list[str]) -> list[str]:
    """Return what was told of one thing; it must come first in this order. A crash may have it told again."""
    names = [event for event, name in told if name == about]
    once = list(dict.fromkeys(names))
    assert once == [name for name in order if name in once], names
    return once


async def whole_life(node: Node) -> None:
    kubelet = Kubelet(node)
    image = await image_of(node, kubelet)
    pod = await kubelet.eventually(kubelet.run_pod, pod_config())
    one = await kubelet.eventually(kubelet.create, pod, container_config("one", image, "run:1000"))
    await kubelet.start(one)
    await kubelet.eventually(kubelet.stop, one, 0)
    await kubelet.eventually(kubelet.remove, one)
    await kubelet.eventually(kubelet.stop_pod, pod)
    await kubelet.eventually(kubelet.remove_pod, pod)
    await check(node, kubelet)
    last = [name for event, name in node.told if event == "POST_START_CONTAINER"][-1]
    assert in_order(node.told, last, CONTAINER)[-1] == "REMOVE_CONTAINER"
    assert in_order(node.told, pod, POD)[-1] == "REMOVE_POD_SANDBOX"


def test_plugins_are_told_of_everything_in_order_and_once() -> None:
    node = simulate(whole_life, watched=True)

    assert [event for event, _ in node.told] == [POD[0], *CONTAINER, *POD[1:]]


def test_the_log_tells_who_changed_what_before_the_container_is_made() -> None:
    node = simulate(whole_life, watched=True)

    log, records = MemoryLog(node.disk), log_of(node)
    of_container = [one.event for one in records if one.stream.startswith("container/")]
    kinds = [type(event) for event in of_container]
    assert kinds[:3] == [events.Declared, events.Adjusted, events.Prepared]
    assert events.Created in kinds[3:]
    adjusted, prepared = of_container[1], of_container[2]
    assert isinstance(adjusted, events.Adjusted)
    assert isinstance(prepared, events.Prepared)
    assert (adjusted.plugins, adjusted.count) == (("10-fake",), 1)
    changes = msgspec.json.decode(log.document(adjusted.changes), type=list[Change])
    assert changes == [Change(plugin="10-fake", field="env", key="WATCHED")]
    assert VARIABLE in msgspec.json.decode(log.document(prepared.spec))["process"]["env"]
    assert VARIABLE not in msgspec.json.decode(log.document(adjusted.before))["process"]["env"]
    kinds = [type(one.event) for one in records if one.stream.startswith("pod/")]
    assert kinds.index(pod_events.Announced) + 1 == kinds.index(pod_events.Ready)


def test_wherever_the_daemon_dies_plugins_learn_of_the_end() -> None:
    whole = simulate(whole_life, watched=True)

    for moment in moments(whole):
        died = simulate(whole_life, watched=True, moment=moment)
        assert died.lives >= 2, f"nobody died {moment}"


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_ends_as_well_when_plugins_watch(name: str) -> None:
    simulate(SCENARIOS[name], watched=True)


def test_a_pod_that_is_refused_is_undone_and_one_that_is_not_is_told_of_its_end() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        node.faults.script("plugins.RUN_POD_SANDBOX", "fail")
        with pytest.raises(EffectFailed, match="refuses RUN_POD_SANDBOX"):
            await kubelet.run_pod(pod_config())
        await check(node, kubelet)

    node = simulate(scenario, watched=True)
    assert [event for event, _ in node.told] == ["RUN_POD_SANDBOX", "REMOVE_POD_SANDBOX"]


def test_a_container_that_is_refused_leaves_nothing() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        image = await image_of(node, kubelet)
        pod = await kubelet.run_pod(pod_config())
        node.faults.script("plugins.CREATE_CONTAINER", "fail")
        with pytest.raises(EffectFailed, match="refuses CREATE_CONTAINER"):
            await kubelet.create(pod, container_config("one", image, "run:1"))
        two = await kubelet.create(pod, container_config("one", image, "run:1"))
        await kubelet.start(two)
        await kubelet.remove_pod(pod)
        await check(node, kubelet)

    node = simulate(scenario, watched=True)
    refused = next(name for event, name in node.told if event == "CREATE_CONTAINER")
    assert in_order(node.told, refused, CONTAINER) == ["CREATE_CONTAINER", "REMOVE_CONTAINER"]


def test_a_container_that_may_not_start_counts_as_one_that_could_not() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        image = await image_of(node, kubelet)
        pod = await kubelet.run_pod(pod_config())
        node.faults.script("plugins.START_CONTAINER", "fail")
        one = await kubelet.create(pod, container_config("one", image, "run:1"))
        with pytest.raises(EffectFailed, match="refuses START_CONTAINER"):
            await kubelet.start(one)
        assert node.world.starts[one] == 0
        await kubelet.remove_pod(pod)
        await check(node, kubelet)

    node = simulate(scenario, watched=True)
    assert "POST_START_CONTAINER" not in [event for event, _ in node.told]


def test_what_plugins_say_of_an_end_stops_nothing() -> None:
    async def scenario(node: Node) -> None:
        for event in ("POST_CREATE_CONTAINER", "POST_START_CONTAINER", "STOP_CONTAINER", "REMOVE_CONTAINER"):
            node.faults.script(f"plugins.{event}", "fail")
        for event in POD[1:]:
            node.faults.script(f"plugins.{event}", "fail")
        await whole_life(node)

    simulate(scenario, watched=True)


# --- what plugins want of containers that exist ----------------------------------------------------------------------


async def wish(node: Node, container_id: str, wanted: Resources, *, wait: bool = True) -> None:
    _, core = await node.serving()
    await wish_of(core, container_id, wanted, wait=wait)


async def wish_of(core: Core, container_id: str, wanted: Resources, *, wait: bool = True) -> None:
    await core.update_resources(ContainerId(container_id), wanted, ("10-fake",), wait=wait)


async def living(node: Node, kubelet: Kubelet) -> tuple[str, str]:
    """A pod, and a container that runs in it."""
    image = await image_of(node, kubelet)
    pod = await kubelet.eventually(kubelet.run_pod, pod_config())
    one = await kubelet.eventually(kubelet.create, pod, container_config("one", image, "run:1000"))
    await kubelet.eventually(kubelet.start, one)
    return pod, one


def of_container(node: Node) -> list[object]:
    return [one.event for one in log_of(node) if one.stream.startswith("container/")]


async def changed_and_evicted(node: Node) -> None:
    kubelet = Kubelet(node)
    pod, one = await living(node, kubelet)
    with contextlib.suppress(OcidError):
        await kubelet.update(one, LinuxResources(cpu_shares=5))
    with contextlib.suppress(OcidError):
        await kubelet._ask(wish_of, one, Resources(cpu_shares=6, memory_limit=1 << 30))
    await check(node, kubelet)
    with contextlib.suppress(OcidError):
        await kubelet._ask(evict, one)
    await kubelet.eventually(kubelet.remove_pod, pod)
    await check(node, kubelet)


def test_a_change_of_the_kubelets_is_what_plugins_make_of_it() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        _, one = await living(node, kubelet)
        await kubelet.update(one, LinuxResources(cpu_shares=5))

        expected = LinuxResources(cpu_shares=5, cpuset_mems=MEMORY_NODES)
        assert node.view().containers.config(one).linux.resources == expected
        assert node.world.limits[one] == {"cpu": {"shares": 5, "mems": MEMORY_NODES}}
        await check(node, kubelet)

    node = simulate(scenario, watched=True)
    assert [event for event, _ in node.told][-2:] == ["UPDATE_CONTAINER", "POST_UPDATE_CONTAINER"]
    log, records = MemoryLog(node.disk), of_container(node)
    adjusted = next(event for event in records if isinstance(event, events.UpdateAdjusted))
    assert isinstance(records[records.index(adjusted) - 1], events.UpdateRequested)
    assert isinstance(records[records.index(adjusted) + 1], events.Updated)
    assert (adjusted.plugins, adjusted.count) == (("10-fake",), 1)
    assert adjusted.brief == f"cpu_shares=5 cpuset_mems={MEMORY_NODES}"
    changes = msgspec.json.decode(log.document(adjusted.changes), type=list[Change])
    assert changes == [Change(plugin="10-fake", field="cpu mems")]


def test_a_change_that_a_plugin_refuses_is_none() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        _, one = await living(node, kubelet)
        node.faults.script("plugins.UPDATE_CONTAINER", "fail")
        with pytest.raises(EffectFailed, match="refuses UPDATE_CONTAINER"):
            await kubelet.update(one, LinuxResources(cpu_shares=5))
        assert node.world.limits[one] == {}
        await check(node, kubelet)

    node = simulate(scenario, watched=True)
    assert "POST_UPDATE_CONTAINER" not in [event for event, _ in node.told]


def test_what_plugins_want_is_applied_without_asking_them_and_the_log_says_who() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        _, one = await living(node, kubelet)
        await wish(node, one, Resources(cpu_shares=6, memory_limit=1 << 30, memory_reservation=1 << 29))
        await wish(node, one, Resources())

        memory = {"limit": 1 << 30, "swap": 1 << 30, "reservation": 1 << 29}
        assert node.world.limits[one] == {"cpu": {"shares": 6}, "memory": memory}
        shown = LinuxResources(cpu_shares=6, memory_limit_in_bytes=1 << 30)
        assert node.view().containers.config(one).linux.resources == shown
        with pytest.raises(WrongState, match="is 1048576 bytes"):
            await wish(node, one, Resources(memory_limit=USED_BYTES - 1))
        with pytest.raises(Unsupported, match="10-fake wants another memory kernel"):
            await wish(node, one, Resources(memory_kernel=5))
        assert node.world.limits[one] == {"cpu": {"shares": 6}, "memory": memory}

    node = simulate(scenario, watched=True)
    assert "UPDATE_CONTAINER" not in [event for event, _ in node.told]
    asked = [event for event in of_container(node) if isinstance(event, events.UpdateRequested)]
    assert [event.plugins for event in asked] == [("10-fake",)] * 2


def test_what_is_being_made_or_gone_takes_no_change() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        pod, one = await living(node, kubelet)
        image = node.view().containers.config(one).image.image or "reg.test/app:1"
        node.faults.script("layers.mount", "hang")
        _, core = await node.serving()
        async with trio.open_nursery() as nursery:
            config = container_config("two", image, "run:1")
            nursery.start_soon(kubelet.eventually, kubelet.create, pod, config)
            await trio.sleep(1)
            two = next(name for name in node.view().containers.rows if name != one)
            for change in (partial(wish, node, two, Resources(cpu_shares=6)), partial(evict, core, two)):
                with pytest.raises(WrongState, match="is preparing, not created or running"):
                    await change()
        await kubelet.stop(one, 0)
        with pytest.raises(WrongState, match="is exited, not created or running"):
            await wish(node, one, Resources(cpu_shares=6))
        await evict(core, one)
        with pytest.raises(NotFound):
            await wish(node, "none", Resources(cpu_shares=6))
        await evict(core, "none")
        await kubelet.remove_pod(pod)
        await check(node, kubelet)

    simulate(scenario, watched=True)


async def evict(core: Core, container_id: str) -> None:
    await core.evict(ContainerId(container_id), "10-fake", "noisy", wait=True)


def test_an_evicted_container_is_killed_and_the_log_says_by_whom() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        _, one = await living(node, kubelet)
        _, core = await node.serving()
        await evict(core, one)
        state = core.container_of(ContainerId(one))
        assert state.exited is not None
        assert state.exited.exit_code == 137
        await check(node, kubelet)

    node = simulate(scenario, watched=True)
    stop = next(event for event in of_container(node) if isinstance(event, events.StopRequested))
    assert (stop.plugin, stop.reason, stop.grace_ms) == ("10-fake", "noisy", 0)


def test_wherever_the_daemon_dies_a_change_is_whole_or_none() -> None:
    whole = simulate(changed_and_evicted, watched=True)

    for moment in moments(whole):
        died = simulate(changed_and_evicted, watched=True, moment=moment)
        assert died.lives >= 2, f"nobody died {moment}"


def test_two_that_want_each_other_changed_do_not_wait_for_each_other() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        pod, one = await living(node, kubelet)
        two = await kubelet.create(pod, container_config("two", "reg.test/app:1", "run:1000"))
        for name, other in ((one, two), (two, one)):
            node.answers["UPDATE_CONTAINER", name] = partial(wish, node, other, Resources(cpu_quota=7000), wait=False)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for name in (one, two):
                    nursery.start_soon(kubelet.update, name, LinuxResources(cpu_shares=5))
        await check(node, kubelet)
        for name in (one, two):
            assert node.world.limits[name]["cpu"] == {"shares": 5, "quota": 7000, "mems": MEMORY_NODES}

    simulate(scenario, watched=True)
