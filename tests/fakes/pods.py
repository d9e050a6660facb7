"""Fakes of the small ports, and of those that make and unmake pods."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec
import trio

from ocid.domain import cdi
from ocid.domain.networks import Wish
from ocid.domain.spec.inputs import DeviceNode
from ocid.errors import EffectFailed, InvalidRequest
from ocid.ports import Attachment, FurtherAttachment, NetworkOrder, Process, SandboxOrder
from tests.fakes.life import Life
from tests.fakes.world import Program, Task, World

FURTHER = ("storage", "backup", "broken")  # CNI networks that pods may ask for …
BROKEN = "broken"  # … of which the plugin always fails


class FakeClock:
    """Port ``Clock`` on Trio's clock."""

    def __init__(self, world: World) -> None:
        self._world = world

    def wall_ns(self) -> int:
        return self._world.wall_ns()

    def boot_ns(self) -> int:
        return self._world.boot_ns()


class FakeSecrets:
    """Port ``Secrets``. What it holds dies with the daemon's life."""

    def __init__(self) -> None:
        self.kept: dict[str, Mapping[int, bytes]] = {}

    def keep(self, owner: str, secrets: Mapping[int, bytes]) -> None:
        if secrets:
            self.kept[owner] = dict(secrets)

    def take(self, owner: str) -> Mapping[int, bytes] | None:
        return self.kept.get(owner)

    def drop(self, owner: str) -> None:
        self.kept.pop(owner, None)


class FakeHostFiles:
    """Port ``HostFiles``."""

    def resolve_mount(self, host_path: str, *, create: bool) -> str:
        if host_path.startswith("/missing") and not create:
            raise InvalidRequest(f"{host_path} does not exist")
        return host_path

    def devices(self, host_path: str, container_path: str, permissions: str) -> Sequence[DeviceNode]:
        if host_path.startswith("/missing"):
            raise InvalidRequest(f"device {host_path!r} does not exist on this host")
        return (DeviceNode(path=container_path, kind="c", major=1, minor=3, access=permissions),)

    def all_devices(self) -> Sequence[DeviceNode]:
        return ()

    def read(self, path: str, limit: int) -> bytes:
        return b""

    async def relabel(self, path: str, label: str) -> None:
        await trio.lowlevel.checkpoint()

    def apparmor_profiles(self) -> frozenset[str] | None:
        return frozenset()

    def block_devices(self, patterns: Sequence[str]) -> Sequence[tuple[int, int]]:
        return ()

    def cdi_specs(self) -> Sequence[cdi.Source]:
        return ()


