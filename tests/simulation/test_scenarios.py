"""Each scenario once, without a crash, and what only such a run can say: times, signals, who did what how often."""

from __future__ import annotations

import signal

import pytest
import trio

from ocid.domain.configs import EnvVar
from ocid.errors import EffectFailed, NotFound, OcidError, Unavailable
from ocid.ports import Credentials
from tests.fakes.invariants import calm, check, log_of
from tests.fakes.kubelet import Kubelet, container_config, pod_config
from tests.fakes.life import Moment
from tests.fakes.node import Node, simulate
from tests.simulation.scenarios import APP, SCENARIOS, WEB, image_of
from tests.simulation.walk import IMAGES


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_ends_well(name: str) -> None:
    assert simulate(SCENARIOS[name]).lives == 1


def types_of(node: Node, aggregate: str) -> list[str]:
    return [one.type for one in log_of(node) if one.stream.startswith(f"{aggregate}/")]


def test_stop_waits_the_grace_period_then_kills() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        image = await image_of(node, kubelet)
        pod = await kubelet.run_pod(pod_config())
        one = await kubelet.create(pod, container_config("one", image, "term:ignore"))
        await kubelet.start(one)
        began = trio.current_time()
        await kubelet.stop(one, 30)

        assert trio.current_time() - began == pytest.approx(30, abs=1)
        assert node.world.signals[one] == [signal.SIGTERM, signal.SIGKILL]
        await check(node, kubelet)

    simulate(scenario)


def test_a_second_stop_with_a_shorter_grace_wins() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        image = await image_of(node, kubelet)
        pod = await kubelet.run_pod(pod_config())
        one = await kubelet.create(pod, container_config("one", image, "term:ignore"))
        await kubelet.start(one)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kubelet.stop, one, 600)
            await trio.sleep(1)
            nursery.start_soon(kubelet.stop, one, 2)

        assert trio.current_time() - began == pytest.approx(3, abs=1.5)

    simulate(scenario)


def test_a_process_that_survives_sigkill_is_told_to_the_caller_and_killed_again() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        image = await image_of(node, kubelet)
        pod = await kubelet.run_pod(pod_config())
        one = await kubelet.create(pod, container_config("one", image, "term:ignore", "stuck:25"))
        await kubelet.start(one)
        with pytest.raises(Unavailable, match="survives SIGKILL"):
            await kubelet.stop(one, 0)
        await kubelet.eventually(kubelet.stop, one, 0)
        await kubelet.remove_pod(pod)
        await check(node, kubelet)

    simulate(scenario)


def test_a_retry_joins_the_work_that_goes_on_without_its_first_caller() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        node.faults.script("network.attach", "slow")
        with trio.move_on_after(1) as patience:
            await kubelet.run_pod(pod_config())
        assert patience.cancelled_caught
        pod = await kubelet.run_pod(pod_config())

        assert types_of(node, "pod").count("pod.declared") == 1
        await kubelet.remove_pod(pod)
        await check(node, kubelet)

    simulate(scenario)


def test_a_layer_that_two_images_share_is_fetched_once() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        node.shelf.put(APP, "base", "libs", "app")
        node.shelf.put(WEB, "base", "libs", "web")
        async with trio.open_nursery() as nursery:
            for reference in (APP, WEB, APP):
                nursery.start_soon(kubelet.pull, reference)
        await check(node, kubelet)

    node = simulate(scenario)
    blobs = [blob.blob for blob in node.shelf.images[APP].resolved.layers]
    shared = [blob.blob for blob in node.shelf.images[WEB].resolved.layers[:2]]

    assert blobs[:2] == shared
    assert [node.shelf.downloads.count(blob) for blob in blobs] == [1, 1, 1]


def test_pulls_with_other_credentials_are_not_joined() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        node.shelf.put(APP, "base")
        async with trio.open_nursery() as nursery:
            for secret in ("alice", "bob", "alice"):
                nursery.start_soon(kubelet.pull, APP, Credentials(username=secret, password="hunter2"))

        assert types_of(node, "pull").count("pull.requested") == 2
        assert not any(b"hunter2" in record or b"alice" in record for record in node.disk.records)
        await check(node, kubelet)

    simulate(scenario)


def test_an_image_that_is_not_there_is_not_found() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        with pytest.raises(NotFound):
            await kubelet.pull("reg.test/none:1")
        await check(node, kubelet)

    simulate(scenario)


def test_a_pod_that_cannot_be_made_says_why_and_leaves_nothing() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        node.faults.script("network.attach", "fail")
        with pytest.raises(EffectFailed, match="injected failure"):
            await kubelet.run_pod(pod_config())
        await calm(node)

        assert not node.view().pods.rows
        assert not node.world.paths
        assert not node.world.addresses
        await check(node, kubelet)

    simulate(scenario)


