"""Checking a part of a log by itself: whole parts can be checked beside each other, by as many processes as there are.

What lies before a part is not looked at: what its first record cites, and the epoch it goes on with, are told, for
``ocid.journal.verify`` to compare with the part before. Where its streams go on is asked of the index of streams, which
has what the records say and nothing else, or else that is found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from ocid.domain import merkle
from ocid.events import codec, kin
from ocid.events.codec import Damaged, Header
from ocid.ids import StreamId
from ocid.journal import blocks, indexing, trim
from ocid.journal.blocks import BLOCK, Summary, block_of
from ocid.journal.environment import U64, place_key
from ocid.journal.reader import Reader

CHUNK_RECORDS: Final = 1024  # looked up in the indexes at once


class Fault(msgspec.Struct, frozen=True):
    """The first thing found wrong."""

    seq: int  # of the record at fault; 0 when it is none in particular
    what: str


class Part(msgspec.Struct):
    """What consecutive records say, as far as they are good."""

    first_seq: int
    last_seq: int  # of the last good record; one less than ``first_seq`` when there is none
    cites: bytes = b""  # what the first record cites
    last_hash: bytes = b""
    first_epoch: int = 0
    last_epoch: int = 0
    streams: int = 0  # that begin in it
    nodes: list[bytes] = msgspec.field(default_factory=list)  # of the Merkle tree, one for each complete block
    leaves: list[bytes] = msgspec.field(default_factory=list)  # hashes of the records after these
    names: int = 0  # entries in the index of names and children
    foreign: bool = False  # whether a record is of a type that this build does not know, so may have entries there
    fault: Fault | None = None


def bounds(first_seq: int, last_seq: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield first and last record of the parts of *size*, a multiple of ``BLOCK``, that these records fall into.

    All but the first one begin with a block.
    """
    assert not size % BLOCK, f"a part of {size} records"
    while first_seq <= last_seq:
        end = min(last_seq, ((first_seq - 1) // size + 1) * size)
        yield first_seq, end
        first_seq = end + 1


def check_part(reader: Reader, first_seq: int, last_seq: int, *, since: int = 0) -> Part:
    """Check records *first_seq* to *last_seq*, and return what they say up to the first fault.

    Args:
        reader: the log.
        first_seq: where to begin: where a block begins, but for a check *since* some record.
        last_seq: a record of the log.
        since: check these records only in themselves, and take what is before that record on trust. 0: also hash blocks
            for the Merkle tree, and make the index of names and the blocks' summaries anew.
    """
    part = Part(first_seq, first_seq - 1)
    block: list[Header] = []  # that is not complete yet
    versions: dict[StreamId, int] = {}
    try:
        while part.last_seq < last_seq:
            rows = reader.records(part.last_seq + 1, min(CHUNK_RECORDS, last_seq - part.last_seq))
            if not rows:
                raise Damaged("the record is missing", part.last_seq + 1)
            headers: list[Header] = []
            begun: list[Header] = []
            try:
                _take(part, rows, headers, begun, versions)
            finally:
                part.streams += _check_begun(reader, begun, since)
            look_up(reader, headers)
            if not since:
                records = [(header, record) for header, (_, record) in zip(headers, rows, strict=True)]
                found, foreign = check_names(reader, records)
                part.names, part.foreign = part.names + found, part.foreign or foreign
                block = _check_blocks(reader, part, block + headers)
    except Damaged as damage:
        part.fault = Fault(damage.seq or part.last_seq + 1, damage.what)
    return part


def _take(
    part: Part,
    rows: Sequence[tuple[int, bytes]],
    headers: list[Header],
    begun: list[Header],
    versions: dict[StreamId, int],
) -> None:
    """Check what can be seen from the records alone.

    Args:
        part: goes on by the good ones.
        rows: seqs and records.
        headers: gets those of the good ones.
        begun: gets those of streams that the part has nothing of yet.
        versions: of the streams that it has.
    """
    checked, leaves, wanted = codec.checked, part.leaves, part.last_seq + 1
    prev, epoch = part.last_hash, part.last_epoch
    try:
        for seq, record in rows:
            if seq != wanted:
                raise Damaged("the record is missing", wanted)
            header = checked(record)
            if header.seq != seq:
                raise Damaged(f"the record says that it is {header.seq}", seq)
            if not prev:
                part.cites, part.first_epoch, epoch = header.prev_hash, header.epoch, header.epoch
            elif header.prev_hash != prev:
                raise Damaged("the record does not cite the one before it", seq)
            if header.epoch != epoch:
                if header.epoch != epoch + 1:
                    raise Damaged(f"the epoch goes from {epoch} to {header.epoch}", seq)
                epoch = header.epoch
            stream, version = header.stream, header.version
            before = versions.get(stream)
            if before is None:
                begun.append(header)
            elif version != before + 1:
                raise Damaged(f"{stream!r} goes from version {before} to {version}", seq)
            versions[stream] = version
            prev = record[-32:]
            leaves.append(prev)
            headers.append(header)
            wanted += 1
    finally:
        if headers:
            part.last_seq, part.last_hash, part.last_epoch = headers[-1].seq, prev, epoch


def _check_begun(reader: Reader, begun: Sequence[Header], since: int) -> int:
    """See that streams go on where they stood before, and return how many begin here.

    Of what is before *since*, and of what was trimmed, there may be nothing.
    """
    going_on = [header for header in begun if header.version != 1]
    count = len(begun) - len(going_on)
    if not going_on:
        return count
    unknown = since - 1 if since else reader.trimmed()[0]  # up to there
    before = reader.index([(header.stream, header.version - 1) for header in going_on])
    for header, found in zip(going_on, before, strict=True):
        if found is not None and found < header.seq:
            count += found < since
            continue
        version, seq = reader.version_before(header.stream, header.version, header.seq)
        if seq > unknown or not unknown or (seq and not since and not trim.skips(header.stream)):
            raise Damaged(f"{header.stream!r} goes from version {version} to {header.version}", header.seq)
        count += bool(since) or not seq
    return count


def look_up(reader: Reader, headers: Sequence[Header]) -> None:
    """Compare records with the index of streams."""
    found = reader.values(b"st", [place_key(one.stream, one.version) for one in headers])
    wanted = [U64.pack(one.seq) for one in headers]
    if found != wanted:
        seq, at = next((one.seq, at) for one, at, own in zip(headers, found, wanted, strict=True) if at != own)
        said = None if at is None else int.from_bytes(at, "big")
        raise Damaged(f"the index of streams says {said} for it", seq)


def check_names(reader: Reader, records: Sequence[tuple[Header, bytes]]) -> tuple[int, bool]:
    """Make the index of names and children anew, and compare.

    Returns:
        how many entries the records have there, and whether one is of a type that this build does not know.
    """
    wanted: list[tuple[int, bytes, bytes]] = []
    foreign = False
    for header, record in records:
        if header.type in kin.TYPES:
            event = codec.event_of(header, record)
            wanted += ((header.seq, *entry) for entry in indexing.entries(event, header.stream, header.seq))
        elif not foreign and not codec.is_known(header.type):
            foreign = True
    stored = reader.entries_at([key for _, key, _ in wanted])
    for (seq, _, value), has in zip(wanted, stored, strict=True):
        if has != value:
            raise Damaged("the index of names does not have what it says", seq)
    return len(wanted), foreign


def _check_blocks(reader: Reader, part: Part, headers: list[Header]) -> list[Header]:
    """Hash complete blocks and compare their summaries; return the headers of the one that is not complete."""
    done = len(headers) - len(headers) % BLOCK
    if not done:
        return headers
    summaries = []
    for at in range(0, done, BLOCK):
        some = headers[at : at + BLOCK]
        walls = [header.wall_ns for header in some]
        types, whos = {header.type for header in some}, {header.who for header in some}
        summaries.append((block_of(some[0].seq), Summary(min(walls), max(walls), types, whos).encode()))
        part.nodes.append(merkle.subtree_of(part.leaves[at : at + BLOCK]))
    del part.leaves[:done]
    stored = reader.summaries_at([block for block, _ in summaries])
    for (block, value), has in zip(summaries, stored, strict=True):
        if has != value:
            raise Damaged("the summary of its block says something else", blocks.first_of(block))
    return headers[done:]
