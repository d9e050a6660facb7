"""What stands in each 256 records of the log, so that a look for something rare passes over the rest. Pure.

A block is what a kept node of the Merkle tree covers: block *i* holds the records ``256 * i + 1`` to ``256 * i + 256``.
Its summary is written with the record that completes it; the records of the block that is not complete are read.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from ocid.domain import merkle
from ocid.events.codec import Damaged

BLOCK: Final = 1 << merkle.KEPT_LEVELS  # records
_TIMES: Final = struct.Struct(">QQ")
_NEVER: Final = (1 << 64) - 1
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[list[str], list[int]]).decode


class Summary(msgspec.Struct):
    """What a block's records have in common; grows with them."""

    first_ns: int = _NEVER  # wall clock: the earliest
    last_ns: int = 0  # and the latest, whatever the clock did between them
    types: set[str] = msgspec.field(default_factory=set)
    whos: set[int] = msgspec.field(default_factory=set)  # ``Context.who``

    def add(self, type: str, who: int, wall_ns: int) -> None:
        """Take one record in."""
        self.types.add(type)
        self.whos.add(who)
        self.first_ns = min(self.first_ns, wall_ns)
        self.last_ns = max(self.last_ns, wall_ns)

    def covers(self, type: str, who: int, wall_ns: int) -> bool:
        """Say whether such a record can be in the block."""
        return type in self.types and who in self.whos and self.first_ns <= wall_ns <= self.last_ns

    def clear(self) -> None:
        """Begin with the next block."""
        self.first_ns, self.last_ns = _NEVER, 0
        self.types.clear()
        self.whos.clear()

    def copy(self) -> Summary:
        """Return another one that grows by itself."""
        return Summary(self.first_ns, self.last_ns, set(self.types), set(self.whos))

    def encode(self) -> bytes:
        """Return what is stored: both times in 8 bytes each, then msgpack of the sorted types and askers."""
        return _TIMES.pack(self.first_ns, self.last_ns) + _encode((sorted(self.types), sorted(self.whos)))


def decode(stored: bytes) -> Summary:
    """Return a stored summary.

    Raises:
        Damaged: it is none.
    """
    try:
        first_ns, last_ns = _TIMES.unpack_from(stored)
        types, whos = _decode(memoryview(stored)[_TIMES.size :])
    except (struct.error, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Damaged(f"the summary of a block does not decode: {error}") from error
    return Summary(first_ns, last_ns, set(types), set(whos))


def block_of(seq: int) -> int:
    """Return the block that record *seq* stands in."""
    return (seq - 1) >> merkle.KEPT_LEVELS


def first_of(block: int) -> int:
    """Return the first record of *block*."""
    return (block << merkle.KEPT_LEVELS) + 1
