"""Which container somebody means, also by its pod's name and its own; and which kinds of records."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Final

from ocid.errors import InvalidRequest, NotFound
from ocid.events import container
from ocid.events.base import Event
from ocid.ids import StreamId
from ocid.journal.looking import damage_named
from ocid.journal.reader import Reader

from .family import Subject, find

_SHOWN: Final = 8


def find_container(reader: Reader, wanted: str) -> Subject:
    """Return the container that *wanted* means: an id, its beginning, a name, or POD/NAME with any name of the pod.

    Of several that had one name, the newest one is meant. A pod stands for its only container.

    Raises:
        NotFound: nothing in the log has that id or name.
        InvalidRequest: the beginning of an id fits several, or a pod has several containers.
    """
    try:
        subject = find(reader, wanted)
    except NotFound:
        owner, slash, name = wanted.rpartition("/")
        if not slash or not owner:
            raise
        of_pod = [each for each in _containers(reader, find(reader, owner)) if each.name == name]
        if not of_pod:
            raise NotFound("container", wanted) from None
        return of_pod[-1]
    if subject.kind == "container":
        return subject
    namesakes = _declared(reader, [stream for _, stream in reader.named(wanted)])
    if namesakes:
        return namesakes[-1]
    inside = _containers(reader, subject)
    if len({each.name for each in inside}) == 1:
        return inside[-1]
    names = ", ".join(f"{each.name} ({each.id[:12]})" for each in inside[:_SHOWN]) or "none"
    raise InvalidRequest(f"{wanted!r} is pod {subject.name}: name one of its containers; it had {names}")


def _containers(reader: Reader, owner: Subject) -> list[Subject]:
    """Return the containers of the pod *owner*, in order of declaration."""
    return _declared(reader, [stream for _, stream in reader.children(owner.stream)])


def _declared(reader: Reader, streams: Sequence[StreamId]) -> list[Subject]:
    """Return those of *streams* that are of containers, in their order."""
    with damage_named():
        first = [reader.seqs(stream)[0] for stream in streams if stream.startswith("container/")]
        events = [each.event for each in reader.at(first)]
    return [
        Subject("container", each.container_id, each.name) for each in events if isinstance(each, container.Declared)
    ]


def chosen(globs: Sequence[str], kinds: Sequence[type[Event]]) -> list[str]:
    """Return the types of those of *kinds* that any of *globs* fits; of all where there are none. Pure.

    Raises:
        InvalidRequest: they fit none.
    """
    types = [kind.TYPE for kind in kinds]
    found = [name for name in types if not globs or any(fnmatch.fnmatchcase(name, glob) for glob in globs)]
    if not found:
        raise InvalidRequest(f"--type {', '.join(globs)}: this lists {', '.join(types)}")
    return found
