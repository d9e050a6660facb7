"""A port-forward: each connection of its client is joined to a TCP connection inside the pod."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import trio

from ocid.errors import OcidError
from ocid.events.session import PortUse
from ocid.ports.streaming import Connection, ForwardClient, Streams, Tunnel

TUNNELS_MAX: Final = 256  # at once, of one client; a browser opens a handful
PORTS_LISTED_MAX: Final = 12  # in the log, each for itself; the others are summed up
READ_BYTES: Final = 65_536
_OTHERS: Final = 0
_BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError, BrokenPipeError)


@dataclass
class _Count:
    connections: int = 0
    failed: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class Forwarding:
    """One client's port-forward into one network namespace.

    Args:
        netns: its path; "" is the host's.
        ports: those that the client may ask for; () stands for all.
    """

    def __init__(self, streams: Streams, netns: str, ports: tuple[int, ...]) -> None:
        self._streams = streams
        self._netns = netns
        self._ports = ports
        self._counts: dict[int, _Count] = {}
        self._open = 0

    def uses(self) -> tuple[PortUse, ...]:
        """Return what went through each port so far."""
        return tuple(
            PortUse(
                port=port,
                connections=count.connections,
                failed=count.failed,
                bytes_in=count.bytes_in,
                bytes_out=count.bytes_out,
            )
            for port, count in sorted(self._counts.items())
        )

    async def serve(self, client: ForwardClient, unwanted: trio.Event) -> str:
        """Serve until the client has gone, or *unwanted* is set; return why it was cut short, "" if it was not."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_set, unwanted, nursery.cancel_scope)
            while (tunnel := await client.accept()) is not None:
                nursery.start_soon(self._join, tunnel)
            nursery.cancel_scope.cancel()
        return "its server let it go" if unwanted.is_set() else ""

    async def _join(self, tunnel: Tunnel) -> None:
        count = self._count(tunnel.port)
        count.connections += 1
        self._open += 1
        try:
            refusal = self._refusal(tunnel.port)
            if not refusal:
                try:
                    connection = await self._streams.connect(self._netns, tunnel.port)
                except OcidError as error:
                    refusal = error.message
            if refusal:
                count.failed += 1
            else:
                refusal = await _carry(tunnel, connection, count)
            await tunnel.close(refusal)
        except BrokenPipeError:
            pass  # the client closed first
        finally:
            self._open -= 1

    def _refusal(self, port: int) -> str:
        if self._ports and port not in self._ports:
            return f"port {port} was not asked for: wanted one of {', '.join(map(str, self._ports))}"
        if self._open > TUNNELS_MAX:
            return f"port {port}: {TUNNELS_MAX} connections are open already, which is the limit"
        return ""

    def _count(self, port: int) -> _Count:
        if port not in self._counts and len(self._counts) >= PORTS_LISTED_MAX:
            port = _OTHERS
        return self._counts.setdefault(port, _Count())


async def _carry(tunnel: Tunnel, connection: Connection, count: _Count) -> str:
    """Carry bytes both ways until the pod's end is over; return what went wrong there, "" for nothing."""
    problems: list[str] = []

    async def inwards() -> None:
        try:
            while data := await tunnel.read():
                await connection.send_all(data)
                count.bytes_in += len(data)
            await connection.send_eof()
        except _BROKEN:
            pass  # the other direction tells what it was

    async def outwards() -> None:
        try:
            while data := await connection.receive_some(READ_BYTES):
                await tunnel.write(data)
                count.bytes_out += len(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            problems.append(f"port {tunnel.port}: the connection broke: {error.__cause__ or error}")

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inwards)
            with suppress(BrokenPipeError):
                await outwards()
            nursery.cancel_scope.cancel()
    finally:
        await _close(connection)
    return "".join(problems)


async def _close(connection: Connection) -> None:
    with trio.CancelScope() as hurry:
        hurry.cancel()  # closing a socket needs no waiting
        await connection.aclose()


async def _cancel_when_set(unwanted: trio.Event, scope: trio.CancelScope) -> None:
    await unwanted.wait()
    scope.cancel()
