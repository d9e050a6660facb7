"""Why a container died: verdict, confidence, evidence, and what nobody can know from this log. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from ocid.events import container, exec as execution, node, pod, session
from ocid.events.base import Opaque
from ocid.events.envelope import Envelope
from ocid.projections.phrases import duration, signal_name
from ocid.projections.text import exact_time_text
from ocid.projections.words import words

from .attribution import Peer, attribute, brief, facts as attribution_facts, in_full
from .lookup import Lookup
from .output import cited
from .unknowns import unknowns
from .verdict import SIGNAL_BASE, Ending, ending, last

ALIVE: Final = frozenset(("not-started", "running", "stopping", "given-up"))
EVIDENCE_MAX: Final = 64
_NODE_SHOWN: Final = 6
_VISITS_SHOWN: Final = 4  # people look in shortly before the end, and again and again
_CLOCK_SLACK_NS: Final = 100_000_000  # a file's time is coarser than a clock's
_KINDS: Final = (
    container.Declared, container.PrepareFailed, container.CreateFailed, container.Started, container.StartFailed,
    container.StopRequested, container.Exited, container.EffectFailed, container.GaveUp, container.Updated,
    container.RemoveRequested,
)  # fmt: skip
_ASKED: Final = (container.Declared, container.StopRequested, container.RemoveRequested)
_ENDS: Final = (
    execution.Finished, execution.Failed, execution.Abandoned, session.Closed, session.Failed, session.Abandoned,
)  # fmt: skip


class Evidence(msgspec.Struct, frozen=True):
    """One record that the verdict rests on, or that stands beside it."""

    seq: int
    time: str
    text: str


class PostMortem(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that ``why-died`` prints."""

    container_id: str
    name: str
    pod_id: str
    pod: str  # namespace/name; "" where the log does not have it
    attempt: int
    died: bool
    cause: str  # one of ``verdict.CAUSES``
    verdict: str
    verdict_seqs: tuple[int, ...]
    confidence: str  # "high", "medium" or "low"
    rule: str  # by which the confidence is that
    at: str | None  # when it ended, as its monitor or the kernel had it
    exit_code: int | None  # None where nobody knows it
    signal: str  # "" for none
    source: str  # who saw the end: "monitor", "kernel", …; "" where it has not ended
    asked_by: dict[str, Any] | None  # who asked for the end; None where nobody did
    daemon_watched: bool  # one life of the daemon saw it from its start to its end
    evidence: tuple[Evidence, ...]
    not_known: tuple[str, ...]


class Case(msgspec.Struct, frozen=True):
    """The records that matter, sorted out."""

    own: list[Envelope]  # of the container's stream
    inside: list[Envelope]  # of commands and sessions in it
    nodes: list[Envelope]  # of the node's stream
    pods: list[Envelope]  # of the pod's stream
    exited: Envelope | None
    started: Envelope | None
    stop: Envelope | None  # the last request to stop it before its end


def examine(container_id: str, events: Sequence[Envelope], log: Lookup, peer: Peer) -> PostMortem:
    """Say why the container *container_id* died.

    Args:
        container_id: of a container that the log has.
        events: its own and those of all that belongs to it, in order.
        log: for the streams of the node and the pod, and to follow records back.
        peer: finds who asked.
    """
    case = _case(container_id, events, log)
    found = ending(case.own, lambda each: brief(attribute(each, log), peer))
    declared = next((each.event for each in case.own if isinstance(each.event, container.Declared)), None)
    exit_ = case.exited.event if case.exited is not None else None
    exited = exit_ if isinstance(exit_, container.Exited) else None
    watched = not _gap(case)
    confidence, rule = _confidence(found, case, exited, watched)
    known = exited is not None and exited.source not in ("reboot", "unknown")
    code = exited.exit_code if exited is not None and known else None
    return PostMortem(
        container_id=container_id,
        name="" if declared is None else declared.name,
        pod_id="" if declared is None else declared.pod_id,
        pod=_pod_name(case),
        attempt=0 if declared is None else declared.attempt,
        died=found.cause not in ALIVE,
        cause=found.cause,
        verdict=found.finding.text if found.cause not in ALIVE else f"has not died: {found.finding.text}",
        verdict_seqs=found.finding.seqs,
        confidence=confidence,
        rule=rule,
        at=None if exited is None else exact_time_text(exited.at_ns),
        exit_code=code,
        signal=signal_name(code - SIGNAL_BASE) if code is not None and SIGNAL_BASE < code < 255 else "",
        source="" if exited is None else exited.source,
        asked_by=None if case.stop is None else attribution_facts(attribute(case.stop, log), peer),
        daemon_watched=watched,
        evidence=tuple(sorted(_evidence(case, log, peer), key=lambda one: one.seq)[-EVIDENCE_MAX:]),
        not_known=(
            *unknowns(found.cause, exited, case.stop, open_in(case), watched, down_at_end(case)),
            *_unread(case),
        ),
    )


