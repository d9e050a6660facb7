"""Containers through real runc, crun and conmon."""

# ruff: noqa: ASYNC110, ASYNC240  # a test may look at a file, and at nothing but the clock of the real world

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ocid.adapters import process as processes
from ocid.adapters.cgroups import Cgroups
from ocid.adapters.handlers import HandlerConfig
from ocid.adapters.hostfacts import gather_host_facts
from ocid.adapters.oom import OomCounts
from ocid.adapters.runc import OciRuntime
from ocid.errors import EffectFailed, InvalidRequest, NotFound, WrongState
from ocid.ports import ContainerOrder, Exit, Process, Signalled
from tests.host.nodes import SLOW
from tests.host.support import World, container_order, exec_id, exec_process, log_lines, oci_spec

KILL = Signalled(signal=signal.SIGKILL, everyone=False)
SLEEP = ("/bin/sleep", "100")


async def create(world: World, order: ContainerOrder, *args: str, **more: Any) -> Process:
    await world.runtime.write_bundle(order, oci_spec(world, order, *args, **more))
    return await world.runtime.create(order)


async def run(world: World, order: ContainerOrder, *args: str, **more: Any) -> Exit:
    init = await create(world, order, *args, **more)
    await world.runtime.start(order)
    return await world.runtime.wait(order, init)


@asynccontextmanager
async def running(world: World, *args: str, **fields: Any) -> AsyncIterator[tuple[ContainerOrder, Process]]:
    order = container_order(world, **fields)
    init = await create(world, order, *args)
    await world.runtime.start(order)
    try:
        yield order, init
    finally:
        await world.runtime.signal(order, init, KILL)
        await world.runtime.wait(order, init)
        await world.runtime.delete(order)


async def until(condition: Any, timeout_s: float = 2.0) -> None:
    with trio.fail_after(timeout_s * SLOW):
        while not condition():
            await trio.sleep(0.005)


def zombies() -> set[int]:
    mine = [int(pid) for pid in os.listdir("/proc") if pid.isdigit()]
    return {pid for pid in mine if processes.is_zombie(pid) and processes.parent_of(pid) == os.getpid()}


async def test_what_a_daemon_left_that_died_while_it_deleted_goes_too(world: World) -> None:
    order = container_order(world)
    log = world.runtime.handler(order.handler).root / f".{order.container_id}.log"
    await create(world, order, *SLEEP)
    await world.runtime.delete(order)
    log.write_text("its words")

    await world.runtime.delete(order)

    assert not log.exists()


async def test_a_container_runs_writes_its_log_and_ends_with_its_exit_code(world: World) -> None:
    before, order = zombies(), container_order(world)
    init = await create(world, order, "/bin/sh", "-c", "echo out; echo err >&2; printf part; exit 7")

    assert processes.alive(init)
    assert Path(order.bundle, "config.json").stat().st_mode & 0o777 == 0o600
    assert world.runtime.read_bundle(order)["process"]["args"][0] == "/bin/sh"
    assert await world.runtime.container_ids() == {order.container_id}

    await world.runtime.start(order)
    ended = await world.runtime.wait(order, init)

    assert (ended.exit_code, ended.oom_killed, ended.source) == (7, False, "monitor")
    assert ended.at_ns == Path(world.run, "exits", order.container_id).stat().st_mtime_ns
    assert sorted(log_lines(order)) == [("stderr", "F", "err"), ("stdout", "F", "out"), ("stdout", "P", "part")]
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}[+-]\d\d:\d\d stdout F out", _first(order, "out"))
    assert Path(order.log_path).stat().st_mode & 0o777 == 0o640

    await world.runtime.delete(order)
    await world.runtime.delete(order)

    assert os.listdir(order.bundle) == []
    assert await world.runtime.container_ids() == frozenset()
    assert zombies() <= before


def _first(order: ContainerOrder, text: str) -> str:
    return next(line for line in Path(order.log_path).read_text().splitlines() if line.endswith(text))


async def test_starting_and_creating_again_changes_nothing(world: World) -> None:
    order = container_order(world)
    init = await create(world, order, *SLEEP)

    assert await world.runtime.create(order) == init
    await world.runtime.start(order)
    await world.runtime.start(order)
    assert await world.runtime.create(order) == init
    await world.runtime.signal(order, init, KILL)
    assert (await world.runtime.wait(order, init)).exit_code == 137
    await world.runtime.start(order)
    await world.runtime.delete(order)
    with pytest.raises(NotFound):
        await world.runtime.start(order)


async def test_a_container_that_was_never_started_can_be_deleted(world: World) -> None:
    order = container_order(world)
    init = await create(world, order, *SLEEP)
    await world.runtime.delete(order)

    assert not processes.alive(init)


