"""The writer of the node's own stream: the daemon's lives, its peers, crashes of actors, refusals."""

from __future__ import annotations

import trio

from ocid.events.base import Event
from ocid.events.envelope import DAEMON, Context, Envelope
from ocid.events.node import NODE
from ocid.ports import Journal

QUEUE_MAX = 256  # events nobody waits for; more is a storm, and the rest of it is dropped and counted


class Recorder:
    """Appends to the node's stream, one after the other."""

    def __init__(self, journal: Journal, version: int) -> None:
        """*version* is the stream's last one."""
        self._journal = journal
        self._version = version
        self._unsure = False  # whether an append was cut short, so that the version may be another one
        self._turn = trio.Lock()
        self._send, self._queue = trio.open_memory_channel[Event](QUEUE_MAX)
        self.dropped = 0

    async def append(self, event: Event, context: Context = DAEMON, documents: tuple[bytes, ...] = ()) -> Envelope:
        """Make *event* durable and return it in its envelope."""
        async with self._turn:
            if self._unsure:
                await self._journal.drained()
                self._version = max((one.version for one in self._journal.read_stream(NODE)), default=0)
            self._unsure = True  # not shielded: a log that failed never answers, and a caller may be cancelled
            envelopes = await self._journal.append(NODE, self._version, (event,), context, documents)
            self._version, self._unsure = envelopes[0].version, False
            return envelopes[0]

    def record(self, event: Event) -> None:
        """Have *event* appended soon, without waiting."""
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            self.dropped += 1

    async def run(self) -> None:
        """Append what is recorded, until cancelled."""
        async for event in self._queue:
            await self.append(event)