def _case(container_id: str, events: Sequence[Envelope], log: Lookup) -> Case:
    stream = f"container/{container_id}"
    own = [each for each in events if each.stream == stream]
    exited = last(own, container.Exited)
    before = [each for each in own if exited is None or each.seq < exited.seq]
    declared = next((each.event for each in own if isinstance(each.event, container.Declared)), None)
    return Case(
        own=own,
        inside=[each for each in events if each.stream.startswith(("exec/", "session/"))],
        nodes=list(log.stream("node/self")),
        pods=[] if declared is None else list(log.stream(f"pod/{declared.pod_id}")),
        exited=exited,
        started=last(own, container.Started),
        stop=last(before, container.StopRequested),
    )


def _pod_name(case: Case) -> str:
    declared = next((each.event for each in case.pods if isinstance(each.event, pod.Declared)), None)
    return "" if declared is None else f"{declared.namespace}/{declared.name}"


# --- what was going on around it -------------------------------------------------------------------------------------


def _gap(case: Case) -> bool:
    """Whether the daemon was started anew while the container ran."""
    first = case.started or (case.own[0] if case.own else None)
    return first is not None and case.exited is not None and first.epoch != case.exited.epoch


def down_at_end(case: Case) -> Envelope | None:
    """Return the start of the daemon that found the container ended already; None where one saw it happen.

    That is an end which was recorded before the start was over, or which the monitor dates before the start: a daemon
    watches again only once it serves, and finds then what has ended meanwhile.
    """
    if case.exited is None or not isinstance(exited := case.exited.event, container.Exited):
        return None
    recovered = False
    for each in reversed(case.nodes):
        if each.seq > case.exited.seq or each.epoch != case.exited.epoch:
            continue
        if isinstance(each.event, node.Started):
            found = not recovered or exited.at_ns <= each.wall_ns
            return each if found and each.seq > case.own[0].seq else None
        recovered = recovered or isinstance(each.event, node.Recovered)
    return None


def open_in(case: Case) -> list[Envelope]:
    """Return what had begun inside and not ended when the container did: commands, and sessions with a client."""
    end = case.exited.seq if case.exited is not None else None
    open_: dict[str, Envelope] = {}
    asked: dict[str, Envelope] = {}
    for each in case.inside:
        if end is not None and each.seq >= end:
            break
        if isinstance(each.event, execution.Requested):
            open_[each.stream] = each
        elif isinstance(each.event, session.Requested):
            asked[each.stream] = each
        elif isinstance(each.event, session.Opened) and each.stream in asked:
            open_[each.stream] = asked[each.stream]
        elif isinstance(each.event, _ENDS):
            open_.pop(each.stream, None)
    return list(open_.values())


def _last_command(case: Case) -> tuple[Envelope, Envelope] | None:
    """Return the last command that ended before the container did, as its request and its end."""
    end = case.exited.seq if case.exited is not None else None
    asked = {each.stream: each for each in case.inside if isinstance(each.event, execution.Requested)}
    for each in reversed(case.inside):
        if end is not None and each.seq >= end:
            continue
        if each.stream in asked and isinstance(each.event, execution.Finished | execution.Failed):
            return asked[each.stream], each
    return None


def _visits(case: Case) -> list[tuple[Envelope, Envelope]]:
    """Return the last sessions of clients that ended before the container did, as their requests and their ends."""
    end = case.exited.seq if case.exited is not None else None
    asked = {each.stream: each for each in case.inside if isinstance(each.event, session.Requested)}
    over = [each for each in case.inside if isinstance(each.event, session.Closed) and each.stream in asked]
    before = [each for each in over if end is None or each.seq < end]
    return [(asked[each.stream], each) for each in before[-_VISITS_SHOWN:]]


# --- evidence --------------------------------------------------------------------------------------------------------


def _evidence(case: Case, log: Lookup, peer: Peer) -> Iterator[Evidence]:
    for each in case.own:
        if isinstance(each.event, (*_KINDS, Opaque)):
            text = words(each.event)
            if isinstance(each.event, _ASKED):
                text += f"; asked for by {in_full(attribute(each, log), peer)}"
            yield _one(each, text)
    for each in case.pods:
        if isinstance(each.event, pod.Lost | pod.StopRequested | pod.RemoveRequested | pod.GaveUp):
            yield _one(each, f"pod: {words(each.event)}; by {in_full(attribute(each, log), peer)}")
    for each in open_in(case):
        yield _one(each, f"had not ended then: {words(each.event)}; by {in_full(attribute(each, log), peer)}")
    if (command := _last_command(case)) is not None:
        requested, ended = command
        yield _one(requested, f"the last command before: {words(requested.event)}")
        yield _one(ended, f"what became of that: {words(ended.event)}{_before(ended, case.exited)}")
    for requested, ended in _visits(case):
        yield _one(requested, f"before: {words(requested.event)}; by {in_full(attribute(requested, log), peer)}")
        yield _one(ended, f"what became of that: {words(ended.event)}{_before(ended, case.exited)}")
    yield from _of_node(case)


