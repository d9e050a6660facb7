"""Finding what an id or a name means, and everything in the log that belongs to it, also when it is long removed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from ocid.errors import InvalidRequest, NotFound
from ocid.events import container, pod
from ocid.events.envelope import Envelope
from ocid.ids import StreamId
from ocid.journal.looking import damage_named
from ocid.journal.reader import Reader

_KINDS: Final = ("pod/", "container/")
_CHUNK: Final = 1024  # records read at once
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
    wanted = wanted.strip()
    for prefix in ("pod/", "container/"):
        wanted = (
            wanted.removeprefix(prefix) if wanted.count("/") == 1 and _looks_like_id(wanted[len(prefix) :]) else wanted
        )
    with damage_named():
        by_id = _first(reader, _beginning(reader, wanted))
        by_name = _first(reader, [stream for _, stream in reader.named(wanted) if stream.startswith(_KINDS)][-1:])
    exact = next((each for each in by_id if each.id == wanted), None)
    if len(by_id) > 1 and exact is None:
        shown = ", ".join(f"{each.kind} {each.id[:16]} ({each.name})" for each in by_id[:_CANDIDATES_SHOWN])
        many = "more than " if len(by_id) > _CANDIDATES_SHOWN else ""
        count = min(len(by_id), _CANDIDATES_SHOWN)
        raise InvalidRequest(f"{wanted!r} is the beginning of {many}{count} ids: {shown}; give more of it")
    found = exact or next(iter([*by_id, *by_name]), None)
    if found is None:
        raise NotFound("pod or container", wanted)
    return found


def events_of(reader: Reader, subject: Subject) -> list[Envelope]:
    """Return the events of *subject* and of all that belongs to it, in order.

    Raises:
        Damaged: a record is not what was written.
    """
    seqs: list[int] = []
    streams = [subject.stream]
    with damage_named():
        for stream in streams:  # grows
            seqs += reader.seqs(stream)
            streams += [child for _, child in reader.children(stream)]
        return [envelope for chunk in _chunks(sorted(seqs)) for envelope in reader.at(chunk)]


def _beginning(reader: Reader, wanted: str) -> list[StreamId]:
    """Return the streams of pods and containers whose id begins so, a few at most."""
    if not wanted:
        return []
    return [stream for kind in _KINDS for stream in reader.streams(f"{kind}{wanted}", _CANDIDATES_SHOWN + 1)]


def _first(reader: Reader, streams: list[StreamId]) -> list[Subject]:
    first = sorted(reader.seqs(stream)[0] for stream in streams)
    return [subject for envelope in reader.at(first) if (subject := _subject(envelope)) is not None]


def _chunks(seqs: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(seqs), _CHUNK):
        yield seqs[start : start + _CHUNK]


def _subject(envelope: Envelope) -> Subject | None:
    match envelope.event:
        case pod.Declared() as declared:
            return Subject("pod", declared.pod_id, f"{declared.namespace}/{declared.name}")
        case container.Declared() as declared:
            return Subject("container", declared.container_id, declared.name)
        case _:
            return None


def _looks_like_id(text: str) -> bool:
    return bool(text) and all(char in "0123456789abcdef" for char in text)