def test_detaching_is_tried_again_ever_more_rarely() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        pod = await kubelet.run_pod(pod_config())
        node.faults.script("network.detach", *["fail"] * 12)
        began = trio.current_time()
        with pytest.raises(Unavailable):
            await kubelet.stop_pod(pod)
        await kubelet.eventually(stopped, node)

        assert trio.current_time() - began > 60
        failures = [one.event.failures for one in log_of(node) if one.type == "pod.effect_failed"]
        assert failures == list(range(1, 13))
        await kubelet.remove_pod(pod)
        await check(node, kubelet)

    async def stopped(node: Node) -> None:
        await trio.sleep(5)
        if not all(row.state.stopped for row in node.view().pods.rows.values()):
            raise Unavailable("not yet")

    simulate(scenario)


def test_secrets_that_died_with_the_daemon_fail_the_container_not_the_pod() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        image = await image_of(node, kubelet)
        pod = await kubelet.run_pod(pod_config())
        secret = (EnvVar(key="DB_PASSWORD", value=b"hunter2"),)
        node.faults.script("layers.mount", "slow")
        with trio.move_on_after(1):
            await kubelet.create(pod, container_config("one", image, "run:1000", envs=secret))
        await node.kill()
        with pytest.raises(OcidError, match=r"secret|not found|gone|prepared"):
            await kubelet.create(pod, container_config("one", image, "run:1000", envs=secret))
        one = await kubelet.eventually(kubelet.create, pod, container_config("one", image, "run:1000", envs=secret))
        await kubelet.start(one)

        assert not any(b"hunter2" in text for text in node.disk.readable())
        await check(node, kubelet)

    simulate(scenario)


def test_a_pod_whose_pause_process_dies_is_lost() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        pod = await kubelet.run_pod(pod_config(shared_pid=True))
        pause = next(task for task in node.world.tasks.values() if task.owner == pod)
        node.world.end(pause, 137)
        await trio.sleep(5)

        assert not node.view().pods.rows[pod].state.is_ready
        await kubelet.stop_pod(pod)
        await kubelet.remove_pod(pod)
        await check(node, kubelet)

    simulate(scenario)


def test_cni_gets_back_the_result_it_gave() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        pod = await kubelet.run_pod(pod_config())
        await node.kill()
        await kubelet.stop_pod(pod)
        await kubelet.remove_pod(pod)
        assert not node.world.plugins
        await check(node, kubelet)

    simulate(scenario, cni=True)


def test_images_that_are_removed_at_once_leave_no_layers() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        images = []
        for reference, contents in IMAGES.items():
            node.shelf.put(reference, *contents)
            images.append(await kubelet.pull(reference))
        for image in images:
            await kubelet.remove_image(image)
        await check(node, kubelet)

        assert not node.world.layers

    for seed in range(20):
        simulate(scenario, seed=seed)


def test_a_layer_that_was_made_while_its_pull_died_is_collected() -> None:
    """It is in the store, but its stream says failed, and nobody asks for it again."""

    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        node.shelf.put(APP, "base")
        life, _ = await node.serving()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kubelet.pull, APP)
            await life.over.wait()
            nursery.cancel_scope.cancel()
        await check(node, kubelet)

        assert not node.world.layers
        assert "node.orphan_found" in types_of(node, "node")

    steps: list[str] = []

    async def dry(node: Node) -> None:
        node.shelf.put(APP, "base")
        await Kubelet(node).pull(APP)
        steps.extend(node.steps)

    simulate(dry)
    number = steps.index("layers.unpack renamed") + 1
    assert simulate(scenario, moment=Moment("step", number)).lives == 2


def test_layers_of_a_removed_image_go_with_its_last_container() -> None:
    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        node.shelf.put(APP, "base")
        image = await kubelet.pull(APP)
        pod = await kubelet.run_pod(pod_config())
        await kubelet.create(pod, container_config("one", image, "run:1000"))
        await kubelet.remove_image(image)
        await check(node, kubelet)

        assert node.world.layers, "a container still needs them"

        await kubelet.remove_pod(pod)
        await check(node, kubelet)

        assert not node.world.layers

    simulate(scenario)


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("step", ["create", "start"])
def test_a_pods_network_outlives_a_container_whose_making_failed_late(step: str, watched: bool) -> None:
    """The runtime had done it, and only its answer was lost: until the container is released, its init lives."""

    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        image = await image_of(node, kubelet)
        pod = await kubelet.run_pod(pod_config())
        node.faults.script(f"runtime.{step}", "late")
        node.faults.script("runtime.delete", "unavailable", "unavailable")
        one = await kubelet.create(pod, container_config("one", image, "run:1000"))
        with pytest.raises(Unavailable, match="the answer was lost"):
            await kubelet.start(one)
        assert [task for task in node.world.tasks.values() if task.netns], "its init lives"
        with pytest.raises(Unavailable, match=rf"container/{one} may still have processes: .* injected"):
            await kubelet.stop_pod(pod)
        await kubelet.eventually(kubelet.stop_pod, pod)
        await kubelet.remove_pod(pod)
        await check(node, kubelet)

    simulate(scenario, watched=watched)
