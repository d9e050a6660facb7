"""The register of what events say in words; ``ocid.projections.words`` and its companions fill it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from ocid.events.base import Event

Kind = TypeVar("Kind", bound=Event)
WORDS: Final[dict[type[Event], Callable[[Any], str]]] = {}


def says(kind: type[Kind]) -> Callable[[Callable[[Kind], str]], Callable[[Kind], str]]:
    """Enter the decorated function as what events of *kind* say."""

    def enter(say: Callable[[Kind], str]) -> Callable[[Kind], str]:
        WORDS[kind] = say
        return say

    return enter


def always(kind: type[Event], text: str) -> None:
    """Enter *text* as what all events of *kind* say."""
    WORDS[kind] = lambda _: text
