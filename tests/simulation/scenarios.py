"""What a kubelet does in simulations, from the first request to nothing left, with the invariants at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
import trio

from ocid.domain.checkpoint_facts import CheckpointFacts
from ocid.domain.configs import ContainerConfig, ImageSpec, LinuxResources, Mount
from ocid.errors import EffectFailed, OcidError, WrongState
from ocid.ids import ContainerId, PodId
from tests.fakes.clients import FakeClient
from tests.fakes.invariants import calm, check
from tests.fakes.kubelet import Kubelet, container_config, pod_config
from tests.fakes.node import Node, Scenario
from tests.fakes.runtime import USED_BYTES
from tests.fakes.streaming import stream

APP, WEB = "reg.test/app:1", "reg.test/web:1"
SCENARIOS: dict[str, Scenario] = {}
POWER_CUTS: dict[str, Scenario] = {}  # those that go on whatever a reboot took away


def scenario(body: Callable[[Node, Kubelet], Awaitable[None]]) -> Callable[[Node, Kubelet], Awaitable[None]]:
    """Enter a scenario; every one ends with the invariants."""

    async def whole(node: Node) -> None:
        kubelet = Kubelet(node)
        await body(node, kubelet)
        await check(node, kubelet)

    SCENARIOS[body.__name__] = whole
    return body


def power_cut(body: Callable[[Node, Kubelet], Awaitable[None]]) -> Callable[[Node, Kubelet], Awaitable[None]]:
    """Enter a scenario whose machine may lose power; it ends with nothing left at all."""

    async def whole(node: Node) -> None:
        kubelet = Kubelet(node)
        await body(node, kubelet)
        await check(node, kubelet)
        for pod in list(node.view().pods.rows):
            await kubelet.eventually(kubelet.remove_pod, pod)
        await check(node, kubelet)
        left = (*node.world.mounts, *node.world.tasks, *node.world.contained, *node.world.addresses)
        assert not left, f"left when all pods were removed: {left}"

    POWER_CUTS[body.__name__] = whole
    return body


async def image_of(node: Node, kubelet: Kubelet, *contents: str) -> str:
    """Have an image in the store."""
    node.shelf.put(APP, *(contents or ("base",)))
    image = await kubelet.eventually(kubelet.pull, APP)
    node.interesting = (node.disk.commits, len(node.steps))  # dying in a pull is for the scenarios of pulls
    return image


@scenario
async def pod_with_two_containers(node: Node, kubelet: Kubelet) -> None:
    image = await image_of(node, kubelet)
    pod = await kubelet.eventually(kubelet.run_pod, pod_config())
    first = await kubelet.eventually(kubelet.create, pod, container_config("first", image, "run:1000"))
    second = await kubelet.eventually(kubelet.create, pod, container_config("second", image, "run:1000"))
    await kubelet.start(first)
    await kubelet.start(second)
    await kubelet.eventually(kubelet.stop, first, 0)
    await kubelet.eventually(kubelet.remove, first)
    await kubelet.eventually(kubelet.stop_pod, pod)
    await kubelet.eventually(kubelet.remove_pod, pod)


@scenario
async def shared_pid_pod(node: Node, kubelet: Kubelet) -> None:
    image = await image_of(node, kubelet)
    pod = await kubelet.run_pod(pod_config(shared_pid=True))
    one = await kubelet.create(pod, container_config("one", image, "run:1000"))
    await kubelet.start(one)
    await kubelet.stop(one, 1)
    await kubelet.stop_pod(pod)
    await kubelet.remove_pod(pod)


@scenario
async def host_network_pod(node: Node, kubelet: Kubelet) -> None:
    image = await image_of(node, kubelet)
    pod = await kubelet.run_pod(pod_config(host=True))
    one = await kubelet.create(pod, container_config("one", image, "run:1000"))
    await kubelet.start(one)
    await kubelet.remove_pod(pod)


@scenario
async def container_that_exits_by_itself(node: Node, kubelet: Kubelet) -> None:
    image = await image_of(node, kubelet)
    pod = await kubelet.run_pod(pod_config())
    one = await kubelet.create(pod, container_config("one", image, "run:2", "code:3"))
    await kubelet.start(one)
    state = await kubelet.wait_exited(one)
    assert state.exited is not None
    assert (state.exited.exit_code, state.exited.oom_killed) == (3, False)
    again = await kubelet.create(pod, container_config("one", image, "run:1000", attempt=1))
    assert again != one
    await kubelet.start(again)
    await kubelet.remove(one)
    await kubelet.remove_pod(pod)


@scenario
async def out_of_memory(node: Node, kubelet: Kubelet) -> None:
    image = await image_of(node, kubelet)
    pod = await kubelet.run_pod(pod_config())
    one = await kubelet.create(pod, container_config("one", image, "run:2", "oom"))
    await kubelet.start(one)
    state = await kubelet.wait_exited(one)
    assert state.exited is not None
    assert (state.exited.exit_code, state.exited.oom_killed) == (137, True)
    await kubelet.stop_pod(pod)
    await kubelet.remove_pod(pod)


@scenario
async def stop_with_grace(node: Node, kubelet: Kubelet) -> None:
    """One traps TERM and ends in time with its own code, one ignores it and is killed when the time is up."""
    image = await image_of(node, kubelet)
    pod = await kubelet.run_pod(pod_config())
    traps = await kubelet.create(pod, container_config("traps", image, "term:trap:2", "code:7"))
    ignores = await kubelet.create(pod, container_config("ignores", image, "term:ignore"))
    await kubelet.start(traps)
    await kubelet.start(ignores)
    await kubelet.stop(traps, 30)
    await kubelet.stop(ignores, 5)
    states = [await kubelet.wait_exited(one) for one in (traps, ignores)]
    assert [state.exited.exit_code for state in states if state.exited is not None] == [7, 137]
    await kubelet.stop_pod(pod)
    await kubelet.remove_pod(pod)


@scenario
async def create_that_fails(node: Node, kubelet: Kubelet) -> None:
    """The runtime refuses one container, cannot execute another; the pod and a third one are well."""
    image = await image_of(node, kubelet)
    pod = await kubelet.run_pod(pod_config())
    node.faults.script("runtime.create", "fail")
    for name, args in (("refused", ("run:1000",)), ("noexec", ("noexec",))):
        bad = await kubelet.create(pod, container_config(name, image, *args))
        try:
            await kubelet.start(bad)
        except EffectFailed:
            pass
        else:
            assert node.died, "only a daemon that died may have tried again"
    good = await kubelet.create(pod, container_config("good", image, "run:1000"))
    await kubelet.start(good)
    await kubelet.remove_pod(pod)


@scenario
async def prepare_that_fails(node: Node, kubelet: Kubelet) -> None:
    """CreateContainer fails and leaves nothing; the next attempt of the same name works."""
    image = await image_of(node, kubelet)
    pod = await kubelet.run_pod(pod_config())
    node.faults.script("layers.mount", "fail")
    one = await kubelet.eventually(kubelet.create, pod, container_config("one", image, "run:1000"))
    await kubelet.start(one)
    await kubelet.remove_pod(pod)


@scenario
async def pulls_that_share_layers(node: Node, kubelet: Kubelet) -> None:
    """Two images share their base, are pulled at once, and a container runs from each; then both go."""
    node.shelf.put(APP, "base", "libs", "app")
    node.shelf.put(WEB, "base", "libs", "web")
    images: dict[str, str] = {}

    async def pull(reference: str) -> None:
        images[reference] = await kubelet.eventually(kubelet.pull, reference)

    async with trio.open_nursery() as nursery:
        for reference in (APP, WEB, APP):
            nursery.start_soon(pull, reference)
    pod = await kubelet.run_pod(pod_config())
    one = await kubelet.create(pod, container_config("one", images[WEB], "run:1000"))
    await kubelet.start(one)
    await kubelet.remove_image(images[APP])
    await kubelet.remove_image(images[WEB])
    await kubelet.remove_pod(pod)
    await kubelet.pull(APP)
    await kubelet.remove_image(images[APP])


@scenario
async def registry_that_fails(node: Node, kubelet: Kubelet) -> None:
    node.shelf.put(APP, "base", "app")
    node.faults.script("registry.resolve", "unavailable")
    node.faults.script("registry.fetch", "late", "fail")
    node.faults.script("layers.unpack", "fail")
    await kubelet.eventually(kubelet.pull, APP)


@scenario
async def concurrent_retries(node: Node, kubelet: Kubelet) -> None:
    """The same request, three times at once, makes one thing."""
    image = await image_of(node, kubelet)
    pods, containers = set(), set()

    async def run() -> None:
        pods.add(await kubelet.run_pod(pod_config()))

    async def create() -> None:
        containers.add(await kubelet.create(min(pods), container_config("one", image, "run:1000")))

    for request in (run, create):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(request)
    assert len(pods) == 1
    assert len(containers) == 1
    await kubelet.remove_pod(min(pods))


@scenario
async def network_that_cannot_be_detached(node: Node, kubelet: Kubelet) -> None:
    pod = await kubelet.run_pod(pod_config())
    node.faults.script("network.detach", "fail", "unavailable", "late")
    await kubelet.eventually(kubelet.stop_pod, pod)
    await kubelet.eventually(kubelet.remove_pod, pod)


@scenario
async def pod_that_fails(node: Node, kubelet: Kubelet) -> None:
    """Attaching fails: the pod takes itself down, gives its addresses back, and the next one is made."""
    node.faults.script("network.attach", "fail")
    pod = await kubelet.eventually(kubelet.run_pod, pod_config())
    await kubelet.stop_pod(pod)
    await kubelet.remove_pod(pod)


@scenario
async def limits_that_change(node: Node, kubelet: Kubelet) -> None:
    """While it is being created, while it runs, several at once; what is refused leaves the rest as it was."""
    image = await image_of(node, kubelet)
    pod = await kubelet.run_pod(pod_config())
    one = await kubelet.create(pod, container_config("one", image, "run:1000"))
    await kubelet.update(one, LinuxResources(cpuset_cpus="0", memory_limit_in_bytes=1 << 30))
    await kubelet.start(one)
    refusals: list[OcidError] = []

    async def change(**fields: Any) -> None:
        try:
            await kubelet.update(one, LinuxResources(**fields))
        except OcidError as error:
            refusals.append(error)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(partial(change, cpu_shares=2 + number, memory_limit_in_bytes=USED_BYTES + number))
        nursery.start_soon(partial(change, cpu_shares=9, memory_limit_in_bytes=USED_BYTES - 1, cpuset_cpus="3"))
    assert [type(error) for error in refusals] == [WrongState]
    limits = node.view().containers.config(one).linux.resources
    assert limits is not None
    assert limits.cpuset_cpus == "0"
    assert limits.memory_limit_in_bytes - USED_BYTES == limits.cpu_shares - 2, "one change was applied in part"
    await check(node, kubelet)
    await kubelet.remove_pod(pod)


@scenario
async def limits_of_what_ends(node: Node, kubelet: Kubelet) -> None:
    """A change in flight does not hold up the stop, and is not answered as if it were in force."""
    image = await image_of(node, kubelet)
    pod = await kubelet.run_pod(pod_config())
    one = await kubelet.create(pod, container_config("one", image, "term:ignore"))
    await kubelet.start(one)
    node.faults.script("runtime.update", "hang")

    async def change() -> None:
        with contextlib.suppress(OcidError):
            await kubelet.update(one, LinuxResources(cpu_shares=7, memory_limit_in_bytes=1 << 30))
            assert node.died

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        await trio.sleep(0.5)
        began = trio.current_time()
        await kubelet.stop(one, 2)
        assert node.died or trio.current_time() - began < 5
    await kubelet.remove_pod(pod)


@scenario
async def checkpoint_of_a_container(node: Node, kubelet: Kubelet) -> None:
    """It goes on afterwards, wherever the daemon died; nothing half written stays."""
    image = await image_of(node, kubelet)
    pod = await kubelet.run_pod(pod_config())
    one = await kubelet.create(pod, container_config("one", image, "run:1000"))
    await kubelet.start(one)
    try:
        await kubelet.checkpoint(one, "/checkpoints/one.tar")
    except OcidError:
        assert node.died, "only the daemon's death may fail a checkpoint"
    await check(node, kubelet)
    assert not [path for path in node.world.paths if path.startswith("/checkpoints/")]
    await kubelet.remove_pod(pod)


def from_checkpoint(node: Node, image: str) -> Callable[..., ContainerConfig]:
    """Lay down an archive of a container of *image*, and return what makes configurations of containers from it."""
    path = "/checkpoints/old.tar"
    node.checkpoints[path] = CheckpointFacts(name="old", image_refs=(image,), binds=("/data",))
    mounts = (Mount(container_path="/data", host_path="/srv"),)

    def config(name: str, *args: str, attempt: int = 0) -> ContainerConfig:
        made = container_config(name, "", *args, attempt=attempt, mounts=mounts)
        return msgspec.structs.replace(made, image=ImageSpec(image=path))

    return config


async def restored(kubelet: Kubelet, pod: PodId, config: Callable[..., ContainerConfig], *words: str) -> ContainerId:
    """Have a container go on from a checkpoint; where the daemon's death cut that short, another one is made."""
    name, *args = words
    for attempt in range(4):
        one = await kubelet.eventually(kubelet.create, pod, config(name, *args, attempt=attempt))
        assert kubelet.node.world.starts[one] == 0, "something runs before the start"
        try:
            await kubelet.start(one)
        except OcidError:
            assert kubelet.node.died, "only the daemon's death may fail a restore"
        else:
            return one
    raise AssertionError("cut short four times")


