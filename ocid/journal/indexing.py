"""Making the entries of the log's indexes, to write them and to check what was written."""

from __future__ import annotations

from ocid.events import codec, kin
from ocid.events.base import Event
from ocid.events.codec import Damaged
from ocid.ids import StreamId
from ocid.journal import blocks
from ocid.journal.blocks import BLOCK, Summary, block_of
from ocid.journal.environment import U64, child_key, name_key
from ocid.journal.indexes import Indexes


def entries(event: Event, stream: StreamId, seq: int) -> list[tuple[bytes, bytes]]:
    """Return what record *seq* puts into the index of names and children."""
    if event.TYPE not in kin.TYPES:
        return []
    at, value = U64.pack(seq), stream.encode()
    found = [(name_key(name) + at, value) for name in kin.names_of(event)]
    if (parent := kin.parent_of(event)) is not None:
        found.append((child_key(parent) + at, value))
    return found


class IndexCheck:
    """Makes the indexes anew while the records of a whole log go by, and compares them with those that it has."""

    def __init__(self, indexes: Indexes) -> None:
        self._indexes = indexes
        self._entries = 0
        self._blocks = 0
        self._block = Summary()
        self._foreign = False  # whether a record is of a type that this build does not know, so may have entries

    def check(self, chunk: list[tuple[codec.Header, bytes]], *, thinned: bool = False) -> None:
        """Take consecutive records in, whose hashes are right; or what is left of a block.

        Raises:
            Damaged: an index says something else than they do.
        """
        wanted: list[tuple[int, bytes, bytes]] = []
        summaries: list[tuple[int, bytes]] = []
        for header, record in chunk:
            seq = header.seq
            if not thinned:
                self._block.add(header.type, header.who, header.wall_ns)
            if not thinned and not seq % BLOCK:
                summaries.append((block_of(seq), self._block.encode()))
                self._block.clear()
            if header.type in kin.TYPES:
                wanted += ((seq, *entry) for entry in entries(codec.decode(record).event, header.stream, seq))
            elif not codec.is_known(header.type):
                self._foreign = True
        if thinned:
            self._check_thinned([header for header, _ in chunk])
        self._entries += len(wanted)
        self._blocks += len(summaries)
        self._compare(wanted, summaries)

    def finish(self, last_seq: int) -> None:
        """See that the indexes have nothing beyond what the records up to *last_seq* say, if none came since.

        Raises:
            Damaged: they have.
        """
        last, found, found_blocks = self._indexes.index_sizes()
        if last != last_seq:
            return
        if found < self._entries or (found > self._entries and not self._foreign):
            raise Damaged(f"the index of names has {found} entries, and the records say {self._entries}")
        if found_blocks != self._blocks:
            raise Damaged(f"{found_blocks} blocks have a summary, and {self._blocks} are complete")

    def _check_thinned(self, headers: list[codec.Header]) -> None:
        """See that the summary of a block that was whole once still covers what is left of it."""
        self._blocks += 1
        block = block_of(headers[0].seq) if headers else -1
        stored = self._indexes.summaries_at([block])[0]
        if stored is None:
            raise Damaged(f"block {block} has no summary", headers[0].seq if headers else 0)
        summary = blocks.decode(stored)
        for header in headers:
            if not summary.covers(header.type, header.who, header.wall_ns):
                raise Damaged("the summary of its block says something else", header.seq)

    def _compare(self, wanted: list[tuple[int, bytes, bytes]], summaries: list[tuple[int, bytes]]) -> None:
        stored = self._indexes.entries_at([key for _, key, _ in wanted])
        for (seq, _, value), has in zip(wanted, stored, strict=True):
            if has != value:
                raise Damaged("the index of names does not have what it says", seq)
        stored = self._indexes.summaries_at([block for block, _ in summaries])
        for (block, value), has in zip(summaries, stored, strict=True):
            if has != value:
                raise Damaged("the summary of its block says something else", blocks.first_of(block))
