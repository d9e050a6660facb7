"""A layer in the store, by its chain id: wanted, made, ready, discarded.

The life of a layer, as ``plan`` walks it::

    wanted ─ Make ─ ready
    remove wanted ─ Discard ─ removed
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from ocid.errors import WrongState
from ocid.events import layer as events
from ocid.events.layer import LayerEvent


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """All that a layer remembers. The initial state is not wanted."""

    wanted: events.Wanted | None = None
    ready: events.Ready | None = None
    failed: events.Failed | None = None
    lost: bool = False
    remove_wanted: bool = False
    removed: bool = False
    failures: int = 0  # of discarding, in a row

    @property
    def is_ready(self) -> bool:
        """Whether root file systems can be made of it."""
        return self.ready is not None and not self.remove_wanted and not self.lost

    @property
    def phase(self) -> str:
        """One word for messages and tables."""
        for name, holds in (
            ("unwanted", self.wanted is None),
            ("removed", self.removed),
            ("removing", self.remove_wanted),
            ("failed", self.failed is not None),
            ("lost", self.lost),
            ("ready", self.ready is not None),
        ):
            if holds:
                return name
        return "making"


INITIAL = Layer()

# --- commands --------------------------------------------------------------------------------------------------------


class Want(msgspec.Struct, frozen=True, kw_only=True):
    """Have the layer that *wanted* describes."""

    wanted: events.Wanted


class NoteReady(msgspec.Struct, frozen=True, kw_only=True):
    """It is verified, unpacked and durable."""

    size_bytes: int
    inodes: int


class NoteFailed(msgspec.Struct, frozen=True, kw_only=True):
    """Making or discarding it failed in a way that the port foresees."""

    error: str
    message: str


class NoteLost(msgspec.Struct, frozen=True, kw_only=True):
    """The store does not have it."""

    reason: str


class Remove(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing refers to it any more."""


class NoteRemoved(msgspec.Struct, frozen=True, kw_only=True):
    """Its directory is gone."""


Command = Want | NoteReady | NoteFailed | NoteLost | Remove | NoteRemoved

# --- effects ---------------------------------------------------------------------------------------------------------


class Make(msgspec.Struct, frozen=True, kw_only=True):
    """Fetch, verify and unpack it."""

    by: str  # the pull in whose name it is fetched


class Discard(msgspec.Struct, frozen=True, kw_only=True):
    """Remove its directory."""

    failures: int


Effect = Make | Discard

# --- the three functions ---------------------------------------------------------------------------------------------


def decide(state: Layer, command: Command) -> tuple[LayerEvent, ...]:
    """Say which facts *command* makes of *state*. ``()`` means that it is so already, or under way.

    A layer that is being removed is not wanted again before it is gone; the caller waits and asks anew.
    """
    match command:
        case Want(wanted=wanted):
            again = state.failed is not None or state.lost or state.removed
            return (wanted,) if state.wanted is None or again else ()
        case _ if state.wanted is None:
            raise WrongState("layer", "", wants="wanted", is_now=state.phase)
        case _ if state.removed:
            return ()
        case NoteReady(size_bytes=size_bytes, inodes=inodes):
            made = state.ready is not None or state.failed is not None or state.remove_wanted
            return () if made else (events.Ready(size_bytes=size_bytes, inodes=inodes),)
        case NoteFailed(error=error, message=message):
            rests = not state.remove_wanted and (state.ready is not None or is_over(state))
            return () if rests else (events.Failed(error=error, message=message),)
        case NoteLost(reason=reason):
            return (events.Lost(reason=reason),) if state.is_ready else ()
        case Remove():
            return () if state.remove_wanted or state.ready is None else (events.RemoveRequested(),)
        case NoteRemoved():
            return (events.Removed(),) if state.remove_wanted else ()
        case _:
            assert_never(command)


def evolve(state: Layer, event: LayerEvent) -> Layer:
    """Return *state* after *event*. Total: it never refuses a fact."""
    change = msgspec.structs.replace
    match event:
        case events.Wanted():
            return Layer(wanted=event)
        case events.Ready():
            return change(state, ready=event)
        case events.Failed():
            if state.remove_wanted:
                return change(state, failures=state.failures + 1)
            return change(state, failed=event)
        case events.RemoveRequested():
            return change(state, remove_wanted=True)
        case events.Removed():
            return change(state, removed=True)
        case events.Lost():
            return change(state, lost=True)
        case _:
            assert_never(event)


def plan(state: Layer) -> Effect | None:
    """Return the one effect this layer still owes, or None at rest."""
    if state.wanted is None or state.removed:
        return None
    if state.remove_wanted:
        return Discard(failures=state.failures)
    if state.ready is None and state.failed is None:
        return Make(by=state.wanted.pull_id)
    return None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What recovery found in the store of one layer."""

    present: bool


def observe(state: Layer, found: Found) -> tuple[Command, ...]:
    """Turn what was *found* after a restart into ordinary commands."""
    if state.wanted is None or state.removed or state.remove_wanted:
        return ()
    if state.is_ready:
        return () if found.present else (NoteLost(reason="its directory is not in the store"),)
    if state.failed is None and not state.lost:
        return (NoteFailed(error="Unavailable", message="the daemon was restarted while the layer was made"),)
    return ()


def gave_up(reason: str) -> Command:
    """Return the command that ends a layer's actor for good."""
    return NoteFailed(error="EffectFailed", message=reason)


def is_over(state: Layer) -> bool:
    """Say whether nothing will ever happen to this layer again."""
    return state.removed or state.failed is not None or state.lost
