"""A projection of one aggregate: the states of all its streams that are not over, folded from the log."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

import msgspec

from ocid.events.envelope import Envelope

State = TypeVar("State")


class Evolver(Protocol):
    """What a fold needs of a module of ``ocid.domain``."""

    INITIAL: Any

    def evolve(self, state: Any, event: Any) -> Any: ...
    def is_over(self, state: Any) -> bool: ...


class Row(msgspec.Struct, Generic[State], frozen=True):
    """One stream as of its last event. A change makes a new row, so a row's identity is the key of what is cached."""

    state: State
    version: int  # of the stream
    seq: int  # of its last event in the log


class Fold(Generic[State]):
    """All streams of one aggregate that are not over, by name (the stream's id without its aggregate)."""

    def __init__(self, evolver: Evolver) -> None:
        self._evolver = evolver
        self.rows: dict[str, Row[State]] = {}

    def apply(self, name: str, envelope: Envelope) -> None:
        """Fold one event of the stream *name* in."""
        before = self.rows.get(name)
        state: State = self._evolver.evolve(self._evolver.INITIAL if before is None else before.state, envelope.event)
        if self._evolver.is_over(state):
            after = None
            self.rows.pop(name, None)
        else:
            after = self.rows[name] = Row(state, envelope.version, envelope.seq)
        self.changed(name, before, after)

    def changed(self, name: str, before: Row[State] | None, after: Row[State] | None) -> None:
        """Keep indexes; None stands for a stream that has not begun, or is over."""

    def load(self, rows: dict[str, Row[State]]) -> None:
        """Take the rows of a snapshot."""
        for name, row in rows.items():
            self.rows[name] = row
            self.changed(name, None, row)

    def find(self, name: str) -> Row[State] | None:
        """Return the row of *name*, which may be cut short as long as only one begins so."""
        row = self.rows.get(name)
        if row is not None or not name:
            return row
        found = [row for full, row in self.rows.items() if full.startswith(name)]
        return found[0] if len(found) == 1 else None
