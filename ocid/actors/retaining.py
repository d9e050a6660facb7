"""Keeping the log within bounds: what is old or too much is archived, and then trimmed, beside everybody's appends.

First a process beside the daemon finds out what must stay and writes the archive. Then the log says what is archived
and what stays, and only then records go, a few in each transaction. A trimming that a death cut short goes on at the
next start: the log says what it was to be.
"""

from __future__ import annotations

import logging
from typing import Final

import msgspec
import trio

from ocid.actors.sealing import Sealer
from ocid.domain.retention import decode_kept, encode_kept
from ocid.errors import OcidError
from ocid.events.codec import Damaged
from ocid.events.log import LOG, Archived, ArchiveRemoved, Trimmed
from ocid.ids import digest_of
from ocid.ports import Clock, Journal
from ocid.ports.retention import Plan, Planner, TrimJournal

log = logging.getLogger(__name__)

PERIOD_S: Final = 60.0
STEP_S: Final = 0.01  # between two transactions
LOW: Final = 0.8  # of the limit: how far a log that is too large is trimmed
DAY_NS: Final = 86_400 * 10**9


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the log; 0 for none."""

    max_bytes: int  # of what it takes on disk
    max_age_days: int
    archives_max_bytes: int  # of all archives together; the oldest go


class Retainer:
    """Trims the log."""

    def __init__(
        self, journal: Journal, trimming: TrimJournal, sealer: Sealer, planner: Planner, limits: Bounds, clock: Clock
    ) -> None:
        self._journal = journal
        self._trimming = trimming
        self._sealer = sealer
        self._planner = planner
        self._limits = limits
        self._clock = clock

    async def run(self) -> None:
        """Look now and then, until cancelled. A trimming that fails is tried again later; nothing waits for it."""
        work = self._go_on
        while True:
            try:
                await work()
            except (OcidError, Damaged) as error:
                log.error("the log was not trimmed: %s", error)
            work = self.look
            await trio.sleep(PERIOD_S)

    async def look(self) -> None:
        """Trim if it is time to.

        Raises:
            OcidError: it could not be planned or archived; nothing was trimmed.
        """
        through, reason = await self._due()
        if not through:
            return
        await self._trimming.watch_documents(watch=True)
        try:
            plan = await self._planner.plan(through)
            await self._trim(plan, reason)
            await self._trimming.drop(plan.documents, plan.pods)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await self._trimming.watch_documents(watch=False)
        await self._bound_archives()

    async def _due(self) -> tuple[int, str]:
        """Return up to where the log should be trimmed now, 0 for nowhere, and why."""
        used, trimmed = await self._trimming.used()
        before_ns = self._clock.wall_ns() - self._limits.max_age_days * DAY_NS if self._limits.max_age_days else 0
        count = 0
        if self._limits.max_bytes and used > self._limits.max_bytes:
            blocks = max(self._sealer.size - trimmed, 0) // 256
            count = -int(-blocks * (1 - LOW * self._limits.max_bytes / used) // 1)
        through = await self._trimming.last_block(before_ns, count)
        through = min(through, self._sealer.size - self._sealer.size % 256)
        return (through, "size" if count else "age") if through > trimmed else (0, "")

    async def _trim(self, plan: Plan, reason: str) -> None:
        if plan.archive is not None:
            done = plan.archive
            archived = Archived(first=done.first, last=done.last, file=done.path, bytes=done.bytes, digest=done.digest)
            await self._sealer.record(archived)
        document = encode_kept(plan.kept)
        trimmed = Trimmed(through=plan.through, kept=digest_of(document), left=len(plan.kept), reason=reason)
        await self._sealer.record(trimmed, document)
        await self._remove(plan.through, frozenset(plan.kept))

    async def _go_on(self) -> None:
        """Finish what the last life began."""
        said = [each.event for each in self._journal.read_stream(LOG) if isinstance(each.event, Trimmed)]
        if said:
            await self._remove(said[-1].through, decode_kept(self._journal.document(said[-1].kept)))

    async def _remove(self, through: int, kept: frozenset[int]) -> None:
        steps = self._trimming.steps(through, kept)
        while await self._trimming.step(steps):  # noqa: ASYNC110 (others have their turn in between)
            await trio.sleep(STEP_S)

    async def _bound_archives(self) -> None:
        archives = list(await self._planner.archives())
        total = sum(each.bytes for each in archives)
        while self._limits.archives_max_bytes and total > self._limits.archives_max_bytes and len(archives) > 1:
            oldest = archives.pop(0)
            why = f"all of them have {total} bytes, and may have {self._limits.archives_max_bytes}"
            gone = ArchiveRemoved(file=oldest.path, first=oldest.first, last=oldest.last, reason=why)
            await self._sealer.record(gone)
            await self._planner.remove(oldest)
            total -= oldest.bytes