def _of_node(case: Case) -> Iterator[Evidence]:
    """Yield what the daemon itself went through in the container's life: its starts, stops, and its actor's crashes."""
    if not case.own:
        return
    first, end = (case.started or case.own[0]).seq, case.exited.seq if case.exited is not None else 1 << 63
    lives = (node.Started, node.Stopped, node.Recovered)
    around = [each for each in case.nodes if first < each.seq <= end and isinstance(each.event, lives)]
    after = (each for each in case.nodes if each.seq > end and isinstance(each.event, lives))
    found_by = down_at_end(case)
    for each in around[-_NODE_SHOWN:]:
        when = "which found it ended" if each is found_by else "while it ran"
        yield _one(each, f"the daemon, {when}: {words(each.event)}")
    if case.exited is not None and (next_one := next(after, None)) is not None:
        yield _one(next_one, f"the daemon, next after it: {words(next_one.event)}")
    for each in case.nodes:
        if isinstance(each.event, node.ActorCrashed | node.ActorGaveUp) and each.event.stream == case.own[0].stream:
            yield _one(each, words(each.event))


def _before(ended: Envelope, exited: Envelope | None) -> str:
    """Say how long before the container's end, where one clock measured both."""
    if exited is None or ended.boot_id != exited.boot_id:
        return ""
    return f", {duration(max(exited.boot_ns - ended.boot_ns, 0) // 1_000_000)} before the end was recorded"


def _one(each: Envelope, text: str) -> Evidence:
    return Evidence(each.seq, exact_time_text(each.wall_ns), text)


# --- confidence ------------------------------------------------------------------------------------------------------


def _confidence(found: Ending, case: Case, exited: container.Exited | None, watched: bool) -> tuple[str, str]:
    """Return how far the verdict can be trusted, and by which rule."""
    level, rule = _rule(found, case, exited, watched)
    strange = sum(isinstance(each.event, Opaque) for each in case.own)
    if strange and level != "low":
        return "low", f"{strange} records of the container are of kinds that this build does not know"
    return level, rule


def _unread(case: Case) -> Iterator[str]:
    """Say that there are records which nobody here can read; one of them may be the container's end."""
    if strange := [each.seq for each in case.own if isinstance(each.event, Opaque)]:
        yield f"what {cited(strange[-_NODE_SHOWN:])} say: a newer ocid wrote them, and can read them"


def _rule(found: Ending, case: Case, exited: container.Exited | None, watched: bool) -> tuple[str, str]:
    match found.cause:
        case "given-up":
            return "low", "nobody watches the container any more"
        case "unwatched":
            return "low", "nobody saw the end: neither an exit file of its monitor nor the kernel's word is there"
        case "reboot":
            return "medium", "it did not outlive a boot of the machine; it may have ended before that, unseen"
        case "not-started" | "running" | "stopping":
            return "high", "what the log has last of it"
        case "prepare-failed" | "create-failed" | "start-failed":
            return "high", "the failure is recorded as such"
        case "oom":
            return "high", (
                "the daemon counted an out-of-memory kill between its making and its end (a difference of counters, "
                "its monitor's notice, or the kernel's log), and SIGKILL ended it"
            )
        case "oom-inside":
            return (
                "medium",
                "a kill was counted in its cgroup, but its init ended in another way, so that may not be why",
            )
        case "killed-after-grace":
            return _killed_after_grace(case, exited)
        case "killed-before-grace":
            return "medium", "a stop was on its way, but the kill came before the daemon's was due"
        case "signal" if not watched:
            return "medium", "nobody asked for it in this log, but the daemon was down for part of its life"
        case "signal":
            return "high", "one life of the daemon watched it from start to end: it sent no signal and counted no kill"
        case "unstarted":
            return "high", "nothing of it had run when it was stopped"
        case "killed-on-request":
            return "high", "SIGKILL was asked for without grace, and SIGKILL ended it"
        case _ if exited is not None and exited.source == "kernel":
            return "high", "the kernel told its exit code; its monitor was lost"
        case "finished" | "failed":
            return "high", "its monitor wrote its exit code down, and it is none that a signal makes"
        case _:
            return "high", "its monitor wrote its exit code down, and the stop that was asked for explains it"


def _killed_after_grace(case: Case, exited: container.Exited | None) -> tuple[str, str]:
    asked = case.stop.event if case.stop is not None else None
    if exited is None or case.stop is None or not isinstance(asked, container.StopRequested):
        return "low", "the request is not there any more"
    if down_at_end(case) is not None:
        return "low", "the daemon was down when it ended, so the kill need not be its own"
    if exited.at_ns + _CLOCK_SLACK_NS < case.stop.wall_ns + asked.grace_ms * 1_000_000:
        return "medium", "the end was recorded when the kill was due, but the wall clock says that it came before"
    return "high", "SIGKILL ended it at or after the moment at which the daemon's own was due"
