"""The SPDY session without I/O: framing, header compression, windows, and what a peer must not do."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given, strategies as st

from ocid.streaming import spdy
from ocid.streaming.spdy import Data, Ended, Event, GoAway, Opened, Reset, Session, Status, Widened
from ocid.streaming.spdy_frames import CONTROL_BYTES_MAX
from ocid.streaming.spdy_headers import DICTIONARY, HEADER_BYTES_MAX
from tests.streaming.clients import (
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    SYN_REPLY,
    SYN_STREAM,
    WINDOW_UPDATE,
    control_frame,
    data_frame,
)


class Peer:
    """Writes what a client sends."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(9, zdict=DICTIONARY)

    def block(self, raw: bytes) -> bytes:
        return self._deflate.compress(raw) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def headers(self, headers: dict[str, str]) -> bytes:
        raw = struct.pack(">I", len(headers))
        for text in (part.encode() for pair in headers.items() for part in pair):
            raw += struct.pack(">I", len(text)) + text
        return self.block(raw)

    def syn(self, number: int, headers: dict[str, str] | None = None, flags: int = 0) -> bytes:
        payload = struct.pack(">IIBB", number, 0, 0, 0) + self.headers(headers or {})
        return control_frame(SYN_STREAM, payload, flags)


def session(streams_max: int = 100, window_bytes: int = spdy.WINDOW_BYTES) -> Session:
    return Session(streams_max=streams_max, window_bytes=window_bytes)


def joined(events: list[Event]) -> list[Event]:
    """Put the data of each stream together where nothing else of that stream lies between."""
    out: list[Event] = []
    for event in events:
        last = out[-1] if out else None
        if isinstance(event, Data) and isinstance(last, Data) and last.stream == event.stream and not last.fin:
            out[-1] = Data(event.stream, last.data + event.data, event.fin)
        else:
            out.append(event)
    return out


def conversation() -> bytes:
    """A session as a client might have it, with every frame there is."""
    peer = Peer()
    return b"".join(
        (
            control_frame(SETTINGS, struct.pack(">III", 1, 7, 100_000)),
            peer.syn(1, {"streamtype": "error"}),
            peer.syn(3, {"streamtype": "stdin", "x": "a\0b"}),
            data_frame(3, b"some input"),
            control_frame(PING, struct.pack(">I", 7)),
            control_frame(99, b"of another version"),
            data_frame(3, b""),
            data_frame(3, b"more", fin=True),
            control_frame(WINDOW_UPDATE, struct.pack(">II", 1, 10)),
            control_frame(HEADERS, struct.pack(">I", 1) + peer.headers({"later": "yes"}), flags=1),
            peer.syn(5, {"streamtype": "stdout"}, flags=1),
            control_frame(RST_STREAM, struct.pack(">II", 5, 5)),
            control_frame(GOAWAY, struct.pack(">II", 0, 0)),
        )
    )


CONVERSATION: list[Event] = [
    Widened(),
    Opened(1, {"streamtype": "error"}),
    Opened(3, {"streamtype": "stdin", "x": "a"}),
    Data(3, b"some inputmore", True),
    Widened(),
    Data(1, b"", True),
    Opened(5, {"streamtype": "stdout"}),
    Data(5, b"", True),
    Reset(5),
    Ended(GoAway.OK, ""),
]


def test_the_dictionary_is_that_of_the_protocol() -> None:
    assert len(DICTIONARY) == 1423
    assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2  # the id that every SPDY/3 stream begins with


def test_a_conversation_is_understood() -> None:
    one = session()

    assert joined(one.receive(conversation())) == CONVERSATION
    assert one.outgoing() == control_frame(PING, struct.pack(">I", 7))
    assert one.outgoing() == b""
    assert one.receive(Peer().syn(7)) == []


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 50])
def test_it_does_not_matter_where_the_bytes_are_cut(size: int) -> None:
    one, raw = session(), conversation()
    events = [event for at in range(0, len(raw), size) for event in one.receive(raw[at : at + size])]

    assert joined(events) == CONVERSATION


