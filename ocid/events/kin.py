"""What belongs to whom, and by which names people know it: read off the events that begin streams. Pure.

The log keeps an index of both, made as the events are written, so that the story of one pod is found among a million
records without reading them.
"""

from __future__ import annotations

from typing import Final

from ocid.events import checkpoint, container, exec as execution, image, pod, session
from ocid.events.base import Event
from ocid.ids import StreamId


def parent_of(event: Event) -> StreamId | None:
    """Return the stream that the stream which *event* begins belongs to; None for all other events."""
    match event:
        case container.Declared(pod_id=pod_id):
            return StreamId(f"pod/{pod_id}")
        case execution.Requested(container_id=container_id) | checkpoint.Requested(container_id=container_id):
            return StreamId(f"container/{container_id}")
        case session.Requested(container_id=container_id, pod_id=pod_id):
            return StreamId(f"container/{container_id}" if container_id else f"pod/{pod_id}")
        case _:
            return None


def names_of(event: Event) -> tuple[str, ...]:
    """Return the names under which the stream that *event* is written to can be found.

    A pod's "namespace/name" and name, a container's name and its image's id, what a pull asked for and what image it
    found.
    """
    match event:
        case pod.Declared(namespace=namespace, name=name):
            return (f"{namespace}/{name}", name)
        case container.Declared(name=name, image_id=image_id):
            return (name, image_id)
        case image.PullRequested(reference=reference):
            return (reference,)
        case image.PullResolved(image_id=image_id):
            return (image_id,)
        case _:
            return ()


TYPES: Final = frozenset(
    kind.TYPE
    for kind in (
        container.Declared,
        execution.Requested,
        checkpoint.Requested,
        session.Requested,
        pod.Declared,
        image.PullRequested,
        image.PullResolved,
    )
)  # of events that say any of it
