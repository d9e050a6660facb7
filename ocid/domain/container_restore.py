"""What is different about a container that goes on from a checkpoint. Part of ``ocid.domain.container``.

Its processes run as soon as the runtime has made them, so nothing is owed between the preparation and the start::

    declared ─ Prepare ─ prepared ─ (at rest) ─ start wanted ─ Restore ─ created and started ─ Watch
    stop wanted before the start ─ Forgo ─ exited ─ Release

A restore is never repeated: what ran for a moment has changed files and told peers what its memory will not know.
"""

from __future__ import annotations

import msgspec

from ocid.events import container as events

UNSTARTED_CODE = 137  # exit code of what was stopped before it ran: that of any other container killed before its start


class NoteRestored(msgspec.Struct, frozen=True, kw_only=True):
    """The runtime has brought its processes back, and they run."""

    pid: int
    start_ticks: int
    at_ns: int


class RestoreEffect(msgspec.Struct, frozen=True, kw_only=True, tag="Restore"):
    """Have monitor and runtime bring the processes back."""


class Forgo(msgspec.Struct, frozen=True, kw_only=True):
    """End what was stopped before anything of it ran."""

    failures: int


Effect = RestoreEffect | Forgo


def decide(
    note: NoteRestored, created: events.Created | None, started_at_ns: int
) -> tuple[events.Created | events.Started, ...]:
    """Say which facts *note* makes: both at once, for there is no moment between them."""
    made = () if created is not None else (events.Created(pid=note.pid, start_ticks=note.start_ticks),)
    return made if started_at_ns else (*made, events.Started(at_ns=note.at_ns))


def plan(start_wanted: bool, stop: events.StopRequested | None, failures: int) -> Effect | None:
    """Return what a prepared container without processes owes.

    A stop does not cut a restore short: what is half made is finished, then killed, and nothing is left unnamed.
    """
    if start_wanted:
        return RestoreEffect()
    return Forgo(failures=failures) if stop is not None else None