def test_data_is_passed_on_before_its_frame_is_whole() -> None:
    one = session()
    one.receive(Peer().syn(1))

    assert one.receive(data_frame(1, b"x" * 100)[:50]) == [Data(1, b"x" * 42, False)]


def test_a_reply_is_what_other_implementations_read() -> None:
    one = session()
    one.receive(Peer().syn(1))
    inflate = zlib.decompressobj(zdict=DICTIONARY)

    for number, headers in ((1, {}), (3, {"name": "value"})):
        raw = one.reply(number, headers)
        assert struct.unpack_from(">HHII", raw) == (0x8003, SYN_REPLY, len(raw) - 8, number)
        block = inflate.decompress(raw[12:])
        assert block[:4] == struct.pack(">I", len(headers))


def test_streams_close_when_both_sides_have_ended() -> None:
    one = session(streams_max=1)
    peer = Peer()
    one.receive(peer.syn(1) + data_frame(1, b"", fin=True))

    assert one.is_open(1)
    one.head(1, 0, fin=True)
    assert not one.is_open(1)
    assert one.receive(peer.syn(3)) == [Opened(3, {})]
    assert one.receive(peer.syn(5)) == []
    assert one.outgoing() == control_frame(RST_STREAM, struct.pack(">II", 5, Status.REFUSED_STREAM))


def test_data_on_its_way_after_a_reset_is_dropped_and_on_no_stream_refused() -> None:
    one = session()
    one.receive(Peer().syn(3))

    assert one.reset(3, Status.CANCEL) == control_frame(RST_STREAM, struct.pack(">II", 3, 5))
    assert one.reset(3, Status.CANCEL) == b""
    assert one.receive(data_frame(3, b"late")) == []
    assert one.outgoing() == b""
    assert one.receive(data_frame(5, b"early")) == []
    assert one.outgoing() == control_frame(RST_STREAM, struct.pack(">II", 5, Status.INVALID_STREAM))


def test_a_peer_that_keeps_no_windows_has_none() -> None:
    one = session(window_bytes=1 << 16)
    one.receive(Peer().syn(1))
    one.head(1, 1 << 20)

    assert one.sendable(1) == spdy.UNLIMITED
    assert [event for event in one.receive(data_frame(1, bytes(1 << 20))) if not isinstance(event, Data)] == []


def test_what_may_be_sent_counts_from_the_start_once_the_peer_shows_that_it_counts() -> None:
    one = session()
    one.receive(Peer().syn(1))
    one.head(1, 60_000)

    assert one.receive(control_frame(WINDOW_UPDATE, struct.pack(">II", 1, 1000))) == [Widened()]
    assert one.sendable(1) == 65536 - 60_000  # the session's window is the smaller one
    one.receive(control_frame(WINDOW_UPDATE, struct.pack(">II", 0, 2000)))
    assert one.sendable(1) == 65536 - 60_000 + 1000
    one.head(1, 6536)
    assert one.sendable(1) == 0
    one.receive(control_frame(SETTINGS, struct.pack(">III", 1, 7, 65536 + 500)))
    assert one.sendable(1) == 500


def test_what_the_peer_may_send_is_told_as_it_is_consumed() -> None:
    one = session(window_bytes=1 << 17)
    one.receive(Peer().syn(1))
    one.receive(data_frame(1, bytes(100_000)))

    one.consumed(1, 60_000)
    assert one.outgoing() == b""
    one.consumed(1, 10_000)
    assert one.outgoing() == b"".join(
        control_frame(WINDOW_UPDATE, struct.pack(">II", number, 70_000)) for number in (0, 1)
    )


