"""Which container somebody means, also by its pod's name and its own; and which kinds of records."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Final

from ocid.errors import InvalidRequest, NotFound
from ocid.events import container
from ocid.events.base import Event
from ocid.journal.reader import Reader
from ocid.projections.selection import Selection

from .family import Subject, find
from .reading import selected

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
    namesakes = [each for each in _containers(reader, None) if each.name == wanted]
    if namesakes:
        return namesakes[-1]
    inside = _containers(reader, subject)
    if len({each.name for each in inside}) == 1:
        return inside[-1]
    names = ", ".join(f"{each.name} ({each.id[:12]})" for each in inside[:_SHOWN]) or "none"
    raise InvalidRequest(f"{wanted!r} is pod {subject.name}: name one of its containers; it had {names}")


def _containers(reader: Reader, owner: Subject | None) -> list[Subject]:
    """Return the containers that the log has, or those of the pod *owner*, in order of declaration."""
    found = []
    for each in selected(reader, Selection(types=(container.Declared.TYPE,))):
        declared = each.event
        if isinstance(declared, container.Declared) and (owner is None or declared.pod_id == owner.id):
            found.append(Subject("container", declared.container_id, declared.name))
    return found


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
