"""A random walk: several impatient clients on one node, faults, crashes of actors and daemon, reboots; then peace."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from ocid.domain.configs import LinuxResources
from ocid.errors import OcidError
from ocid.ids import ContainerId, PodId
from tests.fakes.clients import FakeClient
from tests.fakes.invariants import calm, check, files_of
from tests.fakes.kubelet import Kubelet, container_config, pod_config
from tests.fakes.node import Node
from tests.fakes.runtime import USED_BYTES
from tests.fakes.streaming import stream
from tests.simulation.scenarios import leave_after

WORKERS, MOVES = 3, 12
IMAGES = {"reg.test/a:1": ("base", "a"), "reg.test/b:1": ("base", "b"), "reg.test/c:1": ("base", "b", "c")}
PROGRAMS = (
    ("run:1000",),
    ("run:3", "code:0"),
    ("run:2", "code:9"),
    ("run:4", "oom"),
    ("term:trap:2", "code:5"),
    ("term:ignore",),
    ("term:ignore", "stuck:15"),
    ("noexec",),
)


class Walker:
    """Draws what the clients do next; all of it follows from the seed."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.dice = random.Random(node.seed)
        self.kubelet = Kubelet(node)
        self.pods: list[PodId] = []
        self.containers: list[ContainerId] = []
        self.names = 0

    async def walk(self) -> None:
        for reference, contents in IMAGES.items():
            self.node.shelf.put(reference, *contents)
        async with trio.open_nursery() as nursery:
            for _ in range(WORKERS):
                nursery.start_soon(self._work)
            if self.dice.random() < 0.7:
                nursery.start_soon(self._disturb)

    async def _work(self) -> None:
        for _ in range(MOVES):
            move = self.dice.choice(self._moves())
            with trio.move_on_after(self.dice.choice((0.05, 1.0, 60.0, 200.0))):  # a caller may lose patience
                with contextlib.suppress(OcidError):
                    await move()
            await trio.sleep(self.dice.choice((0.0, 0.0, 0.02, 1.0)))

    def _moves(self) -> list[Callable[[], Awaitable[Any]]]:
        moves: list[Callable[[], Awaitable[Any]]] = [self._run, self._pull, self._pull]
        if self.pods:
            moves += [self._create, self._create, self._create, self._stop_pod, self._remove_pod]
        if self.containers:
            moves += [self._start, self._start, self._start, self._stop, self._remove, self._exec, self._update]
            moves += [self._stream, self._checkpoint]
        if self.dice.random() < 0.2:
            moves.append(self._remove_image)
        return moves

    async def _disturb(self) -> None:
        """Kill the daemon, sometimes with the machine."""
        for _ in range(self.dice.randrange(1, 4)):
            await trio.sleep(self.dice.choice((0.03, 0.5, 2.0, 7.0)) * self.dice.random())
            await self.node.serving()
            await self.node.kill(reboot=self.dice.random() < 0.25)

    # --- moves -------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        name = f"pod-{self.dice.randrange(4)}"
        config = pod_config(
            name,
            attempt=self.dice.randrange(2),
            shared_pid=self.dice.random() < 0.3,
            host=self.dice.random() < 0.2,
        )
        pod = await self.kubelet.run_pod(config)
        if pod not in self.pods:
            self.pods.append(pod)

    async def _pull(self) -> None:
        await self.kubelet.pull(self.dice.choice(sorted(IMAGES)))

    async def _create(self) -> None:
        image, pod = self.dice.choice(sorted(IMAGES)), self.dice.choice(self.pods)
        self.names += 1
        name = f"c{self.dice.randrange(3)}"
        config = container_config(name, image, *self.dice.choice(PROGRAMS), attempt=self.dice.randrange(3))
        container = await self.kubelet.create(pod, config)
        if container not in self.containers:
            self.containers.append(container)

    async def _start(self) -> None:
        await self.kubelet.start(self.dice.choice(self.containers))

    async def _stop(self) -> None:
        await self.kubelet.stop(self.dice.choice(self.containers), self.dice.choice((0, 1, 10)))

    async def _remove(self) -> None:
        await self.kubelet.remove(self.dice.choice(self.containers))

    async def _update(self) -> None:
        change = LinuxResources(
            cpu_shares=self.dice.choice((0, 2, 512)),
            memory_limit_in_bytes=self.dice.choice((0, USED_BYTES - 1, 1 << 30)),
            cpuset_cpus=self.dice.choice(("", "0", "0-3")),
        )
        await self.kubelet.update(self.dice.choice(self.containers), change)

    async def _checkpoint(self) -> None:
        self.names += 1
        await self.kubelet.checkpoint(self.dice.choice(self.containers), f"/checkpoints/{self.names}.tar")

    async def _exec(self) -> None:
        argv = self.dice.choice((("run:1",), ("run:50",)))
        await self.kubelet.exec_sync(self.dice.choice(self.containers), *argv, timeout_s=self.dice.choice((0, 2)))

    async def _stream(self) -> None:
        argv = self.dice.choice(((), ("run:1",), ("run:50",)))
        client, patience_s = FakeClient(None), self.dice.choice((0.0, 0.02, 3.0))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave_after, client, patience_s)
            with contextlib.suppress(OcidError):
                await stream(self.kubelet, self.dice.choice(self.containers), *argv, client=client)
            nursery.cancel_scope.cancel()

    async def _stop_pod(self) -> None:
        await self.kubelet.stop_pod(self.dice.choice(self.pods))

    async def _remove_pod(self) -> None:
        await self.kubelet.remove_pod(self.dice.choice(self.pods))

    async def _remove_image(self) -> None:
        await self.kubelet.remove_image(self.dice.choice(sorted(IMAGES)))


async def random_walk(node: Node) -> None:
    """Walk, check, take everything down, check again that nothing at all is left."""
    walker = Walker(node)
    await walker.walk()
    await check(node, walker.kubelet)
    for pod in list(node.view().pods.rows):
        await walker.kubelet.eventually(walker.kubelet.remove_pod, pod)
    await walker.kubelet.eventually(walker.kubelet.pull, min(IMAGES))  # so that there is one to remove
    for image in list(node.view().catalog.rows["images"].state.images):
        await walker.kubelet.remove_image(image)  # layers that failed pulls left go with the last one
        await calm(node)
    await check(node, walker.kubelet)
    world, view = node.world, node.view()
    left = (*files_of(node), *world.mounts, *world.tasks, *world.contained, *world.addresses, *world.layers)
    assert not left, f"seed {node.seed}: left when all was removed: {left}"
    assert not view.pods.rows
    assert not view.containers.rows
