"""A container checkpoint: asked for, made once, or failed. What a crash cuts short is cleared away, never repeated."""

from __future__ import annotations

from typing import assert_never

import msgspec

from ocid.errors import WrongState
from ocid.events import checkpoint as events
from ocid.events.checkpoint import CheckpointEvent


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """All that one checkpoint remembers."""

    requested: events.Requested | None = None
    made: events.Made | None = None
    failed: events.Failed | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing of it goes on."""
        return self.made is not None or self.failed is not None


INITIAL = Checkpoint()


class Make(msgspec.Struct, frozen=True, kw_only=True):
    """Make the checkpoint that *requested* describes."""

    requested: events.Requested


class NoteMade(msgspec.Struct, frozen=True, kw_only=True):
    """The archive is there."""

    size_bytes: int
    took_ms: int


class NoteFailed(msgspec.Struct, frozen=True, kw_only=True):
    """It could not be made."""

    error: str
    message: str


Command = Make | NoteMade | NoteFailed


class MakeEffect(msgspec.Struct, frozen=True, kw_only=True, tag="Make"):
    """Freeze the container, dump it, write the archive, let it go on."""


Effect = MakeEffect


def decide(state: Checkpoint, command: Command) -> tuple[CheckpointEvent, ...]:
    """Say which facts *command* makes of *state*."""
    match command:
        case Make(requested=requested):
            return () if state.requested is not None else (requested,)
        case _ if state.requested is None:
            raise WrongState("checkpoint", "", wants="requested", is_now="unknown")
        case _ if state.ended:
            return ()
        case NoteMade(size_bytes=size_bytes, took_ms=took_ms):
            return (events.Made(size_bytes=size_bytes, took_ms=took_ms),)
        case NoteFailed(error=error, message=message):
            return (events.Failed(error=error, message=message),)
        case _:
            assert_never(command)


def evolve(state: Checkpoint, event: CheckpointEvent) -> Checkpoint:
    """Return *state* after *event*. Total: it never refuses a fact."""
    match event:
        case events.Requested():
            return Checkpoint(requested=event)
        case events.Made():
            return msgspec.structs.replace(state, made=event)
        case events.Failed():
            return msgspec.structs.replace(state, failed=event)
        case _:
            assert_never(event)


def plan(state: Checkpoint) -> Effect | None:
    """Return the effect still owed: the making itself, once."""
    return MakeEffect() if state.requested is not None and not state.ended else None


def observe(state: Checkpoint) -> tuple[Command, ...]:
    """After a restart: what was in the making is not made any more. What was left of it is cleared away before."""
    if state.requested is None or state.ended:
        return ()
    return (NoteFailed(error="Unavailable", message="the daemon ended while the checkpoint was made"),)


def gave_up(reason: str) -> Command:
    """Return the command that ends a checkpoint's actor for good."""
    return NoteFailed(error="EffectFailed", message=reason)


def is_over(state: Checkpoint) -> bool:
    """Say whether nothing will ever happen to this checkpoint again."""
    return state.ended
