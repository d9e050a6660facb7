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
        self._turn = trio.Lock()
        self._send, self._queue = trio.open_memory_channel[Event](QUEUE_MAX)
        self.dropped = 0

    async def append(self, event: Event, context: Context = DAEMON, documents: tuple[bytes, ...] = ()) -> Envelope:
        """Make *event* durable and return it in its envelope."""
        async with self._turn:
            with trio.CancelScope(shield=True):  # a commit takes milliseconds, and the version must stay known
                envelopes = await self._journal.append(NODE, self._version, (event,), context, documents)
            self._version += 1
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
