"""What events about clients of the CRI socket say, in plain words; see ``ocid.projections.words``."""

from __future__ import annotations

from ocid.events import node
from ocid.events.node import UNSET, PeerSeen
from ocid.projections.text import short, size
from ocid.projections.vocabulary import says


def marks(peer: PeerSeen) -> str:
    """Return what tells a peer from a service of the node: a login, a container; "" for neither."""
    session = "" if peer.session_id == UNSET else f" (session {peer.session_id})"
    login = "" if peer.login_uid == UNSET else f", logged in as uid {peer.login_uid}{session}"
    inside = f", inside container {short(peer.container_id)}" if peer.container_id else ""
    return login + inside


@says(node.PeerSeen)
def _(event: node.PeerSeen) -> str:
    name = event.exe or event.comm or "a process"
    return f"{name} connected: pid {event.pid}, uid {event.uid}, gid {event.gid}{marks(event)}"


@says(node.PeerMeasured)
def _(event: node.PeerMeasured) -> str:
    if not event.exe_hash:
        return f"what peer [{event.peer}] runs could not be hashed: {event.reason}"
    return f"what peer [{event.peer}] runs has sha256 {event.exe_hash}, {size(event.size_bytes)}"


@says(node.UsualPeerSet)
def _(event: node.UsualPeerSet) -> str:
    if not event.exes:
        return "the configuration names no usual peer any more"
    why = "the configuration says so" if event.configured else f"it ran a pod first [{event.peer}]"
    inside = ", also inside a container" if event.contained else ""
    return f"the usual peer is {' or '.join(event.exes)}, uid {event.uid}{inside}: {why}"


@says(node.UnusualCall)
def _(event: node.UnusualCall) -> str:
    aggregate, _, name = event.subject.partition("/")
    about = " ".join(part for part in (aggregate, short(name), event.named) if part)
    return f"unusual: {event.rpc}{f' of {about}' if about else ''} is not asked for by the usual peer: {event.reason}"
