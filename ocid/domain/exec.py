"""A command run inside a container: asked for, run once, finished, failed or abandoned."""

from __future__ import annotations

from typing import assert_never

import msgspec

from ocid.errors import WrongState
from ocid.events import exec as events
from ocid.events.exec import ExecEvent


class Exec(msgspec.Struct, frozen=True, kw_only=True):
    """All that one execution remembers."""

    requested: events.Requested | None = None
    finished: events.Finished | None = None
    failed: events.Failed | None = None
    abandoned: events.Abandoned | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.finished is not None or self.failed is not None or self.abandoned is not None


INITIAL = Exec()


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """Run the command that *requested* describes."""

    requested: events.Requested


class NoteFinished(msgspec.Struct, frozen=True, kw_only=True):
    """It ended, or was killed when its time was up."""

    finished: events.Finished


class NoteFailed(msgspec.Struct, frozen=True, kw_only=True):
    """It could not be run."""

    error: str
    message: str


class NoteAbandoned(msgspec.Struct, frozen=True, kw_only=True):
    """Nobody knows how it ended."""

    reason: str


Command = Run | NoteFinished | NoteFailed | NoteAbandoned


class RunEffect(msgspec.Struct, frozen=True, kw_only=True, tag="Run"):
    """Run the command and gather its output."""


Effect = RunEffect


def decide(state: Exec, command: Command) -> tuple[ExecEvent, ...]:
    """Say which facts *command* makes of *state*."""
    match command:
        case Run(requested=requested):
            return () if state.requested is not None else (requested,)
        case _ if state.requested is None:
            raise WrongState("exec", "", wants="requested", is_now="unknown")
        case _ if state.ended:
            return ()
        case NoteFinished(finished=finished):
            return (finished,)
        case NoteFailed(error=error, message=message):
            return (events.Failed(error=error, message=message),)
        case NoteAbandoned(reason=reason):
            return (events.Abandoned(reason=reason),)
        case _:
            assert_never(command)


def evolve(state: Exec, event: ExecEvent) -> Exec:
    """Return *state* after *event*. Total: it never refuses a fact."""
    match event:
        case events.Requested():
            return Exec(requested=event)
        case events.Finished():
            return msgspec.structs.replace(state, finished=event)
        case events.Failed():
            return msgspec.structs.replace(state, failed=event)
        case events.Abandoned():
            return msgspec.structs.replace(state, abandoned=event)
        case _:
            assert_never(event)


def plan(state: Exec) -> Effect | None:
    """Return the effect still owed: the run itself, once."""
    return RunEffect() if state.requested is not None and not state.ended else None


def observe(state: Exec) -> tuple[Command, ...]:
    """After a restart: a run that was in flight is never repeated."""
    if state.requested is None or state.ended:
        return ()
    return (NoteAbandoned(reason="the daemon ended while the command ran"),)


def gave_up(reason: str) -> Command:
    """Return the command that ends an execution's actor for good."""
    return NoteFailed(error="EffectFailed", message=reason)


def is_over(state: Exec) -> bool:
    """Say whether nothing will ever happen to this execution again."""
    return state.ended
