"""The frames of SPDY/3: cut from a stream of bytes, and written.

Data frames are passed on in the pieces in which they arrive, so that none is ever held; control frames are short.

Source: SPDY Protocol, draft 3.1, 2.2 "Framing".
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

import msgspec

VERSION: Final = 3
CONTROL_BYTES_MAX: Final = 16 << 10
_FIN: Final = 0x01
_HEAD: Final = struct.Struct(">II")
_HEAD_BYTES: Final = _HEAD.size
_STREAM_MASK: Final = 0x7FFFFFFF


class FrameKind(IntEnum):
    """The control frames."""

    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


class Control(msgspec.Struct, frozen=True, gc=False):
    """One control frame. Its kind may be one that nobody knows."""

    kind: int
    flags: int
    payload: bytes

    @property
    def fin(self) -> bool:
        """Whether it ends its stream, for the kinds that can."""
        return bool(self.flags & _FIN)


class Piece(msgspec.Struct, frozen=True, gc=False):
    """Some bytes of a data frame, and whether the stream ends with them."""

    stream: int
    data: bytes
    fin: bool


class Malformed(msgspec.Struct, frozen=True):
    """What came is no frame; nothing after it can be understood."""

    reason: str


class FrameReader:
    """Cuts bytes into frames."""

    def __init__(self) -> None:
        self._rest = b""  # of a frame's head, or a control frame, that did not come whole yet
        self._stream = 0  # of the data frame that is arriving
        self._left = 0  # bytes of it still to come
        self._fin = False

    def feed(self, data: bytes) -> list[Control | Piece | Malformed]:
        """Return the frames that *data* completes, and what it holds of a data frame."""
        source = self._rest + data if self._rest else data
        frames: list[Control | Piece | Malformed] = []
        at = 0
        while True:
            if self._left:
                piece = source[at : at + self._left]
                if not piece:
                    break
                at += len(piece)
                self._left -= len(piece)
                frames.append(Piece(self._stream, piece, self._fin and not self._left))
                continue
            if len(source) - at < _HEAD_BYTES:
                break
            first, second = _HEAD.unpack_from(source, at)
            flags, length = second >> 24, second & 0xFFFFFF
            if not first >> 31:
                at += _HEAD_BYTES
                self._stream, self._left, self._fin = first, length, bool(flags & _FIN)
                if not length and self._fin:
                    frames.append(Piece(first, b"", True))
                continue
            if (reason := _wrong(first, length)) is not None:
                frames.append(Malformed(reason))
                return frames
            end = at + _HEAD_BYTES + length
            if end > len(source):
                break
            frames.append(Control(first & 0xFFFF, flags, source[at + _HEAD_BYTES : end]))
            at = end
        self._rest = source[at:]
        return frames


def _wrong(first: int, length: int) -> str | None:
    version = first >> 16 & 0x7FFF
    if version != VERSION:
        return f"control frame of SPDY version {version}: wanted {VERSION}"
    if length > CONTROL_BYTES_MAX:
        return f"control frame of {length} bytes: wanted at most {CONTROL_BYTES_MAX}"
    return None


def control(kind: FrameKind, payload: bytes, *, fin: bool = False) -> bytes:
    """Write a control frame."""
    return _HEAD.pack(0x80000000 | VERSION << 16 | kind, (_FIN if fin else 0) << 24 | len(payload)) + payload


def data_head(stream: int, length: int, *, fin: bool = False) -> bytes:
    """Write the head of a data frame; *length* bytes follow it."""
    return _HEAD.pack(stream & _STREAM_MASK, (_FIN if fin else 0) << 24 | length)
