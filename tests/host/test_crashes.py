"""A daemon that is killed leaves its containers running; the next one finds them, or clears away what is half made."""

# ruff: noqa: ASYNC110, ASYNC240

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
import trio

from ocid.adapters import conmon, mounts, process as processes
from ocid.adapters.cgroups import Cgroups
from ocid.adapters.handlers import HandlerConfig
from ocid.adapters.runc import OciRuntime
from ocid.ports import ContainerOrder, Process, Signalled
from tests.host.nodes import SLOW
from tests.host.support import World, container_order, log_lines, oci_spec

REPOSITORY = Path(__file__).parents[2]
DAEMON = """
import sys, msgspec, trio
from pathlib import Path
from ocid.adapters.cgroups import Cgroups
from ocid.adapters.handlers import HandlerConfig
from ocid.adapters.process import Reaper
from ocid.adapters.runc import OciRuntime
from ocid.ports import ContainerOrder

async def main(run, path, order, start):
    Reaper()
    config = HandlerConfig(path=path)
    runtime = await OciRuntime.open(Path(run), Cgroups("cgroupfs"), {"runc": config, "crun": config})
    order = msgspec.json.decode(order, type=ContainerOrder)
    print("creating", flush=True)
    await runtime.create(order)
    if start == "yes":
        await runtime.start(order)
    print("ready", flush=True)
    await trio.sleep_forever()

trio.run(main, *sys.argv[1:])
"""


async def line_of(daemon: subprocess.Popen[bytes]) -> bytes:
    assert daemon.stdout is not None
    return await trio.to_thread.run_sync(daemon.stdout.readline)


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(2 * SLOW):
        while not condition():
            await trio.sleep(0.005)


def daemon_of(world: World, order: ContainerOrder, path: str, start: str) -> subprocess.Popen[bytes]:
    words: Sequence[str | bytes] = [
        *(sys.executable, "-c", DAEMON, str(world.run), path),
        *(msgspec.json.encode(order), start),
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, cwd="/")


def kill(daemon: subprocess.Popen[bytes]) -> None:
    daemon.kill()
    daemon.wait()
    assert daemon.stdout is not None
    daemon.stdout.close()


async def test_a_running_container_outlives_its_daemon_and_its_exit_code_is_found(world: World) -> None:
    order = container_order(world)
    script = "echo one; until [ -e /tmp/go ]; do sleep 0.01; done; echo two; exit 9"
    await world.runtime.write_bundle(order, oci_spec(world, order, "/bin/sh", "-c", script))
    daemon = daemon_of(world, order, world.handler, "yes")
    try:
        assert await line_of(daemon) == b"creating\n"
        assert await line_of(daemon) == b"ready\n"
    finally:
        kill(daemon)

    init = await world.runtime.create(order)
    assert processes.alive(init)
    assert len(monitors(order)) == 1
    await world.runtime.start(order)
    Path(f"/proc/{init.pid}/root/tmp/go").touch()
    ended = await world.runtime.wait(order, init)

    assert (ended.exit_code, ended.source) == (9, "monitor")
    assert [content for _, _, content in log_lines(order)] == ["one", "two"]
    assert await world.runtime.wait(order, init) == ended
    await world.runtime.delete(order)


async def test_a_container_that_ended_while_no_daemon_ran_has_its_exit_code(world: World) -> None:
    order = container_order(world)
    await world.runtime.write_bundle(order, oci_spec(world, order, "/bin/sh", "-c", "sleep 0.2; exit 4"))
    daemon = daemon_of(world, order, world.handler, "yes")
    try:
        assert await line_of(daemon) == b"creating\n"
        assert await line_of(daemon) == b"ready\n"
        init = await world.runtime.create(order)
    finally:
        kill(daemon)
    await until(lambda: not processes.alive(init))
    await until(lambda: (world.run / "exits" / order.container_id).exists())

    assert (await world.runtime.wait(order, init)).exit_code == 4
    await world.runtime.delete(order)


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.02, 0.03, 0.05])
async def test_a_container_that_was_being_created_is_made_once(world: World, after_s: float) -> None:
    """Killed at any moment of the create, the monitor that goes on meanwhile must not be there twice."""
    order = container_order(world)
    await world.runtime.write_bundle(order, oci_spec(world, order, "/bin/sleep", "100"))
    daemon = daemon_of(world, order, world.handler, "no")
    try:
        await line_of(daemon)
        await trio.sleep(after_s)
    finally:
        kill(daemon)
    init = await world.runtime.create(order)

    assert world.cgroups.processes(order.cgroup) == {init.pid}
    assert len(monitors(order)) == 1
    await _finish(world.runtime, order, init)