class FakeSandboxes:
    """Port ``Sandboxes``."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._world = life.world

    async def prepare(self, order: SandboxOrder) -> None:
        world = self._world
        async with self._life.effect("sandbox.prepare", order.pod_id):
            world.paths.setdefault(order.run_dir, b"")
            world.paths[f"{order.run_dir}/resolv.conf"] = b"nameserver 10.96.0.10\n"
            world.cgroups.add(order.cgroup_parent)
            await self._life.step("sandbox.prepare files")
            shm = f"{order.run_dir}/shm"
            if not order.host_ipc and shm not in world.mounts:
                world.mount(shm)
            for pin in self._pins(order):
                await self._life.step(f"sandbox.prepare {pin.rpartition('/')[2]}")
                if pin not in world.pins:
                    world.pin(pin, order.pod_id)

    async def tune(self, order: SandboxOrder) -> None:
        if not order.sysctls:
            return
        async with self._life.effect("sandbox.tune", order.pod_id):
            if order.netns not in self._world.pins:
                raise EffectFailed(f"no such network namespace: {order.netns}")

    async def furnish_again(self, order: SandboxOrder) -> None:
        async with self._life.effect("sandbox.furnish_again", f"{order.pod_id} again {self._life.new_name()}"):
            if not all(pin in self._world.pins for pin in self._pins(order)):
                raise EffectFailed("a namespace of the pod is gone")

    async def start_pause(self, order: SandboxOrder) -> Process:
        async with self._life.effect("sandbox.start_pause", order.pod_id):
            pause = self._pause(order)
            if pause is None:
                if order.netns and order.netns not in self._world.pins:
                    raise EffectFailed(f"no such network namespace: {order.netns}")
                program = Program(on_term="ignore")
                cgroup = f"{order.cgroup_parent}/{order.pod_id}-pause"
                pause = self._world.spawn(order.pod_id, cgroup, order.netns, program)
                await self._life.step("sandbox.start_pause spawned")
                self._world.begin(pause)
            process: Process = pause.process
        return process

    async def wait_pause(self, process: Process) -> None:
        task = self._world.tasks.get(process.pid)
        owner = task.owner if task is not None else f"pause {process.pid}"
        async with self._life.effect("sandbox.wait_pause", owner):
            if task is not None:
                await task.gone.wait()

    async def release(self, order: SandboxOrder) -> None:
        world = self._world
        async with self._life.effect("sandbox.release", order.pod_id):
            pause = self._pause(order)
            if pause is not None:
                world.end(pause, 137)
            await self._life.step("sandbox.release ended pause")
            world.remove_cgroup(f"{order.cgroup_parent}/{order.pod_id}-pause")
            for pin in [path for path in self._pins(order) if path in world.pins]:
                world.unpin(pin)
                await self._life.step(f"sandbox.release {pin.rpartition('/')[2]}")
            shm = f"{order.run_dir}/shm"
            if shm in world.mounts:
                world.unmount(shm)
            await self._life.step("sandbox.release files")
            world.remove_tree(order.run_dir)

    def present(self, order: SandboxOrder) -> bool:
        return all(pin in self._world.pins for pin in self._pins(order))

    def _pause(self, order: SandboxOrder) -> Task | None:
        tasks = [task for task in self._world.tasks.values() if task.owner == order.pod_id]
        if len(tasks) > 1:
            self._world.violate(f"pod {order.pod_id} has {len(tasks)} pause processes")
        return tasks[0] if tasks else None

    @staticmethod
    def _pins(order: SandboxOrder) -> list[str]:
        ns = f"{order.run_dir}/ns"
        pins = [order.netns, f"{ns}/uts"] if order.netns else []
        pins = pins if order.host_ipc else [*pins, f"{ns}/ipc"]
        return [order.userns, *pins] if order.userns else pins


class FakeNetwork:
    """Port ``Network``: a bridge, or CNI plugins when *cni* is set."""

    def __init__(self, life: Life, *, cni: bool = False) -> None:
        self._life = life
        self._world = life.world
        self._cni = cni

    def kind(self, handler: str) -> str:
        return "cni" if self._cni else "bridge"

    def subnets(self) -> tuple[str, ...]:
        return () if self._cni else ("10.88.0.0/24", "fd00:88::/64")

    def not_ready(self) -> str | None:
        return None

    def admit(self, handler: str, kind: str, names: Sequence[str]) -> None:
        for name in names:
            if kind != "cni" or name not in FURTHER:
                raise InvalidRequest(f"CNI network {name!r} is not configured")

    async def attach(self, order: NetworkOrder) -> Attachment:
        async with self._life.effect("network.attach", order.pod_id):
            if order.netns not in self._world.pins:
                raise EffectFailed(f"network namespace {order.netns} is not there")
            if order.network == "cni":
                return await self._add(order)
            for address in order.addresses:
                holder = self._world.addresses.setdefault(address, order.pod_id)
                if holder != order.pod_id:
                    self._world.violate(f"{address} is given to {order.pod_id}, but {holder} has it")
            await self._life.step("network.attach address")
            self._world.links[order.interface] = order.pod_id
        return Attachment(addresses=tuple(one.partition("/")[0] for one in order.addresses), via="bridge")

    async def _add(self, order: NetworkOrder) -> Attachment:
        """CNI ADD of every network. Once more for an attached pod, it answers from the cached results."""
        address, result = await self._add_one(order.pod_id)
        further = []
        for wish in order.networks:
            try:
                if wish.network == BROKEN:
                    raise EffectFailed(f"CNI network {BROKEN!r}: plugin 'broken' failed to ADD")
                ip, document = await self._add_one(f"{order.pod_id}@{wish.interface}")
            except EffectFailed:
                await self._delete(order, {})
                raise
            one = FurtherAttachment(network=wish.network, interface=wish.interface, addresses=(ip,), result=document)
            further.append(one)
        return Attachment(addresses=(address,), via="cni:test", result=result, further=tuple(further))

    async def _add_one(self, key: str) -> tuple[str, bytes]:
        address = f"10.85.0.{len(self._world.plugins) + 2}"
        known = self._world.plugins.get(key)
        result = known or msgspec.json.encode({"cniVersion": "1.0.0", "ips": [{"address": f"{address}/16"}]})
        self._world.plugins[key] = result
        await self._life.step("network.attach added")
        return msgspec.json.decode(result)["ips"][0]["address"].partition("/")[0], result

    async def _delete(self, order: NetworkOrder, results: Mapping[str, bytes | None]) -> None:
        """CNI DEL of every network, the last one first."""
        world = self._world
        for wish in reversed((Wish(network="test", interface=""), *order.networks)):
            key = f"{order.pod_id}@{wish.interface}" if wish.interface else order.pod_id
            known, brought = world.plugins.get(key), results.get(wish.interface)
            if None not in (known, brought) and known != brought:
                world.violate(f"CNI DEL of {key} brings another result than ADD gave")
            world.plugins.pop(key, None)
            if order.networks:
                await self._life.step("network.detach deleted")

    async def detach(
        self, order: NetworkOrder, result: bytes | None, further: Mapping[str, bytes] | None = None
    ) -> None:
        world = self._world
        async with self._life.effect("network.detach", order.pod_id):
            users = [task.owner for task in world.tasks.values() if task.netns and task.netns == order.netns]
            if set(users) - {order.pod_id}:  # its pause process goes last
                world.violate(f"the network of pod {order.pod_id} is removed while {users} live in it")
            if order.network == "cni":
                await self._delete(order, {"": result, **(further or {})})
                return
            world.links.pop(order.interface, None)
            await self._life.step("network.detach link")
            for address in order.addresses:
                if world.addresses.get(address) == order.pod_id:
                    del world.addresses[address]

    async def check(self, order: NetworkOrder) -> None:
        await trio.lowlevel.checkpoint()

    async def watch(self) -> None:
        await trio.sleep_forever()

    async def reconcile(self, live: Collection[NetworkOrder], others: Collection[NetworkOrder]) -> tuple[str, ...]:
        await trio.lowlevel.checkpoint()
        for order in live:
            if order.network == "bridge" and self._world.links.get(order.interface) != order.pod_id:
                self._life.faults.seen.append(f"reconcile: {order.pod_id} has no link")
        known = {order.pod_id for order in (*live, *others)}
        stale = [key for key in self._world.plugins if key.partition("@")[0] not in known]
        for key in stale:
            del self._world.plugins[key]
        return tuple(dict.fromkeys(key.partition("@")[0] for key in stale))
