"""A SPDY session on a connection: windows become waiting, and what nobody took yet stops the reading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from ocid.streaming import spdy
from ocid.streaming.envelope import Envelope
from ocid.streaming.limits import Limits
from ocid.streaming.pipe import Pipe
from ocid.streaming.transport import Transport

FRAME_BYTES_MAX: Final = 64 << 10  # of data, that we send


class SpdyConnection:
    """The streams of one client."""

    def __init__(
        self, transport: Transport, envelope: Envelope, limits: Limits, handle: Callable[[spdy.Event], None]
    ) -> None:
        """*handle* gets every event but ``Ended``, and answers at once."""
        self.transport = transport
        self.session = spdy.Session(streams_max=limits.streams)
        self._envelope = envelope
        self._input_bytes = limits.input_bytes
        self._handle = handle
        self._held = 0  # bytes in pipes
        self._ended = False
        self._pipes: dict[int, Pipe] = {}  # by stream, while the client may send on it
        self._widened = trio.lowlevel.ParkingLot()
        self._push(self.session.start())

    async def run(self) -> None:
        """Read until the client is gone; then nobody waits for it any more."""
        await self.transport.read_in(self._take, lambda: self._held >= self._input_bytes)
        for pipe in self._pipes.values():
            pipe.end()
        self._widened.unpark_all()

    def accept(self, stream: int, *, fin: bool = False) -> Pipe:
        """Accept a stream and return its input. With *fin*, nothing will be sent on it."""
        pipe = self._pipes[stream] = Pipe(lambda count: self._taken(stream, count))
        self._push(self.session.reply(stream))
        if fin:
            self.finish(stream)
        return pipe

    def refuse(self, stream: int, status: spdy.Status = spdy.Status.REFUSED_STREAM) -> None:
        """Give a stream up; what the client still sends on it is dropped."""
        self._push(self.session.reset(stream, status))
        self._close(stream)

    def stop(self, stream: int) -> None:
        """Want nothing more on a stream, and send nothing more."""
        if stream in self._pipes:
            self.refuse(stream, spdy.Status.CANCEL)
        else:
            self.finish(stream)

    def finish(self, stream: int) -> None:
        """Send the end of a stream, unless it was sent or the stream is gone."""
        if self.session.is_open(stream):
            self._push(self.session.head(stream, 0, fin=True))

    async def write(self, stream: int, data: bytes) -> bool:
        """Send bytes on a stream, and wait while the client takes none; say False when the stream or client is gone."""
        at = 0
        await trio.lowlevel.checkpoint()
        while at < len(data):
            await self.transport.room()
            if self.transport.gone.is_set() or not self.session.is_open(stream):
                return False
            size = min(len(data) - at, FRAME_BYTES_MAX, self.session.sendable(stream))
            if not size:
                await self._widened.park()
                continue
            piece = data if size == len(data) else data[at : at + size]
            self._push(self.session.head(stream, size), piece)
            at += size
        return True

    def end(self, status: spdy.GoAway = spdy.GoAway.OK) -> None:
        """Say good-bye, once."""
        if not self._ended:
            self._push(self.session.goaway(status))
            self.transport.push(self._envelope.farewell())
            self._ended = True

    def _take(self, raw: bytes) -> None:
        pieces, over = self._envelope.open(raw)
        for piece in pieces:
            for event in self.session.receive(piece):
                self._event(event)
        self._answer()
        self.transport.push(self._envelope.answers())
        if over:
            self.end()
            self.transport.leave()

    def _event(self, event: spdy.Event) -> None:
        if isinstance(event, spdy.Data):
            self._held += len(event.data)
            pipe = self._pipes.get(event.stream)
            if pipe is None:
                self._taken(event.stream, len(event.data))
                return
            if event.data:
                pipe.feed(event.data)
            if event.fin:
                self._close(event.stream)
        elif isinstance(event, spdy.Ended):
            if event.status != spdy.GoAway.OK:
                self.end(event.status)
            self.transport.leave()
        elif isinstance(event, spdy.Reset):
            self._close(event.stream)
            self._widened.unpark_all()
            self._handle(event)
        elif isinstance(event, spdy.Widened):
            self._widened.unpark_all()
        else:
            self._handle(event)

    def _close(self, stream: int) -> None:
        pipe = self._pipes.pop(stream, None)
        if pipe is not None:
            pipe.end()

    def _taken(self, stream: int, count: int) -> None:
        self._held -= count
        self.session.consumed(stream, count)
        self._answer()
        self.transport.resume()

    def _answer(self) -> None:
        self._push(self.session.outgoing())

    def _push(self, *pieces: bytes) -> None:
        if any(pieces) and not self._ended:
            self.transport.push(*self._envelope.seal(*pieces))
