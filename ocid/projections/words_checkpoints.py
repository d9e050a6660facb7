"""What the events of container checkpoints say. Pure."""

from __future__ import annotations

from ocid.events import checkpoint
from ocid.events.container import Origin
from ocid.projections.text import short, size
from ocid.projections.vocabulary import says


@says(checkpoint.Requested)
def requested(event: checkpoint.Requested) -> str:
    """Say what of, and where to."""
    return f"checkpoint of container {short(event.container_id)} asked for, to {event.location}"


@says(checkpoint.Made)
def made(event: checkpoint.Made) -> str:
    """Say how large it is; its container stood still for that time."""
    return f"checkpoint made: {size(event.size_bytes)} in {event.took_ms} ms, the container goes on"


@says(checkpoint.Failed)
def failed(event: checkpoint.Failed) -> str:
    """Say why there is none."""
    return f"checkpoint failed, the container goes on: {event.error}: {event.message}"


def origin(event: Origin) -> str:
    """Say what a container goes on from; a comma before it."""
    where = event.archive or f"image {short(event.digest)}"
    whose = f" of {event.name}" if event.name else ""
    return f", to go on from the checkpoint{whose} in {where}"
