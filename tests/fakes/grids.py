"""State machines as tables: one row for each phase, one column for each command, every cell decided by a person.

A cell is ``.`` (nothing new), ``!`` (refused with ``WrongState``), or one letter for each event that comes of it.
A cell that is not there is a ``KeyError``: nobody decided it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ocid.errors import WrongState


class Grid:
    """An expected table, parsed."""

    def __init__(self, table: str, letters: Mapping[str, str]) -> None:
        """*letters* says which event each letter stands for, by class name."""
        lines = [line.split() for line in table.strip().splitlines()]
        self.commands = lines[0][1:]
        self.phases = [line[0] for line in lines[1:]]
        self._letters = {name: letter for letter, name in letters.items()}
        assert len(self._letters) == len(letters), "two letters for one event"
        self._cells = {
            (line[0], command): cell
            for line in lines[1:]
            for command, cell in zip(self.commands, line[1:], strict=True)
        }

    def expected(self, phase: str, command: str) -> str:
        """Return the cell."""
        return self._cells[phase, command]

    def outcome(self, decide: Callable[[Any, Any], tuple[Any, ...]], state: Any, command: Any) -> str:
        """Return what *decide* really says, spelled as a cell."""
        try:
            facts = decide(state, command)
        except WrongState:
            return "!"
        return "".join(self._letters[type(fact).__name__] for fact in facts) or "."