@scenario
async def container_from_a_checkpoint(node: Node, kubelet: Kubelet) -> None:
    """It runs once, wherever the daemon died; one that ends at once has ended; one is stopped and never ran."""
    config = from_checkpoint(node, await image_of(node, kubelet))
    pod = await kubelet.eventually(kubelet.run_pod, pod_config())
    one = await restored(kubelet, pod, config, "one", "run:1000")
    await check(node, kubelet)
    assert node.world.starts[one] == 1
    await kubelet.stop(one, 1)
    short = await restored(kubelet, pod, config, "short", "run:0.005", "code:3")
    state = await kubelet.wait_exited(short)
    assert state.exited is not None
    assert (state.exited.exit_code, node.world.starts[short]) == (3, 1)
    never = await kubelet.eventually(kubelet.create, pod, config("never"))
    await kubelet.stop(never, 30)
    state = await kubelet.wait_exited(never)
    assert state.exited is not None
    assert (state.exited.exit_code, node.world.starts[never]) == (137, 0)
    await kubelet.remove_pod(pod)


@scenario
async def restore_that_fails(node: Node, kubelet: Kubelet) -> None:
    """Unpacking fails: the container was never there. Restoring fails: it ends, and is not tried again."""
    config = from_checkpoint(node, await image_of(node, kubelet))
    pod = await kubelet.run_pod(pod_config())
    node.faults.script("archives.unpack", "fail")
    node.faults.script("runtime.restore", "fail")
    one = await kubelet.eventually(kubelet.create, pod, config("one", "run:1000"))
    try:
        await kubelet.start(one)
    except OcidError:
        state = await kubelet.wait_exited(one)
        assert state.start_failed is not None
    else:
        assert node.died, "only a daemon that died may have spent the fault"
    await kubelet.remove_pod(pod)


