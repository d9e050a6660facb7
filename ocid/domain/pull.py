"""A pull: from a reference to an image in the catalog. Others can join it, anyone can watch it.

The life of a pull, as ``plan`` walks it::

    requested ─ Resolve ─ resolved ─ EnsureLayers ─ layers ready ─ Register ─ completed

A pull is never resumed by another life of the daemon: its credentials died with the one that began it.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from ocid.errors import WrongState
from ocid.events import image as events
from ocid.events.image import PullEvent
from ocid.ids import ImageId


class Pull(msgspec.Struct, frozen=True, kw_only=True):
    """All that a pull remembers. The initial state has nothing requested."""

    requested: events.PullRequested | None = None
    resolved: events.PullResolved | None = None
    layers_ready: bool = False
    completed: events.PullCompleted | None = None
    failed: events.PullFailed | None = None
    abandoned: events.PullAbandoned | None = None

    @property
    def ended(self) -> bool:
        """Whether the pull is over, well or badly."""
        return self.completed is not None or self.failed is not None or self.abandoned is not None

    @property
    def phase(self) -> str:
        """One word for messages and tables."""
        for name, holds in (
            ("unrequested", self.requested is None),
            ("completed", self.completed is not None),
            ("failed", self.failed is not None),
            ("abandoned", self.abandoned is not None),
            ("registering", self.layers_ready),
            ("fetching", self.resolved is not None),
        ):
            if holds:
                return name
        return "resolving"


INITIAL = Pull()

# --- commands --------------------------------------------------------------------------------------------------------


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Pull what *requested* names."""

    requested: events.PullRequested


class NoteResolved(msgspec.Struct, frozen=True, kw_only=True):
    """Manifest and configuration are here."""

    resolved: events.PullResolved


class NoteLayersReady(msgspec.Struct, frozen=True, kw_only=True):
    """Every layer is in the store."""


class NoteRegistered(msgspec.Struct, frozen=True, kw_only=True):
    """The image stands in the catalog."""

    image_id: ImageId


class NoteFailed(msgspec.Struct, frozen=True, kw_only=True):
    """A step failed in a way that its port foresees."""

    error: str
    message: str


class NoteAbandoned(msgspec.Struct, frozen=True, kw_only=True):
    """Nobody can go on with it."""

    reason: str


Command = Request | NoteResolved | NoteLayersReady | NoteRegistered | NoteFailed | NoteAbandoned

# --- effects ---------------------------------------------------------------------------------------------------------


class Resolve(msgspec.Struct, frozen=True, kw_only=True):
    """Fetch manifest and configuration."""


class EnsureLayers(msgspec.Struct, frozen=True, kw_only=True):
    """Have every layer made that is not in the store."""


class Register(msgspec.Struct, frozen=True, kw_only=True):
    """Enter the image in the catalog."""


Effect = Resolve | EnsureLayers | Register

# --- the three functions ---------------------------------------------------------------------------------------------


def decide(state: Pull, command: Command) -> tuple[PullEvent, ...]:
    """Say which facts *command* makes of *state*. ``()`` means that it is so already."""
    match command:
        case Request(requested=requested):
            return () if state.requested is not None else (requested,)
        case _ if state.requested is None:
            raise WrongState("pull", "", wants="requested", is_now=state.phase)
        case _ if state.ended:
            return ()
        case NoteResolved(resolved=resolved):
            return () if state.resolved is not None else (resolved,)
        case NoteLayersReady():
            return (events.PullLayersReady(),) if state.resolved is not None and not state.layers_ready else ()
        case NoteRegistered(image_id=image_id):
            return (events.PullCompleted(image_id=image_id),)
        case NoteFailed(error=error, message=message):
            return (events.PullFailed(error=error, message=message),)
        case NoteAbandoned(reason=reason):
            return (events.PullAbandoned(reason=reason),)
        case _:
            assert_never(command)


def evolve(state: Pull, event: PullEvent) -> Pull:
    """Return *state* after *event*. Total: it never refuses a fact."""
    change = msgspec.structs.replace
    match event:
        case events.PullRequested():
            return Pull(requested=event)
        case events.PullResolved():
            return change(state, resolved=event)
        case events.PullLayersReady():
            return change(state, layers_ready=True)
        case events.PullCompleted():
            return change(state, completed=event)
        case events.PullFailed():
            return change(state, failed=event)
        case events.PullAbandoned():
            return change(state, abandoned=event)
        case _:
            assert_never(event)


def plan(state: Pull) -> Effect | None:
    """Return the one step this pull still owes, or None when it is over."""
    if state.requested is None or state.ended:
        return None
    if state.resolved is None:
        return Resolve()
    return Register() if state.layers_ready else EnsureLayers()


def observe(state: Pull) -> tuple[Command, ...]:
    """After a restart: a pull in flight is abandoned. Layers that are ready wait for the caller's next try."""
    if state.requested is None or state.ended:
        return ()
    return (NoteAbandoned(reason="the daemon was restarted during the pull"),)


def gave_up(reason: str) -> Command:
    """Return the command that ends a pull's actor for good."""
    return NoteFailed(error="EffectFailed", message=reason)


def is_over(state: Pull) -> bool:
    """Say whether nothing will ever happen to this pull again."""
    return state.ended
