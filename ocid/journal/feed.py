"""Following the log: from any seq, first out of the store, then as events are committed.

The feed keeps the newest envelopes in one ring for all followers. A follower that is near the end reads from the ring;
one that is not, because it began early or is slow, reads from the store in chunks until it has caught up. So a slow
follower costs nothing, loses nothing, and never holds up the writer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import trio

from ocid.events.envelope import Envelope

RING: Final = 1024  # envelopes kept in memory, about a kilobyte each
CHUNK: Final = 512  # envelopes taken from the store at once

ReadChunk = Callable[[int, int], Awaitable[list[Envelope]]]


class Feed:
    """Hands out committed envelopes in order of seq. Belongs to the Trio thread."""

    def __init__(self, read: ReadChunk, last_seq: int, *, ring: int = RING) -> None:
        """Begin after *last_seq*. *read* returns up to so many envelopes from a seq on, from the store."""
        self._read = read
        self._ring: deque[Envelope] = deque(maxlen=ring)
        self._last_seq = last_seq
        self._news = trio.lowlevel.ParkingLot()

    @property
    def last_seq(self) -> int:
        """The newest committed and applied seq; 0 for an empty log."""
        return self._last_seq

    def publish(self, envelopes: Iterable[Envelope]) -> None:
        """Take what was committed, next in order."""
        self._ring.extend(envelopes)
        if self._ring:
            self._last_seq = self._ring[-1].seq
        self._news.unpark_all()

    def follow(self, from_seq: int) -> Follower:
        """Return an endless iterator over the log from *from_seq* on; it starts at the first ``async for``."""
        return Follower(self, max(from_seq, 1))

    async def wait_beyond(self, seq: int) -> None:
        """Return once something after *seq* is committed and applied."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._last_seq <= seq:
            await self._news.park()

    async def chunk(self, from_seq: int) -> Iterable[Envelope]:
        """Return the next envelopes from *from_seq* on, at least one; waits when there is none yet."""
        await self.wait_beyond(from_seq - 1)
        if self._ring and self._ring[0].seq <= from_seq:
            skip = from_seq - self._ring[0].seq  # seqs are contiguous
            return [self._ring[at] for at in range(skip, min(skip + CHUNK, len(self._ring)))]
        # What is committed but not yet applied is not handed out: followers may look at projections.
        return [envelope for envelope in await self._read(from_seq, CHUNK) if envelope.seq <= self._last_seq]


class Follower:
    """One reader of the feed, for one task."""

    def __init__(self, feed: Feed, from_seq: int) -> None:
        self._feed = feed
        self._ready: deque[Envelope] = deque()
        self.next_seq = from_seq  # a cursor to keep for the next time

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> Envelope:
        """Return the next envelope. Being cancelled here loses nothing."""
        if self._ready:
            await trio.lowlevel.checkpoint()
        else:
            self._ready.extend(await self._feed.chunk(self.next_seq))
        envelope = self._ready.popleft()
        assert envelope.seq == self.next_seq, f"the feed skipped from {self.next_seq} to {envelope.seq}"
        self.next_seq += 1
        return envelope
