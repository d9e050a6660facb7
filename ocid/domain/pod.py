"""A pod: what it decides, what it remembers, and what it still owes the world.

The life of a pod, as ``plan`` walks it::

    declared ─ Prepare ─ Attach ─ [StartPause] ─ [Announce] ─ ready ─ [WatchPause]
    stop wanted ─ StopContainers ─ Detach ─ Release ─ stopped
    remove wanted ─ (all of stop) ─ Erase ─ removed

A pod that is lost to a reboot owes its network a Detach, so that its addresses do not wait for the kubelet.
A set-up that fails wants its own removal. Work that takes down is tried again, ever more rarely, until it succeeds.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from ocid.domain.pod_effects import (  # part of this module to all who use it
    Announce as Announce,
    Attach as Attach,
    Detach as Detach,
    Effect as Effect,
    Erase as Erase,
    Prepare as Prepare,
    Release as Release,
    StartPause as StartPause,
    StopContainers as StopContainers,
    WatchPause as WatchPause,
)
from ocid.errors import WrongState
from ocid.events import pod as events
from ocid.events.pod import PodEvent
from ocid.ids import Digest


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    """All that a pod remembers. The initial state has nothing declared."""

    declared: events.Declared | None = None
    prepared: bool = False
    attached: events.NetworkAttached | None = None
    further: tuple[events.FurtherNetworkAttached, ...] = ()  # in the order of their attaching
    pause: events.PauseStarted | None = None
    announced: bool = False
    ready: bool = False
    failed: events.Failed | None = None
    lost: str | None = None
    network_gone: bool = False  # lost with the machine's last boot
    stop_wanted: bool = False
    containers_stopped: bool = False
    detached: bool = False
    stopped: bool = False
    remove_wanted: bool = False
    removed: bool = False
    failures: int = 0  # of the step now owed, in a row
    last_error: str = ""  # of these failures
    gave_up: str | None = None
    overhead: Digest | None = None  # document: LinuxResources as told last; None: as declared
    resources: Digest | None = None  # the same

    @property
    def is_ready(self) -> bool:
        """Whether the pod takes containers. CRI SANDBOX_READY."""
        return self.ready and not (self.stop_wanted or self.lost is not None or self.gave_up is not None)

    @property
    def phase(self) -> str:
        """One word for messages and tables."""
        if self.declared is None:
            return "undeclared"
        for name, holds in (
            ("removed", self.removed),
            ("given up", self.gave_up is not None),
            ("removing", self.remove_wanted),
            ("stopped", self.stopped),
            ("stopping", self.stop_wanted),
            ("lost", self.lost is not None),
            ("ready", self.ready),
        ):
            if holds:
                return name
        return "starting"


INITIAL = Pod()

# --- commands --------------------------------------------------------------------------------------------------------


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """Make the pod that *declared* describes."""

    declared: events.Declared


class NotePrepared(msgspec.Struct, frozen=True, kw_only=True):
    """Namespaces, mounts and files are there."""


class NoteAttached(msgspec.Struct, frozen=True, kw_only=True):
    """The network is there."""

    addresses: tuple[str, ...]
    via: str
    result: Digest | None = None
    further: tuple[events.FurtherNetworkAttached, ...] = ()


class NotePaused(msgspec.Struct, frozen=True, kw_only=True):
    """The pause process runs."""

    pid: int
    start_ticks: int


class NoteAnnounced(msgspec.Struct, frozen=True, kw_only=True):
    """Plugins know of it."""


class NoteFailed(msgspec.Struct, frozen=True, kw_only=True):
    """An effect failed in a way that its port foresees."""

    step: str
    error: str
    message: str


class NoteLost(msgspec.Struct, frozen=True, kw_only=True):
    """The pod's namespaces or its pause process are gone without our doing."""

    reason: str
    network_gone: bool = False  # the machine was booted since


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """CRI StopPodSandbox."""


class NoteContainersStopped(msgspec.Struct, frozen=True, kw_only=True):
    """No container of the pod runs any more."""


class NoteDetached(msgspec.Struct, frozen=True, kw_only=True):
    """The network is gone."""


class NoteReleased(msgspec.Struct, frozen=True, kw_only=True):
    """Namespaces, mounts and pause process are gone."""


