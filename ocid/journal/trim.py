"""Taking old records out of a log so that what is left can still be proven.

A log is trimmed in whole blocks, up to a record that a checkpoint covers. Records that something living needs stay; of
their block all 256 leaf hashes are kept, of an empty block only the node of the tree that covers it. So every root that
was ever signed for can still be computed where it ends on a block, and every record that is left still be proven.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Protocol

import lmdb

from ocid.domain.merkle import HASH_BYTES
from ocid.domain.retention import decode_kept
from ocid.errors import InvalidRequest, NotFound
from ocid.events import codec
from ocid.events.codec import Damaged
from ocid.events.image import CATALOG
from ocid.events.log import LOG, Trimmed
from ocid.events.node import NODE
from ocid.ids import StreamId
from ocid.journal import blocks, indexing
from ocid.journal.blocks import BLOCK, Summary
from ocid.journal.environment import U64, stream_key
from ocid.journal.reader import Reader


def skips(stream: StreamId) -> bool:
    """Say whether a stream can lose some of its records and keep others: those that never end, and layers.

    Of all others either everything is kept, or nothing.
    """
    return stream in (LOG, NODE, CATALOG) or stream.startswith("layer/")


def kept(reader: Reader, through: int) -> list[int]:
    """Return which records must be left of those up to *through*, to where a log is trimmed.

    Raises:
        Damaged: nothing in the log says that it was trimmed so far, or what was to stay.
    """
    if reader.meta("archive") is not None:
        return []  # an archive has the log's own stream of what came before it, and nothing says that it must
    said = [each.event for each in reader.read_stream(LOG) if isinstance(each.event, Trimmed)]
    fitting = [event for event in said if event.through == through]
    if not fitting:
        raise Damaged(f"the log is trimmed up to record {through}, and nothing in it says so")
    try:
        return sorted(decode_kept(reader.document(fitting[-1].kept)))
    except (NotFound, InvalidRequest) as error:
        raise Damaged(f"what was to be left of the log is not known: {error.message}") from error


def begin(txn: lmdb.Transaction[bytes], databases: dict[bytes, Any], through: int) -> None:
    """Say that records up to *through* may be gone from now on."""
    record = txn.get(U64.pack(through), db=databases[b"ev"])
    assert record is not None, f"record {through}, up to which the log is to be trimmed, is not there"
    assert not through % BLOCK, f"record {through} is in the midst of a block"
    txn.put(b"trimmed", U64.pack(through) + codec.hash_of(record), db=databases[b"mk"])


def trim_block(
    txn: lmdb.Transaction[bytes], databases: dict[bytes, Any], block: int, kept: Collection[int], limit: int
) -> tuple[int, bool]:
    """Take up to *limit* records of *block* out, all but those at *kept*; return how many, and whether that is all."""
    first = blocks.first_of(block)
    at = U64.pack(block)
    records: dict[int, bytes] = {}
    with txn.cursor(databases[b"ev"]) as cursor:
        more = cursor.set_range(U64.pack(first))
        while more and (seq := U64.unpack(cursor.key())[0]) < first + BLOCK:
            records[seq] = cursor.value()
            more = cursor.next()
    gone = [seq for seq in records if seq not in kept]
    if gone and txn.get(at, db=databases[b"lf"]) is None:
        assert len(records) == BLOCK, f"block {block} has {len(records)} records and no hashes of the others"
        leaves = b"".join(codec.hash_of(record) for record in records.values())
        assert len(leaves) == BLOCK * HASH_BYTES
        txn.put(at, leaves, db=databases[b"lf"])
    for seq in gone[:limit]:
        _remove(txn, databases, seq, records.pop(seq))
    if not records:
        txn.delete(at, db=databases[b"lf"])
        txn.delete(at, db=databases[b"bk"])
    return min(len(gone), limit), len(gone) <= limit


def _remove(txn: lmdb.Transaction[bytes], databases: dict[bytes, Any], seq: int, record: bytes) -> None:
    envelope = codec.decode(record)
    txn.delete(U64.pack(seq), db=databases[b"ev"])
    txn.delete(stream_key(envelope.stream) + U64.pack(envelope.version), db=databases[b"st"])
    for key, _ in indexing.entries(envelope.event, envelope.stream, seq):
        txn.delete(key, db=databases[b"ix"])


def last_block(reader: Reader, before_ns: int, count: int) -> int:
    """Return the end of the last block that may be trimmed: see ``ocid.ports.retention.TrimJournal.last_block``."""
    trimmed, found, number, block = reader.trimmed()[0], 0, 0, 0
    block = trimmed // BLOCK
    old = True
    while chunk := reader.summaries(block):
        for block, summary in chunk:
            number += 1
            old = old and summary.last_ns < before_ns
            if not old and number > count:
                return found
            found = (block + 1) * BLOCK
        block += 1
    return found


class Trimmable(Protocol):
    """What trimming needs of a store; see ``ocid.journal.store.Store``."""

    def trimmed(self) -> tuple[int, bytes]: ...
    def begin_trim(self, through: int) -> None: ...
    def trim_block(self, block: int, kept: Collection[int], limit: int) -> tuple[int, bool]: ...
    def summaries(self, from_block: int) -> list[tuple[int, Summary]]: ...


def steps(store: Trimmable, through: int, kept: Collection[int], limit: int) -> Iterator[int]:
    """Trim *store*, one short transaction for each step, and yield how many records each took out.

    What was begun and not finished goes on where it stood; what is done already costs a look.

    Args:
        store: called between the steps only, by whoever may write.
        through: the end of a block, see ``log.trimmed``.
        kept: which records up to there stay.
        limit: records for one step.
    """
    if store.trimmed()[0] < through:
        store.begin_trim(through)
        yield 0
    block, end = 0, through // BLOCK
    while found := [each for each, _ in store.summaries(block) if each < end]:
        for block in found:
            done = False
            while not done:
                count, done = store.trim_block(block, kept, limit)
                yield count
        block += 1
