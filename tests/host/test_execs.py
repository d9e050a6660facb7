"""Commands in running containers."""

# ruff: noqa: ASYNC110, ASYNC240

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from ocid.adapters import process as processes
from ocid.errors import EffectFailed, WrongState
from ocid.ports import ContainerOrder, ExecResult, Process, Signalled
from tests.host.nodes import SLOW
from tests.host.support import World, container_order, exec_id, exec_process, oci_spec


@pytest.fixture
async def container(world: World) -> AsyncIterator[tuple[ContainerOrder, Process]]:
    order = container_order(world)
    await world.runtime.write_bundle(order, oci_spec(world, order, "/bin/sleep", "100"))
    init = await world.runtime.create(order)
    await world.runtime.start(order)
    yield order, init
    await world.runtime.signal(order, init, Signalled(signal=signal.SIGKILL, everyone=True))
    await world.runtime.wait(order, init)
    await world.runtime.delete(order)


async def execute(
    world: World,
    order: ContainerOrder,
    *args: str,
    timeout_s: float | None = None,
    limit: int = 16 << 20,
    unwanted: trio.Event | None = None,
) -> ExecResult:
    process = exec_process(*args, limit=limit)
    never = trio.Event()
    return await world.runtime.exec_sync(order, exec_id(), process, timeout_s, never if unwanted is None else unwanted)


def left(world: World, order: ContainerOrder, init: Process) -> set[int]:
    return world.cgroups.processes(order.cgroup) - {init.pid}


async def settled(world: World, order: ContainerOrder, init: Process) -> bool:
    with trio.move_on_after(1):
        while left(world, order, init):
            await trio.sleep(0.005)
        return True
    return False


async def test_output_and_exit_code_are_the_commands_own(
    world: World, container: tuple[ContainerOrder, Process]
) -> None:
    order, init = container
    done = await execute(world, order, "/bin/sh", "-c", "echo out; echo err >&2; exit 42")

    assert (done.exit_code, done.stdout, done.stderr) == (42, b"out\n", b"err\n")
    assert (done.stdout_bytes, done.stderr_bytes, done.timed_out) == (4, 4, False)
    assert os.listdir(f"{order.bundle}/exec") == []
    killed = await execute(world, order, "/bin/sh", "-c", "kill -9 $$")
    assert killed.exit_code == 137
    assert await settled(world, order, init)


async def test_a_command_that_is_not_there_fails_with_its_cause(
    world: World, container: tuple[ContainerOrder, Process]
) -> None:
    with pytest.raises(EffectFailed, match="missing"):
        await execute(world, container[0], "missing")


async def test_a_container_that_ended_takes_no_command(world: World) -> None:
    order = container_order(world)
    with pytest.raises(WrongState):
        await execute(world, order, "/bin/true")


async def test_a_command_whose_time_is_up_is_killed_with_its_children(
    world: World, container: tuple[ContainerOrder, Process]
) -> None:
    order, init = container
    began = time.monotonic()
    script = "echo began; (sleep 50; true) & sh -c 'sleep 51; true' & sleep 52"
    done = await execute(world, order, "/bin/sh", "-c", script, timeout_s=0.3 * SLOW)

    assert done.timed_out
    assert done.exit_code == 137
    assert done.stdout == b"began\n"
    assert time.monotonic() - began < 1 * SLOW
    assert await settled(world, order, init)


async def test_a_command_that_nobody_wants_any_more_is_killed(
    world: World, container: tuple[ContainerOrder, Process]
) -> None:
    order, init = container
    unwanted = trio.Event()
    async with trio.open_nursery() as nursery:

        async def give_up() -> None:
            while not any(processes.name_of(pid) == "sleep" for pid in left(world, order, init)):
                await trio.sleep(0.005)
            unwanted.set()

        nursery.start_soon(give_up)
        done = await execute(world, order, "/bin/sleep", "50", unwanted=unwanted)

    assert (done.timed_out, done.exit_code) == (False, 137)
    assert await settled(world, order, init)


