"""Trunk and ttrpc as bytes: what goes in comes out, however it is cut; what is none is refused, and never grows."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, strategies as st

from ocid.nri import mux, ttrpc
from ocid.nri.stubs import nri_pb2 as pb, ttrpc_pb2
from ocid.nri.ttrpc import Code, Frame, Kind

payloads = st.binary(max_size=300)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Return *data* in pieces."""
    ends = sorted({place % (len(data) + 1) for place in places})
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


@given(st.lists(st.tuples(st.integers(1, 2**32 - 1), payloads.filter(bool))), st.lists(st.integers(0, 10_000)))
def test_frames_come_out_of_the_trunk_however_they_are_cut(sent: list[tuple[int, bytes]], places: list[int]) -> None:
    trunk = mux.Demultiplexer()
    data = b"".join(mux.frames_of(connection, payload) for connection, payload in sent)

    assert [frame for piece in cut(data, places) for frame in trunk.feed(piece)] == sent


def test_a_long_message_is_two_frames_the_first_of_which_fits_a_go_reader() -> None:
    frames = mux.Demultiplexer().feed(mux.frames_of(1, bytes(10_000)))

    assert [len(payload) for _, payload in frames] == [4096, 10_000 - 4096]


@pytest.mark.parametrize(
    "data", [struct.pack(">II", 0, 1), struct.pack(">II", 1, mux.PAYLOAD_BYTES_MAX + 1), b"\xff" * 8]
)
def test_the_trunk_refuses_what_is_no_frame_before_it_holds_it(data: bytes) -> None:
    with pytest.raises(mux.ProtocolError):
        mux.Demultiplexer().feed(data)


@given(st.lists(st.binary(max_size=64)))
def test_the_trunk_takes_or_refuses_any_bytes(pieces: list[bytes]) -> None:
    trunk = mux.Demultiplexer()
    try:
        frames = [frame for piece in pieces for frame in trunk.feed(piece)]
    except mux.ProtocolError:
        return
    assert sum(8 + len(payload) for _, payload in frames) <= sum(map(len, pieces))


calls = st.builds(
    lambda number, method, payload: ttrpc.request(number * 2 + 1, "service", method, payload, 1.5),
    st.integers(0, 2**30),
    st.text(max_size=20),
    payloads,
)


@given(st.lists(calls), st.lists(st.integers(0, 10_000)))
def test_calls_come_out_however_they_are_cut(sent: list[bytes], places: list[int]) -> None:
    reader = ttrpc.FrameReader()
    frames = [frame for piece in cut(b"".join(sent), places) for frame in reader.feed(piece)]

    again = [
        ttrpc.request(one.stream, asked.service, asked.method, asked.payload, asked.timeout_nano / 1e9)
        for one in frames
        for asked in [ttrpc.parse(ttrpc_pb2.Request, one.data)]
    ]
    assert again == sent
    assert {one.kind for one in frames} <= {Kind.REQUEST}


@given(st.lists(st.binary(max_size=64)))
def test_ttrpc_takes_or_refuses_any_bytes(pieces: list[bytes]) -> None:
    reader = ttrpc.FrameReader()
    try:
        for piece in pieces:
            for frame in reader.feed(piece):
                ttrpc.parse(ttrpc_pb2.Request, frame.data)
    except ttrpc.MalformedError:
        return


@pytest.mark.parametrize(
    "header",
    [
        (ttrpc.MESSAGE_BYTES_MAX + 1, 1, 1, 0),
        (0, 0, 1, 0),
        (0, 1, 0, 0),
        (0, 1, 4, 0),
        (0xFFFFFFFF, 0xFFFFFFFF, 255, 255),
    ],
)
def test_ttrpc_refuses_a_bad_header_without_waiting_for_its_data(header: tuple[int, int, int, int]) -> None:
    with pytest.raises(ttrpc.MalformedError):
        ttrpc.FrameReader().feed(ttrpc.HEADER.pack(*header))


def test_an_answer_has_a_status_only_when_it_is_an_error() -> None:
    good, bad = ttrpc.FrameReader().feed(
        ttrpc.response(5, b"x") + ttrpc.response(7, code=Code.UNIMPLEMENTED, message="no")
    )

    assert good == Frame(5, Kind.RESPONSE, 0, ttrpc_pb2.Response(payload=b"x").SerializeToString())
    assert ttrpc.parse(ttrpc_pb2.Response, bad.data).status == ttrpc_pb2.Status(code=12, message="no")


def test_bytes_that_are_no_message_are_refused() -> None:
    with pytest.raises(ttrpc.MalformedError, match="RegisterPluginRequest"):
        ttrpc.parse(pb.RegisterPluginRequest, b"\x0a\xff\xff")
    with pytest.raises(ttrpc.MalformedError):
        ttrpc.parse(pb.RegisterPluginRequest, b"\x0a\x02\xff\xfe")  # not UTF-8


def test_the_wire_is_that_of_the_public_interface() -> None:
    """Bytes as the reference writes them: the numbers of fields and events."""
    assert pb.ConfigureResponse(events=0x3FFF).SerializeToString() == b"\x10\xff\x7f"
    assert pb.ContainerAdjustment(args=["a"]).SerializeToString() == b"\x4a\x01a"
    assert pb.Container(user=pb.User(uid=1)).SerializeToString() == b"\xaa\x01\x02\x08\x01"
    assert pb.LAST == 15
    assert pb.MemoryPolicy == 40
