"""One connection as bytes: a task that reads, a task that writes, a watch on silence, and waiting in both directions.

Writers put whole frames into the outbox and wait only while it is full, so a writer that is cancelled never leaves half
a frame behind. Answers of the protocol itself (pings, windows) go in without waiting; when too many of them pile up
because the client takes nothing, it is not read any more either.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Final

import trio

RECEIVE_BYTES: Final = 64 << 10  # at once: more would keep everybody else waiting for its parsing
_SEND_BYTES: Final = 64 << 10  # at once: each is a sign of life
_ANSWER_BYTES_MAX: Final = 64 << 10  # in the outbox above its limit
_HANG_UP_POLL_S: Final = 1.0  # while nothing is read


class Transport:
    """The bytes of one client, both ways."""

    def __init__(self, stream: trio.abc.Stream, *, early: bytes, idle_s: float, output_bytes: int) -> None:
        """*early* came with the request already."""
        self.remote = _remote_of(stream)
        self.gone = trio.Event()  # the client went away, was silent for too long, or was given up
        self._stream = stream
        self._early = early
        self._idle_s = idle_s
        self._output_bytes = output_bytes
        self._active_at = trio.current_time()
        self._reading = trio.CancelScope()
        self._outbox = bytearray()
        self._sending = False
        self._cut = False  # nothing can be sent any more
        self._turn = trio.Lock()  # writers wait for room one after the other, in their order
        self._moved = trio.lowlevel.ParkingLot()  # the outbox became smaller
        self._filled = trio.lowlevel.ParkingLot()  # or larger
        self._resumed = trio.lowlevel.ParkingLot()  # reading may go on

    async def read_in(self, take: Callable[[bytes], None], full: Callable[[], bool]) -> None:
        """Give what the client sends to *take*, until it is gone. While *full* says so, read nothing."""
        with self._reading:
            data = self._early
            self._early = b""
            while True:
                if data:
                    take(data)
                while (full() or len(self._outbox) > self._output_bytes + _ANSWER_BYTES_MAX) and not self._hung_up():
                    with trio.move_on_after(_HANG_UP_POLL_S):
                        await self._resumed.park()
                try:
                    data = bytes(await self._stream.receive_some(RECEIVE_BYTES))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    break
                if not data:
                    break
                self._active_at = trio.current_time()
        self.leave()

    def resume(self) -> None:
        """Look again whether reading may go on."""
        self._resumed.unpark_all()

    async def write_out(self) -> None:
        """Send what is in the outbox, for ever."""
        while True:
            while not self._outbox:
                await self._filled.park()
            batch, self._outbox = memoryview(self._outbox), bytearray()
            self._sending = True
            self._moved.unpark_all()
            self._resumed.unpark_all()
            try:
                for at in range(0, len(batch), _SEND_BYTES):
                    await self._stream.send_all(batch[at : at + _SEND_BYTES])
                    self._active_at = trio.current_time()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._cut = True
                self.leave()
            self._sending = False
            self._moved.unpark_all()

    async def watch(self) -> None:
        """Return when the client is gone; see to it that a silent one is."""
        while (left := self._active_at + self._idle_s - trio.current_time()) > 0:
            with trio.move_on_after(left):
                await self.gone.wait()
                return
        self.leave()

    def leave(self) -> None:
        """Read nothing more, and let nobody wait for the client."""
        self.gone.set()
        self._reading.cancel()
        self._moved.unpark_all()

    async def room(self) -> None:
        """Wait until the outbox has room, or the client is gone."""
        async with self._turn:
            while len(self._outbox) >= self._output_bytes and not self.gone.is_set():
                await self._moved.park()

    def push(self, *pieces: bytes) -> None:
        """Put a frame into the outbox. Whoever sends data waits for ``room`` before."""
        if not self._cut:
            for piece in pieces:
                self._outbox += piece
            self._filled.unpark_all()

    async def drained(self) -> None:
        """Wait until the outbox is empty and the kernel has it all, or nothing can be sent any more."""
        while (self._outbox or self._sending) and not self._cut:
            await self._moved.park()

    def _hung_up(self) -> bool:
        """Say whether the client has closed, though what it sent before was not read."""
        stream = self._stream.transport_stream if isinstance(self._stream, trio.SSLStream) else self._stream
        if not isinstance(stream, trio.SocketStream):
            return False
        poll = select.poll()
        poll.register(stream.socket.fileno(), select.POLLRDHUP)
        if not poll.poll(0):
            return False
        self.leave()
        return True


def _remote_of(stream: trio.abc.Stream) -> str:
    """Say where the client is, for the log; "" for a stream that is no connection over IP."""
    inner = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    if not isinstance(inner, trio.SocketStream):
        return ""
    try:
        host, port = inner.socket.getpeername()[:2]
    except (OSError, ValueError):
        return ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
