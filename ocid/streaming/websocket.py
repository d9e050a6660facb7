"""WebSocket, seen from the server: bytes in, events and bytes out; no I/O.

Messages are passed on in the pieces in which they arrive, so that none is ever held. No extension is offered.

Source: RFC 6455.
"""

from __future__ import annotations

import base64
import codecs
import hashlib
import struct
from enum import IntEnum
from typing import Final

import msgspec

MESSAGE_BYTES_MAX: Final = 32 << 20  # what Kubernetes' own servers take
_CONTROL_BYTES_MAX: Final = 125  # RFC 6455 5.5
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3
_SHORT_BYTES: Final = 64
_U16: Final = struct.Struct(">H")
_U64: Final = struct.Struct(">Q")
_XOR: Final = tuple(bytes(one ^ key for one in range(256)) for key in range(256))


class Opcode(IntEnum):
    """RFC 6455 5.2."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class Code(IntEnum):
    """Why a connection ends. RFC 6455 7.4.1."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    NOT_ACCEPTABLE = 1003
    ABSENT = 1005  # never on the wire
    BAD_DATA = 1007
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011


class Piece(msgspec.Struct, frozen=True, gc=False):
    """Some bytes of a message. An empty message is one empty piece."""

    data: bytes
    text: bool
    first: bool
    last: bool


class Ended(msgspec.Struct, frozen=True):
    """The peer closed, or broke the protocol; nothing that comes after this is looked at. Answer with ``close``."""

    code: int
    reason: str  # of a break; "" when the peer closed


Event = Piece | Ended


class _Violation(Exception):
    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class _Frame(msgspec.Struct):
    """The frame that is arriving."""

    opcode: Opcode
    fin: bool
    left: int
    key: bytes
    at: int = 0  # bytes of it that came


