"""Sending checkpoints off the node: to each witness by a task of its own, again until it confirms.

Nobody waits for a witness: not the sealer, and the stop of the daemon for a few seconds only. What a witness has
confirmed is not in the log; after a start it is sent the checkpoint of the start, which covers all that came before.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import trio

from ocid.domain import witness as domain
from ocid.errors import OcidError
from ocid.events.base import Event
from ocid.events.log import WitnessFailing, WitnessRecovered
from ocid.ports import Clock, Witness

ATTEMPT_S: Final = 15.0  # for one witness to confirm one checkpoint
BACKOFF_S: Final = 1.0  # upper bound of the first pause; it doubles up to the next line
BACKOFF_MAX_S: Final = 60.0
QUEUE_MAX: Final = 256  # checkpoints that wait for a witness which is sent all of them: about four hours
FAILING_S: Final = 600.0  # of failure, after which the log is told
LAST_S: Final = 3.0  # for all witnesses together, as the daemon stops
_ERROR_CHARS_MAX: Final = 300

log = logging.getLogger("ocid.witness")


class Standing(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Where one witness is, as Status shows it. In memory: it begins anew with each start."""

    name: str
    kind: str
    confirmed_size: int = 0  # records that the newest confirmed checkpoint covers; 0 for none since the start
    confirmed_ns: int = 0  # wall clock
    waiting: int = 0  # checkpoints that are not confirmed
    passed_over: int = 0  # checkpoints that were never sent because a newer one took their place
    failures: int = 0  # attempts in a row that failed
    failing_s: int = 0
    error: str = ""  # of the last attempt, if it failed


class Line:
    """One witness, and what is still to be sent to it."""

    def __init__(
        self, witness: Witness, clock: Clock, tell: Callable[[Event], None], jitter: Callable[[], float]
    ) -> None:
        self.witness = witness
        self._clock = clock
        self._tell = tell
        self._jitter = jitter
        self._queue: deque[tuple[int, str]] = deque()  # size and note
        self._some = trio.Event()
        self._failing_since: float | None = None
        self._told = False  # the log knows that it fails
        self._standing = Standing(name=witness.name, kind=witness.kind)

    def put(self, size: int, note: str) -> None:
        """Have a checkpoint sent. Older ones give way to it where the witness needs only the newest."""
        limit = QUEUE_MAX if self.witness.keeps_all else 1
        while len(self._queue) >= limit:
            self._queue.popleft()
            self._note(passed_over=self._standing.passed_over + 1)
        self._queue.append((size, note))
        self._some.set()

    async def run(self) -> None:
        """Send, one after the other, until cancelled."""
        while True:
            await self._some.wait()
            self._some = trio.Event()
            while self._queue:
                if not await self._attempt(self._queue[0]):
                    await trio.sleep(self._pause())

    async def finish(self) -> None:
        """Try once more: the newest first, for it covers all others; the first failure is the end."""
        while self._queue and await self._attempt(self._queue[-1]):
            pass

    def standing(self) -> Standing:
        """Return where it is now."""
        since = self._failing_since
        failing_s = 0 if since is None else int(trio.current_time() - since)
        return msgspec.structs.replace(self._standing, waiting=len(self._queue), failing_s=failing_s)

    async def _attempt(self, checkpoint: tuple[int, str]) -> bool:
        size, note = checkpoint
        try:
            with trio.fail_after(ATTEMPT_S):
                await self.witness.keep(note)
        except trio.TooSlowError:
            self._failed(f"does not confirm within {ATTEMPT_S:g} s")
        except OcidError as error:
            self._failed(error.message)
        except Exception as bug:  # no witness may end the daemon; what the bug says may be anything, so it is not told
            self._failed(f"a fault of ocid itself: {type(bug).__name__}")
        else:
            if checkpoint in self._queue:  # it may have given way meanwhile
                self._queue.remove(checkpoint)
            self._confirmed(size)
            return True
        return False

    def _confirmed(self, size: int) -> None:
        if self._told:
            log.info("witness %s keeps checkpoints again", self.witness.name)
            self._tell(WitnessRecovered(sink=self.witness.name, confirmed_size=size))
        self._failing_since, self._told = None, False
        largest = max(size, self._standing.confirmed_size)
        self._note(confirmed_size=largest, confirmed_ns=self._clock.wall_ns(), failures=0, error="")

    def _failed(self, error: str) -> None:
        said = "".join(char if char.isprintable() else "?" for char in error[:_ERROR_CHARS_MAX])
        self._note(failures=self._standing.failures + 1, error=said)
        now = trio.current_time()
        if self._failing_since is None:
            self._failing_since = now
            log.warning("witness %s: %s; trying again", self.witness.name, said)
        elif not self._told and now - self._failing_since >= FAILING_S:
            self._told = True
            since = self._standing.confirmed_size
            log.error("witness %s has kept no checkpoint for %d s: %s", self.witness.name, FAILING_S, said)
            self._tell(WitnessFailing(sink=self.witness.name, error=said, unconfirmed_since_size=since))

    def _pause(self) -> float:
        """Full jitter: anything up to a bound that doubles with each failure."""
        doublings = min(self._standing.failures - 1, 10)
        return self._jitter() * min(BACKOFF_MAX_S, BACKOFF_S * (1 << doublings))

    def _note(self, **changes: object) -> None:
        self._standing = msgspec.structs.replace(self._standing, **changes)


class Witnessing:
    """All witnesses of this node."""

    def __init__(
        self,
        witnesses: Sequence[Witness],
        clock: Clock,
        tell: Callable[[Event], None],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """*tell* has an event recorded soon, without waiting; *jitter* returns a number from 0 to 1."""
        self._lines = [Line(witness, clock, tell, jitter) for witness in witnesses]

    def publish(self, note: str) -> None:
        """Have a checkpoint sent to every witness. Does not wait; see ``ocid.actors.sealing.Sealer.published``."""
        if self._lines:
            size = domain.size_of(note)
            for line in self._lines:
                line.put(size, note)

    async def run(self) -> None:
        """Send until cancelled."""
        async with trio.open_nursery() as nursery:
            for line in self._lines:
                nursery.start_soon(line.run)

    async def finish(self) -> None:
        """Try once more what is not confirmed, as the daemon stops, for at most ``LAST_S`` seconds."""
        with trio.move_on_after(LAST_S):
            async with trio.open_nursery() as nursery:
                for line in self._lines:
                    nursery.start_soon(line.finish)
        for standing in self.standings():
            if standing.waiting:
                log.warning("witness %s: %d checkpoints not confirmed", standing.name, standing.waiting)

    def standings(self) -> list[Standing]:
        """Return where each witness is."""
        return [line.standing() for line in self._lines]
