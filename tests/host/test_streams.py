"""Commands with a client as their standard streams or terminal, on real runtimes."""

# ruff: noqa: ASYNC240

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from ocid.adapters import pumps
from ocid.adapters.streams import HostStreams
from ocid.errors import EffectFailed, WrongState
from ocid.ports import ContainerOrder, ExecProcess, Process, Signalled
from ocid.ports.streaming import Size, StreamEnd
from tests.fakes.clients import FakeClient
from tests.host.nodes import SLOW
from tests.host.support import World, container_order, exec_id, oci_spec, process_spec

MIB = 1 << 20


@pytest.fixture
def streams(world: World) -> HostStreams:
    return HostStreams(world.runtime, world.run / "tmp")


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


class Running:
    """A container to run commands in, and how to do so."""

    def __init__(self, world: World, streams: HostStreams, order: ContainerOrder, init: Process) -> None:
        self.world, self.streams, self.order, self.init = world, streams, order, init

    async def __call__(self, client: FakeClient, *args: str, stdin: bool = True, tty: bool = False) -> StreamEnd:
        process = ExecProcess(spec={**process_spec(*args), "terminal": tty})
        with trio.fail_after(20 * SLOW):
            return await self.streams.exec(self.order, exec_id(), process, client, stdin=stdin, tty=tty)

    def left(self) -> set[int]:
        return self.world.cgroups.processes(self.order.cgroup) - {self.init.pid}

    async def settled(self) -> bool:
        with trio.move_on_after(1):
            while self.left():  # noqa: ASYNC110
                await trio.sleep(0.005)
            return not [*Path(self.order.bundle, "exec").glob("*"), *(self.world.run / "tmp").glob("*.s")]
        return False


@pytest.fixture
def run(world: World, streams: HostStreams, container: tuple[ContainerOrder, Process]) -> Running:
    return Running(world, streams, *container)


async def test_streams_and_exit_code_are_the_commands_own(run: Running) -> None:
    client = FakeClient(b"typed")
    end = await run(client, "/bin/sh", "-c", "cat; echo err >&2; exit 42")

    assert (end.exit_code, client.out, client.err, end.reason) == (42, b"typed", b"err\n", "")
    assert (end.stdin_bytes, end.stdout_bytes, end.stderr_bytes) == (5, 5, 4)
    killed = await run(FakeClient(), "/bin/sh", "-c", "kill -9 $$")
    assert killed.exit_code == 137
    assert await run.settled()


async def test_without_stdin_there_is_an_end_of_file(run: Running) -> None:
    client = FakeClient(None)
    assert (await run(client, "/bin/cat", stdin=False)).exit_code == 0


async def test_stdin_stays_open_until_the_client_closes_it(run: Running) -> None:
    client = FakeClient(None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, client, "/bin/cat")
        client.type(b"one")
        await client.until(lambda: client.out == b"one")
        client.type(b"two")
        await client.until(lambda: client.out == b"onetwo")
        client.close_stdin()
    assert await run.settled()


async def test_a_command_that_is_not_there_fails_with_its_cause_and_says_nothing_to_the_client(run: Running) -> None:
    for tty in (False, True):
        client = FakeClient()
        with pytest.raises(EffectFailed, match="missing"):
            await run(client, "missing", tty=tty)
        assert (client.out, client.err) == (b"", b"")
    assert await run.settled()


async def test_a_container_that_does_not_run_takes_no_client(world: World, streams: HostStreams) -> None:
    order = container_order(world)
    for tty in (False, True):
        with pytest.raises(WrongState):
            await Running(world, streams, order, Process(pid=1, start_ticks=1))(FakeClient(), "/bin/true", tty=tty)
    with pytest.raises(WrongState):
        await streams.attach(order, FakeClient(), stdin=True)


async def test_a_terminal_echoes_and_has_the_clients_size(run: Running) -> None:
    client = FakeClient(None, size=Size(columns=91, rows=33))
    ends = []

    async def shell() -> None:
        ends.append(await run(client, "/bin/sh", tty=True))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shell)
        client.type(b"stty size; tty; echo TERM=$TERM\n")
        await client.until(lambda: b"33 91\r\n" in client.out and b"/dev/pts/0\r\n" in client.out)
        assert b"stty size; tty" in client.out, "no echo"
        client.resize(Size(columns=100, rows=40))
        await trio.sleep(0.05)
        client.type(b"stty size\n")
        await client.until(lambda: b"40 100\r\n" in client.out)
        client.type(b"exit 7\n")
    assert ends[0].exit_code == 7
    assert ends[0].stderr_bytes == 0
    assert await run.settled()


