"""Fake of the OCI runtime with its monitors."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

import msgspec
import trio

from ocid.domain.spec.inputs import HostFacts
from ocid.errors import EffectFailed, Unavailable, WrongState
from ocid.ids import CheckpointId, ContainerId, ExecId
from ocid.ports import (
    CheckpointOrder,
    ContainerOrder,
    ExecProcess,
    ExecResult,
    Exit,
    HandlerFeatures,
    LimitsOrder,
    Process,
    Signalled,
    Wanting,
)
from tests.fakes.life import Life
from tests.fakes.world import Contained, Program, Task

USED_BYTES = 1 << 20  # of memory, by every container


def limits_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a specification's resources can change later."""
    return {part: values for part, values in spec["linux"]["resources"].items() if part not in ("devices", "pids")}


class FakeRuntime:
    """Port ``Runtime``."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._world = life.world

    def handlers(self) -> Mapping[str, HandlerFeatures]:
        return {"": HandlerFeatures(path="/usr/bin/runc", version="1.2")}

    def host_facts(self) -> HostFacts:
        return HostFacts()

    async def write_bundle(self, order: ContainerOrder, spec: Mapping[str, Any]) -> None:
        async with self._life.effect("runtime.write_bundle", order.container_id):
            self._world.paths[f"{order.bundle}/config.json"] = msgspec.json.encode(spec)

    def read_bundle(self, order: ContainerOrder) -> dict[str, Any]:
        raw = self._world.paths.get(f"{order.bundle}/config.json")
        if raw is None:
            raise EffectFailed(f"{order.bundle}/config.json is gone")
        spec: dict[str, Any] = msgspec.json.decode(raw)
        return spec

    async def create(self, order: ContainerOrder) -> Process:
        world, name = self._world, order.container_id
        async with self._life.effect("runtime.create", name):
            known = world.contained.get(name)
            if known is not None and known.task is not None:
                return known.task.process
            if known is not None:
                world.forget(name)  # half made
            task = await self._make(order, "runtime.create half")
        return task.process

    async def require_restore(self, order: ContainerOrder) -> None:
        await trio.lowlevel.checkpoint()

    async def restore(self, order: ContainerOrder) -> Process:
        world, name = self._world, order.container_id
        async with self._life.effect("runtime.restore", name):
            known = world.contained.get(name)
            if known is not None and known.task is None:
                world.forget(name)
                raise Unavailable(f"the restore of container {name} was cut short")
            if known is not None and known.task is not None:
                return known.task.process
            if world.paths.get(f"{order.writable}/restore") != b"whole":
                raise EffectFailed(f"no checkpoint of container {name} is unpacked")
            task = await self._make(order, "runtime.restore half")
            world.contained[name].started = True
            world.starts[name] += 1
            world.begin(task)
            await self._life.step("runtime.restore runs")
            world.paths.pop(f"{order.writable}/restore")
        return task.process

    async def _make(self, order: ContainerOrder, half: str) -> Task:
        world, name = self._world, order.container_id
        spec = self.read_bundle(order)
        if spec["root"]["path"] not in world.mounts:
            raise EffectFailed(f"root file system {spec['root']['path']} is not mounted")
        paths = {one["type"]: one.get("path", "") for one in spec["linux"]["namespaces"]}
        for path in paths.values():
            if path.startswith("/run/") and path not in world.pins:
                raise EffectFailed(f"namespace {path} is not there")
        pid_init = self._pid_init(paths.get("pid", ""))
        world.contained[name] = Contained()
        await self._life.step(half)
        program = Program.of(spec["process"]["args"])
        task = world.spawn(name, order.cgroup, paths.get("network", ""), program, pid_init)
        world.contained[name].task = task
        world.limits[name] = limits_of(spec)
        return task

    def _pid_init(self, path: str) -> Task | None:
        if not path:
            return None
        task = self._world.tasks.get(int(path.split("/")[2]))
        if task is None:
            raise EffectFailed(f"PID namespace {path} is not there")
        return task

    async def start(self, order: ContainerOrder) -> None:
        world, name = self._world, order.container_id
        async with self._life.effect("runtime.start", name):
            known = world.contained.get(name)
            if known is None or known.task is None:
                raise EffectFailed(f"container {name} does not exist")
            if known.started:
                return
            if known.task.gone.is_set():
                raise EffectFailed(f"container {name} ended before it was started")
            known.started = True
            if known.task.program.noexec:
                world.end(known.task, 127)
                raise EffectFailed("exec: no such file or directory")
            world.starts[name] += 1
            world.begin(known.task)

    async def update(self, order: ContainerOrder, limits: LimitsOrder) -> None:
        """Part by part, as the kernel takes it; a memory limit below ``USED_BYTES`` is refused."""
        world, name = self._world, order.container_id
        async with self._life.effect("runtime.update", name, idempotent=False):
            known = world.contained.get(name)
            if known is None or known.task is None or known.task.gone.is_set():
                raise WrongState("container", name, wants="running", is_now="gone")
            update_id, before = world.before_update.get(name, ("", {}))
            if update_id != limits.update_id:
                before = world.limits[name]
                world.before_update[name] = (limits.update_id, before)
            try:
                for part, values in limits.resources.items():
                    if part == "memory" and 0 <= values.get("limit", USED_BYTES) < USED_BYTES:
                        wants = f"{values['limit']} at most"
                        raise WrongState("memory of container", name, wants=wants, is_now=f"{USED_BYTES} bytes")
                    world.limits[name] = {**world.limits[name], part: values}
                    await self._life.step(f"runtime.update {part}")
            except (WrongState, trio.Cancelled):
                if not self._life.dead and name in world.limits:
                    world.limits[name] = before
                raise
            spec = self.read_bundle(order)
            spec["linux"]["resources"].update(limits.resources)
            world.paths[f"{order.bundle}/config.json"] = msgspec.json.encode(spec)

    async def wait(self, order: ContainerOrder, process: Process) -> Exit:
        async with self._life.effect("runtime.wait", order.container_id):
            task = self._world.tasks.get(process.pid)
            if task is not None:
                if task.process != process:
                    self._world.violate(f"process {process} is taken for {task.process}")
                await task.gone.wait()
        unknown = Exit(at_ns=self._world.wall_ns(), exit_code=255, oom_killed=False, source="unknown")
        return self._world.exits.get(order.container_id, unknown)

    async def signal(self, order: ContainerOrder, process: Process, what: Signalled) -> None:
        async with self._life.effect("runtime.signal", order.container_id):
            for task in list(self._world.tasks.values()):
                if task.process == process or (what.everyone and task.cgroup == order.cgroup):
                    self._world.send(task, what.signal)

    async def delete(self, order: ContainerOrder) -> None:
        world, name = self._world, order.container_id
        async with self._life.effect("runtime.delete", name):
            known = world.contained.get(name)
            if known is not None and known.task is not None:
                world.send(known.task, signal.SIGKILL)
                await known.task.gone.wait()
            for task in [one for one in world.tasks.values() if one.cgroup == order.cgroup]:
                world.end(task, 137)
            await self._life.step("runtime.delete killed")
            world.forget(name)
            await self._life.step("runtime.delete state")
            world.remove_cgroup(order.cgroup)
            world.exits.pop(name, None)
            world.paths.pop(f"{order.bundle}/config.json", None)

    async def reopen_log(self, order: ContainerOrder) -> None:
        await trio.lowlevel.checkpoint()
        known = self._world.contained.get(order.container_id)
        if known is None or known.task is None or known.task.gone.is_set():
            raise WrongState("container", order.container_id, wants="running", is_now="exited")

    async def exec_sync(
        self,
        order: ContainerOrder,
        exec_id: ExecId,
        process: ExecProcess,
        timeout_s: float | None,
        unwanted: Wanting,
    ) -> ExecResult:
        world = self._world
        async with self._life.effect("runtime.exec_sync", exec_id):
            known = world.contained.get(order.container_id)
            if known is None or known.task is None or not known.task.running or known.task.gone.is_set():
                raise WrongState("container", order.container_id, wants="running", is_now="exited")
            program = Program.of([one for word in process.spec["args"] for one in world.moods.get(word, (word,))])
            task = world.commands[exec_id] = world.spawn(exec_id, order.cgroup, known.task.netns, program, known.task)
            world.starts[exec_id] += 1
            world.begin(task)
            await self._life.step("runtime.exec_sync runs")
            timed_out = await self._end_of(task, timeout_s, unwanted)
            del world.commands[exec_id]
        return ExecResult(
            exit_code=task.code, timed_out=timed_out, stdout=b"out", stderr=b"", stdout_bytes=3, stderr_bytes=0
        )

    async def _end_of(self, task: Task, timeout_s: float | None, unwanted: Wanting) -> bool:
        timed_out = False
        async with trio.open_nursery() as nursery:

            async def kill_when_unwanted() -> None:
                await unwanted.wait()
                self._world.send(task, signal.SIGKILL)

            nursery.start_soon(kill_when_unwanted)
            with trio.move_on_after(timeout_s if timeout_s is not None else float("inf")) as scope:
                await task.gone.wait()
            if scope.cancelled_caught:
                timed_out = True
                self._world.send(task, signal.SIGKILL)
                await task.gone.wait()
            nursery.cancel_scope.cancel()
        return timed_out

    async def abandon_exec(self, order: ContainerOrder, exec_id: ExecId) -> None:
        async with self._life.effect("runtime.abandon_exec", exec_id):
            task = self._world.commands.pop(exec_id, None)
            if task is not None:
                self._world.end(task, 137)

    async def checkpoint(self, order: ContainerOrder, what: CheckpointOrder) -> int:
        world, name = self._world, order.container_id
        half = f"{what.location}.{what.checkpoint_id}"
        async with self._life.effect("runtime.checkpoint", what.checkpoint_id, idempotent=False):
            known = world.contained.get(name)
            if known is None or known.task is None or not known.task.running or known.task.gone.is_set():
                raise WrongState("container", name, wants="running", is_now="gone")
            world.frozen.add(name)
            world.paths[half] = b"half"
            try:
                await self._life.step("runtime.checkpoint frozen")
                if name not in world.contained:
                    raise EffectFailed("the container is gone")
                world.paths[what.location] = b"whole"
            finally:
                if not self._life.dead:
                    world.frozen.discard(name)
                    world.paths.pop(half, None)
            world.paths.pop(what.location)  # the client has fetched it
        return 5

    async def abandon_checkpoint(
        self, order: ContainerOrder | None, checkpoint_id: CheckpointId, location: str
    ) -> None:
        async with self._life.effect("runtime.abandon_checkpoint", checkpoint_id):
            self._world.paths.pop(f"{location}.{checkpoint_id}", None)
            self._world.paths.pop(location, None)
            if order is not None:
                self._world.frozen.discard(order.container_id)

    async def container_ids(self) -> frozenset[ContainerId]:
        await trio.lowlevel.checkpoint()
        return frozenset(ContainerId(name) for name in self._world.contained)
