"""Limits of living containers, changed through real runc and crun: all of them, or none."""

# ruff: noqa: ASYNC240  # a test may look at a file

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from ocid.adapters import limits as adapter
from ocid.adapters.cgroups import Cgroups
from ocid.errors import InvalidRequest, OcidError, WrongState
from ocid.ports import ContainerOrder, LimitsOrder, Process
from tests.host.support import World, container_order, oci_spec
from tests.host.test_containers import KILL, SLEEP, create, until

MIB = 1 << 20
BEFORE = {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}, "cpu": {"shares": 128}}
AFTER = {
    "memory": {"limit": 96 * MIB, "swap": 96 * MIB},
    "cpu": {"shares": 256, "quota": 20_000, "period": 50_000, "cpus": "0", "mems": "0"},
}
FILES = {  # version 1
    "memory/memory.limit_in_bytes": 96 * MIB,
    "memory/memory.memsw.limit_in_bytes": 96 * MIB,
    "cpu/cpu.shares": 256,
    "cpu/cpu.cfs_quota_us": 20_000,
    "cpu/cpu.cfs_period_us": 50_000,
    "cpuset/cpuset.cpus": 0,
}
HOG = ("/bin/sh", "-c", "dd if=/dev/zero of=/tmp/hog bs=1M count=48; exec sleep 100")


@pytest.fixture(autouse=True)
def version_1() -> None:
    cgroups = Cgroups()
    missing = {"memory", "cpu", "cpuset"} - set(cgroups.hierarchies)
    if cgroups.version != 1 or missing:
        pytest.skip(f"reads the files of cgroup version 1; here is {cgroups.version} without {sorted(missing)}")


@asynccontextmanager
async def living(world: World, *args: str, start: bool = True) -> AsyncIterator[tuple[ContainerOrder, Process]]:
    order = container_order(world)
    spec = oci_spec(world, order, *(args or SLEEP))
    spec["linux"]["resources"].update(BEFORE)
    await world.runtime.write_bundle(order, spec)
    init = await world.runtime.create(order)
    if start:
        await world.runtime.start(order)
    try:
        yield order, init
    finally:
        await world.runtime.signal(order, init, KILL)
        await world.runtime.wait(order, init)
        await world.runtime.delete(order)
        assert os.listdir(order.bundle) == []


def change(resources: dict[str, Any], update_id: str = "1", **fields: Any) -> LimitsOrder:
    return LimitsOrder(update_id=update_id, resources=resources, **fields)


def files(world: World, order: ContainerOrder) -> dict[str, str]:
    """Every limit that the kernel has of the container."""
    found = {}
    for controller in ("memory", "cpu", "cpuset"):
        directory = Path(world.cgroups.hierarchies[controller] + order.cgroup)
        for name in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", *adapter._LIMIT_FILES):
            if (directory / name).exists():
                found[f"{controller}/{name}"] = (directory / name).read_text().strip()
    return found


def spec_of(order: ContainerOrder) -> dict[str, Any]:
    spec: dict[str, Any] = msgspec.json.decode(Path(order.bundle, "config.json").read_bytes())
    return spec


@pytest.mark.parametrize("start", [True, False], ids=["running", "created"])
async def test_limits_are_in_the_kernel_and_in_the_specification(world: World, start: bool) -> None:
    async with living(world, start=start) as (order, init):
        devices = spec_of(order)["linux"]["resources"]["devices"]
        await world.runtime.update(order, change(AFTER))

        now = files(world, order)
        assert {name: int(now[name]) for name in FILES} == FILES
        assert spec_of(order)["linux"]["resources"] == {**AFTER, "devices": devices}
        assert Path(order.bundle, "config.json").stat().st_mode & 0o777 == 0o600
        assert world.cgroups.processes(order.cgroup) == {init.pid}

        await world.runtime.update(order, change(AFTER))
        await world.runtime.update(order, change({**AFTER, "cpu": {"quota": -1, "period": 50_000}}, "2"))
        assert files(world, order)["cpu/cpu.cfs_quota_us"] == "-1"
        await world.runtime.start(order)
        assert not set(os.listdir(order.bundle)) & set(adapter.UPDATE_FILES[1:])


