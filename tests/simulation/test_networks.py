"""Pods on several CNI networks: whenever the daemon dies, all are attached, or none is left."""

from __future__ import annotations

import pytest

from ocid.errors import EffectFailed, InvalidRequest
from tests.fakes.invariants import check, log_of
from tests.fakes.kubelet import Kubelet, pod_config
from tests.fakes.node import Node, simulate
from tests.simulation.test_crashes import moments


async def three_networks(node: Node) -> None:
    """A pod with two further networks, up and down, beside one that has none."""
    kubelet = Kubelet(node)
    plain = await kubelet.eventually(kubelet.run_pod, pod_config("plain"))
    pod = await kubelet.eventually(kubelet.run_pod, pod_config(further="storage,backup@bak0"))
    assert set(node.world.plugins) == {plain, pod, f"{pod}@net1", f"{pod}@bak0"}
    state = node.view().pods.rows[pod].state
    assert state.declared is not None
    assert [(one.name, one.interface) for one in state.declared.networks] == [("storage", "net1"), ("backup", "bak0")]
    assert [(one.network, one.interface) for one in state.further] == [("storage", "net1"), ("backup", "bak0")]
    assert state.attached is not None
    assert len(state.attached.addresses) == 1, "a further network's address is no pod address"
    await kubelet.eventually(kubelet.stop_pod, pod)
    assert set(node.world.plugins) == {plain}
    await kubelet.eventually(kubelet.remove_pod, pod)
    await kubelet.eventually(kubelet.remove_pod, plain)
    assert not node.world.plugins
    await check(node, kubelet)


async def broken_network(node: Node) -> None:
    """The last network cannot be attached: none of those before is left."""
    kubelet = Kubelet(node)
    with pytest.raises(EffectFailed, match="plugin 'broken' failed"):
        await kubelet.run_pod(pod_config(further="storage,broken"))
    await check(node, kubelet)
    assert not node.world.plugins


@pytest.mark.parametrize("scenario", [three_networks, broken_network])
def test_the_end_is_the_same_wherever_the_daemon_dies(scenario, simulated: dict[str, int]) -> None:
    whole = simulate(scenario, cni=True)
    assert whole.lives == 1
    for moment in moments(whole):
        died = simulate(scenario, cni=True, moment=moment)
        assert died.lives >= 2, f"nobody died {moment}"
        simulated["crash points"] = simulated.get("crash points", 0) + 1


def test_a_power_cut_leaves_nothing_at_any_step(simulated: dict[str, int]) -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        pod = await kubelet.eventually(kubelet.run_pod, pod_config(further="storage,backup"))
        await kubelet.eventually(kubelet.stop_pod, pod)
        for name in list(node.view().pods.rows):
            await kubelet.eventually(kubelet.remove_pod, name)
        await check(node, kubelet)
        assert not node.world.plugins

    for moment in moments(simulate(scenario, cni=True), ("after commit", "step")):
        moment.reboot = True
        simulate(scenario, cni=True, moment=moment)
        simulated["power cuts"] = simulated.get("power cuts", 0) + 1


def test_networks_are_named_before_any_is_attached() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        await kubelet.run_pod(pod_config(further="storage"))
        types = [one.type for one in log_of(node) if one.stream.startswith("pod/")]
        assert types[:4] == ["pod.declared", "pod.prepared", "pod.network_attached", "pod.further_network_attached"]

    simulate(scenario, cni=True)


@pytest.mark.parametrize(("cni", "further"), [(True, "nobody-knows"), (False, "storage")])
def test_a_network_that_cannot_be_had_makes_no_pod(cni: bool, further: str) -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        with pytest.raises(InvalidRequest, match=f"'{further}' is not configured"):
            await kubelet.run_pod(pod_config(further=further))
        assert not node.view().pods.rows
        await check(node, kubelet)

    simulate(scenario, cni=cni)