def test_a_peer_that_keeps_windows_is_kept_to_them() -> None:
    one = session(window_bytes=1 << 17)
    one.receive(Peer().syn(1) + control_frame(WINDOW_UPDATE, struct.pack(">II", 0, 1)))

    assert Ended(GoAway.PROTOCOL_ERROR, "more data than the session's window") in one.receive(
        data_frame(1, bytes((1 << 17) + 1))
    )


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\x80\x02\0\x06\0\0\0\x04\0\0\0\1", "SPDY version 2"),
        (struct.pack(">HHI", 0x8003, SYN_STREAM, CONTROL_BYTES_MAX + 1), "control frame of"),
        (Peer().syn(2), "stream 2 opened"),
        (control_frame(SYN_STREAM, struct.pack(">II", 1, 0)), "stream 1 opened"),
        (control_frame(SYN_STREAM, struct.pack(">IIBB", 1, 0, 0, 0) + b"no zlib"), "not zlib"),
        (data_frame(0, b"x"), "data on stream 0"),
        (control_frame(SYN_REPLY, bytes(4)), "nobody opened"),
        (control_frame(RST_STREAM, bytes(7)), "unpack"),
        (control_frame(PING, b""), "unpack"),
        (control_frame(SETTINGS, struct.pack(">I", 1 << 30)), "settings"),
        (control_frame(SETTINGS, struct.pack(">III", 1, 7, 1 << 31)), "window of"),
        (control_frame(WINDOW_UPDATE, struct.pack(">II", 0, (1 << 31) - 1)), "beyond its maximum"),
    ],
)
def test_what_breaks_the_protocol_ends_the_session(raw: bytes, reason: str) -> None:
    (event,) = session().receive(raw)

    assert isinstance(event, Ended)
    assert event.status == GoAway.PROTOCOL_ERROR
    assert reason in event.reason


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (bytes(HEADER_BYTES_MAX + 1), "more than"),
        (bytes(1 << 22), "more than"),  # 4 MiB in 4 KiB
        (struct.pack(">I", 65), "65 headers"),
        (struct.pack(">II", 1, 100) + b"short", "cut"),
        (struct.pack(">II", 1, 1) + b"a", "cut"),
        (struct.pack(">I", 0) + b"more", "too many"),
        (b"", "header block of 0 bytes"),
    ],
)
def test_a_header_block_that_cannot_be_read_ends_the_session(raw: bytes, reason: str) -> None:
    (event,) = session().receive(control_frame(SYN_STREAM, struct.pack(">IIBB", 1, 0, 0, 0) + Peer().block(raw)))

    assert isinstance(event, Ended)
    assert reason in event.reason


@pytest.mark.parametrize("headers", [{"Upper": "x"}, {"": "x"}])
def test_headers_that_are_forbidden_cost_their_stream_only(headers: dict[str, str]) -> None:
    one, peer = session(), Peer()

    assert one.receive(peer.syn(1, headers)) == []
    assert one.outgoing() == control_frame(RST_STREAM, struct.pack(">II", 1, Status.PROTOCOL_ERROR))
    assert one.receive(peer.syn(3, {"fine": "x"})) == [Opened(3, {"fine": "x"})]


@given(raw=st.binary(max_size=2000))
def test_no_bytes_raise(raw: bytes) -> None:
    check(session(), raw)


@given(
    changes=st.lists(st.tuples(st.integers(0, len(conversation()) - 1), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.integers(0, len(conversation())),
)
def test_no_change_to_a_conversation_raises(changes: list[tuple[int, int]], cut: int) -> None:
    raw = bytearray(conversation())
    for at, byte in changes:
        raw[at] = byte
    check(session(), bytes(raw[:cut]))


@given(sizes=st.lists(st.integers(1, 60), max_size=60))
def test_no_way_to_cut_the_bytes_changes_what_they_mean(sizes: list[int]) -> None:
    one, raw = session(), conversation()
    events: list[Event] = []
    for size in sizes:
        events += one.receive(raw[:size])
        raw = raw[size:]
    events += one.receive(raw)

    assert joined(events) == CONVERSATION


def check(one: Session, raw: bytes) -> None:
    """Receive *raw*, use the session as the server does, and find that it means the same in single bytes."""
    whole = one.receive(raw)
    other = session()
    single = [event for at in range(len(raw)) for event in other.receive(raw[at : at + 1])]
    assert joined(whole) == joined(single)
    assert one.outgoing() == other.outgoing()
    for event in whole:
        if isinstance(event, Opened) and one.is_open(event.stream):
            assert one.reply(event.stream)
            one.head(event.stream, min(10, one.sendable(event.stream)))
        elif isinstance(event, Data):
            one.consumed(event.stream, len(event.data))
    assert sum(not isinstance(event, Ended) for event in whole[-1:]) + len(whole[:-1]) <= len(raw)
