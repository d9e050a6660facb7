"""Fake of what streaming sessions need of the host."""

from __future__ import annotations

import signal

import trio

from ocid.errors import EffectFailed, WrongState
from ocid.ids import ExecId
from ocid.ports import ContainerOrder, ExecProcess
from ocid.ports.streaming import Client, Connection, Output, StreamEnd
from tests.fakes.life import Life
from tests.fakes.world import Program, Task


class FakeStreams:
    """Port ``Streams``. A command writes its arguments, and what it is typed."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._world = life.world

    async def exec(
        self, order: ContainerOrder, exec_id: ExecId, process: ExecProcess, client: Client, *, stdin: bool, tty: bool
    ) -> StreamEnd:
        world = self._world
        async with self._life.effect("streams.exec", exec_id):
            init = self._init(order)
            assert process.spec["terminal"] == tty
            words = process.spec["args"]
            task = world.spawn(exec_id, order.cgroup, init.netns, Program.of(words), init)
            world.commands[exec_id] = task
            world.starts[exec_id] += 1
            world.begin(task)
            await self._life.step("streams.exec runs")
            await client.write(Output.STDOUT, " ".join(words).encode())
            await client.write(Output.STDERR, b"err")
            typed = await self._gather(client) if stdin else 0
            gone = await _either(task, client)
            world.send(task, signal.SIGKILL)
            await task.gone.wait()
            del world.commands[exec_id]
        reason = "the client went away" if gone else ""
        return StreamEnd(exit_code=task.code, stdin_bytes=typed, stdout_bytes=3, stderr_bytes=3, reason=reason)

    async def attach(self, order: ContainerOrder, client: Client, *, stdin: bool) -> StreamEnd:
        async with self._life.effect("streams.attach", f"attach {self._life.new_name()}"):
            task = self._init(order)
            await client.write(Output.STDOUT, b"out of init")
            gone = await _either(task, client)
        reason = "the client went away" if gone else ""
        return StreamEnd(exit_code=None, stdin_bytes=0, stdout_bytes=11, stderr_bytes=0, reason=reason)

    async def connect(self, netns: str, port: int) -> Connection:
        await trio.lowlevel.checkpoint()
        if netns and netns not in self._world.pins:
            self._world.violate(f"a connection into {netns}, which is not there")
        if port != 80:
            raise EffectFailed(f"cannot connect to port {port} of the pod: refused")
        return _Echo()

    def _init(self, order: ContainerOrder) -> Task:
        known = self._world.contained.get(order.container_id)
        if known is None or known.task is None or not known.task.running or known.task.gone.is_set():
            raise WrongState("container", order.container_id, wants="running", is_now="exited")
        return known.task

    async def _gather(self, client: Client) -> int:
        total = 0
        with trio.move_on_after(0.1):
            while data := await client.read_stdin():
                total += len(data)
                await client.write(Output.STDOUT, data)
        return total


async def _either(task: Task, client: Client) -> bool:
    """Wait until the task has ended or the client is gone; say whether it is."""
    gone = False

    async def watch(scope: trio.CancelScope) -> None:
        nonlocal gone
        await client.gone()
        gone = True
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, nursery.cancel_scope)
        await task.gone.wait()
        nursery.cancel_scope.cancel()
    return gone


class _Echo:
    """A server that sends back what it is sent, and closes when the client does."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[bytes](100)

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            return b""

    async def send_all(self, data: bytes) -> None:
        await self._send.send(data)

    async def send_eof(self) -> None:
        self._send.close()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self._send.close()
        await trio.lowlevel.checkpoint()
