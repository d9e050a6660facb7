"""What belongs to whom, and by which names people know it: read off the events that begin streams. Pure.

The log keeps an index of both, made as the events are written, so that the story of one pod is found among a million
records without reading them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ocid.events import checkpoint, container, exec as execution, image, pod, session
from ocid.events.base import Event
from ocid.ids import StreamId


def parent_of(event: Event) -> StreamId | None:
    """Return the stream that the stream which *event* begins belongs to; None for all other events."""
    found = _PARENTS.get(type(event))
    return None if found is None else found(event)


def names_of(event: Event) -> tuple[str, ...]:
    """Return the names under which the stream that *event* is written to can be found.

    A pod's "namespace/name" and name, a container's name and its image's id, what a pull asked for and what image it
    found.
    """
    found = _NAMES.get(type(event))
    return () if found is None else found(event)


def _of_pod(event: Any) -> StreamId:
    return StreamId(f"pod/{event.pod_id}")


def _of_container(event: Any) -> StreamId:
    return StreamId(f"container/{event.container_id}")


def _of_either(event: Any) -> StreamId:
    return _of_container(event) if event.container_id else _of_pod(event)


_PARENTS: Final[dict[type[Event], Callable[[Any], StreamId]]] = {
    container.Declared: _of_pod,
    execution.Requested: _of_container,
    checkpoint.Requested: _of_container,
    session.Requested: _of_either,
}
_NAMES: Final[dict[type[Event], Callable[[Any], tuple[str, ...]]]] = {
    pod.Declared: lambda event: (f"{event.namespace}/{event.name}", event.name),
    container.Declared: lambda event: (event.name, event.image_id),
    image.PullRequested: lambda event: (event.reference,),
    image.PullResolved: lambda event: (event.image_id,),
}
TYPES: Final = frozenset(kind.TYPE for kind in (*_PARENTS, *_NAMES))  # of events that say any of it
