"""Supervision of real aggregates: crashes touch no container, a spent budget is a NotReady pod, all can be undone."""

from __future__ import annotations

import contextlib
import logging

import pytest
import trio

from ocid.actors.supervisor import CRASHES_MAX
from ocid.domain import container as containers
from ocid.errors import Exhausted, OcidError, Unavailable
from ocid.events.node import ActorCrashed, ActorGaveUp
from ocid.ids import ContainerId, PodId
from ocid.journal.memory import Crash
from ocid.projections.pods import is_listed
from tests.fakes.invariants import calm, check, log_of
from tests.fakes.kubelet import Kubelet, container_config, pod_config
from tests.fakes.life import Life
from tests.fakes.node import Node, simulate
from tests.simulation.scenarios import image_of

SPENT = ["bug"] * (CRASHES_MAX + 1)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


async def pod_of_two(
    node: Node, kubelet: Kubelet, *, shared_pid: bool = False
) -> tuple[PodId, ContainerId, ContainerId]:
    """Run a pod with two containers."""
    image = await image_of(node, kubelet)
    pod = await kubelet.run_pod(pod_config(shared_pid=shared_pid))
    names = [await kubelet.create(pod, container_config(name, image, "run:5000")) for name in ("one", "two")]
    for name in names:
        await kubelet.start(name)
    return (pod, *names)  # type: ignore[return-value]


def test_a_crashing_effect_leaves_its_container_alive() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        node.faults.script("runtime.wait", "bug", "bug")
        pod, one, _ = await pod_of_two(node, kubelet)
        await calm(node)

        assert node.view().containers.rows[one].state.running
        assert node.view().pods.rows[pod].state.is_ready
        assert sum(isinstance(each.event, ActorCrashed) for each in log_of(node)) == 2
        await kubelet.stop(one, 1)
        await kubelet.remove_pod(pod)
        await check(node, kubelet)

    simulate(scenario)


def test_a_pod_over_its_budget_is_not_ready_with_the_reason_and_its_containers_live_on() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        node.faults.script("sandbox.wait_pause", *SPENT)
        pod, one, two = await pod_of_two(node, kubelet, shared_pid=True)
        other = await kubelet.run_pod(pod_config("other"))
        await trio.sleep(60)

        state = node.view().pods.rows[pod].state
        assert not state.is_ready
        assert "injected bug" in (state.gave_up or "")
        assert node.view().pods.rows[other].state.is_ready
        assert all(node.view().containers.rows[name].state.running for name in (one, two))
        assert any(isinstance(each.event, ActorGaveUp) for each in log_of(node))
        await kubelet.stop_pod(pod)
        await kubelet.remove_pod(pod)
        assert pod not in node.view().pods.rows
        await check(node, kubelet)

    simulate(scenario)


@pytest.mark.parametrize("kills", [0, 1])
def test_a_pod_can_be_taken_down_with_a_container_that_was_given_up(kills: int) -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        node.faults.script("runtime.wait", *SPENT * 3)
        pod, one, two = await pod_of_two(node, kubelet)
        await trio.sleep(60)
        node.faults.scripted.clear()

        given_up = [name for name in (one, two) if node.view().containers.rows[name].state.gave_up is not None]
        assert given_up == [one, two], "both actors must have spent their budgets"
        assert not node.view().pods.rows[pod].state.is_ready, "a container that nobody watches makes its pod NotReady"
        for _ in range(kills):
            await node.kill()
        with trio.fail_after(100):
            await kubelet.stop_pod(pod)
            await kubelet.remove_pod(pod)
        await check(node, kubelet)

    simulate(scenario)


@pytest.mark.parametrize("kills", [0, 1])
def test_a_pod_given_up_in_the_making_is_listed_and_does_not_stand_in_the_way(kills: int) -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        node.faults.script("network.attach", *SPENT)
        with pytest.raises(Unavailable, match="injected bug"):
            await kubelet.run_pod(pod_config())
        for _ in range(kills):
            await node.kill()
        (young,) = node.view().pods.rows
        assert is_listed(node.view().pods.rows[young].state), "the kubelet must see it, or it stays for ever"
        with trio.fail_after(100):
            again = await kubelet.run_pod(pod_config())
            assert again != young
            await kubelet.remove_pod(PodId(young))
            await kubelet.remove_pod(again)
        await check(node, kubelet)

    simulate(scenario)


def test_stopping_a_pod_does_not_crash_on_containers_that_go_away_meanwhile() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        pod, one, two = await pod_of_two(node, kubelet)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kubelet.remove, one)
            nursery.start_soon(kubelet.remove, two)
            await trio.sleep(0.35)
            nursery.start_soon(kubelet.remove_pod, pod)

        assert not any(isinstance(each.event, ActorCrashed) for each in log_of(node))
        await check(node, kubelet)

    simulate(scenario)


@pytest.mark.parametrize("seed", range(6))
def test_a_container_whose_inbox_is_full_delays_its_pod_and_crashes_nothing(seed: int) -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        pod, one, _ = await pod_of_two(node, kubelet)
        _, core = await node.serving()
        flooded = core.containers.get(one)

        async def flood() -> None:
            grace_ms = 999_000
            for _ in range(50):
                with contextlib.suppress(Exhausted):
                    while True:
                        grace_ms -= 1
                        flooded.tell(containers.Stop(grace_ms=grace_ms, now_boot_ns=0))
                await trio.sleep(0.0005)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            nursery.start_soon(kubelet.eventually, kubelet.stop_pod, pod)
        await kubelet.remove_pod(pod)

        assert not any(isinstance(each.event, ActorCrashed) for each in log_of(node))
        await check(node, kubelet)

    simulate(scenario, seed=seed)


def test_a_commit_that_fails_ends_the_daemon_and_the_next_one_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """EIO, ENOSPC: nobody is told anything, everything is cancelled, nothing hangs."""

    class Failing(Life):
        def before_commit(self, number: int) -> None:
            super().before_commit(number)
            if number in (12, 20):
                raise Crash  # and nobody is killed: the daemon must end by itself

    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        pod = await kubelet.eventually(kubelet.run_pod, pod_config())
        image = await image_of(node, kubelet)
        one = await kubelet.eventually(kubelet.create, pod, container_config("one", image, "run:5000"))
        await kubelet.eventually(kubelet.start, one)
        await kubelet.eventually(kubelet.remove_pod, pod)
        await check(node, kubelet)

    monkeypatch.setattr("tests.fakes.node.Life", Failing)
    assert simulate(scenario).lives == 3


def test_refusals_of_the_world_are_errors_with_its_words() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        image = await image_of(node, kubelet)
        pod = await kubelet.run_pod(pod_config())
        node.faults.script("layers.mount", "fail")
        with pytest.raises(OcidError, match=r"layers\.mount: injected failure"):
            await kubelet.create(pod, container_config("one", image))
        await calm(node)

        assert not node.view().containers.rows
        await check(node, kubelet)

    simulate(scenario)
