"""The limits of a living container: the changes asked for, applied one after the other, and what is in force.

Each change is transactional: it is applied as a whole, or refused with the limits as they were. Changes that wait are
applied in the order they were asked for, so the last one wins wherever two name the same limit. After a crash the
first that waits is applied once more, which is the same as once.

Limits are documents: the log cites them by digest, for a set of processors or of cgroup v2 files may be long.

Source: CRI UpdateContainerResources, LinuxContainerResources.
"""

from __future__ import annotations

from typing import Final, assert_never

import msgspec

from ocid.domain.configs import LinuxResources
from ocid.errors import Exhausted, OcidError, WrongState, revive
from ocid.events import container as events
from ocid.ids import Digest

WAITING_MAX: Final = 8  # changes asked for and not settled, of one container
SETTLED_MAX: Final = 16  # outcomes kept for those who wait for them
BRIEF_CHARS_MAX: Final = 300

UpdateEvent = events.UpdateRequested | events.UpdateAdjusted | events.Updated | events.UpdateRefused


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one change."""

    update_id: str
    error: str = ""  # class name from ocid.errors; "" when it was applied
    message: str = ""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a container remembers of its limits."""

    in_force: Digest | None = None  # document: LinuxResources as JSON; None: those it was declared with
    wanted: tuple[events.UpdateRequested, ...] = ()  # in the order asked; the first one is due
    settled: tuple[Settled, ...] = ()  # the newest last

    def outcome(self, update_id: str) -> Settled | None:
        """Return what became of a change, None while it waits, or when that was long ago."""
        return next((one for one in self.settled if one.update_id == update_id), None)

    def knows(self, update_id: str) -> bool:
        """Say whether this change was asked for before."""
        return self.outcome(update_id) is not None or any(one.update_id == update_id for one in self.wanted)


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """CRI UpdateContainerResources, or what plugins want."""

    update_id: str
    change: Digest  # document: LinuxResources as JSON; what is zero stays as it is
    brief: str = ""
    plugins: tuple[str, ...] = ()  # who wants it; none where the kubelet does


class NoteUpdated(msgspec.Struct, frozen=True, kw_only=True):
    """The change is in force."""

    update_id: str
    limits: Digest  # document: LinuxResources as JSON, all that is in force now
    adjusted: tuple[events.UpdateAdjusted, ...] = ()  # one, where plugins changed the change


class NoteUpdateRefused(msgspec.Struct, frozen=True, kw_only=True):
    """The change could not be applied; the limits are as they were before it."""

    update_id: str
    error: str
    message: str
    adjusted: tuple[events.UpdateAdjusted, ...] = ()  # one, where plugins changed the change


Command = Update | NoteUpdated | NoteUpdateRefused


class ApplyUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """Put a change into force: all of it, or none."""

    update_id: str
    change: Digest
    in_force: Digest | None  # what it changes; None: the limits that the container was made with
    plugins: tuple[str, ...] = ()  # who wants it; they are not asked what they think of it


def decide(limits: Limits, command: Command, container_id: str, closed: str) -> tuple[UpdateEvent, ...]:
    """Say which facts *command* makes. *closed* says what keeps the container from taking a change, "" if nothing.

    Raises:
        WrongState: it takes none.
        Exhausted: too many wait.
    """
    match command:
        case Update(update_id=update_id, change=change, brief=brief, plugins=plugins):
            if limits.knows(update_id):
                return ()
            if closed:
                raise WrongState("container", container_id, wants="created or running", is_now=closed)
            if len(limits.wanted) >= WAITING_MAX:
                message = f"container {container_id!r} has {WAITING_MAX} changes of its limits waiting already"
                raise Exhausted(f"{message}; try again when they are applied")
            return (events.UpdateRequested(update_id=update_id, change=change, brief=brief, plugins=plugins),)
        case NoteUpdated(update_id=update_id, limits=in_force, adjusted=adjusted):
            updated = events.Updated(update_id=update_id, limits=in_force)
            return (*adjusted, updated) if _is_due(limits, update_id) else ()
        case NoteUpdateRefused(update_id=update_id, error=error, message=message, adjusted=adjusted):
            refused = events.UpdateRefused(update_id=update_id, error=error, message=message)
            return (*adjusted, refused) if _is_due(limits, update_id) else ()
        case _:
            assert_never(command)


def _is_due(limits: Limits, update_id: str) -> bool:
    return bool(limits.wanted) and limits.wanted[0].update_id == update_id


def evolve(limits: Limits, event: UpdateEvent) -> Limits:
    """Return *limits* after *event*. Total."""
    match event:
        case events.UpdateRequested():
            return msgspec.structs.replace(limits, wanted=(*limits.wanted, event))
        case events.UpdateAdjusted():
            return limits
        case events.Updated(update_id=update_id, limits=in_force):
            return _after(limits, Settled(update_id=update_id), in_force)
        case events.UpdateRefused(update_id=update_id, error=error, message=message):
            return _after(limits, Settled(update_id=update_id, error=error, message=message), limits.in_force)
        case _:
            assert_never(event)


def _after(limits: Limits, settled: Settled, in_force: Digest | None) -> Limits:
    return Limits(
        in_force=in_force,
        wanted=tuple(one for one in limits.wanted if one.update_id != settled.update_id),
        settled=(*limits.settled, settled)[-SETTLED_MAX:],
    )


def plan(limits: Limits) -> ApplyUpdate | None:
    """Return the change that is due."""
    if not limits.wanted:
        return None
    first = limits.wanted[0]
    return ApplyUpdate(update_id=first.update_id, change=first.change, in_force=limits.in_force, plugins=first.plugins)


def settled(limits: Limits, update_id: str) -> bool:
    """Say whether it is known what became of a change."""
    return limits.outcome(update_id) is not None


def refusal(limits: Limits, update_id: str, container_id: str, is_now: str) -> OcidError | None:
    """Return why a change is not in force, None when it is. *is_now* says what ended the wait for its outcome."""
    outcome = limits.outcome(update_id)
    if outcome is None:
        return WrongState("container", container_id, wants="created or running", is_now=is_now)
    if outcome.error:
        return revive(outcome.error, f"limits of container {container_id!r}: {outcome.message}")
    return None


def brief(resources: LinuxResources) -> str:
    """Write limits as one line: ``cpu_quota=50000 memory_limit_in_bytes=268435456``; what is not set is left out."""
    fields = msgspec.to_builtins(resources)  # defaults are left out of it
    text = " ".join(f"{name}={_value(value)}" for name, value in fields.items())
    return text if len(text) <= BRIEF_CHARS_MAX else text[: BRIEF_CHARS_MAX - 1] + "…"


def _value(value: object) -> str:
    match value:
        case dict():
            return ",".join(f"{key}:{inner}" for key, inner in value.items())
        case list() | tuple():
            return ",".join(_value(list(inner.values())) if isinstance(inner, dict) else str(inner) for inner in value)
        case _:
            return str(value)
