"""A container: what it decides, what it remembers, and what it still owes the world.

The life of a container, as ``plan`` walks it::

    declared ─ Prepare ─ prepared ─ Create ─ created ─ Watch
    change of limits wanted ─ ApplyUpdate (each in its turn) ─ updated or refused
    start wanted ─ Start ─ started ─ Watch ─ exited ─ Release ─ released
    stop wanted ─ Terminate ─ exited ─ Release
    remove wanted ─ (all of stop) ─ Release ─ Erase ─ removed

``Prepare`` is what CreateContainer waits for; ``Create`` then goes on by itself, and StartContainer waits for it.
One that goes on from a checkpoint takes another way from there: see ``ocid.domain.container_restore``.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from ocid.domain import container_restore as restores, container_update as updates
from ocid.domain.container_effects import (  # part of this module to all who use it
    CreateEffect as CreateEffect,
    Effect as Effect,
    Erase as Erase,
    PrepareEffect as PrepareEffect,
    Release as Release,
    StartEffect as StartEffect,
    Terminate as Terminate,
    Watch as Watch,
)
from ocid.errors import WrongState
from ocid.events import container as events
from ocid.events.container import ContainerEvent
from ocid.ids import Digest

START_ERROR_CODE = 128  # exit code of a container whose program never ran, as other runtimes report it
MS = 1_000_000  # nanoseconds


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """All that a container remembers. The initial state has nothing declared."""

    declared: events.Declared | None = None
    prepared: events.Prepared | None = None
    prepare_failed: events.PrepareFailed | None = None
    created: events.Created | None = None
    create_failed: events.CreateFailed | None = None
    start_wanted: bool = False
    started_at_ns: int = 0
    start_failed: events.StartFailed | None = None
    stop: events.StopRequested | None = None
    exited: events.Exited | None = None
    limits: updates.Limits = updates.Limits()
    released: bool = False
    remove_wanted: bool = False
    removed: bool = False
    failures: int = 0  # of the step now owed, in a row
    last_error: str = ""  # of these failures
    gave_up: str | None = None

    @property
    def ended(self) -> bool:
        """Whether no process of the container can run any more, or ever could."""
        ends = (self.exited, self.prepare_failed, self.create_failed, self.start_failed)
        return any(end is not None for end in ends)

    @property
    def running(self) -> bool:
        """Whether the container's program runs. CRI CONTAINER_RUNNING."""
        return self.started_at_ns > 0 and not self.ended

    @property
    def phase(self) -> str:
        """One word for messages and tables."""
        if self.declared is None:
            return "undeclared"
        for name, holds in (
            ("removed", self.removed),
            ("removing", self.remove_wanted),
            ("exited", self.ended),
            ("running", self.running),
            ("starting", self.start_wanted),
            ("created", self.prepared is not None),
        ):
            if holds:
                return name
        return "preparing"


INITIAL = Container()

# --- commands --------------------------------------------------------------------------------------------------------


class Create(msgspec.Struct, frozen=True, kw_only=True):
    """Make the container that *declared* describes."""

    declared: events.Declared


class NotePrepared(msgspec.Struct, frozen=True, kw_only=True):
    """Root file system and specification are there."""

    spec: Digest
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    adjusted: tuple[events.Adjusted, ...] = ()  # one, where plugins changed it


class NoteCreated(msgspec.Struct, frozen=True, kw_only=True):
    """The runtime has made it."""

    pid: int
    start_ticks: int


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """CRI StartContainer."""


class NoteStarted(msgspec.Struct, frozen=True, kw_only=True):
    """Its program runs."""

    at_ns: int


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """CRI StopContainer. A second stop wins when it would kill sooner."""

    grace_ms: int
    now_boot_ns: int
    plugin: str = ""  # who evicts it; "" where no plugin does
    reason: str = ""


class NoteExited(msgspec.Struct, frozen=True, kw_only=True):
    """Its init is gone."""

    at_ns: int
    exit_code: int
    oom_killed: bool
    source: str


class NoteReleased(msgspec.Struct, frozen=True, kw_only=True):
    """Runtime state, mounts and cgroup are gone."""


class Remove(msgspec.Struct, frozen=True, kw_only=True):
    """CRI RemoveContainer."""

    now_boot_ns: int


