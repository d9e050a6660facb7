"""Netlink messages that pyroute2 has no classes for, or lacks attributes of: traffic control and connection tracking.

Source: netlink(7); linux/netlink.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final, Self

from ocid.adapters.netlink import ANSWER_BYTES_MAX, ANSWER_S_MAX, Refused

REQUEST: Final = 0x1  # NLM_F_REQUEST, and so on
ACK: Final = 0x4
DUMP: Final = 0x300
REPLACE: Final = 0x100
EXCL: Final = 0x200
CREATE: Final = 0x400
_NESTED: Final = 0x8000
_ERROR, _DONE = 2, 3  # NLMSG_ERROR, NLMSG_DONE
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
_ATTRIBUTE = struct.Struct("=HH")  # length with header, type


def attribute(kind: int, payload: bytes) -> bytes:
    """Encode one attribute."""
    return _padded(_ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload)


def nested(kind: int, *inner: bytes) -> bytes:
    """Encode an attribute that holds others."""
    return attribute(kind | _NESTED, b"".join(inner))


def attributes(raw: bytes) -> dict[int, bytes]:
    """Decode a run of attributes into payloads by type; what is cut off is left out."""
    found: dict[int, bytes] = {}
    while len(raw) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(raw)
        if not _ATTRIBUTE.size <= length <= len(raw):
            break
        found[kind & ~_NESTED] = raw[_ATTRIBUTE.size : length]
        raw = raw[(length + 3) & ~3 :]
    return found


def _padded(raw: bytes) -> bytes:
    return raw + bytes(-len(raw) % 4)


class RawNetlink:
    """A netlink socket in the namespace of the thread that opens it. Use as a context manager.

    Raises:
        Refused: from every method, when the kernel refuses.
    """

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.settimeout(ANSWER_S_MAX)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def run(self, what: str, kind: int, flags: int, body: bytes, fine: frozenset[int] = frozenset()) -> None:
        """Make the kernel do one thing; the refusals *fine* count as success."""
        for _ in self._answers(what, kind, REQUEST | ACK | flags, body, fine):
            pass

    def dump(self, what: str, kind: int, body: bytes) -> list[bytes]:
        """Return the bodies of the messages that answer."""
        return list(self._answers(what, kind, REQUEST | DUMP, body, frozenset()))

    def _answers(self, what: str, kind: int, flags: int, body: bytes, fine: frozenset[int]) -> Iterator[bytes]:
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0) + body)
        while True:
            try:
                datagram = self._socket.recv(ANSWER_BYTES_MAX)
            except TimeoutError:
                raise Refused(errno.ETIMEDOUT, f"{what}: no answer within {ANSWER_S_MAX} s") from None
            while len(datagram) >= _HEADER.size:
                length, answer, _, sequence, _ = _HEADER.unpack_from(datagram)
                message, datagram = datagram[_HEADER.size : length], datagram[(max(length, 16) + 3) & ~3 :]
                if sequence != self._sequence:
                    continue
                if answer in (_ERROR, _DONE):
                    code = -struct.unpack_from("=i", message)[0] if len(message) >= 4 else 0
                    if code and code not in fine:
                        raise Refused(code, f"{what}: {os.strerror(code)}")
                    return
                yield message