@scenario
async def stop_during_a_restore(node: Node, kubelet: Kubelet) -> None:
    """The restore is finished, then killed: nothing of it is left unnamed."""
    config = from_checkpoint(node, await image_of(node, kubelet))
    pod = await kubelet.run_pod(pod_config())
    one = await kubelet.create(pod, config("one", "run:1000"))
    node.faults.script("runtime.restore", "slow")

    async def start() -> None:
        with contextlib.suppress(OcidError):
            await kubelet.start(one)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start)
        await trio.sleep(0.5)
        await kubelet.stop(one, 0)
    assert node.world.starts[one] <= 1
    await kubelet.remove_pod(pod)


@scenario
async def removed_while_stopping(node: Node, kubelet: Kubelet) -> None:
    """Containers are removed by name while their pod is removed, as two workers of a kubelet do."""
    image = await image_of(node, kubelet)
    pod = await kubelet.run_pod(pod_config())
    names = [await kubelet.create(pod, container_config(f"c{n}", image, "run:1000")) for n in range(3)]
    await kubelet.start(names[0])
    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(kubelet.eventually, kubelet.remove, name)
        nursery.start_soon(kubelet.eventually, kubelet.remove_pod, pod)


@scenario
async def command_in_a_container(node: Node, kubelet: Kubelet) -> None:
    """A command that ends, one whose time is up, and one that the daemon's death cuts short."""
    image = await image_of(node, kubelet)
    pod = await kubelet.run_pod(pod_config())
    one = await kubelet.create(pod, container_config("one", image, "run:1000"))
    await kubelet.start(one)
    for argv, timeout_s in ((("run:1", "code:4"), 0), (("run:100",), 3)):
        try:
            finished = await kubelet.exec_sync(one, *argv, timeout_s=timeout_s)
        except OcidError:
            assert node.died, "only the daemon's death may fail a command"
        else:
            assert (finished.exit_code, finished.timed_out) == ((4, False) if timeout_s == 0 else (137, True))
    await check(node, kubelet)
    await kubelet.remove_pod(pod)


