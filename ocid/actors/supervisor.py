"""Supervision: an actor that crashes is rebuilt from its stream; one that keeps crashing is given up alone."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import trio

from ocid.actors.actor import Actor
from ocid.errors import Unavailable
from ocid.events import node
from ocid.events.base import Event
from ocid.ports import Journal

log = logging.getLogger(__name__)

CRASHES_MAX = 5  # within the window; one more and the actor is given up
WINDOW_S = 30.0
BACKOFF_S = 0.1  # before the first restart; doubled with each crash in the window
ERROR_CHARS_MAX = 500


class Supervisor:
    """Runs actors in a nursery of its own. A crash never leaves its actor, and never touches what the actor made."""

    def __init__(self, journal: Journal, nursery: trio.Nursery, record: Callable[[Event], object]) -> None:
        """*record* puts an event on the node's own stream, without waiting for it."""
        self._journal = journal
        self._nursery = nursery
        self._record = record

    def start(self, actor: Actor[Any], forget: Callable[[], None], given_up: Callable[[str], None]) -> None:
        """Run *actor* until it is over, when *forget* is called, or until *given_up* is, with the reason."""
        self._nursery.start_soon(self._supervise, actor, forget, given_up)

    async def _supervise(self, actor: Actor[Any], forget: Callable[[], None], given_up: Callable[[str], None]) -> None:
        crashes: deque[float] = deque()
        while True:
            try:
                if crashes:
                    await actor.rebuild()
                if crashes and not actor.version:  # nothing came of what it was made for, and nobody waits for more
                    actor.end()
                else:
                    await actor.run()
            except Exception as crash:  # the supervisor is the one place that takes all; Cancelled is not among them
                error = describe(crash)
                log.exception("actor %s crashed", actor.stream, exc_info=crash)
                actor.fail_current(Unavailable(f"{actor.stream} crashed: {error}"))
                now = trio.current_time()
                crashes.append(now)
                while crashes[0] < now - WINDOW_S:
                    crashes.popleft()
                if len(crashes) > CRASHES_MAX:
                    given_up(await self._give_up(actor, error))
                    return
                self._record(node.ActorCrashed(stream=actor.stream, error=error, crashes=len(crashes)))
                await trio.sleep(BACKOFF_S * 2 ** (len(crashes) - 1))
            else:
                forget()
                return

    async def _give_up(self, actor: Actor[Any], error: str) -> str:
        reason = f"its actor crashed more than {CRASHES_MAX} times in {WINDOW_S:g} s, last with: {error}"
        self._record(node.ActorGaveUp(stream=actor.stream, error=error))
        await actor.rebuild()
        await actor.give_up(reason)
        return reason


def describe(crash: BaseException) -> str:
    """Return the innermost cause of *crash* in one line, bounded."""
    while isinstance(crash, BaseExceptionGroup) and crash.exceptions:
        crash = crash.exceptions[0]
    return f"{type(crash).__name__}: {crash}"[:ERROR_CHARS_MAX]
