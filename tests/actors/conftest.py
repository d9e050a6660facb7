"""A lamp's actor and what it runs on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from ocid.actors.actor import Note
from tests.fakes import toy
from tests.fakes.toy import Ledger


class Dimmer:
    """Performs the lamp's effect, slowly, and as strict as a kernel: two hands never turn it at once."""

    def __init__(self) -> None:
        self.turns: list[tuple[int, str]] = []  # (level, "begins" | "ends" | "cancelled")
        self.hands = 0
        self.takes_s = 1.0
        self.cleanup_s = 0.5
        self.note: Callable[[toy.Dim], Note] = lambda effect: Note(toy.NoteReached(effect.to))
        self.bugs = 0  # how many of the next turns crash

    async def perform(self, effect: Any, state: Any) -> Note:
        self.hands += 1
        assert self.hands == 1, "two effects of one aggregate at a time"
        self.turns.append((effect.to, "begins"))
        try:
            await trio.sleep(self.takes_s)
            if self.bugs:
                self.bugs -= 1
                raise ValueError("injected bug")
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.sleep(self.cleanup_s)
            self.turns.append((effect.to, "cancelled"))
            raise
        finally:
            self.hands -= 1
        self.turns.append((effect.to, "ends"))
        return self.note(effect)


@pytest.fixture
def dimmer() -> Dimmer:
    return Dimmer()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()