@scenario
async def probes_of_a_container(node: Node, kubelet: Kubelet) -> None:
    """A probe that repeats itself, changes its mind, takes too long, overlaps, and outlives its container."""
    image = await image_of(node, kubelet)
    pod = await kubelet.run_pod(pod_config())
    one = await kubelet.create(pod, container_config("one", image, "run:1000"))
    await kubelet.start(one)
    node.interesting = (node.disk.commits, len(node.steps))
    for code in (0, 0, 0, 0, 3, 3, 3, 137, 137, 0, 0):
        node.world.moods["healthy"] = ("run:100",) if code == 137 else ("run:0.1", f"code:{code}")
        await probed(node, kubelet, one, code)
    await trio.sleep(61)  # what was counted is written
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(probed, node, kubelet, one, 0)
    node.faults.script("runtime.exec_sync", "fail")
    for _ in range(4):
        await probed(node, kubelet, one, 0)
    await check(node, kubelet)
    await kubelet.stop(one, 0)
    await trio.sleep(2)
    await check(node, kubelet)
    assert not node.view().execs.rows, "with its container, a command is counted no more"
    await kubelet.remove_pod(pod)


async def probed(node: Node, kubelet: Kubelet, container: ContainerId, code: int) -> None:
    """Run a probe; where its daemon dies, or it was to fail, that is its answer."""
    try:
        done = await kubelet.exec_sync(container, "healthy", timeout_s=2)
    except EffectFailed:
        assert node.faults.seen
    except OcidError:
        assert node.died, "only the daemon's death may fail a command"
    else:
        assert (done.exit_code, done.timed_out) == (code, code == 137)


