"""What all events share: a name for ever, a version, and a place in the registry.

An event is a fact in the past tense. Its ``TYPE`` is never reused, a field never changes its type, a new field has
a default, and a default never changes: old logs must decode to what they meant. Any change to the fields needs a
higher ``VERSION`` and an upcaster in ``ocid.events.upcast``; a fingerprint test holds us to it.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One fact of one stream. Payload only; the envelope around it says when, where in the log, and who asked."""

    TYPE: ClassVar[str] = ""
    VERSION: ClassVar[int] = 1


REGISTRY: dict[str, type[Event]] = {}


def event(kind: type[Event]) -> None:
    """Enter *kind* in the registry under its ``TYPE``."""
    assert kind.TYPE, f"{kind.__name__} has no TYPE"
    assert kind.TYPE not in REGISTRY, f"event type {kind.TYPE!r} is taken"
    REGISTRY[kind.TYPE] = kind


def enter(*kinds: type[Event]) -> None:
    """Enter several kinds of event in the registry; each module of events calls this once, at its end."""
    for kind in kinds:
        event(kind)


class Opaque(Event, frozen=True, kw_only=True):
    """An event of a type or version that this build does not know, kept as it is."""

    TYPE: ClassVar[str] = ""
    type: str
    type_version: int
    payload: bytes  # msgpack, as stored
