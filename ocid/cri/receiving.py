"""Receiving the one message of a call: bounded before it is in memory, and blamed on the client where it is broken.

Source: gRPC over HTTP/2, "Length-Prefixed-Message" and "Compression".
"""

from __future__ import annotations

import struct
from typing import Any, Final

from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Stream

MESSAGE_BYTES_MAX: Final = 16 << 20  # what kubelets and other runtimes bound theirs to, and more than a request needs

_PREFIX: Final = struct.Struct(">?I")


async def receive(stream: Stream[Any, Any]) -> Any:
    """Return the request.

    grpclib's own ``recv_message`` takes messages of up to 4 GiB, gives None where there is none, and fails as a bug
    would where one is compressed or cut short; hence its parts are used here.

    Raises:
        GRPCError: INVALID_ARGUMENT, RESOURCE_EXHAUSTED or UNIMPLEMENTED: what came is no message that we take.
    """
    incoming, codec, kind = stream._stream, stream._codec, stream._recv_type
    prefix = await _read(incoming, _PREFIX.size)
    if not prefix:
        raise GRPCError(Status.INVALID_ARGUMENT, "the call has no message")
    compressed, size = _PREFIX.unpack(prefix)
    if compressed:
        raise GRPCError(Status.UNIMPLEMENTED, "compressed messages are not supported: send identity encoding")
    if size > MESSAGE_BYTES_MAX:
        raise GRPCError(Status.RESOURCE_EXHAUSTED, f"the message has {size} bytes, the limit is {MESSAGE_BYTES_MAX}")
    return codec.decode(await _read(incoming, size), kind)


async def _read(incoming: Any, size: int) -> bytes:
    """Read exactly *size* bytes; none where the call ends before the first."""
    try:
        data: bytes = await incoming.recv_data(size)
    except AssertionError:
        raise GRPCError(Status.INVALID_ARGUMENT, "the message ends before its length says") from None
    if size and not data and size != _PREFIX.size:
        raise GRPCError(Status.INVALID_ARGUMENT, "the message ends before its length says")
    return data
