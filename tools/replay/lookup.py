"""Single records and whole streams of a log, for answers that follow one record to another."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from ocid.events.envelope import Envelope
from ocid.ids import StreamId
from ocid.journal.reader import Reader

RECORDS_KEPT: Final = 4096
STREAMS_KEPT: Final = 64


class Lookup(Protocol):
    """What an answer may ask of the log beside the records that it is given."""

    def record(self, seq: int) -> Envelope | None:
        """Return the record *seq*; None where it is not there."""

    def stream(self, stream: str) -> Sequence[Envelope]:
        """Return all events of *stream*, in order."""

    def first(self, stream: str) -> Envelope | None:
        """Return the first event of *stream*, which says what it is; None where it is not there."""


class Stored:
    """A log on disk. What was read last is kept, so a log that grows meanwhile looks as it did at first."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.record = functools.lru_cache(maxsize=RECORDS_KEPT)(self._record)
        self.stream = functools.lru_cache(maxsize=STREAMS_KEPT)(self._stream)
        self.first = functools.lru_cache(maxsize=RECORDS_KEPT)(self._first)

    def _record(self, seq: int) -> Envelope | None:
        found = self._reader.read(seq, 1) if seq > 0 else []
        return found[0] if found and found[0].seq == seq else None

    def _stream(self, stream: str) -> Sequence[Envelope]:
        return self._reader.read_stream(StreamId(stream))

    def _first(self, stream: str) -> Envelope | None:
        seq = self._reader.index([(StreamId(stream), 1)])[0]
        if seq is None:  # there is none, or it was trimmed: then the first that is left
            seq = next(iter(self._reader.seqs(StreamId(stream))), 0)
        return self._record(seq)


class Listed:
    """Records in memory."""

    def __init__(self, envelopes: Iterable[Envelope]) -> None:
        self._by_seq = {each.seq: each for each in envelopes}

    def record(self, seq: int) -> Envelope | None:
        """Return the record *seq*; None where it is not there."""
        return self._by_seq.get(seq)

    def stream(self, stream: str) -> Sequence[Envelope]:
        """Return all events of *stream*, in order."""
        return [each for each in self._by_seq.values() if each.stream == stream]

    def first(self, stream: str) -> Envelope | None:
        """Return the first event of *stream*; None where it is not there."""
        return next((each for each in self._by_seq.values() if each.stream == stream), None)
