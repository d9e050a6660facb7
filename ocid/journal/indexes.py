"""The log's indexes, read: what belongs to a stream, what bears a name, where a stream's records are, what a block has.

They are written in the same transaction as the records, and ``ocid.journal.verify`` makes them anew from the records
and compares.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from ocid.ids import StreamId
from ocid.journal import blocks
from ocid.journal.blocks import Summary
from ocid.journal.environment import U64, Pages, child_key, keys, name_key, stream_key

BLOCKS_MAX: Final = 4096  # in one transaction
SEQS_MAX: Final = 65_536  # likewise


class Indexes(Pages):
    """One log's indexes. Any thread may read."""

    def streams(self, prefix: str, limit: int) -> list[StreamId]:
        """Return up to *limit* streams whose id begins with *prefix*, in alphabetical order."""
        found: list[StreamId] = []
        with self._reading() as txn, txn.cursor(self._db[b"st"]) as cursor:
            more = cursor.set_range(prefix.encode())
            while more and len(found) < limit and (key := cursor.key()).startswith(prefix.encode()):
                stream = key[:-9]  # without the zero byte and the version
                found.append(StreamId(stream.decode()))
                more = cursor.set_range(stream + b"\x01")
        return found

    def named(self, name: str) -> list[tuple[int, StreamId]]:
        """Return what ever bore *name*, oldest first: seq of the event that says so, and its stream.

        See ``ocid.events.kin.names_of``.
        """
        return self._index(name_key(name))

    def named_from(self, beginning: str) -> list[StreamId]:
        """Return what ever bore a name that begins so, by name and then by age."""
        database = self._db[b"ix"]
        prefix = name_key(beginning)[:-1]
        with self._reading() as txn:
            return [StreamId(txn.get(key, b"", db=database).decode()) for key in keys(txn, prefix, database)]

    def children(self, stream: StreamId) -> list[tuple[int, StreamId]]:
        """Return what belongs to *stream* directly, oldest first: seq of its first event, and its stream.

        See ``ocid.events.kin.parent_of``.
        """
        return self._index(child_key(stream))

    def seqs(self, stream: StreamId) -> list[int]:
        """Return where in the log the events of *stream* are, oldest first."""
        prefix = stream_key(stream)
        found: list[int] = []
        after = U64.pack(0)
        while True:
            with self._reading() as txn, txn.cursor(self._db[b"st"]) as cursor:
                more = cursor.set_range(prefix + after)
                count = 0
                while more and cursor.key().startswith(prefix) and count < SEQS_MAX:
                    found.append(U64.unpack(cursor.value())[0])
                    count += 1
                    more = cursor.next()
                if count < SEQS_MAX or not more:
                    return found
                after = cursor.key()[-8:]

    def version(self, stream: StreamId) -> int:
        """Return the last version of *stream*, 0 for none."""
        prefix = stream_key(stream)
        with self._reading() as txn, txn.cursor(self._db[b"st"]) as cursor:
            before = cursor.prev() if cursor.set_range(prefix + b"\xff" * 8) else cursor.last()
            key = cursor.key() if before else b""
        return U64.unpack(key[-8:])[0] if key.startswith(prefix) else 0

    def summaries(self, from_block: int, limit: int = BLOCKS_MAX) -> list[tuple[int, Summary]]:
        """Return summaries of complete blocks from *from_block* on, as many as one short transaction gives.

        Raises:
            Damaged: one does not decode.
        """
        with self._reading() as txn, txn.cursor(self._db[b"bk"]) as cursor:
            if not cursor.set_range(U64.pack(from_block)):
                return []
            found = list(islice(cursor.iternext(), min(limit, BLOCKS_MAX)))
        return [(U64.unpack(key)[0], blocks.decode(value)) for key, value in found]

    def seq_at(self, wall_ns: int) -> int:
        """Return a seq before which no event was written at *wall_ns* or later, at most a block too low.

        Holds when the wall clock was set back, too.
        """
        block = 0
        while found := self.summaries(block):
            for block, summary in found:
                if summary.last_ns >= wall_ns:
                    return blocks.first_of(block)
            block += 1
        return blocks.first_of(block)

    def used_bytes(self) -> int:
        """Return how many bytes of the file hold something; what trimming freed is used again before it grows."""
        with self._reading() as txn:
            stats = [txn.stat(database) for database in self._db.values()]
        pages = sum(each["branch_pages"] + each["leaf_pages"] + each["overflow_pages"] for each in stats)
        return pages * int(stats[0]["psize"])

    def index_sizes(self) -> tuple[int, int, int]:
        """Return the last seq, how many entries names and children have together, and how many blocks a summary."""
        with self._reading() as txn, txn.cursor(self._db[b"ev"]) as cursor:
            last = U64.unpack(cursor.key())[0] if cursor.last() else 0
            return last, txn.stat(self._db[b"ix"])["entries"], txn.stat(self._db[b"bk"])["entries"]

    def entries_at(self, wanted: list[bytes]) -> list[bytes | None]:
        """Return what the index of names and children has under these keys."""
        return self.values(b"ix", wanted)

    def summaries_at(self, wanted: list[int]) -> list[bytes | None]:
        """Return the stored summaries of these blocks."""
        return self.values(b"bk", [U64.pack(block) for block in wanted])

    def _index(self, prefix: bytes) -> list[tuple[int, StreamId]]:
        database = self._db[b"ix"]
        with self._reading() as txn:
            found = [(key, txn.get(key, b"", db=database)) for key in keys(txn, prefix, database)]
        return [
            (U64.unpack(key[-8:])[0], StreamId(value.decode())) for key, value in found if len(key) == len(prefix) + 8
        ]
