"""One life of the daemon on a world: where it can be interrupted, what fails, and when it is killed."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from ocid.errors import EffectFailed, Unavailable
from ocid.journal.memory import Crash
from tests.fakes.world import World

CLEANUP_S = 0.3  # what a cancelled effect takes to be gone
MAY_CRASH = ("sandbox.", "network.", "runtime.", "streams.")  # whose bugs are an actor's, with a budget
HANG_S = 130.0  # after which every adapter gives up by itself


class Killed(BaseException):
    """The daemon was killed; nothing of it runs on. No ``except Exception`` stops this."""


@dataclass
class Moment:
    """When to kill the daemon: before or after the commit of that number, or at a step of an effect."""

    kind: str  # "before commit", "after commit" or "step"
    number: int  # from 1, over all lives
    reboot: bool = False  # whether the machine loses power, too
    again: int = 0  # of the next life: it dies, too, before its commit of that number


@dataclass
class Faults:
    """What fails. Scripted faults come first, by operation; then dice, if *rate* is not 0."""

    dice: random.Random = field(default_factory=lambda: random.Random(0))
    rate: float = 0.0
    latency_s: tuple[float, ...] = (0.01,)
    scripted: dict[str, deque[str]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)

    def script(self, operation: str, *modes: str) -> None:
        """Let the next calls of *operation* fail so: "fail", "unavailable", "late", "slow", "hang", "bug" or "ok"."""
        self.scripted.setdefault(operation, deque()).extend(modes)

    def mode(self, operation: str) -> str:
        """Say how this call goes."""
        waiting = self.scripted.get(operation)
        if waiting:
            mode = waiting.popleft()
        elif self.rate and self.dice.random() < self.rate:
            mode = self.dice.choice(("fail", "unavailable", "late", "slow", "slow", "hang", "bug"))
            if mode == "bug" and not operation.startswith(MAY_CRASH):
                mode = "fail"
        else:
            return "ok"
        self.seen.append(f"{operation}: {mode}")
        return mode

    def latency(self) -> float:
        """Say how long one step takes."""
        return self.latency_s[0] if len(self.latency_s) == 1 else self.dice.choice(self.latency_s)


class Life:
    """One run of the daemon. All its ports go through here, so that nothing happens after its death."""

    def __init__(
        self, world: World, faults: Faults, moment: Moment | None, steps: list[str], *, again: int = 0
    ) -> None:
        """*steps* gathers the names of all steps over all lives; *again* is the commit of this life to die before."""
        self._commits = 0
        self._again = again
        self.world = world
        self.faults = faults
        self.dead = False
        self.scope = trio.CancelScope()
        self.over = trio.Event()
        self.callers: set[trio.CancelScope] = set()
        self._moment = moment
        self._steps = steps
        self._names = 0
        self._busy: dict[str, str] = {}  # aggregate → the operation on it

    def kill(self) -> None:
        """SIGKILL."""
        self.dead = True
        self.scope.cancel()
        for caller in self.callers:
            caller.cancel()

    def before_commit(self, number: int) -> None:
        self._commits += 1
        if self._due("before commit", number) or self._commits == self._again:
            self.kill()
        if self.dead:
            raise Crash

    def after_commit(self, number: int) -> None:
        if self._due("after commit", number):
            self.kill()
            raise Crash

    def new_name(self) -> int:
        """Return a name for an operation that may run beside others of its kind."""
        self._names += 1
        return self._names

    def alive(self) -> None:
        """Nothing is done by the dead."""
        if self.dead:
            raise Killed

    async def step(self, what: str) -> None:
        """A place where an effect can be interrupted, and where time passes."""
        self.alive()
        self._steps.append(what)
        if self._due("step", len(self._steps)):
            self.kill()
            raise Killed
        await trio.sleep(self.faults.latency())
        self.alive()

    @asynccontextmanager
    async def effect(self, operation: str, owner: str, *, idempotent: bool = True) -> AsyncIterator[None]:
        """One operation on one aggregate: no other one may run beside it, and cancelled it goes away slowly.

        One that is not *idempotent* never fails after it is done.
        """
        self.alive()
        if owner in self._busy:
            self.world.violate(f"{operation} of {owner} begins while {self._busy[owner]} is not over")
        self._busy[owner] = operation
        mode = self.faults.mode(operation)
        if mode == "late" and not idempotent:
            mode = "unavailable"
        try:
            await self.step(f"{operation} begins")
            if mode == "slow":
                await trio.sleep(20.0)
            elif mode == "hang":
                await trio.sleep(HANG_S)
                raise Unavailable(f"{operation}: no answer in {HANG_S:g} s")
            elif mode == "fail":
                raise EffectFailed(f"{operation}: injected failure")
            elif mode == "unavailable":
                raise Unavailable(f"{operation}: injected, try again")
            elif mode == "bug":
                raise ValueError(f"{operation}: injected bug")
            self.alive()
            yield
            await self.step(f"{operation} ends")
            if mode == "late":
                raise Unavailable(f"{operation}: done, but the answer was lost")
        except trio.Cancelled:
            if not self.dead:
                with trio.CancelScope(shield=True):
                    await trio.sleep(CLEANUP_S)
            raise
        finally:
            if self._busy.get(owner) == operation:
                del self._busy[owner]

    def _due(self, kind: str, number: int) -> bool:
        return self._moment is not None and (kind, number) == (self._moment.kind, self._moment.number)
