"""What plugins are told, in which order, and what the log knows of it, wherever the daemon dies."""

from __future__ import annotations

import msgspec
import pytest

from ocid.domain.nri import Change
from ocid.errors import EffectFailed
from ocid.events import container as events, pod as pod_events
from ocid.journal.memory import MemoryLog
from tests.fakes.invariants import check, log_of
from tests.fakes.kubelet import Kubelet, container_config, pod_config
from tests.fakes.node import Node, simulate
from tests.fakes.plugins import VARIABLE
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
