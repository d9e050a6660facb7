"""What a client sent and nobody took yet: the input of one stream, between the task that reads the socket and the core.

A pipe has no limit of its own. All pipes of a session tell what they hold, and the session stops reading its socket
while that is too much.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

READ_BYTES_MAX: Final = 64 << 10
_SMALL: Final = 8 << 10  # pieces below are joined, or a flood of single bytes would weigh many times its size


class Pipe:
    """The input of one stream."""

    def __init__(self, taken: Callable[[int], None]) -> None:
        """*taken* is told how many bytes left the pipe, by whatever way."""
        self._taken = taken
        self._pieces: deque[bytes] = deque()
        self._small = bytearray()  # comes after the pieces
        self._ended = False
        self._dropped = False
        self._news = trio.lowlevel.ParkingLot()

    def feed(self, data: bytes) -> None:
        """Add bytes; never waits."""
        if self._dropped or self._ended:
            self._taken(len(data))
            return
        if len(data) < _SMALL and len(self._small) < READ_BYTES_MAX - _SMALL:
            self._small += data
        else:
            self._join_small()
            self._pieces.append(data)
        self._news.unpark_all()

    def end(self) -> None:
        """Say that no more comes."""
        self._ended = True
        self._news.unpark_all()

    def drop(self) -> None:
        """Forget what is there and whatever still comes; readers are at the end."""
        self._join_small()
        held = sum(len(piece) for piece in self._pieces)
        self._pieces.clear()
        self._dropped = True
        self._taken(held)
        self.end()

    async def read(self) -> bytes:
        """Return the next bytes, at most ``READ_BYTES_MAX``; b"" at the end."""
        await trio.lowlevel.checkpoint()
        while not self._pieces and not self._small:
            if self._ended:
                return b""
            await self._news.park()
        if not self._pieces:
            self._join_small()
        piece = self._pieces.popleft()
        if len(piece) > READ_BYTES_MAX:
            self._pieces.appendleft(piece[READ_BYTES_MAX:])
            piece = piece[:READ_BYTES_MAX]
        self._taken(len(piece))
        return piece

    def _join_small(self) -> None:
        if self._small:
            self._pieces.append(bytes(self._small))
            self._small.clear()
