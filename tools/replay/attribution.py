"""Who is behind a record: the client that asked for it, or for what it follows from. Pure.

A record of an RPC names its client. What came of it later, by itself, names none; it is followed back, step by step, to
the record that does. Each step goes to the intent that a fact carries out (an exit after a stop that was asked for, a
removal after the request for it), or else to the record that it cites as its cause. A cause is believed only where it
can be one: a container's end follows from its start in every log, but whoever started it did not ask for its end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from ocid.events import checkpoint, container, exec as execution, image, layer, pod, session
from ocid.events.base import Event
from ocid.events.envelope import Envelope
from ocid.events.node import PeerSeen
from ocid.projections.words import who, who_in_full

from .lookup import Lookup
from .output import cited

STEPS_MAX: Final = 64

Peer = Callable[[int], PeerSeen | None]


class Attribution(msgspec.Struct, frozen=True):
    """Who is behind a record, and by way of which others."""

    kind: str  # "client"; "plugin"; "daemon", for what only follows from other records; "nobody"
    who: int = 0  # seq of the node.peer_seen record of a client
    plugin: str = ""
    because: tuple[int, ...] = ()  # the records in between, the last of which names the client or plugin
    rpc: str = ""  # the call, of a client


# Facts and the intents that they carry out, in the same stream. The last one before the fact counts.
_INTENTS: Final[dict[type[Event], tuple[type[Event], ...]]] = {
    **dict.fromkeys(
        (container.Prepared, container.Adjusted, container.PrepareFailed, container.Created, container.CreateFailed),
        (container.Declared,),
    ),
    **dict.fromkeys((container.Started, container.StartFailed), (container.StartRequested,)),
    container.Exited: (container.StopRequested,),
    container.Released: (
        container.Exited, container.PrepareFailed, container.CreateFailed, container.StartFailed,
    ),
    container.Removed: (container.RemoveRequested,),
    **dict.fromkeys(
        (container.Updated, container.UpdateAdjusted, container.UpdateRefused), (container.UpdateRequested,)
    ),
    **dict.fromkeys(
        (
            pod.Prepared, pod.NetworkAttached, pod.FurtherNetworkAttached, pod.PauseStarted, pod.Announced, pod.Ready,
            pod.Failed,
        ),
        (pod.Declared,),
    ),
    pod.StopRequested: (pod.Failed,),
    pod.RemoveRequested: (pod.Failed,),
    **dict.fromkeys(
        (pod.ContainersStopped, pod.NetworkDetached, pod.Stopped), (pod.StopRequested, pod.Lost, pod.Failed)
    ),
    pod.Removed: (pod.RemoveRequested,),
    **dict.fromkeys((execution.Finished, execution.Failed, execution.Abandoned), (execution.Requested,)),
    **dict.fromkeys(
        (session.Opened, session.Closed, session.Failed, session.Expired, session.Abandoned), (session.Requested,)
    ),
    **dict.fromkeys((checkpoint.Made, checkpoint.Failed), (checkpoint.Requested,)),
    **dict.fromkeys(
        (image.PullResolved, image.PullLayersReady, image.PullCompleted, image.PullFailed, image.PullAbandoned),
        (image.PullRequested,),
    ),
    image.LayersCollected: (image.ImageRemoved, image.ImageReleased, image.LayersLeft),
    **dict.fromkeys((layer.Ready, layer.Failed), (layer.Wanted,)),
    layer.Removed: (layer.RemoveRequested,),
}  # fmt: skip

# Facts that follow from another stream; a cause in any other one is where their own stream last was.
_ELSEWHERE: Final[dict[type[Event], str]] = {
    container.StopRequested: "pod/",
    container.RemoveRequested: "pod/",
    image.ImageAdded: "pull/",
    image.ImageNamed: "pull/",
    image.ImageReleased: "container/",
    layer.Wanted: "pull/",
    layer.RemoveRequested: "catalog/",
    pod.GaveUp: "container/",
}

# Streams that begin with the call that all in them is about.
_OF_ONE_CALL: Final = ("exec/", "session/", "pull/", "checkpoint/")

# What is only seen: these follow from nothing that anybody asked for, whatever they cite.
_SEEN: Final = (
    container.GaveUp, pod.Lost, layer.Lost, image.LayersLeft,
)  # fmt: skip


def attribute(envelope: Envelope, log: Lookup) -> Attribution:
    """Return who is behind *envelope*."""
    because: list[int] = []
    at = envelope
    for _ in range(STEPS_MAX):
        if at.context.who:
            return Attribution("client", who=at.context.who, because=tuple(because), rpc=at.context.command_id)
        if plugin := _plugin(at.event):
            return Attribution("plugin", plugin=plugin, because=tuple(because))
        behind = _behind(at, log)
        if behind is None or behind.seq >= at.seq:
            break
        because.append(behind.seq)
        at = behind
    if isinstance(envelope.event, container.Exited) and not because:
        return Attribution("nobody")
    return Attribution("daemon", because=tuple(because))


def brief(found: Attribution, peer: Peer) -> str:
    """Name who it was, in a word or a few."""
    match found.kind:
        case "client":
            return who(peer(found.who), found.who)
        case "plugin":
            return f"plugin {found.plugin}"
        case "nobody":
            return "nobody"
        case _:
            return f"the daemon, because of {cited(found.because[-1:])}" if found.because else "the daemon"


def in_full(found: Attribution, peer: Peer) -> str:
    """Name who it was, with all that identifies them and the records that this rests on."""
    by = f", by way of {cited(found.because)}" if found.because and found.kind != "daemon" else ""
    match found.kind:
        case "client":
            return f"{who_in_full(peer(found.who), found.who)}{f' called {found.rpc}' if found.rpc else ''}{by}"
        case "nobody":
            return "nobody asked for it"
        case _:
            return brief(found, peer) + by


def facts(found: Attribution, peer: Peer) -> dict[str, Any]:
    """Return it as JSON-ready data, the client with everything that the log has on it."""
    seen = peer(found.who) if found.who else None
    return {
        "kind": found.kind,
        "name": brief(found, peer),
        "rpc": found.rpc,
        "plugin": found.plugin,
        "because": list(found.because),
        "peer_seq": found.who,
        "peer": None if seen is None else msgspec.to_builtins(seen),
    }


def _plugin(event: Event) -> str:
    match event:
        case container.StopRequested(plugin=plugin):
            return plugin
        case container.UpdateRequested(plugins=plugins):
            return ", ".join(plugins)
        case _:
            return ""


def _behind(at: Envelope, log: Lookup) -> Envelope | None:
    """Return the record that *at* carries out or follows from."""
    kind = type(at.event)
    if kind in _SEEN:
        return None
    if (intents := _INTENTS.get(kind)) is not None:
        return _last(log, at.stream, at.seq, intents)
    cause = log.record(at.context.cause) if 0 < at.context.cause < at.seq else None
    if (wanted := _ELSEWHERE.get(kind)) is None:
        return cause or (log.first(at.stream) if at.stream.startswith(_OF_ONE_CALL) else None)
    if cause is not None and cause.stream.startswith(wanted):
        return cause
    return _presumed(at, log)


def _presumed(at: Envelope, log: Lookup) -> Envelope | None:
    """Return what *at* must follow from, where it does not cite it."""
    match at.event:
        case container.RemoveRequested() if failed := _last(log, at.stream, at.seq, (container.PrepareFailed,)):
            return failed
        case container.StopRequested() | container.RemoveRequested():
            first = log.first(at.stream)
            if first is None or not isinstance(first.event, container.Declared):
                return None
            intents = (pod.StopRequested, pod.RemoveRequested, pod.Failed, pod.Lost)
            return _last(log, f"pod/{first.event.pod_id}", at.seq, intents)
        case layer.Wanted(pull_id=pull_id):
            return _last(log, f"pull/{pull_id}", at.seq, (image.PullRequested,))
        case _:
            return None


def _last(log: Lookup, stream: str, before_seq: int, kinds: tuple[type[Event], ...]) -> Envelope | None:
    found = (one for one in reversed(log.stream(stream)) if one.seq < before_seq and isinstance(one.event, kinds))
    return next(found, None)
