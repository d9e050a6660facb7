"""A pod's or container's life as a list of lines, each with the record it rests on. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from ocid.events import container, exec as execution, pod, session
from ocid.events.envelope import Envelope
from ocid.events.node import PeerSeen, UnusualCall
from ocid.events.trace import trace_id
from ocid.projections.text import short
from ocid.projections.words import who, who_in_full, words

from .adjusted import Document, spelled
from .attribution import attribute, brief
from .family import Subject
from .lookup import Listed, Lookup
from .verdict import Finding, of_container, of_pod

Peer = Callable[[int], PeerSeen | None]

# What a pod's story tells of its containers; the rest is in their own stories.
_MAIN_LINES: Final = (
    container.Declared, container.PrepareFailed, container.CreateFailed, container.Started, container.StartFailed,
    container.StopRequested, container.Exited, container.Removed, container.GaveUp,
    execution.Requested, session.Requested, session.Closed, UnusualCall,
)  # fmt: skip
_ASKED_FOR: Final = (
    pod.Declared, pod.StopRequested, pod.RemoveRequested, container.Declared, container.StartRequested,
    container.StopRequested, container.RemoveRequested, container.LogReopened, execution.Requested,
    session.Requested, UnusualCall,
)  # fmt: skip


class Line(msgspec.Struct, frozen=True):
    """One thing that happened."""

    seq: int
    wall_ns: int
    subject: str  # "" for the story's own; else "container app" or "exec 71aa…"
    type: str
    text: str
    who: str  # who asked for it; "" where nobody did
    who_seq: int  # of the record that describes who; 0 for the daemon itself
    trace: str = ""  # id of the asker's own trace, where it has one


class Verdict(msgspec.Struct, frozen=True):
    """Why something ended."""

    subject: str  # "pod default/web", "container app b81e…"
    findings: tuple[Finding, ...]


class Story(msgspec.Struct, frozen=True):
    """Everything that ``explain`` prints."""

    subject: Subject
    title: str
    lines: tuple[Line, ...]
    verdicts: tuple[Verdict, ...]
    askers: dict[str, str]  # who, in a word → who, in full


def tell(
    subject: Subject,
    events: Sequence[Envelope],
    peer: Peer,
    document: Document | None = None,
    hashes: Mapping[int, str] | None = None,
    log: Lookup | None = None,
) -> Story:
    """Tell the story of *subject* from its *events*, those of all that belongs to it and unusual calls, in order.

    *document* reads what the events cite; where it is not given, only what the events say themselves is told. *hashes*
    are those of what peers run, by the seq of the peer. *log* has what lies beside *events*, such as the pod's stop
    that a container's stop follows from.
    """
    names: dict[str, str] = {
        each.stream: f"container {each.event.name}" for each in events if isinstance(each.event, container.Declared)
    }
    lines = [
        _line(subject, each, names, peer, document)
        for each in events
        if each.stream == subject.stream or subject.kind == "container" or isinstance(each.event, _MAIN_LINES)
    ]
    askers = {
        who(peer(each.context.who), each.context.who): _in_full(each.context.who, peer, hashes or {})
        for each in events
        if isinstance(each.event, _ASKED_FOR) and each.context.who
    }
    return Story(
        subject=subject,
        title=_title(subject, events),
        lines=tuple(lines),
        verdicts=tuple(_verdicts(subject, events, names, peer, Listed(events) if log is None else log)),
        askers=askers,
    )


def _in_full(seq: int, peer: Peer, hashes: Mapping[int, str]) -> str:
    measured = f", sha256 of the program {hashes[seq]}" if seq in hashes else ""
    return who_in_full(peer(seq), seq) + measured


def _title(subject: Subject, events: Sequence[Envelope]) -> str:
    declared = next((each.event for each in events if each.stream == subject.stream), None)
    match declared:
        case pod.Declared():
            return f"pod {subject.name}, id {subject.id}, uid {declared.uid}, attempt {declared.attempt}"
        case container.Declared():
            return f"container {subject.name}, id {subject.id}, attempt {declared.attempt}, of pod {declared.pod_id}"
        case _:
            return f"{subject.kind} {subject.name}, id {subject.id}"


def _line(subject: Subject, each: Envelope, names: dict[str, str], peer: Peer, document: Document | None) -> Line:
    label = ""
    if each.stream != subject.stream and not isinstance(each.event, UnusualCall):
        aggregate, _, name = each.stream.partition("/")
        label = names.get(each.stream, f"{aggregate} {short(name)}")
    asked = isinstance(each.event, _ASKED_FOR)
    return Line(
        seq=each.seq,
        wall_ns=each.wall_ns,
        subject=label,
        type=each.type,
        text=_text(each, document),
        who=who(peer(each.context.who), each.context.who) if asked else "",
        who_seq=each.context.who,
        trace=trace_id(each.context.trace) if asked else "",
    )


def _text(each: Envelope, document: Document | None) -> str:
    text = words(each.event)
    if document is not None and isinstance(each.event, container.Adjusted):
        return f"{text}: {spelled(each.event, document)}".removesuffix(": ")
    return text


def _verdicts(
    subject: Subject, events: Sequence[Envelope], names: dict[str, str], peer: Peer, log: Lookup
) -> list[Verdict]:
    def asker(each: Envelope) -> str:
        return brief(attribute(each, log), peer)

    verdicts = []
    if subject.kind == "pod":
        own = [each for each in events if each.stream == subject.stream]
        verdicts.append(Verdict(f"pod {subject.name}", tuple(of_pod(own, asker))))
    for stream, name in names.items():
        execs = {
            each.stream
            for each in events
            if isinstance(each.event, execution.Requested | session.Requested)
            and f"container/{each.event.container_id}" == stream
        }
        own = [each for each in events if each.stream == stream or each.stream in execs]
        verdicts.append(Verdict(f"{name} {short(stream.partition('/')[2])}", tuple(of_container(own, asker))))
    return verdicts
