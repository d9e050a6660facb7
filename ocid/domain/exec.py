"""A command run inside a container: asked for, run once, finished, failed or abandoned; or run again and again.

::

    requested ─ Run ─ finished
        │         └─ failed, abandoned
        └─ (repeats another) ─ Run ─ repeating ─ Repeat ─ ended, failed, abandoned
                                 └─ failed, abandoned

What repeats waits for its client's next call, which is no fact: a run that ends as the one before leaves nothing but a
count. Law 3 holds all the same, for every run goes by the id of the stream, and there is never more than one at a time.
"""

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
    changed: events.Changed | None = None  # the last one
    failed: events.Failed | None = None
    abandoned: events.Abandoned | None = None
    over: events.Ended | None = None

    @property
    def answered(self) -> bool:
        """Whether it is known what came of the run that was asked for."""
        return self.finished is not None or self.ended

    @property
    def repeating(self) -> bool:
        """Whether further runs belong to this stream."""
        stays = self.requested is not None and bool(self.requested.repeats)
        return stays and self.finished is not None and not self._shut

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more, nor ever will."""
        return self._shut or (self.finished is not None and not self.repeating)

    @property
    def outcome(self) -> tuple[int, bool]:
        """Exit code of the last run in the log, and whether its time was up."""
        last = self.changed or self.finished
        assert last is not None, "nothing has run yet"
        return last.exit_code, last.timed_out

    @property
    def _shut(self) -> bool:
        return self.failed is not None or self.abandoned is not None or self.over is not None


INITIAL = Exec()


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """Run the command that *requested* describes."""

    requested: events.Requested


class NoteFinished(msgspec.Struct, frozen=True, kw_only=True):
    """It ended, or was killed when its time was up."""

    finished: events.Finished


class NoteRepeated(msgspec.Struct, frozen=True, kw_only=True):
    """It ran again, and ended as before."""

    repeated: events.Repeated


class NoteChanged(msgspec.Struct, frozen=True, kw_only=True):
    """It ran again, and ended in another way."""

    repeated: events.Repeated | None  # the runs before that
    changed: events.Changed


class NoteEnded(msgspec.Struct, frozen=True, kw_only=True):
    """Nobody will run it again."""

    repeated: events.Repeated | None
    reason: str


class NoteFailed(msgspec.Struct, frozen=True, kw_only=True):
    """It could not be run."""

    error: str
    message: str
    repeated: events.Repeated | None = None  # the runs before that


class NoteAbandoned(msgspec.Struct, frozen=True, kw_only=True):
    """Nobody knows how it ended."""

    reason: str
    since_seq: int = 0  # of the last record before what nobody knows, where the command was repeated


Command = Run | NoteFinished | NoteRepeated | NoteChanged | NoteEnded | NoteFailed | NoteAbandoned


class RunEffect(msgspec.Struct, frozen=True, kw_only=True, tag="Run"):
    """Run the command and gather its output."""


class Repeat(msgspec.Struct, frozen=True, kw_only=True):
    """Wait for the client to ask for the command again, and run it, one time after the other."""


Effect = RunEffect | Repeat


def decide(state: Exec, command: Command) -> tuple[ExecEvent, ...]:
    """Say which facts *command* makes of *state*."""
    match command:
        case Run(requested=requested):
            return () if state.requested is not None else (requested,)
        case _ if state.requested is None:
            raise WrongState("exec", "", wants="requested", is_now="unknown")
        case _ if state.ended:
            return ()
        case NoteFailed(error=error, message=message, repeated=repeated):
            return (*_before(repeated), events.Failed(error=error, message=message))
        case NoteAbandoned(reason=reason, since_seq=since_seq):
            return (events.Abandoned(reason=reason, since_seq=since_seq),)
        case NoteFinished(finished=finished):
            return () if state.repeating else (finished,)
        case _ if not state.repeating:
            raise WrongState("exec", state.requested.exec_id, wants="repeating", is_now="requested")
        case NoteRepeated(repeated=repeated):
            return (repeated,)
        case NoteChanged(repeated=repeated, changed=changed):
            return (*_before(repeated), changed)
        case NoteEnded(repeated=repeated, reason=reason):
            return (*_before(repeated), events.Ended(reason=reason))
        case _:
            assert_never(command)


def _before(repeated: events.Repeated | None) -> tuple[ExecEvent, ...]:
    return () if repeated is None else (repeated,)


def evolve(state: Exec, event: ExecEvent) -> Exec:
    """Return *state* after *event*. Total: it never refuses a fact."""
    match event:
        case events.Requested():
            return Exec(requested=event)
        case events.Finished():
            return msgspec.structs.replace(state, finished=event)
        case events.Repeated():
            return state
        case events.Changed():
            return msgspec.structs.replace(state, changed=event)
        case events.Failed():
            return msgspec.structs.replace(state, failed=event)
        case events.Abandoned():
            return msgspec.structs.replace(state, abandoned=event)
        case events.Ended():
            return msgspec.structs.replace(state, over=event)
        case _:
            assert_never(event)


def plan(state: Exec) -> Effect | None:
    """Return the effect still owed: the run itself, once; then, of what repeats, to be there for the next one."""
    if state.requested is None or state.ended:
        return None
    return Repeat() if state.repeating else RunEffect()


def observe(state: Exec, seq: int) -> tuple[Command, ...]:
    """After a restart: a run that was in flight is never repeated, and counts in memory are lost.

    Args:
        state: of the stream as of its last record.
        seq: of that record in the log.
    """
    if state.requested is None or state.ended:
        return ()
    if state.repeating:
        reason = "the daemon ended, and with it the count of runs since its last record"
        return (NoteAbandoned(reason=reason, since_seq=seq),)
    return (NoteAbandoned(reason="the daemon ended while the command ran"),)


def counted(before: events.Repeated | None, run: events.Repeated) -> events.Repeated:
    """Return *before* with one more *run*, which is a count of 1 and ended with the same exit code."""
    if before is None:
        return run
    return events.Repeated(
        count=before.count + run.count,
        exit_code=run.exit_code,
        since_ns=before.since_ns,
        until_ns=max(before.until_ns, run.until_ns),  # the clock may have been set back
        took_ms_min=min(before.took_ms_min, run.took_ms_min),
        took_ms_max=max(before.took_ms_max, run.took_ms_max),
        took_ms_total=before.took_ms_total + run.took_ms_total,
        stdout_bytes=before.stdout_bytes + run.stdout_bytes,
        stderr_bytes=before.stderr_bytes + run.stderr_bytes,
    )


def gave_up(reason: str) -> Command:
    """Return the command that ends an execution's actor for good."""
    return NoteFailed(error="EffectFailed", message=reason)


def is_over(state: Exec) -> bool:
    """Say whether nothing will ever happen to this execution again."""
    return state.ended
