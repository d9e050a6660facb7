"""Finding whom a record is about: who asked, and which pod, container or command it belongs to.

Nothing is learned from the records that go by. A stream's first event says what it is, and is looked up by the index of
streams when it is needed; so an export says the same of a record wherever it began, and whatever it left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from ocid.events import checkpoint, container, exec as execution, image, pod, session
from ocid.events.base import Event
from ocid.events.envelope import Envelope
from ocid.events.node import PeerSeen
from ocid.ids import StreamId
from ocid.journal.pending import STREAM_BYTES_MAX

from .naming import Container, Log, Naming, Pod

KEPT_MAX: Final = 8192  # streams whose beginnings are kept at hand
CREATED_BY: Final = 8  # version by which a container's init has its pid; plugins and retries come before it


class Index(Protocol):
    """What looking up needs of a log; see ``ocid.journal.reader``."""

    def index(self, places: list[tuple[StreamId, int]]) -> list[int | None]: ...
    def read(self, from_seq: int, limit: int) -> list[Envelope]: ...


class _Beginning(msgspec.Struct):
    """The first events of a stream, as far as they were looked at."""

    event: Event | None  # the first one; None where the log has it no longer
    version: int  # the last one that was looked at
    pid: int = 0


class Names:
    """Whom the records of one log are about."""

    def __init__(self, log: Log, index: Index, peer: Callable[[int], PeerSeen | None]) -> None:
        """*peer* returns the ``node.peer_seen`` event of a seq."""
        self._log = log
        self._index = index
        self._peer = peer
        self._beginnings: dict[str, _Beginning] = {}

    def of(self, envelope: Envelope) -> Naming:
        """Return whom *envelope* is about."""
        who = envelope.context.who
        event = envelope.event
        peer = event if isinstance(event, PeerSeen) else self._peer(who) if who else None
        first = self._first(envelope.stream, envelope)
        match first:
            case pod.Declared():
                return Naming(self._log, peer, _pod(first))
            case container.Declared():
                return self._inside(peer, envelope.stream, envelope)
            case execution.Requested(container_id=container_id, argv_brief=argv_brief):
                return self._inside(peer, f"container/{container_id}", envelope, argv_brief)
            case session.Requested(container_id=container_id, pod_id=pod_id):
                if container_id:
                    return self._inside(peer, f"container/{container_id}", envelope, first.argv_brief, first.kind)
                return Naming(self._log, peer, self._pod(pod_id, envelope), session=first.kind)
            case checkpoint.Requested(container_id=container_id):
                return self._inside(peer, f"container/{container_id}", envelope)
            case image.PullRequested(reference=reference):
                return Naming(self._log, peer, reference=reference)
            case _:
                return Naming(self._log, peer)

    def _inside(
        self, peer: PeerSeen | None, stream: str, envelope: Envelope, command: str = "", kind: str = ""
    ) -> Naming:
        first = self._first(stream, envelope)
        if not isinstance(first, container.Declared):
            return Naming(self._log, peer, command=command, session=kind)
        named = Container(
            id=first.container_id,
            name=first.name,
            image_id=first.image_id,
            image_ref=first.image_ref,
            handler=first.handler,
            pid=self._pid(stream, envelope),
        )
        return Naming(self._log, peer, self._pod(first.pod_id, envelope), named, command, kind)

    def _pod(self, pod_id: str, envelope: Envelope) -> Pod | None:
        first = self._first(f"pod/{pod_id}", envelope)
        return _pod(first) if isinstance(first, pod.Declared) else None

    def _first(self, stream: str, envelope: Envelope) -> Event | None:
        """Return the first event of *stream*, as of *envelope*."""
        known = self._beginnings.get(stream)
        if known is None:
            if stream.partition("/")[0] not in ("pod", "container", "exec", "session", "checkpoint", "pull"):
                return None
            first = envelope if envelope.stream == stream and envelope.version == 1 else self._at(stream, 1)
            if first is not None and first.seq > envelope.seq:
                return None  # a reference to what comes later is none
            if len(self._beginnings) >= KEPT_MAX:
                del self._beginnings[next(iter(self._beginnings))]
            known = self._beginnings[stream] = _Beginning(first.event if first is not None else None, 1)
        return known.event

    def _pid(self, stream: str, envelope: Envelope) -> int:
        """Return the pid of a container's init, as of *envelope*; 0 where it has none."""
        known = self._beginnings[stream]
        own = envelope.version if envelope.stream == stream else CREATED_BY
        while not known.pid and known.version < min(own, CREATED_BY):
            version = known.version + 1
            found = envelope if envelope.stream == stream and version == own else self._at(stream, version)
            if found is None or found.seq > envelope.seq:
                break
            known.version = version
            if isinstance(found.event, container.Created):
                known.pid = found.event.pid
        return known.pid

    def _at(self, stream: str, version: int) -> Envelope | None:
        if len(stream.encode()) > STREAM_BYTES_MAX:  # no stream has such a name, whatever a record says
            return None
        seq = self._index.index([(StreamId(stream), version)])[0]
        found = self._index.read(seq, 1) if seq else []
        return found[0] if found and found[0].stream == stream and found[0].version == version else None


def _pod(declared: pod.Declared) -> Pod:
    return Pod(declared.pod_id, declared.name, declared.namespace, declared.uid)