async def test_a_create_that_hangs_in_the_runtime_is_cleared_away(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conmon, "SETTLE_S", 0.1)
    slow = tmp_path / "slow"
    slow.write_text(f'#!/bin/sh\ncase "$*" in *" create "*) exec sleep 30.25;; esac\nexec {world.handler} "$@"\n')
    slow.chmod(0o755)
    order = container_order(world)
    await world.runtime.write_bundle(order, oci_spec(world, order, "/bin/sleep", "100"))
    daemon = daemon_of(world, order, str(slow), "no")
    try:
        await line_of(daemon)
        await until(lambda: processes.find_by_argument("30.25"))
    finally:
        kill(daemon)
    Path(order.bundle, "monitor.json").unlink(missing_ok=True)  # as if it had died a moment earlier
    init = await world.runtime.create(order)

    assert len(monitors(order)) == 1
    await _finish(world.runtime, order, init)


def found(order: ContainerOrder) -> list[Process]:
    return processes.find_by_argument(order.bundle)


def monitors(order: ContainerOrder) -> list[Process]:
    return [one for one in found(order) if processes.name_of(one.pid) == "conmon"]


async def test_a_cancelled_create_is_finished_by_the_next(world: World) -> None:
    order = container_order(world)
    await world.runtime.write_bundle(order, oci_spec(world, order, "/bin/sleep", "100"))
    for after_s in (0.0, 0.002, 0.005):
        with trio.move_on_after(after_s):
            await world.runtime.create(order)
    monitor = found(order)[0]
    init = await world.runtime.create(order)

    assert monitors(order) == [monitor]  # it was joined, not made anew
    assert world.cgroups.processes(order.cgroup) == {init.pid}
    await _finish(world.runtime, order, init)


async def test_a_cancelled_create_can_be_deleted(world: World) -> None:
    order = container_order(world)
    await world.runtime.write_bundle(order, oci_spec(world, order, "/bin/sleep", "100"))
    for after_s in (0.001, 0.005, 0.01, 0.02, 0.03):
        with trio.move_on_after(after_s):
            await world.runtime.create(order)
        await world.runtime.delete(order)

        assert found(order) == []
        assert await world.runtime.container_ids() == frozenset()
        await world.runtime.write_bundle(order, oci_spec(world, order, "/bin/sleep", "100"))


async def test_another_life_of_the_daemon_deletes_what_the_first_left(world: World) -> None:
    order = container_order(world)
    await world.runtime.write_bundle(order, oci_spec(world, order, "/bin/sleep", "100"))
    init = await world.runtime.create(order)
    await world.runtime.start(order)
    config = HandlerConfig(path=world.handler)
    later = await OciRuntime.open(world.run, Cgroups("cgroupfs"), {"runc": config, world.handler: config})

    assert await later.container_ids() == {order.container_id}
    await later.signal(order, init, Signalled(signal=signal.SIGKILL, everyone=False))
    assert (await later.wait(order, init)).exit_code == 137
    await later.delete(order)


async def _finish(runtime: OciRuntime, order: ContainerOrder, init: Process) -> None:
    await runtime.start(order)
    await runtime.signal(order, init, Signalled(signal=signal.SIGKILL, everyone=False))
    assert (await runtime.wait(order, init)).exit_code == 137
    await runtime.delete(order)


async def test_what_a_killed_runtime_left_mounted_is_removed(world: World) -> None:
    order = container_order(world)
    await world.runtime.write_bundle(order, oci_spec(world, order, "/bin/sleep", "100"))
    init = await world.runtime.create(order)
    state = world.runtime.handler(world.handler).state_directory(order.container_id)
    for leftover in (state / "runc.abc", world.run / "runtime/crun.abc", world.run / "tmp/crun.abc"):
        leftover.touch()
        mounts.bind("/bin/true", str(leftover))
    await _finish(world.runtime, order, init)
    assert not state.exists()

    await OciRuntime.open(world.run, Cgroups("cgroupfs"), {"runc": HandlerConfig(path=world.handler)})
    assert os.listdir(world.run / "tmp") == []
    assert not (world.run / "runtime/crun.abc").exists()
