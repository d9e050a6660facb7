"""ttrpc: calls and answers in frames, as bytes in and messages out. No I/O here.

A frame is the length of its data, the number of the call (both 32 bits, big-endian), a type and flags (8 bits each),
then the data. Calls have odd numbers that only grow. NRI knows plain calls only: one request, one response; streams
are refused.

Source: github.com/containerd/ttrpc, PROTOCOL.md.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Final, NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from ocid.nri.stubs import ttrpc_pb2 as pb

HEADER: Final = struct.Struct(">IIBB")
HEADER_BYTES: Final = HEADER.size
MESSAGE_BYTES_MAX: Final = 4 << 20
OK: Final = 0

M = TypeVar("M", bound=Message)


class Code(IntEnum):
    """The gRPC codes that we send."""

    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12


class Kind(IntEnum):
    """What a frame is."""

    REQUEST = 1
    RESPONSE = 2
    DATA = 3


class MalformedError(Exception):
    """The peer does not speak ttrpc; its connection must end."""


class Frame(NamedTuple):
    """One frame."""

    stream: int
    kind: Kind
    flags: int
    data: bytes


class FrameReader:
    """Takes bytes as they come and gives back the frames that they complete."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, received: bytes | bytearray) -> list[Frame]:
        """Return the frames that *received* completes.

        Raises:
            MalformedError: a frame is too long, of unknown type, or numbered 0.
        """
        self._held += received
        frames: list[Frame] = []
        at = 0
        while len(self._held) - at >= HEADER_BYTES:
            length, stream, kind, flags = HEADER.unpack_from(self._held, at)
            if length > MESSAGE_BYTES_MAX:
                raise MalformedError(f"a message of {length} bytes; at most {MESSAGE_BYTES_MAX} are allowed")
            if kind not in Kind.__members__.values() or stream == 0:
                raise MalformedError(f"a frame of type {kind} and number {stream}")
            end = at + HEADER_BYTES + length
            if len(self._held) < end:
                break
            frames.append(Frame(stream, Kind(kind), flags, bytes(self._held[at + HEADER_BYTES : end])))
            at = end
        del self._held[:at]
        return frames


def request(stream: int, service: str, method: str, payload: bytes, timeout_s: float) -> bytes:
    """Return a call as a frame; the time-out goes along, so that the peer can stop when nobody waits any more."""
    asked = pb.Request(service=service, method=method, payload=payload, timeout_nano=int(timeout_s * 1e9))
    return _framed(stream, Kind.REQUEST, asked)


def response(stream: int, payload: bytes = b"", *, code: int = OK, message: str = "") -> bytes:
    """Return an answer as a frame."""
    status = pb.Status(code=code, message=message) if code != OK else None
    return _framed(stream, Kind.RESPONSE, pb.Response(status=status, payload=payload))


def size_of_request(service: str, method: str, payload_bytes: int) -> int:
    """Return an upper bound of the data of a call with so large a payload."""
    return payload_bytes + len(service) + len(method) + 64


def parse(make: Callable[[], M], data: bytes) -> M:
    """Decode one protobuf message.

    Raises:
        MalformedError: it is none.
    """
    message = make()
    try:
        message.ParseFromString(data)
    except (DecodeError, UnicodeDecodeError) as error:
        raise MalformedError(f"not a {message.DESCRIPTOR.full_name}: {error}") from None
    return message


def _framed(stream: int, kind: Kind, message: Message) -> bytes:
    data = message.SerializeToString()
    assert len(data) <= MESSAGE_BYTES_MAX, f"a message of {len(data)} bytes was not refused before"
    return HEADER.pack(len(data), stream, kind, 0) + data
