"""Going through a log in batches, with the place reached after each: what an export that may end at any time goes by.

Every batch is one short transaction that ends before anything of it is written out, so however slowly an export is
taken, it keeps no page of the log from being used again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from ocid.errors import EffectFailed
from ocid.events import codec
from ocid.events.codec import Damaged
from ocid.events.envelope import Envelope
from ocid.journal.looking import POLL_S, peers
from ocid.journal.reader import Reader
from ocid.projections.selection import Selection, Selector

from . import partial
from .cursor import trimmed

BATCH_RECORDS: Final = 2048


class Batch(msgspec.Struct, frozen=True, gc=False):
    """Some records in order, and where the log goes on after them."""

    wanted: list[Envelope]
    next_seq: int
    last_hash: bytes  # of the record before it
    caught_up: bool  # nothing more was there


class Scan:
    """One selection over one log, from some place on."""

    def __init__(self, reader: Reader, selection: Selection, from_seq: int = 0) -> None:
        """*from_seq* is what a cursor says: from there on no record may be missing; 0 takes what the log has left."""
        first = from_seq or (reader.seq_at(selection.since_ns) if selection.since_ns else 0)
        selection = msgspec.structs.replace(selection, from_seq=max(selection.from_seq, first))
        if not from_seq:
            partial.note(reader, selection)
        self._reader = reader
        self._selection = selection
        self._selector = Selector(selection, peers(reader))
        self._all_from = from_seq or reader.trimmed()[0] + 1  # of those before it, some may have been trimmed
        self._file = reader.directory / "data.mdb"
        self._stat = _stat(self._file)

    def batches(self, *, follow: bool) -> Iterator[Batch]:
        """Yield the records that are wanted, batch by batch; where none of a batch was, one without any.

        Args:
            follow: wait for more at the end, for ever.
        Raises:
            Damaged: a record is not what was written, or missing.
            Misfit: records left the log before they could be exported.
            EffectFailed: the log's file was replaced by another one.
        """
        seq, last = self._selector.first_seq, self._selection.to_seq
        while not last or seq <= last:
            limit = min(BATCH_RECORDS, last - seq + 1) if last else BATCH_RECORDS
            chunk = self._chunk(seq, limit)
            if not chunk and not follow:
                return
            if not chunk:
                self._check_file()
                time.sleep(POLL_S)
                continue
            wanted = [each for each in map(self._decode, chunk) if self._selector.admits(each)]
            seq = chunk[-1][0] + 1
            if seq > self._selection.from_seq:  # what is before it only tells what belongs to whom
                yield Batch(wanted, seq, codec.hash_of(chunk[-1][1]), len(chunk) < limit)

    def _chunk(self, seq: int, limit: int) -> list[tuple[int, bytes]]:
        chunk = self._reader.records(seq, limit)
        for found, _ in chunk:
            if found > seq and found > self._all_from:
                self._miss(max(seq, self._all_from), found)
            seq = found + 1
        return chunk

    def _miss(self, wanted: int, found: int) -> NoReturn:
        """Say why *found* comes instead of *wanted*: what was between them was trimmed, or it is damage."""
        through = self._reader.trimmed()[0]
        if found <= through + 1:
            raise trimmed(wanted, through + 1)
        raise Damaged("the record is missing", max(wanted, through + 1))

    @staticmethod
    def _decode(stored: tuple[int, bytes]) -> Envelope:
        seq, record = stored
        try:
            envelope = codec.decode(record)
        except Damaged as damage:
            raise Damaged(damage.what, seq) from damage
        if envelope.seq != seq:
            raise Damaged(f"the record says that it is {envelope.seq}", seq)
        return envelope

    def _check_file(self) -> None:
        """See that the file at the log's place is still the one that is open: a damaged log is set aside."""
        now = _stat(self._file)
        same = now is not None and self._stat is not None and os.path.samestat(now, self._stat)
        if not same:
            raise EffectFailed(
                f"the log in {str(self._reader.directory)!r} was replaced by another one while it was followed: "
                "begin again, and its cursor will say whether it goes on"
            )


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