class NoteErased(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing is left but the log file."""


class NoteFailed(msgspec.Struct, frozen=True, kw_only=True):
    """An effect failed in a way that its port foresees."""

    step: str
    error: str
    message: str
    at_ns: int


class NoteLogReopened(msgspec.Struct, frozen=True, kw_only=True):
    """The monitor has the log open anew."""


class NoteGaveUp(msgspec.Struct, frozen=True, kw_only=True):
    """The supervisor will not restart this actor."""

    reason: str


Command = (
    Create | NotePrepared | NoteCreated | Start | NoteStarted | Stop | NoteExited | NoteReleased | Remove | NoteErased
    | NoteFailed | NoteLogReopened | NoteGaveUp | updates.Command | restores.NoteRestored
)  # fmt: skip

# --- the three functions ---------------------------------------------------------------------------------------------


def decide(state: Container, command: Command) -> tuple[ContainerEvent, ...]:
    """Say which facts *command* makes of *state*. ``()`` means that it is so already.

    Raises:
        WrongState: the container cannot do that now.
    """
    match command:
        case Create(declared=declared):
            return () if state.declared is not None else (declared,)
        case _ if state.declared is None or state.removed:
            return _decide_absent(state, command)
        case Start():
            return _decide_start(state)
        case Stop(grace_ms=grace_ms, now_boot_ns=now_boot_ns, plugin=plugin, reason=reason):
            return _decide_stop(state, grace_ms, now_boot_ns, plugin, reason)
        case Remove(now_boot_ns=now_boot_ns):
            if state.remove_wanted and state.gave_up is None:
                return ()
            return (*_decide_stop(state, 0, now_boot_ns), events.RemoveRequested())
        case NoteGaveUp(reason=reason):
            return () if state.gave_up is not None else (events.GaveUp(reason=reason),)
        case NoteFailed():
            return _decide_failed(state, command)
        case NoteExited(at_ns=at_ns, exit_code=code, oom_killed=oom, source=source):
            ended_at = max(at_ns, state.started_at_ns)  # a file's time is coarser than a clock's
            exited = events.Exited(at_ns=ended_at, exit_code=code, oom_killed=oom, source=source)
            return () if state.ended else (exited,)
        case NotePrepared() | NoteCreated() | NoteStarted():
            return () if state.ended else _decide_made(state, command)
        case restores.NoteRestored():
            return () if state.ended else restores.decide(command, state.created, state.started_at_ns)
        case NoteReleased():
            return (events.Released(),) if state.ended and not state.released else ()
        case NoteErased():
            return (events.Removed(),) if state.remove_wanted and state.released else ()
        case NoteLogReopened():
            return (events.LogReopened(),)
        case updates.Update() | updates.NoteUpdated() | updates.NoteUpdateRefused():
            return updates.decide(state.limits, command, _name(state), _closed(state))
        case _:
            assert_never(command)


def _decide_absent(state: Container, command: Command) -> tuple[ContainerEvent, ...]:
    if isinstance(command, Start | updates.Update) or (
        state.declared is None and not isinstance(command, Stop | Remove | NoteGaveUp)
    ):
        raise WrongState("container", _name(state), wants="created", is_now=state.phase)
    return ()


def _decide_start(state: Container) -> tuple[ContainerEvent, ...]:
    if state.remove_wanted or state.ended or state.stop is not None or state.prepared is None:
        raise WrongState("container", _name(state), wants="created", is_now=state.phase)
    return () if state.start_wanted else (events.StartRequested(),)


def _decide_stop(
    state: Container, grace_ms: int, now_boot_ns: int, plugin: str = "", reason: str = ""
) -> tuple[ContainerEvent, ...]:
    assert state.declared is not None
    if state.ended:
        return ()
    kill_at = now_boot_ns + grace_ms * MS
    if state.stop is not None and state.stop.kill_at_boot_ns <= kill_at and state.gave_up is None:
        return ()
    requested = events.StopRequested(
        grace_ms=grace_ms,
        kill_at_boot_ns=kill_at,
        signal=state.declared.stop_signal or "SIGTERM",
        plugin=plugin,
        reason=reason,
    )
    if state.prepared is None:
        message = "stopped before it was prepared"
        return (requested, events.PrepareFailed(error="WrongState", message=message), events.RemoveRequested())
    return (requested,)


def _decide_failed(state: Container, note: NoteFailed) -> tuple[ContainerEvent, ...]:
    if not state.ended and note.step == "Prepare":
        failed = events.PrepareFailed(error=note.error, message=note.message)
        return (failed,) if state.remove_wanted else (failed, events.RemoveRequested())
    if not state.ended and note.step == "Create":
        return (events.CreateFailed(at_ns=note.at_ns, error=note.error, message=note.message),)
    if not state.ended and note.step in ("Start", "Restore"):
        return (events.StartFailed(at_ns=note.at_ns, error=note.error, message=note.message),)
    return (events.EffectFailed(step=note.step, error=note.error, message=note.message, failures=state.failures + 1),)


def _decide_made(state: Container, note: NotePrepared | NoteCreated | NoteStarted) -> tuple[ContainerEvent, ...]:
    match note:
        case NotePrepared(spec=spec, uid=uid, gid=gid, groups=groups, adjusted=adjusted):
            prepared = events.Prepared(spec=spec, uid=uid, gid=gid, groups=groups)
            return () if state.prepared is not None else (*adjusted, prepared)
        case NoteCreated(pid=pid, start_ticks=ticks):
            return () if state.created is not None else (events.Created(pid=pid, start_ticks=ticks),)
        case NoteStarted(at_ns=at_ns):
            return () if state.started_at_ns else (events.Started(at_ns=at_ns),)


def _closed(state: Container) -> str:
    """Say what keeps a declared container from taking a change of its limits, "" when nothing does."""
    if state.ended or state.remove_wanted or state.prepared is None:
        return state.phase
    if state.created is None and state.declared is not None and state.declared.restores is not None:
        return "not restored yet"  # there is no cgroup to change
    return "stopping" if state.stop is not None else "given up" if state.gave_up is not None else ""


def _name(state: Container) -> str:
    return state.declared.container_id if state.declared is not None else ""


def evolve(state: Container, event: ContainerEvent) -> Container:
    """Return *state* after *event*. Total: it never refuses a fact."""
    change = msgspec.structs.replace
    match event:
        case events.Declared():
            return Container(declared=event)
        case events.Prepared():
            return change(state, prepared=event)
        case events.PrepareFailed():
            return change(state, prepare_failed=event, failures=0)
        case events.Created():
            return change(state, created=event)
        case events.CreateFailed():
            return change(state, create_failed=event, failures=0)
        case events.StartRequested():
            return change(state, start_wanted=True)
        case events.Started(at_ns=at_ns):
            return change(state, started_at_ns=at_ns)
        case events.StartFailed():
            return change(state, start_failed=event, failures=0)
        case events.StopRequested():
            return change(state, stop=event, failures=0, gave_up=None)
        case events.Exited():
            return change(state, exited=event, failures=0)
        case events.Released():
            return change(state, released=True, failures=0)
        case events.RemoveRequested():
            return change(state, remove_wanted=True, failures=0, gave_up=None)
        case events.Removed():
            return change(state, removed=True)
        case events.EffectFailed(failures=failures, step=step, message=message):
            return change(state, failures=failures, last_error=f"{step}: {message}")
        case events.LogReopened() | events.Adjusted():
            return state
        case events.UpdateRequested() | events.UpdateAdjusted() | events.Updated() | events.UpdateRefused():
            return change(state, limits=updates.evolve(state.limits, event))
        case events.GaveUp(reason=reason):
            return change(state, gave_up=reason)
        case _:
            assert_never(event)


def plan(state: Container) -> Effect | None:
    """Return the one effect this state still owes the world, or None at rest. The first debt wins."""
    if state.declared is None or state.removed or state.gave_up is not None:
        return None
    if state.ended:
        if not state.released:
            return Release(failures=state.failures)
        return Erase(failures=state.failures) if state.remove_wanted else None
    if state.prepared is None:
        return PrepareEffect()
    if state.created is None and state.declared.restores is not None:
        return restores.plan(state.start_wanted, state.stop, state.failures)
    if state.created is None:
        return CreateEffect()
    pid, start_ticks = state.created.pid, state.created.start_ticks
    if state.stop is not None:
        return Terminate(
            pid=pid,
            start_ticks=start_ticks,
            signal=state.stop.signal,
            kill_at_boot_ns=state.stop.kill_at_boot_ns if state.started_at_ns else 0,  # nothing to be gentle with
            failures=state.failures,
        )
    if state.limits.wanted:
        return updates.plan(state.limits)
    if state.start_wanted and not state.started_at_ns:
        return StartEffect()
    return Watch(pid=pid, start_ticks=start_ticks, failures=state.failures)


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What recovery found on the host of one container."""

    rebooted: bool  # since the log was last written
    now_ns: int  # wall clock


def observe(state: Container, found: Found) -> tuple[Command, ...]:
    """Turn what was *found* after a restart into ordinary commands.

    Within one boot nothing is needed: ``Watch`` finds the process, or its exit file, by itself.
    """
    if not found.rebooted or state.declared is None or state.ended:
        return ()
    if state.prepared is None:
        return (NoteFailed(step="Prepare", error="Unavailable", message="the node was rebooted", at_ns=found.now_ns),)
    return (NoteExited(at_ns=found.now_ns, exit_code=255, oom_killed=False, source="reboot"),)


def gave_up(reason: str) -> Command:
    """Return the command that ends a container's actor for good."""
    return NoteGaveUp(reason=reason)


def is_over(state: Container) -> bool:
    """Say whether nothing will ever happen to this container again."""
    return state.removed