@scenario
async def clients_of_a_container(node: Node, kubelet: Kubelet) -> None:
    """A client's command that ends, one whose client leaves, and an attached client; the daemon's death ends them."""
    image = await image_of(node, kubelet)
    pod = await kubelet.run_pod(pod_config())
    one = await kubelet.create(pod, container_config("one", image, "run:1000"))
    await kubelet.start(one)
    for argv, code in ((("run:1", "code:4"), 4), (("run:100",), 137), ((), None)):
        client = FakeClient(None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave_after, client, 3.0)
            try:
                outcome = await stream(kubelet, one, *argv, client=client)
            except OcidError:
                assert node.died, "only the daemon's death may fail a session"
            else:
                assert node.died or outcome.exit_code == code, outcome
            nursery.cancel_scope.cancel()
    await check(node, kubelet)
    await kubelet.remove_pod(pod)


async def leave_after(client: FakeClient, seconds: float) -> None:
    await trio.sleep(seconds)
    client.leave()


@scenario
async def image_volume(node: Node, kubelet: Kubelet) -> None:
    """An image that is only mounted is removed meanwhile: its layers stay until its container is gone."""
    node.shelf.put(WEB, "base", "pages")
    volume = await kubelet.eventually(kubelet.pull, WEB)
    image = await image_of(node, kubelet)
    pod = await kubelet.eventually(kubelet.run_pod, pod_config())
    mount = Mount(container_path="/pages", readonly=True, image=ImageSpec(image=volume))
    one = await kubelet.create(pod, container_config("one", image, "run:1000", mounts=(mount,)))
    await kubelet.start(one)
    await kubelet.remove_image(volume)
    await trio.sleep(5)
    assert len(node.world.layers) == 2, "the layers of a mounted image stay"
    await kubelet.stop(one, 0)
    await kubelet.remove(one)
    await kubelet.remove_pod(pod)
    await trio.sleep(5)
    await calm(node)
    assert len(node.world.layers) == 1, "and go with the last container, wherever the daemon died meanwhile"