class Remove(msgspec.Struct, frozen=True, kw_only=True):
    """CRI RemovePodSandbox."""


class NoteErased(msgspec.Struct, frozen=True, kw_only=True):
    """The pod's containers are removed; nothing is left."""


class NoteResources(msgspec.Struct, frozen=True, kw_only=True):
    """CRI UpdatePodSandboxResources."""

    overhead: Digest | None
    resources: Digest | None
    brief: str = ""


class NoteGaveUp(msgspec.Struct, frozen=True, kw_only=True):
    """The supervisor will not restart this actor."""

    reason: str


Command = (
    Run | NotePrepared | NoteAttached | NotePaused | NoteAnnounced | NoteFailed | NoteLost | Stop
    | NoteContainersStopped | NoteDetached | NoteReleased | Remove | NoteErased | NoteGaveUp | NoteResources
)  # fmt: skip
MAKING = (Prepare, Attach, StartPause, Announce)  # a failure of these fails the pod; that of others is tried again

# --- the three functions ---------------------------------------------------------------------------------------------


def decide(state: Pod, command: Command) -> tuple[PodEvent, ...]:
    """Say which facts *command* makes of *state*. ``()`` means that it is so already.

    Raises:
        WrongState: the pod cannot do that now.
    """
    match command:
        case Run(declared=declared):
            return () if state.declared is not None else (declared,)
        case _ if state.declared is None or state.removed:
            return _decide_absent(state, command)
        case Stop():
            return () if state.stop_wanted and state.gave_up is None else (events.StopRequested(),)
        case Remove():
            return _wanting_removal(state)
        case NoteLost(reason=reason, network_gone=gone):
            known = state.stop_wanted or state.lost is not None
            return () if known else (events.Lost(reason=reason, network_gone=gone),)
        case NoteResources(overhead=overhead, resources=resources, brief=brief):
            told = events.ResourcesUpdated(overhead=overhead, resources=resources, brief=brief)
            return () if evolve(state, told) == state else (told,)
        case NoteGaveUp(reason=reason):
            return () if state.gave_up is not None else (events.GaveUp(reason=reason),)
        case NoteFailed():
            return _decide_failed(state, command)
        case NotePrepared() | NoteAttached() | NotePaused() | NoteAnnounced():
            return () if state.stop_wanted else _decide_made(state, command)
        case NoteContainersStopped():
            return (events.ContainersStopped(),) if state.stop_wanted and not state.containers_stopped else ()
        case NoteDetached():
            wanted = state.stop_wanted or state.network_gone
            return (events.NetworkDetached(),) if wanted and not state.detached else ()
        case NoteReleased():
            return (events.Stopped(),) if state.stop_wanted and not state.stopped else ()
        case NoteErased():
            return (events.Removed(),) if state.remove_wanted and state.stopped else ()
        case _:
            assert_never(command)


def _decide_absent(state: Pod, command: Command) -> tuple[PodEvent, ...]:
    """Stop and remove are idempotent; notes about a pod that is gone come late and say nothing new."""
    if state.declared is None and not isinstance(command, Stop | Remove | NoteGaveUp):
        raise WrongState("pod", "", wants="declared", is_now=state.phase)
    return ()


def _wanting_removal(state: Pod) -> tuple[PodEvent, ...]:
    if state.remove_wanted and state.gave_up is None:
        return ()
    if state.stop_wanted:
        return (events.RemoveRequested(),)
    return (events.StopRequested(), events.RemoveRequested())


def _decide_failed(state: Pod, note: NoteFailed) -> tuple[PodEvent, ...]:
    if state.ready or state.stop_wanted:
        return (
            events.EffectFailed(
                step=note.step, error=note.error, message=note.message, failures=state.failures + 1
            ),
        )  # fmt: skip
    failed = events.Failed(step=note.step, error=note.error, message=note.message)
    return (failed, *_wanting_removal(state))


