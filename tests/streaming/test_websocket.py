"""The WebSocket receiver without I/O."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given, strategies as st

from ocid.streaming import websocket
from ocid.streaming.websocket import Code, Ended, Event, Opcode, Piece, Receiver

KEY = b"\x01\x02\x03\x04"


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, key: bytes = KEY, bits: int = 0) -> bytes:
    """Write a client's frame, byte by byte."""
    head = bytes((opcode | (0x80 if fin else 0) | bits,))
    if len(data) < 126:
        head += bytes((0x80 | len(data),))
    elif len(data) < 65536:
        head += bytes((0x80 | 126,)) + struct.pack(">H", len(data))
    else:
        head += bytes((0x80 | 127,)) + struct.pack(">Q", len(data))
    return head + key + bytes(byte ^ key[at % 4] for at, byte in enumerate(data))


def joined(events: list[Event]) -> list[Event]:
    """Put the pieces of each message together. How much is seen of a text before it turns out to be none is open."""
    out: list[Event] = []
    for event in events:
        last = out[-1] if out else None
        if isinstance(event, Piece) and isinstance(last, Piece) and not last.last:
            out[-1] = Piece(last.data + event.data, last.text, last.first, event.last)
        else:
            if isinstance(event, Ended) and event.code == Code.BAD_DATA and isinstance(last, Piece) and not last.last:
                out.pop()
            out.append(event)
    return out


def conversation() -> bytes:
    return b"".join(
        (
            frame(2, b"\0input"),
            frame(9, b"are you there"),
            frame(1, "Grüße".encode()[:3], fin=False),
            frame(10, b"nobody asked"),
            frame(0, "Grüße".encode()[3:]),
            frame(2, bytes(range(256)) * 300),
            frame(2, b""),
            frame(2, b"", fin=False),
            frame(0, b"x"),
            frame(8, struct.pack(">H", 1000) + b"bye"),
        )
    )


CONVERSATION: list[Event] = [
    Piece(b"\0input", False, True, True),
    Piece("Grüße".encode(), True, True, True),
    Piece(bytes(range(256)) * 300, False, True, True),
    Piece(b"", False, True, True),
    Piece(b"x", False, True, True),
    Ended(1000, ""),
]


def test_a_conversation_is_understood() -> None:
    one = Receiver()

    assert joined(one.receive(conversation())) == CONVERSATION
    assert one.outgoing() == b"\x8a\x0dare you there"
    assert one.outgoing() == b""
    assert one.receive(frame(2, b"after the close")) == []


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7, 1000])
def test_it_does_not_matter_where_the_bytes_are_cut(size: int) -> None:
    one, raw = Receiver(), conversation()
    events = [event for at in range(0, len(raw), size) for event in one.receive(raw[at : at + size])]

    assert joined(events) == CONVERSATION


def test_data_is_passed_on_before_its_frame_is_whole() -> None:
    assert Receiver().receive(frame(2, b"x" * 100)[:56]) == [Piece(b"x" * 50, False, True, False)]


def test_the_answer_to_the_last_ping_is_enough() -> None:
    one = Receiver()
    one.receive(b"".join(frame(9, str(number).encode()) for number in range(1000)))

    assert one.outgoing() == b"\x8a\x03999"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"\x82\x05hello", Code.PROTOCOL_ERROR),  # not masked
        (frame(2, bits=0x40), Code.PROTOCOL_ERROR),  # compressed, as an extension would have it
        (frame(3), Code.PROTOCOL_ERROR),
        (frame(11), Code.PROTOCOL_ERROR),
        (frame(0, b"x"), Code.PROTOCOL_ERROR),  # goes on before it began
        (frame(2, b"x", fin=False) + frame(2, b"y"), Code.PROTOCOL_ERROR),
        (frame(9, b"x", fin=False), Code.PROTOCOL_ERROR),
        (frame(9, b"x" * 126), Code.PROTOCOL_ERROR),
        (b"\x82\xfe" + struct.pack(">H", 125) + KEY, Code.PROTOCOL_ERROR),  # not the shortest form
        (b"\x82\xff" + struct.pack(">Q", 65535) + KEY, Code.PROTOCOL_ERROR),
        (b"\x82\xff" + struct.pack(">Q", 1 << 63) + KEY, Code.TOO_BIG),
        (frame(1, b"\xff"), Code.BAD_DATA),
        (frame(1, "ü".encode()[:1]), Code.BAD_DATA),  # ends in the middle of a character
        (frame(8, b"x"), Code.PROTOCOL_ERROR),
        (frame(8, struct.pack(">H", 1005)), Code.PROTOCOL_ERROR),
        (frame(8, struct.pack(">H", 1000) + b"\xff"), Code.BAD_DATA),
    ],
)
def test_what_breaks_the_protocol_ends_the_connection(raw: bytes, code: Code) -> None:
    last = Receiver().receive(raw)[-1]

    assert isinstance(last, Ended)
    assert last.code == code
    assert last.reason


def test_a_close_without_code_is_answered_without_code() -> None:
    (event,) = Receiver().receive(frame(8))

    assert event == Ended(Code.ABSENT, "")
    assert websocket.close(event.code) == b"\x88\x00"
    assert websocket.close(Code.NORMAL) == b"\x88\x02\x03\xe8"


def test_messages_have_a_limit_however_they_are_cut() -> None:
    one = Receiver(message_bytes_max=1000)
    one.receive(frame(2, bytes(1000)))
    one.receive(frame(2, bytes(600), fin=False))

    assert one.receive(frame(0, bytes(401)))[-1] == Ended(Code.TOO_BIG, "a message of more than 1000 bytes")


def test_the_accept_key_is_that_of_the_rfc() -> None:
    assert websocket.accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@given(data=st.binary(max_size=300), key=st.binary(min_size=4, max_size=4), at=st.integers(0, 7))
def test_unmasking_is_exclusive_or(data: bytes, key: bytes, at: int) -> None:
    assert websocket.unmask(data, key, at) == bytes(byte ^ key[(at + n) % 4] for n, byte in enumerate(data))


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536])
def test_heads_are_in_their_shortest_form(length: int) -> None:
    head = websocket.head(Opcode.BINARY, length)
    masked = bytes((head[0], head[1] | 0x80)) + head[2:] + KEY + bytes(length)  # as a client would

    (event,) = joined(Receiver().receive(masked))
    assert isinstance(event, Piece)
    assert len(event.data) == length


@given(raw=st.binary(max_size=500))
def test_no_bytes_raise(raw: bytes) -> None:
    check(raw)


@given(
    changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, 400),
)
def test_no_change_to_a_conversation_raises(changes: list[tuple[int, int]], cut: int) -> None:
    raw = bytearray(conversation())
    for at, byte in changes:
        raw[at] = byte
    check(bytes(raw[:cut]))


def test_a_flood_of_random_bytes_keeps_nothing() -> None:
    one = Receiver()
    for _ in range(100):
        one.receive(os.urandom(10_000))

    assert len(one._rest) < 14


def check(raw: bytes) -> None:
    whole, one, other = Receiver(), Receiver(), Receiver()
    events = joined(whole.receive(raw))

    assert joined([event for at in range(len(raw)) for event in one.receive(raw[at : at + 1])]) == events
    half = len(raw) // 2
    assert joined(other.receive(raw[:half]) + other.receive(raw[half:])) == events
    assert whole.outgoing() == one.outgoing() == other.outgoing()
