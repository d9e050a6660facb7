"""One SPDY/3.1 session, seen from the server: streams, windows, pings. Bytes in, events and bytes out; no I/O.

The clients of Kubernetes are all built on one library that never keeps to windows: it sends what it likes, and never
says that we may send more. So what we may send is counted from the start, but the count holds only once the peer has
shown that it knows of windows, by a setting or an update. Until then the socket alone says when to stop. What the peer
may send is always told to it, and enforced once it has shown the same.

Source: SPDY Protocol, draft 3.1, 2 "SPDY Framing Layer".
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

import msgspec

from ocid.streaming.spdy_frames import Control, FrameKind, FrameReader, Malformed, Piece, control, data_head
from ocid.streaming.spdy_headers import BadBlock, BadHeaders, Deflater, Inflater

FIRST_WINDOW: Final = 64 << 10  # what both sides begin with
WINDOW_BYTES: Final = 256 << 10  # what we give a stream, and the session
UNLIMITED: Final = 1 << 31
_WINDOW_MAX: Final = (1 << 31) - 1
_ID_MASK: Final = 0x7FFFFFFF
_UNIDIRECTIONAL: Final = 0x02
_MAX_CONCURRENT_STREAMS: Final = 4  # ids of settings
_INITIAL_WINDOW_SIZE: Final = 7
_U32: Final = struct.Struct(">I")
_U32X2: Final = struct.Struct(">II")


class Status(IntEnum):
    """Why a stream is reset."""

    PROTOCOL_ERROR = 1
    INVALID_STREAM = 2
    REFUSED_STREAM = 3
    CANCEL = 5
    INTERNAL_ERROR = 6
    FLOW_CONTROL_ERROR = 7


class GoAway(IntEnum):
    """Why a session ends."""

    OK = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


class Opened(msgspec.Struct, frozen=True):
    """The peer opened a stream. Answer it with ``reply`` or ``reset``."""

    stream: int
    headers: dict[str, str]


class Data(msgspec.Struct, frozen=True, gc=False):
    """Bytes for a stream, none of them when only its end came. Say ``consumed`` when they are out of memory."""

    stream: int
    data: bytes
    fin: bool


class Reset(msgspec.Struct, frozen=True):
    """The peer, or the session because of what the peer did, gave a stream up. Nothing more comes or can be sent."""

    stream: int


class Widened(msgspec.Struct, frozen=True):
    """More can be sent than before, on some stream."""


class Ended(msgspec.Struct, frozen=True):
    """The session is over; nothing that comes after this is looked at."""

    status: GoAway
    reason: str  # "" when the peer said good-bye


Event = Opened | Data | Reset | Widened | Ended


class _Stream:
    """Where one stream stands."""

    def __init__(self, send_window: int, *, remote_open: bool, local_open: bool) -> None:
        self.remote_open = remote_open  # the peer may still send
        self.local_open = local_open
        self.send_window = send_window
        self.unconsumed = 0  # bytes received that are still in memory
        self.to_grant = 0  # bytes consumed that the peer does not know of


class _Violation(Exception):
    """The peer broke the protocol in a way that ends the session."""


class Session:
    """The state of one connection."""

    def __init__(self, *, streams_max: int, window_bytes: int = WINDOW_BYTES) -> None:
        self._frames = FrameReader()
        self._inflater = Inflater()
        self._deflater = Deflater()
        self._streams_max = streams_max
        self._window_bytes = window_bytes
        self._streams: dict[int, _Stream] = {}
        self._last_id = 0
        self._invalid = 0  # the last stream that was refused for never having been opened
        self._peer_keeps_windows = False
        self._peer_first_window = FIRST_WINDOW
        self._session_send_window = FIRST_WINDOW
        self._session_unconsumed = 0
        self._session_to_grant = 0
        self._out: list[bytes] = []
        self._over = False

    def start(self) -> bytes:
        """Return what a server says first: how much the peer may send."""
        settings = ((_MAX_CONCURRENT_STREAMS, self._streams_max), (_INITIAL_WINDOW_SIZE, self._window_bytes))
        payload = _U32.pack(len(settings)) + b"".join(_U32X2.pack(*one) for one in settings)
        more = _U32X2.pack(0, self._window_bytes - FIRST_WINDOW)
        return control(FrameKind.SETTINGS, payload) + control(FrameKind.WINDOW_UPDATE, more)

    def outgoing(self) -> bytes:
        """Return, once, what must be sent in answer to what was received and consumed."""
        out = b"".join(self._out)
        self._out.clear()
        return out

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from the peer and return what they mean."""
        events: list[Event] = []
        if self._over:
            return events
        for frame in self._frames.feed(data):
            try:
                if isinstance(frame, Malformed):
                    raise _Violation(frame.reason)
                if isinstance(frame, Piece):
                    self._data(frame, events)
                else:
                    self._control(frame, events)
            except (_Violation, BadBlock, struct.error) as error:
                self._over = True
                events.append(Ended(GoAway.PROTOCOL_ERROR, str(error)))
            if self._over:
                break
        return events

    def reply(self, stream: int, headers: dict[str, str] | None = None) -> bytes:
        """Accept a stream that the peer opened."""
        return control(FrameKind.SYN_REPLY, _U32.pack(stream) + self._deflater.write(headers or {}))

    def reset(self, stream: int, status: Status) -> bytes:
        """Give a stream up; b"" when it is closed already."""
        if self._streams.pop(stream, None) is None:
            return b""
        return control(FrameKind.RST_STREAM, _U32X2.pack(stream, status))

    def goaway(self, status: GoAway) -> bytes:
        """End the session."""
        return control(FrameKind.GOAWAY, _U32X2.pack(self._last_id, status))

    def sendable(self, stream: int) -> int:
        """Say how many bytes the peer takes now on a stream that is open; ``UNLIMITED`` when it keeps no windows."""
        if not self._peer_keeps_windows:
            return UNLIMITED
        return max(0, min(self._streams[stream].send_window, self._session_send_window))

    def is_open(self, stream: int) -> bool:
        """Say whether we may still send on a stream."""
        found = self._streams.get(stream)
        return found is not None and found.local_open

    def head(self, stream: int, length: int, *, fin: bool = False) -> bytes:
        """Return the head of a data frame, which *length* bytes must follow; the stream must be open."""
        found = self._streams[stream]
        assert found.local_open, "nothing is sent on a stream after its end"
        found.send_window -= length
        self._session_send_window -= length
        if fin:
            found.local_open = False
            self._forget_closed(stream, found)
        return data_head(stream, length, fin=fin)

    def consumed(self, stream: int, count: int) -> None:
        """Say that bytes of ``Data`` are out of memory; the peer may send as many more."""
        self._session_unconsumed -= count
        self._session_to_grant += count
        if self._session_to_grant >= self._window_bytes // 2:
            self._grant(0, self._session_to_grant)
            self._session_to_grant = 0
        found = self._streams.get(stream)
        if found is None or not found.remote_open:
            return
        found.unconsumed -= count
        found.to_grant += count
        if found.to_grant >= self._window_bytes // 2:
            self._grant(stream, found.to_grant)
            found.to_grant = 0

    def _grant(self, stream: int, count: int) -> None:
        self._out.append(control(FrameKind.WINDOW_UPDATE, _U32X2.pack(stream, count)))

    def _forget_closed(self, stream: int, found: _Stream) -> None:
        if not found.remote_open and not found.local_open:
            self._streams.pop(stream, None)

    def _give_up(self, stream: int, status: Status, events: list[Event]) -> None:
        """Reset a stream for what the peer did on it."""
        self._out.append(control(FrameKind.RST_STREAM, _U32X2.pack(stream, status)))
        if self._streams.pop(stream, None) is not None:
            events.append(Reset(stream))

    def _data(self, piece: Piece, events: list[Event]) -> None:
        if not piece.stream:
            raise _Violation("data on stream 0")
        count = len(piece.data)
        self._session_unconsumed += count
        if self._peer_keeps_windows and self._session_unconsumed > self._window_bytes:
            raise _Violation("more data than the session's window")
        found = self._streams.get(piece.stream)
        if found is None or not found.remote_open:
            self.consumed(piece.stream, count)
            never_opened = piece.stream > self._last_id or not piece.stream & 1
            if never_opened and piece.stream != self._invalid:  # else it was on its way when the stream was given up
                self._invalid = piece.stream
                self._give_up(piece.stream, Status.INVALID_STREAM, events)
            return
        found.unconsumed += count
        if self._peer_keeps_windows and found.unconsumed > self._window_bytes:
            self.consumed(piece.stream, count)
            self._give_up(piece.stream, Status.FLOW_CONTROL_ERROR, events)
            return
        if piece.fin:
            found.remote_open = False
            self._forget_closed(piece.stream, found)
        events.append(Data(piece.stream, piece.data, piece.fin))

    def _control(self, frame: Control, events: list[Event]) -> None:
        if frame.kind == FrameKind.SYN_STREAM:
            self._syn_stream(frame, events)
        elif frame.kind == FrameKind.HEADERS:
            self._headers(frame, events)
        elif frame.kind == FrameKind.SYN_REPLY:
            raise _Violation("an answer to a stream that nobody opened")
        elif frame.kind == FrameKind.RST_STREAM:
            stream, _ = _U32X2.unpack(frame.payload)
            if self._streams.pop(stream & _ID_MASK, None) is not None:
                events.append(Reset(stream & _ID_MASK))
        elif frame.kind == FrameKind.SETTINGS:
            self._settings(frame, events)
        elif frame.kind == FrameKind.WINDOW_UPDATE:
            self._window_update(frame, events)
        elif frame.kind == FrameKind.PING:
            (number,) = _U32.unpack(frame.payload)
            if number & 1:  # a client's; an even number would answer one of ours
                self._out.append(control(FrameKind.PING, frame.payload))
        elif frame.kind == FrameKind.GOAWAY:
            self._over = True
            events.append(Ended(GoAway.OK, ""))

    def _syn_stream(self, frame: Control, events: list[Event]) -> None:
        stream = _U32.unpack_from(frame.payload)[0] & _ID_MASK
        if len(frame.payload) < 10 or not stream & 1 or stream <= self._last_id:
            raise _Violation(f"stream {stream} opened after {self._last_id}: wanted a higher odd number")
        self._last_id = stream
        try:
            headers = self._inflater.read(frame.payload[10:])
        except BadHeaders:
            self._give_up(stream, Status.PROTOCOL_ERROR, events)
            return
        if len(self._streams) >= self._streams_max:
            self._give_up(stream, Status.REFUSED_STREAM, events)
            return
        local_open = not frame.flags & _UNIDIRECTIONAL
        self._streams[stream] = found = _Stream(
            self._peer_first_window, remote_open=not frame.fin, local_open=local_open
        )
        events.append(Opened(stream, headers))
        if frame.fin:
            events.append(Data(stream, b"", True))
        self._forget_closed(stream, found)

    def _headers(self, frame: Control, events: list[Event]) -> None:
        stream = _U32.unpack_from(frame.payload)[0] & _ID_MASK
        found = self._streams.get(stream)
        try:
            self._inflater.read(frame.payload[4:])  # also for streams that are gone: the compression goes on
        except BadHeaders:
            if found is not None:
                self._give_up(stream, Status.PROTOCOL_ERROR, events)
            return
        if frame.fin and found is not None and found.remote_open:
            found.remote_open = False
            self._forget_closed(stream, found)
            events.append(Data(stream, b"", True))

    def _settings(self, frame: Control, events: list[Event]) -> None:
        (count,) = _U32.unpack_from(frame.payload)
        if len(frame.payload) != 4 + 8 * count:
            raise _Violation(f"{count} settings in {len(frame.payload)} bytes")
        for at in range(4, len(frame.payload), 8):
            name, value = _U32X2.unpack_from(frame.payload, at)
            if name & 0xFFFFFF != _INITIAL_WINDOW_SIZE:
                continue
            if value > _WINDOW_MAX:
                raise _Violation(f"window of {value} bytes")
            self._peer_keeps_windows = True
            for found in self._streams.values():
                found.send_window += value - self._peer_first_window
                if found.send_window > _WINDOW_MAX:
                    raise _Violation("a window grew beyond its maximum")
            self._peer_first_window = value
            events.append(Widened())

    def _window_update(self, frame: Control, events: list[Event]) -> None:
        stream, more = (number & _ID_MASK for number in _U32X2.unpack(frame.payload))
        self._peer_keeps_windows = True
        if not stream:
            self._session_send_window += more
            if self._session_send_window > _WINDOW_MAX:
                raise _Violation("the session's window grew beyond its maximum")
        elif (found := self._streams.get(stream)) is not None:
            found.send_window += more
            if found.send_window > _WINDOW_MAX:
                self._give_up(stream, Status.FLOW_CONTROL_ERROR, events)
                return
        events.append(Widened())
