"""A daemon that is killed in the middle of a session: the next one leaves nothing of its command, and of clients."""

# ruff: noqa: ASYNC110

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio

from ocid.adapters import process as processes
from ocid.adapters.streams import HostStreams
from ocid.ids import ExecId
from ocid.ports import ContainerOrder, Process, Signalled
from tests.fakes.clients import FakeClient
from tests.host.support import World, container_order, exec_id, oci_spec

REPOSITORY = Path(__file__).parents[2]
START_S = 0.2  # no daemon is up sooner; a runtime that was just forked has a name of its own by then
MOMENTS_S = (0.0, 0.003, 0.006, 0.01, 0.015, 0.02, 0.03, 0.05)
SCRIPT = "echo began; (sleep 300; true) & sh -c 'sleep 301; true' & sleep 302"
DAEMON = """
import os, sys, msgspec, trio
from pathlib import Path
from ocid.adapters.cgroups import Cgroups
from ocid.adapters.handlers import HandlerConfig
from ocid.adapters.process import Reaper
from ocid.adapters.runc import OciRuntime
from ocid.adapters.streams import HostStreams
from ocid.ports import ContainerOrder, ExecProcess
from tests.fakes.clients import FakeClient
from tests.host.support import process_spec

async def tell(client):
    await client.until(lambda: bool(client.out), 30)
    print("began", flush=True)

async def main(run, path, order, exec_id, what):
    Reaper()
    config = HandlerConfig(path=path)
    runtime = await OciRuntime.open(Path(run), Cgroups("cgroupfs"), {"runc": config, "crun": config})
    order = msgspec.json.decode(order, type=ContainerOrder)
    streams, client = HostStreams(runtime, Path(run, "tmp")), FakeClient(None)
    print("ready", flush=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell, client)
        if what == "attach":
            client.reads = trio.Event()
            await streams.attach(order, client, stdin=True)
        else:
            process = ExecProcess(spec=process_spec("/bin/sh", "-c", SCRIPT))
            await streams.exec(order, exec_id, process, client, stdin=True, tty=what == "tty")

trio.run(main, *sys.argv[1:])
""".replace("SCRIPT", repr(SCRIPT))


@pytest.fixture
async def container(world: World) -> AsyncIterator[tuple[ContainerOrder, Process]]:
    order = container_order(world, stdin=True)
    script = "while true; do echo tick; sleep 0.01; done"
    await world.runtime.write_bundle(order, oci_spec(world, order, "/bin/sh", "-c", script))
    init = await world.runtime.create(order)
    await world.runtime.start(order)
    yield order, init
    await world.runtime.signal(order, init, Signalled(signal=signal.SIGKILL, everyone=True))
    await world.runtime.wait(order, init)
    await world.runtime.delete(order)


def daemon_of(world: World, order: ContainerOrder, name: ExecId, what: str) -> subprocess.Popen[bytes]:
    arguments = [str(world.run), world.handler, msgspec.json.encode(order), name, what]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-c", DAEMON, *arguments], stdout=subprocess.PIPE, env=environment, cwd="/"
    )


async def line_of(daemon: subprocess.Popen[bytes]) -> bytes:
    assert daemon.stdout is not None
    return await trio.to_thread.run_sync(daemon.stdout.readline)


def kill(daemon: subprocess.Popen[bytes]) -> None:
    daemon.kill()
    daemon.wait()
    assert daemon.stdout is not None
    daemon.stdout.close()


def commands(world: World, order: ContainerOrder) -> list[str]:
    """What runs in the container beside its own program, whose children are short sleeps."""
    found = []
    for pid in world.cgroups.processes(order.cgroup):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(word in (b"300", b"301", b"302") or b"sleep 30" in word for word in words):
            found.append(b" ".join(words).decode())
    return found


async def gone(world: World, order: ContainerOrder) -> bool:
    with trio.move_on_after(1):
        while commands(world, order):
            await trio.sleep(0.005)
        return True
    return False


@pytest.mark.parametrize("what", ["pipes", "tty"])
async def test_a_command_of_a_killed_daemon_is_ended_with_its_children(
    world: World, container: tuple[ContainerOrder, Process], what: str
) -> None:
    order, init = container
    name = exec_id()
    daemon = daemon_of(world, order, name, what)
    try:
        assert await line_of(daemon) == b"ready\n"
        assert await line_of(daemon) == b"began\n"
    finally:
        kill(daemon)

    if what == "pipes":  # the end of a terminal ends most by itself
        assert len(commands(world, order)) >= 3
    await world.runtime.abandon_exec(order, name)
    assert await gone(world, order), commands(world, order)
    assert os.listdir(f"{order.bundle}/exec") == []
    assert processes.alive(init)


@pytest.mark.parametrize("what", ["pipes", "tty"])
async def test_a_daemon_killed_while_it_launches_a_command(
    world: World, container: tuple[ContainerOrder, Process], what: str
) -> None:
    order, init = container
    for moment_s in MOMENTS_S:
        name = exec_id()
        daemon = daemon_of(world, order, name, what)
        try:
            assert await line_of(daemon) == b"ready\n"
            await trio.sleep(moment_s + random.uniform(0, 0.003))
        finally:
            kill(daemon)
        await trio.sleep(START_S)
        await world.runtime.abandon_exec(order, name)
        assert await gone(world, order), (moment_s, commands(world, order))
    assert processes.alive(init)


async def test_an_attached_client_of_a_killed_daemon_holds_up_nobody(
    world: World, container: tuple[ContainerOrder, Process]
) -> None:
    order, _ = container
    daemon = daemon_of(world, order, exec_id(), "attach")
    try:
        assert await line_of(daemon) == b"ready\n"
        await trio.sleep(0.3)
    finally:
        kill(daemon)

    client = FakeClient(None)
    async with trio.open_nursery() as nursery:
        streams = HostStreams(world.runtime, world.run / "tmp")

        async def attach() -> None:
            await streams.attach(order, client, stdin=True)

        nursery.start_soon(attach)
        await client.until(lambda: client.out.count(b"tick") > 10)
        client.leave()
