"""Proving that a log is what was written: every hash, the chain, the sequence, the streams and their index.

What this cannot show is that the whole log was rewritten by somebody who recomputed everything: that takes a
checkpoint kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from ocid.domain.merkle import KEPT_LEVELS, Frontier, Node
from ocid.events import codec
from ocid.events.codec import Damaged
from ocid.ids import StreamId
from ocid.journal import blocks, parts, trim
from ocid.journal.blocks import BLOCK, block_of, first_of
from ocid.journal.parts import Fault, Part, check_part
from ocid.journal.reader import Reader

PROGRESS_RECORDS: Final = 1024
ATTEMPTS: Final = 4  # of a log that is being trimmed
_TREE: Final = "the tree has another hash for the records before it"


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
Checked = Callable[[Iterable[tuple[int, int]]], Iterator[Part]]  # checks parts, and yields them in their order


def verify(
    reader: Reader,
    *,
    from_seq: int = 1,
    documents: bool = True,
    progress: Progress | None = None,
    checked: Checked | None = None,
    part_records: int = PROGRESS_RECORDS,
) -> Report:
    """Check all records from *from_seq* on, and the documents if asked to, and report the first fault.

    Works on a log that is being written: what is committed during the check is no part of it. Of one that is trimmed
    meanwhile, what was read is of several moments: only what is found twice is a fault. Beginning at another record
    than the first, its link to the one before it, and where its stream stood, are taken on trust.

    Args:
        reader: the log.
        from_seq: where to begin.
        documents: also recompute the digest of every document.
        progress: called after every part that is good.
        checked: has parts checked by somebody else, who must call ``parts.check_part``; only from record 1 on.
        part_records: how many records a part has, a multiple of ``BLOCK``.
    """
    before: Fault | None = None
    for _ in range(ATTEMPTS):
        commits = reader.commits()
        report = _verify(reader, from_seq, documents, progress, checked, part_records)
        fault = report.fault
        if fault is None or fault == before or fault.seq > reader.trimmed()[0] or reader.commits() == commits:
            return report
        before = fault
    report.fault, report.incomplete = None, "it was trimmed again and again while it was checked: try again later"
    return report


def _verify(
    reader: Reader,
    from_seq: int,
    documents: bool,
    progress: Progress | None,
    checked: Checked | None,
    part_records: int,
) -> Report:
    last_seq = reader.last_seq()
    report = Report(first_seq=from_seq, last_good_seq=from_seq - 1)
    whole = from_seq == 1
    walk = _Walk(reader, report, whole=whole)
    try:
        if walk.trimmed:
            walk.over_trimmed(progress)
        wanted = parts.bounds(report.last_good_seq + 1, last_seq, part_records)
        check = checked or (lambda each: (check_part(reader, *one, since=0 if whole else from_seq) for one in each))
        for part in check(wanted):
            walk.over(part)
            if progress is not None:
                progress(report)
        if whole:
            walk.finish()
        if documents:
            report.documents = reader.check_documents()
    except Damaged as damage:
        report.fault = Fault(damage.seq, damage.what)
    report.streams += len(walk.versions)
    return report


class _Walk:
    """Goes over a log part by part, and knows what the next one must go on with."""

    def __init__(self, reader: Reader, report: Report, *, whole: bool) -> None:
        """Begin at ``report.first_seq``."""
        self.whole = whole
        self.trimmed, self._trimmed_hash = reader.trimmed() if whole else (0, b"")
        self.versions: dict[StreamId, int] = {}  # of what trimming left
        self._reader = reader
        self._report = report
        self._tree = Frontier()
        self._names = 0
        self._blocks = 0
        self._foreign = False
        self._prev = reader.genesis() if whole else b""  # hash of the record before; b"" where it is not known
        self._epoch: int | None = 0 if self._prev == codec.NO_HASH else None  # of that one; None where not known
        report.last_good_hash = self._prev or codec.NO_HASH

    def over(self, part: Part) -> None:
        """Take the next part in, counting its good records in the report; raise ``Damaged`` at the first bad one."""
        fault = self._first_fault(part)
        if fault is not None and fault.seq <= part.last_seq:  # what is good goes no further
            since = 0 if self.whole else self._report.first_seq
            good = check_part(self._reader, part.first_seq, fault.seq - 1, since=since)
            if good.fault is None:
                part = good
        self._note_good(part)
        if fault is not None:
            raise Damaged(fault.what, fault.seq)

    def _first_fault(self, part: Part) -> Fault | None:
        """Return the first fault of a part, and of its going on from those before it."""
        faults = [] if part.fault is None else [part.fault]
        if part.last_seq < part.first_seq:
            return part.fault
        if self._prev and part.cites != self._prev:
            faults.append(Fault(part.first_seq, "the record does not cite the one before it"))
        if not self._follows(part.first_epoch):
            faults.append(Fault(part.first_seq, f"the epoch goes from {self._report.last_epoch} to {part.first_epoch}"))
        if self.whole and part.fault is None:
            faults += self._grown(part)
        return min(faults, key=lambda each: each.seq, default=None)

    def _follows(self, epoch: int) -> bool:
        """Say whether a record of this epoch can be the next: each life that wrote anything has the next number."""
        if self._epoch is None:
            return epoch >= self._report.last_epoch
        return epoch - self._epoch in ((0, 1) if self._epoch else (1,))

    def _grown(self, part: Part) -> Iterator[Fault]:
        """Let the tree grow by a part, and yield where the log has other hashes of it."""
        for block, node in enumerate(part.nodes, start=block_of(part.first_seq)):
            if not self._has(self._tree.append_subtree(node)):
                yield Fault(first_of(block + 1) - 1, _TREE)
        for leaf in part.leaves:
            self._tree.append(leaf)

    def _note_good(self, part: Part) -> None:
        if part.last_seq < part.first_seq:
            return
        report = self._report
        report.records += part.last_seq - part.first_seq + 1
        report.last_good_seq = part.last_seq
        report.last_good_hash = self._prev = part.last_hash
        report.last_epoch = self._epoch = part.last_epoch
        report.streams += part.streams
        self._names += part.names
        self._blocks += len(part.nodes)
        self._foreign = self._foreign or part.foreign

    def finish(self) -> None:
        """See that nothing is in the indexes that the records do not say, if none came since.

        Raises:
            Damaged: something is.
        """
        report = self._report
        last, found, found_blocks = self._reader.index_sizes()
        if last == report.last_good_seq:
            if found < self._names or (found > self._names and not self._foreign):
                raise Damaged(f"the index of names has {found} entries, and the records say {self._names}")
            if found_blocks != self._blocks:
                raise Damaged(f"{found_blocks} blocks have a summary, and {self._blocks} are complete")
        entries = self._reader.index_entries()
        if entries < report.records or (entries > report.records and last == report.last_good_seq):
            raise Damaged(f"the index of streams has {entries} entries for {report.records} records")

    # --- what trimming left ---

    def over_trimmed(self, progress: Progress | None) -> None:
        """Check what is left of the records up to where the log is trimmed, and that it is all that should be left."""
        owed = trim.kept(self._reader, self.trimmed)
        self._epoch = None
        for block in range(block_of(self.trimmed) + 1):
            first = first_of(block)
            records = [each for each in self._reader.records(first, BLOCK) if each[0] < first + BLOCK]
            leaves = self._reader.leaves(block)
            if leaves is None and len(records) == BLOCK:
                leaves = [codec.hash_of(record) for _, record in records]
            if leaves is None:
                self._over_empty(block, records)
            else:
                self._over_thinned(records, leaves)
            if missing := [seq for seq in owed if first <= seq < first + BLOCK and seq not in dict(records)]:
                raise Damaged("the record is missing, and it was not trimmed", missing[0])
            self._report.last_good_seq = first + BLOCK - 1
            if progress is not None:
                progress(self._report)
        if self._prev not in (b"", self._trimmed_hash):
            raise Damaged("the log says another hash for the last record that was trimmed", self.trimmed)
        self._prev = self._report.last_good_hash = self._trimmed_hash

    def _over_empty(self, block: int, records: list[tuple[int, bytes]]) -> None:
        if records:
            raise Damaged("the hashes of the records beside it are missing", records[0][0])
        node = self._reader.kept(KEPT_LEVELS, block)
        if node is None:
            raise Damaged("the tree lacks it", first_of(block))
        self._grow(self._tree.append_subtree(node), first_of(block))
        self._prev, self._epoch = b"", None

    def _over_thinned(self, records: list[tuple[int, bytes]], leaves: list[bytes]) -> None:
        """Check the records that are left of a block, each by its leaf hash."""
        left = dict(records)
        found: list[tuple[codec.Header, bytes]] = []
        for seq, leaf in enumerate(leaves, start=self._tree.size + 1):
            if (record := left.get(seq)) is not None:
                try:
                    found.append((self._thin(seq, record, leaf), record))
                except Damaged as damage:
                    raise Damaged(damage.what, damage.seq or seq) from damage
            self._prev = leaf
            self._grow(self._tree.append(leaf), seq)
        self._epoch = None
        headers = [header for header, _ in found]
        parts.look_up(self._reader, headers)
        names, foreign = parts.check_names(self._reader, found)
        self._names, self._foreign = self._names + names, self._foreign or foreign
        self._check_summary(headers)

    def _thin(self, seq: int, record: bytes, leaf: bytes) -> codec.Header:
        """Check one of the records that are left of a block."""
        report = self._report
        header = codec.checked(record)
        stream, version = header.stream, header.version
        if header.seq != seq:
            raise Damaged(f"the record says that it is {header.seq}", seq)
        if self._prev and header.prev_hash != self._prev:
            raise Damaged("the record does not cite the one before it", seq)
        before = self.versions.get(stream)
        if before is not None and version != before + 1 and not (before < version and trim.skips(stream)):
            raise Damaged(f"{stream!r} goes from version {before} to {version}", seq)
        if header.epoch < report.last_epoch:
            raise Damaged(f"the epoch goes from {report.last_epoch} to {header.epoch}", seq)
        if codec.hash_of(record) != leaf:
            raise Damaged("the record is not the one whose hash was kept", seq)
        self.versions[stream] = version
        report.records += 1
        report.last_good_seq, report.last_good_hash, report.last_epoch = seq, leaf, header.epoch
        return header

    def _check_summary(self, headers: list[codec.Header]) -> None:
        """See that the summary of a block that was whole once still covers what is left of it."""
        self._blocks += 1
        block = block_of(headers[0].seq) if headers else -1
        stored = self._reader.summaries_at([block])[0]
        if stored is None:
            raise Damaged(f"block {block} has no summary", headers[0].seq if headers else 0)
        summary = blocks.decode(stored)
        for header in headers:
            if not summary.covers(header.type, header.who, header.wall_ns):
                raise Damaged("the summary of its block says something else", header.seq)

    def _grow(self, nodes: Iterable[Node], seq: int) -> None:
        if not self._has(nodes):
            raise Damaged(_TREE, seq)

    def _has(self, nodes: Iterable[Node]) -> bool:
        return all(self._reader.kept(node.level, node.index) == node.hash for node in nodes)