@scenario
async def user_namespace_and_sysctls(node: Node, kubelet: Kubelet) -> None:
    image = await image_of(node, kubelet)
    config = pod_config(users=True, shared_pid=True)
    linux = msgspec.structs.replace(config.linux, sysctls={"net.core.somaxconn": "1"})
    pod = await kubelet.eventually(kubelet.run_pod, msgspec.structs.replace(config, linux=linux))
    assert any(pin.endswith("/ns/user") for pin in node.world.pins)
    one = await kubelet.create(pod, container_config("one", image, "run:1000"))
    await kubelet.start(one)
    await kubelet.remove_pod(pod)


@power_cut
async def a_running_pod(node: Node, kubelet: Kubelet) -> None:
    image = await image_of(node, kubelet)
    pod = await kubelet.eventually(kubelet.run_pod, pod_config())
    for name, program in (("long", "run:1000"), ("short", "run:1")):
        with contextlib.suppress(OcidError):
            await kubelet.start(await kubelet.create(pod, container_config(name, image, program)))
    await trio.sleep(3)
    with contextlib.suppress(OcidError):
        await kubelet.stop_pod(pod)


@power_cut
async def a_pod_with_a_pause_process(node: Node, kubelet: Kubelet) -> None:
    image = await image_of(node, kubelet)
    pod = await kubelet.eventually(kubelet.run_pod, pod_config(shared_pid=True))
    with contextlib.suppress(OcidError):
        one = await kubelet.create(pod, container_config("one", image, "term:trap:2", "code:4"))
        await kubelet.start(one)
        await kubelet.stop(one, 10)
        await kubelet.remove(one)


@power_cut
async def a_restored_container(node: Node, kubelet: Kubelet) -> None:
    config = from_checkpoint(node, await image_of(node, kubelet))
    pod = await kubelet.eventually(kubelet.run_pod, pod_config())
    with contextlib.suppress(OcidError):
        await kubelet.start(await kubelet.create(pod, config("one", "run:1000")))
    await trio.sleep(1)


@power_cut
async def a_pull(node: Node, kubelet: Kubelet) -> None:
    node.shelf.put(APP, "base", "libs", "app")
    image = await kubelet.eventually(kubelet.pull, APP)
    await kubelet.remove_image(image)