class Receiver:
    """Reads what a client sends."""

    def __init__(self, *, message_bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        self._message_bytes_max = message_bytes_max
        self._rest = b""  # of a frame's head that did not come whole yet
        self._frame: _Frame | None = None
        self._control = b""  # of a control frame, unmasked
        self._message: Opcode | None = None  # that is arriving
        self._message_bytes = 0
        self._first = True  # no piece of it was passed on yet
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._pong: bytes | None = None
        self._over = False

    def outgoing(self) -> bytes:
        """Return, once, the answer to the last ping."""
        pong, self._pong = self._pong, None
        return b"" if pong is None else head(Opcode.PONG, len(pong)) + pong

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from the client and return what they mean."""
        events: list[Event] = []
        source = self._rest + data if self._rest else data
        at = 0
        try:
            while not self._over:
                if self._frame is None:
                    size = self._head(source, at)
                    if not size:
                        break
                    at += size
                else:
                    taken = source[at : at + self._frame.left]
                    if not taken and self._frame.left:
                        break
                    at += len(taken)
                    self._payload(self._frame, taken, events)
        except _Violation as violation:
            self._over = True
            events.append(Ended(violation.code, str(violation)))
        self._rest = b"" if self._over else source[at:]
        return events

    def _head(self, source: bytes, at: int) -> int:
        """Read the head of a frame and return its size, 0 when it is not whole yet."""
        if len(source) - at < 2:
            return 0
        first, second = source[at], source[at + 1]
        short = second & 0x7F
        wide = {126: 2, 127: 8}.get(short, 0)
        size = 2 + wide + 4
        if first & 0x70:
            raise _Violation(Code.PROTOCOL_ERROR, "a reserved bit is set, but no extension was agreed on")
        if not second & 0x80:
            raise _Violation(Code.PROTOCOL_ERROR, "a client's frame is not masked")
        if len(source) - at < size:
            return 0
        length = int.from_bytes(source[at + 2 : at + 2 + wide], "big") if wide else short
        if wide and length < (126 if wide == 2 else 1 << 16):
            raise _Violation(Code.PROTOCOL_ERROR, "a length is not in its shortest form")
        try:
            opcode = Opcode(first & 0x0F)
        except ValueError:
            raise _Violation(Code.PROTOCOL_ERROR, f"unknown opcode {first & 0x0F}") from None
        self._frame = _Frame(opcode, bool(first & 0x80), length, source[at + size - 4 : at + size])
        self._begin(self._frame)
        return size

    def _begin(self, frame: _Frame) -> None:
        """Check a frame against the message that it belongs to."""
        if frame.opcode >= Opcode.CLOSE:
            if not frame.fin or frame.left > _CONTROL_BYTES_MAX:
                raise _Violation(Code.PROTOCOL_ERROR, "a control frame is in parts or too long")
            return
        if (frame.opcode == Opcode.CONTINUATION) != (self._message is not None):
            raise _Violation(Code.PROTOCOL_ERROR, "a message begins inside another, or goes on before it began")
        if self._message is None:
            self._message, self._message_bytes, self._first = frame.opcode, 0, True
        self._message_bytes += frame.left
        if self._message_bytes > self._message_bytes_max:
            raise _Violation(Code.TOO_BIG, f"a message of more than {self._message_bytes_max} bytes")

    def _payload(self, frame: _Frame, masked: bytes, events: list[Event]) -> None:
        data = unmask(masked, frame.key, frame.at)
        frame.at += len(data)
        frame.left -= len(data)
        if not frame.left:
            self._frame = None
        if frame.opcode >= Opcode.CLOSE:
            self._control += data
            if not frame.left:
                payload, self._control = self._control, b""
                self._act(frame.opcode, payload, events)
            return
        last = frame.fin and not frame.left
        text = self._message == Opcode.TEXT
        if text:
            try:
                self._utf8.decode(data, final=last)
            except UnicodeDecodeError:
                raise _Violation(Code.BAD_DATA, "text is not UTF-8") from None
        if data or last:
            events.append(Piece(data, text, self._first, last))
            self._first = False
        if last:
            self._message = None

    def _act(self, opcode: Opcode, payload: bytes, events: list[Event]) -> None:
        """Do what a control frame says."""
        if opcode == Opcode.PING:
            self._pong = payload  # the answer to the latest is enough: RFC 6455 5.5.3
        elif opcode == Opcode.CLOSE:
            self._over = True
            events.append(Ended(_closing(payload), ""))


def _closing(payload: bytes) -> int:
    if not payload:
        return Code.ABSENT
    code = int.from_bytes(payload[:2], "big")
    valid = (1000 <= code < 1016 and code not in (1004, 1005, 1006, 1015)) or 3000 <= code < 5000
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise _Violation(Code.BAD_DATA, "the reason of a close is not UTF-8") from None
    if len(payload) < 2 or not valid:
        raise _Violation(Code.PROTOCOL_ERROR, "a close frame has no valid code")
    return code


def unmask(data: bytes, key: bytes, at: int = 0) -> bytes:
    """Mask or unmask *data*, which begins *at* bytes into its frame. RFC 6455 5.3.

    Every fourth byte has the same key, so four table look-ups over strides do a long piece; a short one is one number.
    """
    if len(data) < _SHORT_BYTES:
        turned = (key[at & 3 :] + key[: at & 3]) * (_SHORT_BYTES // 4)
        number = int.from_bytes(data, "little") ^ int.from_bytes(turned[: len(data)], "little")
        return number.to_bytes(len(data), "little")
    out = bytearray(data)
    for lane in range(4):
        out[lane::4] = out[lane::4].translate(_XOR[key[(at + lane) & 3]])
    return bytes(out)


def head(opcode: Opcode, length: int) -> bytes:
    """Write the head of a server's frame, a whole message; *length* bytes follow it."""
    first = 0x80 | opcode
    if length < 126:
        return bytes((first, length))
    if length < 1 << 16:
        return bytes((first, 126)) + _U16.pack(length)
    return bytes((first, 127)) + _U64.pack(length)


def close(code: int) -> bytes:
    """Write a close frame; a code that cannot be sent is left out."""
    payload = b"" if code == Code.ABSENT else _U16.pack(code)
    return head(Opcode.CLOSE, len(payload)) + payload


def accept_key(key: str) -> str:
    """Return the Sec-WebSocket-Accept to a Sec-WebSocket-Key. RFC 6455 4.2.2."""
    return base64.b64encode(hashlib.sha1(key.encode("latin-1") + _GUID, usedforsecurity=False).digest()).decode("ascii")