async def test_a_cancelled_wait_kills_the_command(world: World, container: tuple[ContainerOrder, Process]) -> None:
    order, init = container
    for after_s in (0.0, 0.005, 0.01, 0.02, 0.1):
        with trio.move_on_after(after_s) as scope:
            await execute(world, order, "/bin/sleep", "50")

        assert scope.cancelled_caught
        assert await settled(world, order, init), after_s
    assert os.listdir(f"{order.bundle}/exec") == []


async def test_a_grandchild_that_holds_the_pipe_keeps_nobody_waiting(
    world: World, container: tuple[ContainerOrder, Process]
) -> None:
    order, init = container
    began = time.monotonic()
    done = await execute(world, order, "/bin/sh", "-c", "/bin/sleep 100 & echo done")

    assert (done.exit_code, done.stdout) == (0, b"done\n")
    assert time.monotonic() - began < 0.5 * SLOW
    assert len(left(world, order, init)) == 1


async def test_output_beyond_the_cap_is_read_and_dropped(
    world: World, container: tuple[ContainerOrder, Process]
) -> None:
    order, _ = container
    done = await execute(world, order, "/bin/sh", "-c", "head -c 20000000 /dev/zero; echo end >&2")

    assert len(done.stdout) == 16 << 20
    assert done.stdout_bytes == 20_000_000
    assert (done.exit_code, done.stderr) == (0, b"end\n")


async def test_an_endless_writer_is_bounded_by_time(world: World, container: tuple[ContainerOrder, Process]) -> None:
    done = await execute(world, container[0], "yes", timeout_s=0.3 * SLOW, limit=1000)

    assert (done.timed_out, len(done.stdout)) == (True, 1000)
    assert done.stdout_bytes > 1000


async def test_many_commands_at_once_leave_no_zombie(world: World, container: tuple[ContainerOrder, Process]) -> None:
    order, init = container
    results = []

    async def one() -> None:
        results.append((await execute(world, order, "/bin/true")).exit_code)

    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(one)

    assert results == [0] * 12
    assert await settled(world, order, init)


async def test_what_a_dead_daemon_left_running_is_killed(
    world: World, container: tuple[ContainerOrder, Process]
) -> None:
    order, init = container
    name = exec_id()
    directory = Path(order.bundle, "exec")
    directory.mkdir()
    handler = world.runtime.handler(world.handler)
    words = [*handler.words(directory / f"{name}.log"), "exec", "--detach", "--pid-file", f"{directory}/{name}.pid"]
    subprocess.run(  # noqa: ASYNC221
        [*words, order.container_id, "/bin/sh", "-c", "/bin/sleep 100 & sleep 101"],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    pid = int((directory / f"{name}.pid").read_text())
    while len(left(world, order, init)) < 2:
        await trio.sleep(0.005)

    await world.runtime.abandon_exec(order, name)
    assert await _ended(pid)
    assert processes.reap_child(pid) == 137
    assert os.listdir(directory) == []
    assert await settled(world, order, init)
    await world.runtime.abandon_exec(order, name)


async def test_an_exec_file_with_a_reused_pid_kills_nobody(
    world: World, container: tuple[ContainerOrder, Process]
) -> None:
    order, init = container
    name = exec_id()
    victim = Path(order.bundle, "exec", f"{name}.pid")
    victim.parent.mkdir()
    victim.write_text(str(os.getpid()))
    await world.runtime.abandon_exec(order, name)
    victim.write_text(str(init.pid))
    os.utime(victim, (1, 1))  # written long before that process began
    await world.runtime.abandon_exec(order, name)
    await trio.sleep(0.02)

    assert processes.alive(init)


async def _ended(pid: int) -> bool:
    with trio.move_on_after(1):
        while not processes.is_zombie(pid) and processes.start_ticks(pid) is not None:
            await trio.sleep(0.005)
        return True
    return False