async def test_a_fifo_that_a_dead_daemon_left_behind_is_removed(world: World) -> None:
    async with running(world, *SLEEP) as (order, _):
        fifo = world.runtime.handler(world.handler).exec_fifo(order.container_id)
        assert fifo is not None
        os.mkfifo(fifo)
        await world.runtime.start(order)

        assert not fifo.exists()


@pytest.mark.parametrize("program", ["/bin/missing", "/bin/closed", "missing"])
async def test_a_program_that_cannot_be_executed_is_refused_at_create_and_leaves_nothing(
    world: World, program: str
) -> None:
    before, order = zombies(), container_order(world)
    with pytest.raises(EffectFailed, match=r"missing|ermission denied|not permitted"):
        await create(world, order, program)

    assert await world.runtime.container_ids() == frozenset()
    assert world.cgroups.processes(order.cgroup) == set()
    assert os.listdir(order.bundle) == ["config.json"]
    assert zombies() <= before
    with pytest.raises(NotFound):
        await world.runtime.start(order)


@pytest.mark.parametrize("program", ["/bin/garbage", "/bin/orphan"])
async def test_a_program_that_the_kernel_refuses_fails_the_start_with_the_cause(world: World, program: str) -> None:
    order = container_order(world)
    init = await create(world, order, program)
    with pytest.raises(EffectFailed, match=r"(?i)exec format error|no such file"):
        await world.runtime.start(order)

    assert (await world.runtime.wait(order, init)).exit_code == 1
    await world.runtime.delete(order)


async def test_a_program_that_is_quick_does_not_fail_the_start(world: World) -> None:
    for code in (0, 1):
        order = container_order(world)
        init = await create(world, order, "/bin/sh", "-c", f"exit {code}")
        await world.runtime.start(order)
        assert (await world.runtime.wait(order, init)).exit_code == code
        await world.runtime.delete(order)


async def test_an_invalid_specification_names_its_cause(world: World) -> None:
    order = container_order(world)
    with pytest.raises(EffectFailed, match=r"(?i)no such file"):
        await create(world, order, *SLEEP, namespaces=[{"type": "mount"}, {"type": "network", "path": "/no-such-dir"}])

    assert os.listdir(order.bundle) == ["config.json"]


async def test_signals_reach_init_or_everyone(world: World) -> None:
    script = "trap 'echo term; exit 3' TERM; /bin/sleep 100 & echo ready; wait"
    order = container_order(world)
    init = await create(world, order, "/bin/sh", "-c", script)
    await world.runtime.start(order)
    await until(lambda: "ready" in Path(order.log_path).read_text())
    await world.runtime.signal(order, init, Signalled(signal=signal.SIGTERM, everyone=False))

    assert (await world.runtime.wait(order, init)).exit_code == 3
    assert ("stdout", "F", "term") in log_lines(order)
    await world.runtime.signal(order, init, Signalled(signal=signal.SIGTERM, everyone=True))
    await world.runtime.delete(order)


