"""Remote ends of streaming sessions, in memory."""

from __future__ import annotations

from collections.abc import Callable

import trio

from ocid.ports.streaming import Output, Size
from tests.host.nodes import SLOW


class FakeClient:
    """A client of exec or attach: types what a test sends, and keeps what it is sent."""

    remote = "127.0.0.1:40312"

    def __init__(self, stdin: bytes | None = b"", *, size: Size | None = None) -> None:
        """*stdin* is what it types before it closes its standard input; None leaves that open."""
        self._typed, self._typing = trio.open_memory_channel[bytes](1000)
        self._sizes, self._told = trio.open_memory_channel[Size](100)
        self.received = {output: bytearray() for output in Output}
        self.changed = trio.Event()
        self.reads = trio.Event()  # while it is not set, the client takes nothing
        self.reads.set()
        self.left = trio.Event()
        if stdin is not None:
            for start in range(0, len(stdin), 65536):
                self._typed.send_nowait(stdin[start : start + 65536])
            self._typed.close()
        if size is not None:
            self.resize(size)

    @property
    def out(self) -> bytes:
        return bytes(self.received[Output.STDOUT])

    @property
    def err(self) -> bytes:
        return bytes(self.received[Output.STDERR])

    # --- for tests ---------------------------------------------------------------------------------------------------

    def type(self, data: bytes) -> None:
        self._typed.send_nowait(data)

    def close_stdin(self) -> None:
        self._typed.close()

    def resize(self, size: Size) -> None:
        self._sizes.send_nowait(size)

    def leave(self) -> None:
        self.left.set()

    async def until(self, holds: Callable[[], bool], timeout_s: float = 5.0 * SLOW) -> None:
        """Wait until something that depends on what was received is so."""
        with trio.move_on_after(timeout_s):
            while not holds():
                await self.changed.wait()
            return
        raise AssertionError(f"not so in {timeout_s:g} s; received {self.out[-300:]!r}, {self.err[-300:]!r}")

    # --- port Client -------------------------------------------------------------------------------------------------

    async def read_stdin(self) -> bytes:
        try:
            return await self._typing.receive()
        except trio.EndOfChannel:
            return b""

    async def next_size(self) -> Size:
        try:
            return await self._told.receive()
        except trio.EndOfChannel:
            await trio.sleep_forever()
            raise

    async def write(self, output: Output, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self.left.is_set():
            return
        await self.reads.wait()
        self.received[output] += data
        changed, self.changed = self.changed, trio.Event()
        changed.set()

    async def gone(self) -> None:
        await self.left.wait()


class FakeTunnel:
    """One connection of a port-forward; ``near`` is the client's own end."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._sent, self._sends = trio.open_memory_channel[bytes](100)
        self.received = bytearray()
        self.closed = trio.Event()
        self.error = ""
        self.broken = False

    def send(self, data: bytes) -> None:
        self._sent.send_nowait(data)

    def finish(self) -> None:
        """Say that no more will be sent."""
        self._sent.close()

    async def read(self) -> bytes:
        try:
            return await self._sends.receive()
        except trio.EndOfChannel:
            return b""

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise BrokenPipeError
        self.received += data

    async def close(self, error: str = "") -> None:
        await trio.lowlevel.checkpoint()
        self.error = error
        self.closed.set()


class FakeForwardClient:
    """A client of port-forward."""

    remote = "127.0.0.1:40313"

    def __init__(self) -> None:
        self._made, self._makes = trio.open_memory_channel[FakeTunnel](1000)

    def connect(self, port: int) -> FakeTunnel:
        tunnel = FakeTunnel(port)
        self._made.send_nowait(tunnel)
        return tunnel

    def leave(self) -> None:
        self._made.close()

    async def accept(self) -> FakeTunnel | None:
        try:
            return await self._makes.receive()
        except trio.EndOfChannel:
            return None
