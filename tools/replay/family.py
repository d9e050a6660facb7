"""Finding what an id or a name means, and everything in the log that belongs to it, also when it is long removed."""

from __future__ import annotations

from typing import Final

import msgspec

from ocid.errors import InvalidRequest, NotFound
from ocid.events import checkpoint, codec, container, exec as execution, pod, session
from ocid.events.envelope import Envelope
from ocid.ids import StreamId
from ocid.journal.reader import Reader

from .reading import headers

_DECLARING: Final = (
    *(pod.Declared.TYPE, container.Declared.TYPE),
    *(execution.Requested.TYPE, session.Requested.TYPE, checkpoint.Requested.TYPE),
)
_CANDIDATES_SHOWN: Final = 8


class Subject(msgspec.Struct, frozen=True):
    """A pod or container that somebody asked about."""

    kind: str  # "pod" or "container"
    id: str
    name: str  # of a pod with its namespace, of a container without its pod

    @property
    def stream(self) -> StreamId:
        """The stream of its own events."""
        return StreamId(f"{self.kind}/{self.id}")


def find(reader: Reader, wanted: str) -> Subject:
    """Return what *wanted* means: an id, the beginning of one, a pod's namespace/name or name, a container's name.

    An id goes before a name. Of several pods or containers that had one name, the newest one is meant.

    Raises:
        NotFound: nothing in the log has that id or name.
        InvalidRequest: the beginning of an id fits several.
    """
    by_id: dict[str, Subject] = {}
    by_name: Subject | None = None
    wanted = wanted.strip()
    for prefix in ("pod/", "container/"):
        wanted = (
            wanted.removeprefix(prefix) if wanted.count("/") == 1 and _looks_like_id(wanted[len(prefix) :]) else wanted
        )
    for header, record in headers(reader):
        if header.type not in (pod.Declared.TYPE, container.Declared.TYPE):
            continue
        subject = _subject(codec.decode(record))
        if subject is None:
            continue
        if wanted and subject.id.startswith(wanted):
            by_id[subject.id] = subject
        if wanted in (subject.name, subject.name.rpartition("/")[2]):
            by_name = subject
    if len(by_id) > 1 and wanted not in by_id:
        shown = ", ".join(
            f"{each.kind} {each.id[:16]} ({each.name})" for each in list(by_id.values())[:_CANDIDATES_SHOWN]
        )
        raise InvalidRequest(f"{wanted!r} is the beginning of {len(by_id)} ids: {shown}; give more of it")
    found = by_id.get(wanted) or next(iter(by_id.values()), by_name)
    if found is None:
        raise NotFound("pod or container", wanted)
    return found


def events_of(reader: Reader, subject: Subject) -> list[Envelope]:
    """Return the events of *subject* and of all that belongs to it, in order."""
    streams: set[str] = {subject.stream}
    found = []
    for header, record in headers(reader):
        if header.type in _DECLARING and header.stream not in streams:
            parent = _parent(codec.decode(record))
            if parent in streams:
                streams.add(header.stream)
        if header.stream in streams:
            found.append(codec.decode(record))
    return found


def _subject(envelope: Envelope) -> Subject | None:
    match envelope.event:
        case pod.Declared() as declared:
            return Subject("pod", declared.pod_id, f"{declared.namespace}/{declared.name}")
        case container.Declared() as declared:
            return Subject("container", declared.container_id, declared.name)
        case _:
            return None


def _parent(envelope: Envelope) -> str:
    match envelope.event:
        case container.Declared(pod_id=pod_id):
            return f"pod/{pod_id}"
        case execution.Requested(container_id=container_id) | checkpoint.Requested(container_id=container_id):
            return f"container/{container_id}"
        case session.Requested(container_id=container_id, pod_id=pod_id):
            return f"container/{container_id}" if container_id else f"pod/{pod_id}"
        case _:
            return ""


def _looks_like_id(text: str) -> bool:
    return bool(text) and all(char in "0123456789abcdef" for char in text)
