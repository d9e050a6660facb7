"""NRI's trunk: several connections over one socket, as bytes in and frames out. No I/O here.

A frame is a connection's number, the length of what follows (both 32 bits, big-endian), and so many bytes. NRI uses
two connections: on ``PLUGIN`` the runtime calls the plugin, on ``RUNTIME`` the plugin calls the runtime. There is no
signalling; a frame of an unknown connection is dropped, as the reference does.

Source: github.com/containerd/nri, pkg/net/multiplex.
"""

from __future__ import annotations

import struct
from typing import Final

from ocid.nri.ttrpc import HEADER_BYTES as TTRPC_HEADER_BYTES, MESSAGE_BYTES_MAX

HEADER: Final = struct.Struct(">II")
PAYLOAD_BYTES_MAX: Final = TTRPC_HEADER_BYTES + MESSAGE_BYTES_MAX
FIRST_BYTES: Final = 4096

PLUGIN: Final = 1  # served by the plugin
RUNTIME: Final = 2  # served by the runtime


class ProtocolError(Exception):
    """The peer does not speak the protocol; its connection must end."""


class Demultiplexer:
    """Takes bytes as they come and gives back what they hold, per connection."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, received: bytes | bytearray) -> list[tuple[int, bytes]]:
        """Return the (connection, payload) pairs that *received* completes.

        Raises:
            ProtocolError: a frame is longer than any message, or belongs to the reserved connection 0.
        """
        self._held += received
        frames: list[tuple[int, bytes]] = []
        at = 0
        while len(self._held) - at >= HEADER.size:
            connection, length = HEADER.unpack_from(self._held, at)
            if length > PAYLOAD_BYTES_MAX:
                raise ProtocolError(f"a trunk frame of {length} bytes; at most {PAYLOAD_BYTES_MAX} are allowed")
            if connection == 0:
                raise ProtocolError("a trunk frame of the reserved connection 0")
            end = at + HEADER.size + length
            if len(self._held) < end:
                break
            frames.append((connection, bytes(self._held[at + HEADER.size : end])))
            at = end
        del self._held[:at]
        return frames


def frames_of(connection: int, message: bytes) -> bytes:
    """Put one ttrpc message into frames of *connection*.

    The reference's reader takes each frame in one read and fails when its buffer is smaller: 4096 bytes where a
    message begins, and the rest of the message after that. So a message longer than that is sent in two frames.
    """
    assert len(message) <= PAYLOAD_BYTES_MAX, f"a message of {len(message)} bytes was not refused before"
    first, rest = message[:FIRST_BYTES], message[FIRST_BYTES:]
    framed = HEADER.pack(connection, len(first)) + first
    return framed + HEADER.pack(connection, len(rest)) + rest if rest else framed
