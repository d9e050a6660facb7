"""Port-forward over WebSocket: one connection for each port that the RPC named, each with a data and an error channel.

The server begins each channel with the number of its port, in two bytes, the lower one first. A client cannot end its
sending on a channel, only go away.

Source: Kubernetes cri-streaming, portforward.
"""

from __future__ import annotations

import trio

from ocid.ports.sessions import Grant
from ocid.ports.streaming import Tunnel
from ocid.streaming.channels import Channels
from ocid.streaming.forward import Arrivals
from ocid.streaming.limits import Limits
from ocid.streaming.transport import Transport


class WebSocketTunnel:
    """A ``Tunnel``."""

    def __init__(self, owner: WebSocketForwarding, channels: Channels, port: int, channel: int) -> None:
        self.port = port
        self.pipe = channels.pipe()
        self._owner = owner
        self._channels = channels
        self._channel = channel
        self._closed = False
        for one in (channel, channel + 1):
            channels.push(one, port.to_bytes(2, "little"))

    async def read(self) -> bytes:
        """See ``Tunnel``."""
        return await self.pipe.read()

    async def write(self, data: bytes) -> None:
        """See ``Tunnel``."""
        if self._closed or not await self._channels.write(self._channel, data):
            raise BrokenPipeError(f"forwarded connection to port {self.port} is gone")

    async def close(self, error: str = "") -> None:
        """See ``Tunnel``."""
        if not self._closed:
            self._closed = True
            self.pipe.drop()
            await self._channels.write(self._channel + 1, error.encode())
            self._owner.forget()
        await trio.lowlevel.checkpoint()


class WebSocketForwarding:
    """A ``Forwarding``. The session is over once the core has closed all connections."""

    def __init__(self, transport: Transport, grant: Grant, protocol: str, limits: Limits) -> None:
        self.remote = transport.remote
        self._arrivals = Arrivals()
        self._channels = Channels(transport, protocol, limits.input_bytes, self._take, lambda channel: None)
        ports = dict.fromkeys(grant.ports)
        self._tunnels = [WebSocketTunnel(self, self._channels, port, 2 * number) for number, port in enumerate(ports)]
        self._open = len(self._tunnels)
        for tunnel in self._tunnels:
            self._arrivals.add(tunnel)
        if not self._tunnels:
            self._arrivals.end()

    async def run(self) -> None:
        """See ``Forwarding``."""
        await self._channels.run()
        for tunnel in self._tunnels:
            tunnel.pipe.end()
        self._arrivals.end()

    async def finish(self) -> None:
        """See ``Forwarding``."""
        self._channels.end()
        await trio.lowlevel.checkpoint()

    async def accept(self) -> Tunnel | None:
        """See ``ForwardClient``."""
        return await self._arrivals.accept()

    def forget(self) -> None:
        """Count a connection that is closed."""
        self._open -= 1
        if not self._open:
            self._arrivals.end()

    def _take(self, channel: int, data: bytes) -> None:
        number, is_error = divmod(channel, 2)
        if not is_error and 0 <= number < len(self._tunnels):
            self._channels.hold(self._tunnels[number].pipe, data)
