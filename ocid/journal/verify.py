"""Proving that a log is what was written: every hash, the chain, the sequence, the streams and their index.

What this cannot show is that the whole log was rewritten by somebody who recomputed everything: that takes a
checkpoint kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from ocid.domain.merkle import Frontier
from ocid.events import codec
from ocid.events.codec import Damaged
from ocid.ids import StreamId
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
    if from_seq == 1:
        report.last_good_hash = reader.genesis()
    versions: dict[StreamId, int] = {}
    tree = Frontier() if from_seq == 1 else None
    indexes = IndexCheck(reader) if from_seq == 1 else None
    try:
        while chunk := reader.records(report.last_good_seq + 1, PROGRESS_RECORDS):
            _check_chunk(reader, chunk, report, versions, tree, indexes)
            if progress is not None:
                progress(report)
        if report.last_good_seq < last_seq:
            raise Damaged("the record is missing", report.last_good_seq + 1)
        if indexes is not None:
            indexes.finish(report.last_good_seq)
        if from_seq == 1 and (entries := reader.index_entries()) < report.records:
            raise Damaged(f"the index of streams has {entries} entries for {report.records} records")
        if documents:
            report.documents = reader.check_documents()
    except Damaged as damage:
        report.fault = Fault(damage.seq, damage.what)
    report.streams = len(versions)
    return report


def _check_chunk(
    reader: Reader,
    chunk: list[tuple[int, bytes]],
    report: Report,
    versions: dict[StreamId, int],
    tree: Frontier | None,
    indexes: IndexCheck | None,
) -> None:
    """Check consecutive records, counting the good ones in *report*; raise ``Damaged`` at the first bad one.

    *tree* and *indexes* grow with them; None says that they are not the first ones.
    """
    whole = tree is not None
    wanted_seq = report.last_good_seq + 1
    places = []
    headers = []
    try:
        for seq, record in chunk:
            if seq != wanted_seq:
                raise Damaged("the record is missing", wanted_seq)
            codec.check(record)
            header = codec.header_of(record)
            if header.seq != seq:
                raise Damaged(f"the record says that it is {header.seq}", seq)
            if header.prev_hash != report.last_good_hash and (whole or seq != report.first_seq):
                raise Damaged("the record does not cite the one before it", seq)
            known = versions.get(header.stream, 0 if whole else header.version - 1)
            if header.version != known + 1:
                raise Damaged(f"{header.stream!r} goes from version {known} to {header.version}", seq)
            versions[header.stream] = header.version
            places.append((header.stream, header.version))
            headers.append((header, record))
            report.records += 1
            report.last_good_seq = seq
            report.last_good_hash = record[-32:]
            report.last_epoch = header.epoch
            wanted_seq += 1
            for node in () if tree is None else tree.append(report.last_good_hash):
                if reader.kept(node.level, node.index) != node.hash:
                    raise Damaged("the tree has another hash for the records before it", seq)
    except Damaged as damage:
        raise Damaged(damage.what, damage.seq or wanted_seq) from damage
    for (seq, _), indexed in zip(chunk, reader.index(places), strict=True):
        if indexed != seq:
            raise Damaged(f"the index of streams says {indexed} for it", seq)
    if indexes is not None:
        indexes.check(headers)
