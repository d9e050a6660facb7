"""Finding records in a file whose tree is broken, page by page, without LMDB.

Records are immutable and carry their hash, so it does not matter whether a page is still part of the tree: a record
found anywhere is a record that was written. What counts as good is the unbroken chain from record 1 on.

Source: LMDB 0.9 mdb.c, ``MDB_page``, ``MDB_node``; 64-bit, little-endian or big-endian as the host.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ocid.events import codec
from ocid.events.codec import Damaged
from ocid.journal.structure import DATA
from ocid.journal.verify import Report

PAGE_BYTES: Final = 4096  # LMDB takes the host's; elsewhere than on 4 KiB pages nothing is found, which is safe

_P_LEAF: Final = 0x02
_P_OTHERS: Final = 0x01 | 0x04 | 0x08 | 0x20 | 0x40  # branch, overflow, meta, fixed-size and sub-pages
_HEADER_BYTES: Final = 16
_FLAGS: Final = struct.Struct("=10x HH")  # flags, lower
_NODE: Final = struct.Struct("=HHHH")  # low and high half of the value's size, flags, size of the key
_LOW_FIRST: Final = struct.pack("=H", 1) == b"\1\0"


def salvage(directory: Path) -> Report:
    """Return how far the log in *directory* is good by its records alone; reads the whole file, changes nothing."""
    found: dict[int, tuple[bytes, bytes, int]] = {}  # seq: hash of the one before, its own, epoch
    with (directory / DATA).open("rb") as file:
        while page := file.read(PAGE_BYTES):
            for record in _records(page):
                try:
                    codec.check(record)
                    header = codec.header_of(record)
                except Damaged:
                    continue
                found[header.seq] = (header.prev_hash, codec.hash_of(record), header.epoch)
    report = Report(first_seq=1)
    seq = 1
    while (place := found.get(seq)) is not None and (seq == 1 or place[0] == report.last_good_hash):
        report.records = report.last_good_seq = seq
        _, report.last_good_hash, report.last_epoch = place
        seq += 1
    return report


def _records(page: bytes) -> Iterator[bytes]:
    """Yield the values of a leaf page that may be records: those with a key of eight bytes."""
    if len(page) < PAGE_BYTES:
        return
    flags, lower = _FLAGS.unpack_from(page)
    if not flags & _P_LEAF or flags & _P_OTHERS or not _HEADER_BYTES <= lower <= PAGE_BYTES:
        return
    for at in range(_HEADER_BYTES, lower - 1, 2):
        (node,) = struct.unpack_from("=H", page, at)
        if node + _NODE.size > PAGE_BYTES:
            continue
        low, high, node_flags, key_bytes = _NODE.unpack_from(page, node)
        if not _LOW_FIRST:
            low, high = high, low
        start = node + _NODE.size + key_bytes
        end = start + (high << 16 | low)
        if key_bytes == 8 and node_flags == 0 and end <= PAGE_BYTES:
            yield page[start:end]