async def test_everyone_is_killed_in_a_shared_pid_namespace(world: World) -> None:
    order = container_order(world)
    namespaces = [{"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]
    script = "/bin/sleep 100 & /bin/sleep 100 & exec /bin/sleep 100"
    init = await create(world, order, "/bin/sh", "-c", script, namespaces=namespaces)
    await world.runtime.start(order)
    await until(lambda: len(world.cgroups.processes(order.cgroup)) == 3)
    await world.runtime.signal(order, init, Signalled(signal=signal.SIGKILL, everyone=True))
    await world.runtime.wait(order, init)
    await until(lambda: not world.cgroups.processes(order.cgroup))
    await world.runtime.delete(order)


async def test_delete_kills_what_outlived_init(world: World) -> None:
    order = container_order(world)
    namespaces = [{"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]
    init = await create(world, order, "/bin/sh", "-c", "/bin/sleep 100 & exit 0", namespaces=namespaces)
    await world.runtime.start(order)
    await world.runtime.wait(order, init)
    assert len(world.cgroups.processes(order.cgroup)) == 1
    await world.runtime.delete(order)


async def test_a_signal_to_a_reused_pid_goes_nowhere(world: World) -> None:
    async with running(world, *SLEEP) as (order, init):
        another = Process(pid=init.pid, start_ticks=init.start_ticks - 1)
        await world.runtime.signal(order, another, KILL)
        await trio.sleep(0.02)

        assert processes.alive(init)
        assert not processes.alive(another)


async def test_an_exit_that_nobody_saw_is_unknown(world: World) -> None:
    order = container_order(world)
    init = await create(world, order, "/bin/sleep", "0.2")
    await world.runtime.start(order)
    monitor = processes.find_by_argument(order.container_id)[0]
    await processes.kill_and_wait(monitor, 1)
    await until(lambda: not processes.alive(init))
    processes.reap_child(init.pid)
    ended = await world.runtime.wait(order, init)

    assert (ended.exit_code, ended.source, ended.oom_killed) == (255, "unknown", False)
    await world.runtime.delete(order)


async def test_a_process_killed_for_memory_is_told_from_a_killed_one(world: World) -> None:
    if world.cgroups.version == 1 and "memory" not in world.cgroups.hierarchies:
        pytest.skip("no memory controller")
    order = container_order(world)
    ended = await run(world, order, "/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1", memory=16 << 20)

    assert (ended.exit_code, ended.oom_killed) == (137, True)
    assert Path(order.bundle, "oom").exists()
    assert not Path("oom").exists(), "conmon notes it in its working directory, too, which is the bundle"
    await world.runtime.delete(order)


async def test_where_nobody_counted_the_kernels_log_says_who_was_killed_for_memory(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd removes a scope before anybody looks, and the daemon was down meanwhile."""
    if world.cgroups.version == 1 and "memory" not in world.cgroups.hierarchies:
        pytest.skip("no memory controller")
    monkeypatch.setattr(OomCounts, "happened", lambda *_: None)
    monkeypatch.setattr(type(world.runtime._monitor), "saw_oom", lambda *_: False)
    hog, killed = container_order(world), container_order(world)
    ended = await run(world, hog, "/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1", memory=16 << 20)
    assert (ended.exit_code, ended.oom_killed) == (137, True)
    init = await create(world, killed, "/bin/sleep", "100")
    await world.runtime.start(killed)
    await world.runtime.signal(killed, init, Signalled(signal=signal.SIGKILL, everyone=True))
    ended = await world.runtime.wait(killed, init)
    assert (ended.exit_code, ended.oom_killed) == (137, False)
    for order in (hog, killed):
        await world.runtime.delete(order)


async def test_a_monitor_is_at_home_in_its_bundle_and_the_daemon_where_it_was(world: World) -> None:
    order, before = container_order(world), Path.cwd()
    init = await create(world, order, "/bin/sleep", "100")
    monitors = [one for one in processes.find_by_argument(order.bundle) if processes.name_of(one.pid) == "conmon"]

    assert [os.readlink(f"/proc/{one.pid}/cwd") for one in monitors] == [order.bundle]
    assert Path.cwd() == before
    await world.runtime.signal(order, init, Signalled(signal=signal.SIGKILL, everyone=True))
    await world.runtime.wait(order, init)
    await world.runtime.delete(order)
    assert not Path(order.bundle, "oom").exists()


async def test_a_child_killed_for_memory_does_not_make_a_success_a_failure(world: World) -> None:
    order = container_order(world)
    script = "dd if=/dev/zero of=/dev/null bs=64M count=1; exit $((137 - $?))"
    ended = await run(world, order, "/bin/sh", "-c", script, memory=16 << 20)

    assert (ended.exit_code, ended.oom_killed) == (0, False)
    assert world.cgroups.oom_kills(order.cgroup) == 1
    await world.runtime.delete(order)


async def test_the_log_is_reopened(world: World) -> None:
    script = "while true; do echo tick; sleep 0.01; done"
    async with running(world, "/bin/sh", "-c", script) as (order, _):
        log = Path(order.log_path)
        await until(lambda: log.stat().st_size > 0)
        log.rename(f"{log}.old")
        await world.runtime.reopen_log(order)

        assert log.stat().st_mode & 0o777 == 0o640
        size = log.with_name("0.log.old").stat().st_size
        await until(lambda: log.stat().st_size > 0)
        assert log.with_name("0.log.old").stat().st_size == size
        inode = log.stat().st_ino
        await world.runtime.reopen_log(order)  # with the file in place
        assert log.stat().st_ino != inode


async def test_without_a_monitor_the_log_is_not_reopened_nor_made(world: World) -> None:
    order = container_order(world)
    await run(world, order, "/bin/true")
    os.unlink(order.log_path)
    with pytest.raises(WrongState):
        await world.runtime.reopen_log(order)

    assert not os.path.exists(order.log_path)
    await world.runtime.delete(order)


async def test_the_kernel_knows_the_exit_code_when_the_monitor_was_lost(world: World) -> None:
    order = container_order(world)
    init = await create(world, order, "/bin/sh", "-c", "sleep 0.1; exit 5")
    await world.runtime.start(order)
    monitor = processes.find_by_argument(order.container_id)
    assert len(monitor) == 1
    await processes.kill_and_wait(monitor[0], 1)
    ended = await world.runtime.wait(order, init)

    assert (ended.exit_code, ended.source) == (5, "kernel")
    await world.runtime.delete(order)


async def test_a_log_directory_with_a_colon_is_reached(world: World) -> None:
    order = container_order(world)
    order = ContainerOrder(**{**_fields(order), "log_path": f"{world.logs}/a:b/0.log"})
    await run(world, order, "/bin/echo", "hello")

    assert log_lines(order) == [("stdout", "F", "hello")]
    await world.runtime.delete(order)


def _fields(order: ContainerOrder) -> dict[str, Any]:
    return {name: getattr(order, name) for name in order.__struct_fields__}


async def test_a_terminal_and_no_log(world: World) -> None:
    order = ContainerOrder(**{**_fields(container_order(world)), "log_path": "", "tty": True, "stdin": True})
    spec = oci_spec(world, order, "/bin/sh", "-c", "test -t 0 && exit 9")
    spec["process"]["terminal"] = True
    await world.runtime.write_bundle(order, spec)
    init = await world.runtime.create(order)
    assert Path(order.bundle, "attach").is_socket()
    await world.runtime.start(order)

    assert (await world.runtime.wait(order, init)).exit_code == 9
    await world.runtime.delete(order)


async def test_hooks_are_run_by_the_runtimes_own_delete(world: World, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    order = container_order(world)
    spec = oci_spec(world, order, "/bin/true") | {"hooks": {"poststop": [{"path": str(hook)}]}}
    await world.runtime.write_bundle(order, spec)
    init = await world.runtime.create(order)
    await world.runtime.start(order)
    await world.runtime.wait(order, init)
    await world.runtime.delete(order)

    assert (tmp_path / "ran").exists()
    assert await world.runtime.container_ids() == frozenset()


async def test_a_runtime_of_another_make_is_driven_by_commands_alone(world: World, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec echo another 1.0\nexec {world.handler} "$@"\n')
    other.chmod(0o755)
    handlers = {"other": HandlerConfig(path=str(other))}
    runtime = await OciRuntime.open(world.run / "o", world.cgroups, handlers, default="other")
    assert runtime.handler("other").kind == "other"
    order = ContainerOrder(**{**_fields(container_order(world)), "handler": "other"})
    await runtime.write_bundle(order, oci_spec(world, order, "/bin/sh", "-c", "echo hi; exec sleep 100"))
    init = await runtime.create(order)
    assert await runtime.create(order) == init
    await runtime.start(order)
    await runtime.start(order)
    await until(lambda: log_lines(order) == [("stdout", "F", "hi")])
    done = await runtime.exec_sync(order, exec_id(), exec_process("/bin/false"), 5, trio.Event())
    assert done.exit_code == 1
    await runtime.signal(order, init, KILL)
    assert (await runtime.wait(order, init)).exit_code == 137
    await runtime.delete(order)
    await runtime.delete(order)

    assert await runtime.container_ids() == frozenset()


async def test_an_unknown_handler_is_refused_by_name(world: World) -> None:
    with pytest.raises(InvalidRequest, match="kata"):
        world.runtime.handler("kata")
    features = world.runtime.handlers()
    assert features[""].path == features["runc"].path
    assert features[world.handler].version[0].isdigit()


async def test_monitors_can_be_kept_in_a_cgroup_of_their_own(world: World) -> None:
    place = f"{world.cgroup_parent}/monitors"
    for directory in world.cgroups.directories(place):
        os.makedirs(directory)
    for name in ("cpus", "mems"):
        for directory in (world.cgroup_parent, place):
            file = Path("/sys/fs/cgroup/cpuset" + directory, f"cpuset.{name}")
            if file.exists():
                file.write_text(Path(f"/sys/fs/cgroup/cpuset/cpuset.{name}").read_text())
    handlers = {"runc": HandlerConfig(path="runc"), world.handler: HandlerConfig(path=world.handler)}
    runtime = await OciRuntime.open(world.run, world.cgroups, handlers, monitor_cgroup=place)
    order = container_order(world)
    await runtime.write_bundle(order, oci_spec(world, order, *SLEEP))
    init = await runtime.create(order)
    monitors = [one.pid for one in processes.find_by_argument(order.bundle) if processes.name_of(one.pid) == "conmon"]
    assert world.cgroups.processes(place) == set(monitors)
    assert world.cgroups.processes(order.cgroup) == {init.pid}
    await runtime.delete(order)
    await world.cgroups.remove(place)


def test_the_host_is_described() -> None:
    facts = gather_host_facts(Cgroups())

    assert facts.cgroup_version in (1, 2)
    assert "CAP_SYS_ADMIN" in facts.capabilities
    assert facts.can_lower_oom_score_adj == ("CAP_SYS_RESOURCE" in facts.capabilities)
    assert {"memory", "pids"} <= set(facts.cgroup_controllers) or facts.cgroup_version == 2
    assert facts.architecture in ("amd64", "arm64")
