"""What the server does with a client of port-forward, whatever carries its connections."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import trio

from ocid.ports.streaming import ForwardClient, Tunnel


class Forwarding(ForwardClient, Protocol):
    """A client of port-forward, with what the core does not see of it."""

    async def run(self) -> None:
        """Read what the client sends until it is gone."""

    async def finish(self) -> None:
        """Say good-bye."""


class Arrivals:
    """Connections that the core did not accept yet. Who adds them keeps their number down."""

    def __init__(self) -> None:
        self._tunnels: deque[Tunnel] = deque()
        self._over = False
        self._news = trio.lowlevel.ParkingLot()

    def add(self, tunnel: Tunnel) -> None:
        """Let the core have a connection."""
        self._tunnels.append(tunnel)
        self._news.unpark_all()

    def end(self) -> None:
        """Say that no more come."""
        self._over = True
        self._news.unpark_all()

    async def accept(self) -> Tunnel | None:
        """See ``ForwardClient``."""
        await trio.lowlevel.checkpoint()
        while not self._tunnels and not self._over:
            await self._news.park()
        return self._tunnels.popleft() if self._tunnels and not self._over else None
