"""Read old events as if they had been written today: one pure step from each version of a type to the next.

A step takes the stored fields of version N as a plain mapping and returns those of version N + 1. Stored bytes are
never rewritten; the steps run each time an old event is read. A step, once released, is never changed or removed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Fields = dict[str, Any]

STEPS: dict[tuple[str, int], Callable[[Fields], Fields]] = {}  # (type, version N): from N to N + 1


def upcast(kind: str, stored: int, wanted: int, fields: Fields) -> Fields:
    """Return the *fields* of an event of type *kind*, stored in version *stored*, as version *wanted* has them.

    A missing step is a bug (``AssertionError``); ``tests/events`` checks that every chain is whole.
    """
    for version in range(stored, wanted):
        step = STEPS.get((kind, version))
        assert step is not None, f"no step from version {version} of event type {kind!r}: add it to ocid.events.upcast"
        fields = step(fields)
    return fields