@pytest.mark.parametrize(
    "refused",
    [
        {"cpu": {"shares": 512, "quota": 500, "period": 100_000}},
        {"cpu": {"shares": 512, "quota": 50_000, "period": 10}},
        {"cpu": {"shares": 512, "cpus": "0", "mems": "77"}},
        {"cpu": {"shares": 512, "cpus": "4095"}, "memory": {"limit": 80 * MIB, "swap": 80 * MIB}},
        {"memory": {"limit": 80 * MIB, "swap": 10 * MIB}, "cpu": {"shares": 512}},
    ],
    ids=["quota", "period", "mems", "cpus", "swap"],
)
async def test_what_is_refused_leaves_all_limits_as_they_were(world: World, refused: dict[str, Any]) -> None:
    async with living(world) as (order, _):
        before, spec = files(world, order), spec_of(order)
        with pytest.raises(InvalidRequest, match="change of limits of container") as caught:
            await world.runtime.update(order, change(refused))

        assert files(world, order) == before
        assert spec_of(order) == spec
        assert "refused to have back" not in caught.value.message

        await world.runtime.update(order, change(AFTER, "2"))
        now = files(world, order)
        assert {name: int(now[name]) for name in FILES} == FILES


async def test_a_memory_limit_below_what_is_used_is_refused_and_nobody_is_killed(world: World) -> None:
    async with living(world, *HOG) as (order, init):
        used = Path(world.cgroups.hierarchies["memory"] + order.cgroup, "memory.usage_in_bytes")
        await until(lambda: int(used.read_text()) > 40 * MIB, 10)
        before = files(world, order)
        low = {"memory": {"limit": 8 * MIB, "swap": 8 * MIB}, "cpu": {"shares": 512}}
        with pytest.raises(WrongState, match=r"memory of container .* bytes, not 8388608 at most"):
            await world.runtime.update(order, change(low))

        assert files(world, order) == before
        assert init.pid in world.cgroups.processes(order.cgroup)
        assert world.cgroups.oom_kills(order.cgroup) == 0


async def test_a_try_that_a_death_cut_short_is_finished_or_undone_to_what_was_before_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(BaseException):
        pass

    async with living(world) as (order, _):
        before, spec = files(world, order), spec_of(order)
        handler = world.runtime.handler(order.handler)
        real = type(handler).call

        async def applies_half_and_dies(*_: Any, **__: Any) -> None:
            Path(world.cgroups.hierarchies["cpu"] + order.cgroup, "cpu.shares").write_text("512")
            Path(world.cgroups.hierarchies["cpuset"] + order.cgroup, "cpuset.cpus").write_text("0")
            raise Died

        with monkeypatch.context() as patch:
            patch.setattr(type(handler), "call", applies_half_and_dies)
            with pytest.raises(Died):
                await world.runtime.update(order, change({"cpu": {"shares": 512, "cpus": "0", "quota": 500}}))
        assert type(handler).call is real
        assert files(world, order) != before

        with pytest.raises(InvalidRequest):
            await world.runtime.update(order, change({"cpu": {"shares": 512, "cpus": "0", "quota": 500}}))
        assert files(world, order) == before
        assert spec_of(order) == spec


async def test_a_cancelled_change_is_undone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with living(world) as (order, _):
        before = files(world, order)

        async def hangs(*_: Any, **__: Any) -> None:
            Path(world.cgroups.hierarchies["cpu"] + order.cgroup, "cpu.shares").write_text("512")
            await trio.sleep_forever()

        with monkeypatch.context() as patch, trio.move_on_after(0.05) as limit:
            patch.setattr(type(world.runtime.handler(order.handler)), "call", hangs)
            await world.runtime.update(order, change({"cpu": {"shares": 512}}))
        assert limit.cancelled_caught
        assert files(world, order) == before


async def test_the_oom_score_is_that_of_all_who_have_not_chosen_one(world: World) -> None:
    script = "sleep 100 & (echo 900 > /proc/self/oom_score_adj; exec sleep 100) & exec sleep 100"
    async with living(world, "/bin/sh", "-c", script) as (order, _):
        await until(lambda: sorted(scores(world, order)) == [0, 0, 900])
        await world.runtime.update(order, change(BEFORE, oom_score_adj=300))

        assert sorted(scores(world, order)) == [300, 300, 900]
        assert spec_of(order)["process"]["oomScoreAdj"] == 300
        refused = {"cpu": {"quota": 500, "period": 100_000}}
        with pytest.raises(InvalidRequest):
            await world.runtime.update(order, change(refused, "2", oom_score_adj=400))
        assert sorted(scores(world, order)) == [300, 300, 900]
        assert spec_of(order)["process"]["oomScoreAdj"] == 300


def scores(world: World, order: ContainerOrder) -> list[int]:
    return [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in world.cgroups.processes(order.cgroup)]


async def test_what_has_ended_has_no_limits_to_change(world: World) -> None:
    order = container_order(world)
    init = await create(world, order, *SLEEP)
    await world.runtime.signal(order, init, KILL)
    await world.runtime.wait(order, init)
    with pytest.raises(WrongState):
        await world.runtime.update(order, change(AFTER))
    await world.runtime.delete(order)
    with pytest.raises(OcidError):
        await world.runtime.update(order, change(AFTER))