async def test_the_size_is_there_before_the_program(run: Running, handler: str) -> None:
    client = FakeClient(None, size=Size(columns=132, rows=50))
    command = ["/bin/stty", "size"]
    if handler == "crun":  # sets it when the program may run already: this one looks until it is there
        command = ["/bin/sh", "-c", "until stty size 2>/dev/null | grep '^[1-9]'; do :; done"]
    end = await run(client, *command, tty=True)

    assert (client.out, end.exit_code) == (b"50 132\r\n", 0)


async def test_control_c_on_a_terminal_ends_the_program(run: Running) -> None:
    client = FakeClient(None)
    ends = []

    async def sleep() -> None:
        ends.append(await run(client, "/bin/sh", "-c", "echo began; exec sleep 60", tty=True))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleep)
        await client.until(lambda: b"began" in client.out)
        client.type(b"\x03")
    assert ends[0].exit_code == 130


@pytest.mark.parametrize("tty", [False, True])
async def test_a_client_that_goes_away_ends_the_command_and_its_children(run: Running, tty: bool) -> None:
    client = FakeClient(None)
    ends = []

    async def busy() -> None:
        script = "echo began; (sleep 50; true) & sh -c 'sleep 51; true' & sleep 52"
        ends.append(await run(client, "/bin/sh", "-c", script, tty=tty))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(busy)
        await client.until(lambda: b"began" in client.out)
        client.leave()
    assert (ends[0].exit_code, ends[0].reason) == (137, "the client went away")
    assert await run.settled()


@pytest.mark.parametrize("tty", [False, True])
async def test_a_cancelled_session_ends_the_command(run: Running, tty: bool) -> None:
    for after_s in (0.0, 0.005, 0.01, 0.02, 0.1):
        with trio.move_on_after(after_s) as scope:
            await run(FakeClient(None), "/bin/sleep", "50", tty=tty)
        assert scope.cancelled_caught
        assert await run.settled(), after_s


async def test_a_client_that_goes_away_while_it_takes_nothing_ends_the_command(run: Running) -> None:
    client = FakeClient(None)
    client.reads = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, client, "yes")
        await trio.sleep(0.3)
        client.leave()
    assert await run.settled()


async def test_a_grandchild_that_holds_the_pipes_keeps_nobody_waiting(run: Running) -> None:
    for script in ("/bin/sleep 100 & echo done", "yes & echo done"):
        client = FakeClient()
        began = time.monotonic()
        end = await run(client, "/bin/sh", "-c", script)

        assert end.exit_code == 0
        assert b"done\n" in client.out
        assert time.monotonic() - began < 1 * SLOW
        await run.world.runtime.signal(
            run.order, Process(pid=1 << 22, start_ticks=1), Signalled(signal=signal.SIGCONT, everyone=True)
        )
    assert run.left()
    for pid in run.left():
        os.kill(pid, signal.SIGKILL)


async def test_a_slow_client_holds_up_the_command_and_loses_nothing(run: Running) -> None:
    client = FakeClient(None)
    client.reads = trio.Event()
    ends = []

    async def write() -> None:
        ends.append(await run(client, "/bin/sh", "-c", "head -c 3000000 /dev/zero; echo end >&2"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.sleep(0.5)
        assert not ends
        client.reads.set()
    assert (len(client.out), client.err, ends[0].exit_code) == (3_000_000, b"end\n", 0)


async def test_output_that_is_still_in_the_pipe_when_the_command_ends_arrives(run: Running) -> None:
    client = FakeClient(None)
    client.reads = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, client, "head", "-c", "900000", "/dev/zero")
        await trio.sleep(0.5)
        assert not run.left(), "the command has ended"
        client.reads.set()
    assert len(client.out) == 900_000


async def test_64_mib_both_ways(run: Running) -> None:
    block = os.urandom(MIB)
    client = FakeClient(block * 62)
    end = await run(client, "/bin/cat")

    assert end.exit_code == 0
    assert client.out == block * 62


async def test_stdin_that_nobody_reads_is_dropped(run: Running) -> None:
    end = await run(FakeClient(bytes(8 * MIB)), "/bin/sh", "-c", "exec <&-; sleep 0.3; exit 3")

    assert end.exit_code == 3
    assert end.stdin_bytes <= pumps.PIPE_BYTES


async def test_many_sessions_at_once(run: Running) -> None:
    codes = []

    async def one(number: int) -> None:
        client = FakeClient(str(number).encode())
        end = await run(client, "/bin/cat", tty=False)
        codes.append((end.exit_code, client.out == str(number).encode()))

    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(one, number)
    assert codes == [(0, True)] * 12
    assert await run.settled()
