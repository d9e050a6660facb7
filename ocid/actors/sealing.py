"""Signing for the log: its Merkle tree's head, every minute or 4,096 events, and at start and stop.

Who can write to the node's disk can write another log; a checkpoint that left the node before shows it. So every
checkpoint is handed on as soon as it is durable here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from ocid.domain import note
from ocid.domain.confidential import Beside, Erasure
from ocid.domain.note import Checkpoint, Key
from ocid.events.base import Event
from ocid.events.envelope import DAEMON, Envelope
from ocid.events.log import LOG, Erased, Founded, KeyReplaced, KeyRotated, Sealed
from ocid.ids import digest_of
from ocid.ports import Signer, Signers, TreeJournal
from ocid.projections.sealing import Sealing

PERIOD_S: Final = 60.0
EVENTS_MAX: Final = 4096  # unsigned records; more are signed for at once

Publish = Callable[[str], None]


class Sealer:
    """The only writer of the log's own stream."""

    def __init__(self, journal: TreeJournal, state: Sealing, signers: Signers, *, origin: str) -> None:
        """Go on from *state*, which follows the log.

        Args:
            origin: the name of the log, if it has none yet.
        """
        self._journal = journal
        self._state = state
        self._signers = signers
        self._origin = origin
        self._turn = trio.Lock()
        self._many = trio.Event()
        self.published: list[Publish] = []  # told of each checkpoint; they must not wait

    def apply(self, envelope: Envelope) -> None:
        """Count: subscribe this to the journal."""
        if envelope.seq - self._state.size >= EVENTS_MAX:
            self._many.set()

    async def begin(self) -> None:
        """Found the log, or see that its key is still the one; then sign for what the last life left unsigned."""
        if not self._state.origin:
            key = Key(self._origin, self._signers.current().public)
            await self._append(Founded(origin=self._origin, key=key.text()))
        successor = self._signers.successor()
        if successor is not None and self._key(successor).text() == self._state.key:
            self._signers.advance()  # the last life died between the log and the files
        if (key := self._key(self._signers.current())).text() != self._state.key:
            reason = "its file was missing, or another one, when the daemon started"
            await self._append(KeyReplaced(key=key.text(), reason=reason))
        await self.seal("start")

    async def run(self) -> None:
        """Sign until cancelled."""
        while True:
            occasion = "time"
            with trio.move_on_after(PERIOD_S):
                await self._many.wait()
                occasion = "events"
            self._many = trio.Event()
            await self._rotate()
            if self._journal.last_seq > self._state.size + 1:  # else nothing happened but the last checkpoint itself
                await self.seal(occasion)

    async def seal(self, occasion: str) -> None:
        """Sign for all that is durable now, record it, and hand the checkpoint on.

        Args:
            occasion: see ``ocid.events.log.Sealed``.
        """
        async with self._turn:
            await self._journal.drained()  # an append that a cancelled call left behind counts, too
            head = self._journal.head()
            text = Checkpoint(self._state.origin, head.size, head.root()).text()
            written = self._signed(self._signers.current(), text)
            document = written.encode()
            sealed = Sealed(size=head.size, root=head.root().hex(), note=digest_of(document), occasion=occasion)
            await self._append(sealed, document)
        for publish in self.published:
            publish(written)

    async def _rotate(self) -> None:
        """Let a key that waits for its turn have it."""
        successor = self._signers.successor()
        if successor is None:
            return
        async with self._turn:
            await self._journal.drained()
            text = self._key(successor).text()
            document = self._signed(self._signers.current(), f"{text}\n").encode()
            await self._append(KeyRotated(key=text, note=digest_of(document)), document)
            self._signers.advance()
        await self.seal("rotation")

    def _key(self, signer: Signer) -> Key:
        return Key(self._state.origin, signer.public)

    def _signed(self, signer: Signer, text: str) -> str:
        return note.signed(text, [(self._key(signer), signer.sign(text.encode()))])

    async def erase(self, event: Erased) -> None:
        """Make *event* durable and erase what it says, in one commit."""
        async with self._turn:
            await self._journal.drained()
            await self._append(event, Erasure(event.pod_id))

    async def record(self, event: Event, *documents: bytes) -> None:
        """Make *event*, a fact about the log itself, durable."""
        async with self._turn:
            await self._journal.drained()
            await self._append(event, *documents)

    @property
    def size(self) -> int:
        """How many records are signed for."""
        return self._state.size

    async def _append(self, event: Event, *documents: Beside) -> None:
        await self._journal.append(LOG, self._state.version, (event,), DAEMON, documents)
