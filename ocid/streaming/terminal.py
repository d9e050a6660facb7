"""The sizes of a client's terminal: JSON objects one after the other, of which only the newest counts."""

from __future__ import annotations

from typing import Final

import msgspec
import trio

from ocid.ports.streaming import Size

_OBJECT_BYTES_MAX: Final = 1024


class _Told(msgspec.Struct):
    """What client-go writes."""

    width: int = msgspec.field(name="Width")
    height: int = msgspec.field(name="Height")


class Terminal:
    """Reads the resize channel."""

    def __init__(self) -> None:
        self._rest = b""
        self._broken = False
        self._size: Size | None = None  # not told yet
        self._news = trio.lowlevel.ParkingLot()

    def feed(self, data: bytes) -> None:
        """Take bytes of the channel. What is no size is left out; what is no JSON ends the reading."""
        if self._broken:
            return
        *whole, self._rest = (self._rest + data).split(b"}")
        self._broken = len(self._rest) > _OBJECT_BYTES_MAX
        for one in whole:
            try:
                told = msgspec.json.decode(one + b"}", type=_Told)
            except msgspec.ValidationError:
                continue
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._broken = True
                break
            if 1 <= told.width <= 65535 and 1 <= told.height <= 65535:
                self._size = Size(columns=told.width, rows=told.height)
                self._news.unpark_all()
        if self._broken:
            self._rest = b""

    async def next_size(self) -> Size:
        """Wait for a size that was not told yet, and return the newest."""
        await trio.lowlevel.checkpoint()
        while self._size is None:
            await self._news.park()
        size, self._size = self._size, None
        return size