def _decide_made(state: Pod, note: NotePrepared | NoteAttached | NotePaused | NoteAnnounced) -> tuple[PodEvent, ...]:
    made: PodEvent
    further: tuple[PodEvent, ...] = ()
    match note:
        case NotePrepared():
            if state.prepared:
                return ()
            made = events.Prepared()
        case NoteAttached(addresses=addresses, via=via, result=result):
            if state.attached is not None:
                return ()
            made, further = events.NetworkAttached(addresses=addresses, via=via, result=result), note.further
        case NotePaused(pid=pid, start_ticks=start_ticks):
            if state.pause is not None:
                return ()
            made = events.PauseStarted(pid=pid, start_ticks=start_ticks)
        case NoteAnnounced():
            if state.announced:
                return ()
            made = events.Announced()
        case _:
            assert_never(note)
    after = evolve(state, made)
    return (made, *further, events.Ready()) if not isinstance(plan(after), MAKING) else (made, *further)


def evolve(state: Pod, event: PodEvent) -> Pod:
    """Return *state* after *event*. Total: it never refuses a fact."""
    change = msgspec.structs.replace
    match event:
        case events.Declared():
            return Pod(declared=event)
        case events.Prepared():
            return change(state, prepared=True)
        case events.NetworkAttached():
            return change(state, attached=event)
        case events.FurtherNetworkAttached():
            return change(state, further=(*state.further, event))
        case events.PauseStarted():
            return change(state, pause=event)
        case events.Announced():
            return change(state, announced=True)
        case events.Ready():
            return change(state, ready=True)
        case events.Failed():
            return change(state, failed=event, containers_stopped=True, failures=0)
        case events.Lost(reason=reason, network_gone=gone):
            return change(state, lost=reason, network_gone=gone, failures=0)
        case events.StopRequested():
            return change(state, stop_wanted=True, failures=0, gave_up=None)
        case events.ContainersStopped():
            return change(state, containers_stopped=True, failures=0)
        case events.NetworkDetached():
            return change(state, detached=True, failures=0)
        case events.Stopped():
            return change(state, stopped=True, failures=0)
        case events.RemoveRequested():
            return change(state, remove_wanted=True, stop_wanted=True, failures=0, gave_up=None)
        case events.Removed():
            return change(state, removed=True)
        case events.EffectFailed(failures=failures, step=step, message=message):
            return change(state, failures=failures, last_error=f"{step}: {message}")
        case events.GaveUp(reason=reason):
            return change(state, gave_up=reason)
        case events.ResourcesUpdated(overhead=overhead, resources=resources):
            return change(state, overhead=overhead or state.overhead, resources=resources or state.resources)
        case _:
            assert_never(event)


def plan(state: Pod) -> Effect | None:
    """Return the one effect this state still owes the world, or None at rest. The first debt wins."""
    declared = state.declared
    if declared is None or state.removed or state.gave_up is not None:
        return None
    if state.stop_wanted:
        return _plan_down(state, declared)
    if state.lost is not None:
        owed = state.network_gone and declared.network != "host" and not state.detached
        return Detach(failures=state.failures) if owed else None
    if not state.prepared:
        return Prepare()
    if declared.network != "host" and state.attached is None:
        return Attach()
    if declared.shared_pid and state.pause is None:
        return StartPause()
    if declared.plugins and not state.announced:
        return Announce()
    if state.pause is not None:
        return WatchPause(pid=state.pause.pid, start_ticks=state.pause.start_ticks, failures=state.failures)
    return None


def _plan_down(state: Pod, declared: events.Declared) -> Effect | None:
    if not state.containers_stopped:
        return StopContainers(failures=state.failures)
    if declared.network != "host" and not state.detached:
        return Detach(failures=state.failures)
    if not state.stopped:
        return Release(failures=state.failures)
    return Erase(failures=state.failures) if state.remove_wanted else None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What recovery found on the host of one pod."""

    rebooted: bool  # since the log was last written
    namespaces_present: bool


def observe(state: Pod, found: Found) -> tuple[Command, ...]:
    """Turn what was *found* after a restart into ordinary commands."""
    if state.declared is None or state.stop_wanted or state.lost is not None or not state.ready:
        return ()
    if found.rebooted:
        return (NoteLost(reason="the node was rebooted", network_gone=True),)
    if not found.namespaces_present:
        return (NoteLost(reason="the pod's namespaces are gone"),)
    return ()


def gave_up(reason: str) -> Command:
    """Return the command that ends a pod's actor for good."""
    return NoteGaveUp(reason=reason)


def is_over(state: Pod) -> bool:
    """Say whether nothing will ever happen to this pod again."""
    return state.removed
