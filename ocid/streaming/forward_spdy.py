"""Port-forward over SPDY: each connection is a stream for data and one for an error, tied by a request number.

Source: Kubernetes client-go, tools/portforward; cri-streaming, portforward.
"""

from __future__ import annotations

from typing import Final

import msgspec
import trio

from ocid.ports.sessions import Grant
from ocid.ports.streaming import Tunnel
from ocid.streaming import spdy
from ocid.streaming.envelope import Envelope
from ocid.streaming.forward import Arrivals
from ocid.streaming.limits import Limits
from ocid.streaming.pipe import Pipe
from ocid.streaming.spdy_connection import SpdyConnection
from ocid.streaming.transport import Transport

_TYPE_HEADER: Final = "streamtype"
_PORT_HEADER: Final = "port"
_REQUEST_HEADER: Final = "requestid"
_REQUEST_CHARACTERS_MAX: Final = 64
_DATA: Final = "data"
_ERROR: Final = "error"


class _Half(msgspec.Struct):
    """The first of a connection's two streams."""

    kind: str
    stream: int
    port: int
    pipe: Pipe
    deadline: float


class SpdyTunnel:
    """A ``Tunnel``."""

    def __init__(self, owner: SpdyForwarding, port: int, data: int, error: int, pipe: Pipe) -> None:
        self.port = port
        self.data = data
        self.error = error
        self._owner = owner
        self._pipe = pipe

    async def read(self) -> bytes:
        """See ``Tunnel``."""
        return await self._pipe.read()

    async def write(self, data: bytes) -> None:
        """See ``Tunnel``."""
        if not await self._owner.connection.write(self.data, data):
            raise BrokenPipeError(f"forwarded connection to port {self.port} is gone")

    async def close(self, error: str = "") -> None:
        """See ``Tunnel``."""
        connection = self._owner.connection
        self._owner.forget(self)
        self._pipe.drop()
        if error:
            connection.stop(self.data)
            await connection.write(self.error, error.encode())
        connection.finish(self.data)
        connection.finish(self.error)
        await trio.lowlevel.checkpoint()


class SpdyForwarding:
    """A ``Forwarding``."""

    def __init__(self, transport: Transport, envelope: Envelope, grant: Grant, limits: Limits) -> None:
        self.remote = transport.remote
        self._ports = grant.ports
        self._creation_s = limits.creation_s
        self._tunnels_max = limits.streams // 2
        self._tunnels: dict[int, SpdyTunnel] = {}  # that the core did not close yet, by data stream
        self._halves: dict[str, _Half] = {}  # by request, the oldest first
        self._halved = trio.lowlevel.ParkingLot()
        self._arrivals = Arrivals()
        self.connection = SpdyConnection(transport, envelope, limits, self._handle)

    async def run(self) -> None:
        """See ``Forwarding``."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._expire_halves)
            await self.connection.run()
            self._arrivals.end()
            nursery.cancel_scope.cancel()

    async def finish(self) -> None:
        """See ``Forwarding``."""
        self.connection.end()
        await trio.lowlevel.checkpoint()

    async def accept(self) -> Tunnel | None:
        """See ``ForwardClient``."""
        return await self._arrivals.accept()

    def forget(self, tunnel: SpdyTunnel) -> None:
        """Make room for another connection."""
        self._tunnels.pop(tunnel.data, None)

    def _handle(self, event: spdy.Event) -> None:
        if not isinstance(event, spdy.Opened):
            return
        kind = event.headers.get(_TYPE_HEADER, "")
        port = _port(event.headers.get(_PORT_HEADER, ""))
        request = event.headers.get(_REQUEST_HEADER) or _assumed_request(kind, event.stream)
        if kind not in (_DATA, _ERROR) or not self._allowed(port) or len(request) > _REQUEST_CHARACTERS_MAX:
            self.connection.refuse(event.stream, spdy.Status.PROTOCOL_ERROR)
            return
        half = self._halves.get(request)
        if half is not None and (half.kind == kind or half.port != port):
            self.connection.refuse(event.stream, spdy.Status.PROTOCOL_ERROR)
        elif half is not None:
            del self._halves[request]
            self._join(half, kind, event.stream)
        elif len(self._tunnels) + len(self._halves) >= self._tunnels_max:
            self.connection.refuse(event.stream)
        else:
            self._keep_half(request, kind, event.stream, port)

    def _allowed(self, port: int) -> bool:
        return port in self._ports if self._ports else port > 0

    def _keep_half(self, request: str, kind: str, stream: int, port: int) -> None:
        deadline = trio.current_time() + self._creation_s
        self._halves[request] = _Half(kind, stream, port, self._accept(kind, stream), deadline)
        self._halved.unpark_all()

    def _accept(self, kind: str, stream: int) -> Pipe:
        pipe = self.connection.accept(stream)
        if kind == _ERROR:
            pipe.drop()
        return pipe

    def _join(self, half: _Half, kind: str, stream: int) -> None:
        pipe = self._accept(kind, stream)
        data, error = (stream, half.stream) if kind == _DATA else (half.stream, stream)
        tunnel = SpdyTunnel(self, half.port, data, error, pipe if kind == _DATA else half.pipe)
        self._tunnels[data] = tunnel
        self._arrivals.add(tunnel)

    async def _expire_halves(self) -> None:
        """Give up streams whose other half does not come."""
        while True:
            if not self._halves:
                await self._halved.park()
                continue
            request, half = next(iter(self._halves.items()))
            await trio.sleep_until(half.deadline)
            if self._halves.get(request) is half:
                del self._halves[request]
                half.pipe.drop()
                self.connection.refuse(half.stream, spdy.Status.CANCEL)


def _port(text: str) -> int:
    """Return the number of a port, 0 when it is none."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
    return number if number <= 65535 else 0


def _assumed_request(kind: str, stream: int) -> str:
    """Number the request of an old client, which names none and opens the error stream right before the data stream."""
    return f"stream {stream if kind == _ERROR else stream - 2}"
