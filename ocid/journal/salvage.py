"""Finding records in a file whose tree is broken, page by page, without LMDB.

Records are immutable and carry their hash, so it does not matter whether a page is still part of the tree: a record
found anywhere is a record that was written. What counts as good is the unbroken chain from record 1 on.

Source: LMDB 0.9 mdb.c, ``MDB_page``, ``MDB_node``; 64-bit, little-endian or big-endian as the host.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from ocid.domain.confidential import Confidential
from ocid.events import codec
from ocid.events.codec import Damaged
from ocid.ids import Digest, PodId
from ocid.journal import vault
from ocid.journal.pending import DOCUMENT_BYTES_MAX
from ocid.journal.structure import DATA
from ocid.journal.verify import Report

PAGE_BYTES: Final = 4096  # LMDB takes the host's; elsewhere than on 4 KiB pages nothing is found, which is safe

_P_LEAF: Final = 0x02
_P_OTHERS: Final = 0x01 | 0x04 | 0x08 | 0x20 | 0x40  # branch, overflow, meta, fixed-size and sub-pages
_HEADER_BYTES: Final = 16
_FLAGS: Final = struct.Struct("=10x HH")  # flags, lower
_NODE: Final = struct.Struct("=HHHH")  # low and high half of the value's size, flags, size of the key
_F_BIGDATA: Final = 0x01
_SEQ_BYTES: Final = 8
DIGEST_BYTES: Final = 32
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


def records_of(directory: Path, last_seq: int) -> dict[int, bytes]:
    """Return the records up to *last_seq*, which ``salvage`` found to be good, by seq."""
    found: dict[int, bytes] = {}
    with (directory / DATA).open("rb") as file:
        while page := file.read(PAGE_BYTES):
            for record in _records(page):
                try:
                    codec.check(record)
                    header = codec.header_of(record)
                except Damaged:
                    continue
                if header.seq <= last_seq:
                    found[header.seq] = record
    return found


def documents_of(directory: Path) -> dict[Digest, bytes]:
    """Return every document whose content still has the digest that it is stored under."""
    values = _values(directory, DIGEST_BYTES)
    return {
        Digest(f"sha256:{key.hex()}"): content for key, content in values if hashlib.sha256(content).digest() == key
    }


def confidences_of(directory: Path) -> dict[Digest, Confidential]:
    """Return every confidential document whose pod's key is found, too. What was erased may come back: tell nobody."""
    pods: dict[bytes, bytes] = {}
    with (directory / DATA).open("rb") as file:
        while page := file.read(PAGE_BYTES):
            for key, content, size in _nodes(page, vault.POD_KEY_BYTES):
                if size == len(content) == vault.KEY_BYTES:
                    pods.setdefault(key, content)
    found: dict[Digest, Confidential] = {}
    for key, content in _values(directory, vault.TEXT_KEY_BYTES):
        pod, commitment = key[: vault.POD_KEY_BYTES], key[vault.POD_KEY_BYTES :]
        with contextlib.suppress(Damaged, UnicodeDecodeError):
            if pod in pods:
                one = vault.decrypted(pods[pod], commitment, content, PodId(pod[:-1].decode()))
                found[one.digest] = one
    return found


def _values(directory: Path, key_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield all keys of so many bytes with what lies under them, in leaf pages or in pages of its own."""
    with (directory / DATA).open("rb") as file:
        number = 0
        while page := file.read(PAGE_BYTES):
            number += 1
            for key, content, size in _nodes(page, key_bytes):
                if size > len(content):  # it lies in pages of its own, and the node says in which
                    (first,) = struct.unpack("=Q", content[:8])
                    content = _overflowing(file, first, size)
                    file.seek(number * PAGE_BYTES)
                yield key, content


def _overflowing(file: BinaryIO, first: int, size: int) -> bytes:
    if size > DOCUMENT_BYTES_MAX + vault.OVERHEAD_BYTES:
        return b""
    file.seek(first * PAGE_BYTES + _HEADER_BYTES)
    return file.read(size)


def _records(page: bytes) -> Iterator[bytes]:
    """Yield the values of a leaf page that may be records: those with a key of eight bytes."""
    for _, content, size in _nodes(page, _SEQ_BYTES):
        if size == len(content):
            yield content


def _nodes(page: bytes, wanted_key_bytes: int) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield key, content in the page, and whole size of a leaf page's nodes with keys of that length.

    Where the size is larger than the content, this is the number of the first page of the value itself.
    """
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
        if key_bytes != wanted_key_bytes:
            continue
        key = page[start - key_bytes : start]
        if node_flags == 0 and end <= PAGE_BYTES:
            yield key, page[start:end], end - start
        elif node_flags == _F_BIGDATA and start + 8 <= PAGE_BYTES:
            yield key, page[start : start + 8], end - start
