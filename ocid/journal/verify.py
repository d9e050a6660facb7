"""Proving that a log is what was written: every hash, the chain, the sequence, the streams and their index.

What this cannot show is that the whole log was rewritten by somebody who recomputed everything: that takes a
checkpoint kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from ocid.domain.merkle import KEPT_LEVELS, Frontier, Node
from ocid.events import codec
from ocid.events.codec import Damaged
from ocid.ids import StreamId
from ocid.journal import trim
from ocid.journal.blocks import BLOCK, block_of, first_of
from ocid.journal.indexing import IndexCheck
from ocid.journal.reader import Reader

PROGRESS_RECORDS: Final = 1000


class Fault(msgspec.Struct, frozen=True):
    """The first thing found wrong."""

    seq: int  # of the record at fault; 0 when it is none in particular
    what: str


class Report(msgspec.Struct):
    """What was found. ``fault`` is None when everything is right."""

    first_seq: int = 0  # where the check began
    records: int = 0  # good ones, from there on
    last_good_seq: int = 0
    last_good_hash: bytes = codec.NO_HASH
    last_epoch: int = 0  # of the last good record
    streams: int = 0
    documents: int = 0
    fault: Fault | None = None
    incomplete: str = ""  # why the check did not reach the end, where that says nothing about the log


Progress = Callable[[Report], None]


def verify(reader: Reader, *, from_seq: int = 1, documents: bool = True, progress: Progress | None = None) -> Report:
    """Check all records from *from_seq* on, and the documents if asked to, and report the first fault.

    Works on a log that is being written: what is committed during the check may or may not be part of it. Beginning at
    another record than the first, its link to the one before it, and where its stream stood, are taken on trust.

    Args:
        reader: the log.
        from_seq: where to begin.
        documents: also recompute the digest of every document.
        progress: called about every ``PROGRESS_RECORDS`` good records.
    """
    last_seq = reader.last_seq()
    report = Report(first_seq=from_seq, last_good_seq=from_seq - 1)
    walk = _Walk(reader, report)
    try:
        if walk.whole and walk.trimmed:
            walk.over_trimmed(progress)
        while chunk := reader.records(report.last_good_seq + 1, PROGRESS_RECORDS):
            walk.over(chunk)
            if progress is not None:
                progress(report)
        if report.last_good_seq < last_seq:
            raise Damaged("the record is missing", report.last_good_seq + 1)
        if walk.indexes is not None:
            walk.indexes.finish(report.last_good_seq)
        if walk.whole and (entries := reader.index_entries()) < report.records:
            raise Damaged(f"the index of streams has {entries} entries for {report.records} records")
        if documents:
            report.documents = reader.check_documents()
    except Damaged as damage:
        report.fault = Fault(damage.seq, damage.what)
    report.streams = len(walk.versions)
    return report


class _Walk:
    """Goes over a log's records in order, and knows what the next one must be."""

    def __init__(self, reader: Reader, report: Report) -> None:
        """Begin at ``report.first_seq``."""
        self.whole = report.first_seq == 1
        self.trimmed, self._trimmed_hash = reader.trimmed() if self.whole else (0, b"")
        self.versions: dict[StreamId, int] = {}
        self.indexes = IndexCheck(reader) if self.whole else None
        self._seqs_of_skipping: dict[StreamId, int] = {}  # last record of streams that trimming may have thinned
        self._reader = reader
        self._report = report
        self._tree = Frontier()
        self._prev = reader.genesis() if self.whole else None  # hash of the record before; None where it is not known
        report.last_good_hash = self._prev or codec.NO_HASH

    def over(self, chunk: list[tuple[int, bytes]]) -> None:
        """Check consecutive records, counting the good ones in the report; raise ``Damaged`` at the first bad one."""
        report = self._report
        wanted_seq = report.last_good_seq + 1
        headers = []
        try:
            for seq, record in chunk:
                if seq != wanted_seq:
                    raise Damaged("the record is missing", wanted_seq)
                headers.append((self._record(seq, record), record))
                self._note_good(headers[-1][0], record)
                wanted_seq += 1
                if self.whole:
                    self._grow(self._tree.append(report.last_good_hash), seq)
        except Damaged as damage:
            raise Damaged(damage.what, damage.seq or wanted_seq) from damage
        self._look_up(headers)

    def over_trimmed(self, progress: Progress | None) -> None:
        """Check what is left of the records up to where the log is trimmed, and that it is all that should be left."""
        owed = trim.kept(self._reader, self.trimmed)
        for block in range(block_of(self.trimmed) + 1):
            first = first_of(block)
            records = [each for each in self._reader.records(first, BLOCK) if each[0] < first + BLOCK]
            leaves = self._reader.leaves(block)
            if leaves is None and len(records) == BLOCK:
                self.over(records)
            elif leaves is None:
                self._over_empty(block, records)
            else:
                self._over_thinned(records, leaves)
            if missing := [seq for seq in owed if first <= seq < first + BLOCK and seq not in dict(records)]:
                raise Damaged("the record is missing, and it was not trimmed", missing[0])
            self._report.last_good_seq = first + BLOCK - 1
            if progress is not None:
                progress(self._report)
        if self._prev not in (None, self._trimmed_hash):
            raise Damaged("the log says another hash for the last record that was trimmed", self.trimmed)
        self._prev = self._report.last_good_hash = self._trimmed_hash

    def _over_empty(self, block: int, records: list[tuple[int, bytes]]) -> None:
        if records:
            raise Damaged("the hashes of the records beside it are missing", records[0][0])
        node = self._reader.kept(KEPT_LEVELS, block)
        if node is None:
            raise Damaged("the tree lacks it", first_of(block))
        self._grow(self._tree.append_subtree(node), first_of(block))
        self._prev = None

    def _over_thinned(self, records: list[tuple[int, bytes]], leaves: list[bytes]) -> None:
        """Check the records that are left of a block, each by its leaf hash."""
        left = dict(records)
        headers = []
        for seq, leaf in enumerate(leaves, start=self._tree.size + 1):
            record = left.get(seq)
            if record is not None:
                try:
                    header = self._record(seq, record)
                except Damaged as damage:
                    raise Damaged(damage.what, damage.seq or seq) from damage
                if codec.hash_of(record) != leaf:
                    raise Damaged("the record is not the one whose hash was kept", seq)
                headers.append((header, record))
                self._note_good(header, record)
            self._prev = leaf
            self._grow(self._tree.append(leaf), seq)
        self._look_up(headers, thinned=True)

    def _record(self, seq: int, record: bytes) -> codec.Header:
        """Check one record by itself, its link to the one before it and its place in its stream."""
        codec.check(record)
        header = codec.header_of(record)
        if header.seq != seq:
            raise Damaged(f"the record says that it is {header.seq}", seq)
        if self._prev is not None and header.prev_hash != self._prev:
            raise Damaged("the record does not cite the one before it", seq)
        known = self.versions.get(header.stream)
        if known is None:
            before = header.version - 1 if not self.whole or self.trimmed else 0
        else:
            before = header.version - 1 if known < header.version and self._may_skip(header) else known
        if header.version != before + 1:
            raise Damaged(f"{header.stream!r} goes from version {before} to {header.version}", seq)
        return header

    def _may_skip(self, header: codec.Header) -> bool:
        """Say whether records of this stream can have been trimmed between two that are left."""
        return self._seqs_of_skipping.get(header.stream, self.trimmed) <= self.trimmed and trim.skips(header.stream)

    def _note_good(self, header: codec.Header, record: bytes) -> None:
        report = self._report
        self.versions[header.stream] = header.version
        if trim.skips(header.stream):
            self._seqs_of_skipping[header.stream] = header.seq
        report.records += 1
        report.last_good_seq = header.seq
        report.last_good_hash = self._prev = record[-32:]
        report.last_epoch = header.epoch

    def _grow(self, nodes: Iterable[Node], seq: int) -> None:
        for node in nodes:
            if self._reader.kept(node.level, node.index) != node.hash:
                raise Damaged("the tree has another hash for the records before it", seq)

    def _look_up(self, headers: list[tuple[codec.Header, bytes]], *, thinned: bool = False) -> None:
        """Compare what was found with the indexes."""
        places = [(header.stream, header.version) for header, _ in headers]
        for (header, _), indexed in zip(headers, self._reader.index(places), strict=True):
            if indexed != header.seq:
                raise Damaged(f"the index of streams says {indexed} for it", header.seq)
        if self.indexes is not None:
            self.indexes.check(headers, thinned=thinned)
