"""What the events of pulls, images and layers say. Pure."""

from __future__ import annotations

from ocid.events import image, layer
from ocid.projections.text import short, size
from ocid.projections.vocabulary import always, says


@says(image.PullRequested)
def _(event: image.PullRequested) -> str:
    return f"pull of {event.reference} asked for{', with credentials' if event.with_credentials else ''}"


@says(image.PullResolved)
def _(event: image.PullResolved) -> str:
    return (
        f"image {short(event.image_id)}, manifest {short(event.manifest)} from {event.endpoint}: "
        f"{event.layers} layers, {size(event.total_bytes)}"
    )


@says(image.PullCompleted)
def _(event: image.PullCompleted) -> str:
    return f"pulled image {short(event.image_id)}"


@says(image.PullFailed)
def _(event: image.PullFailed) -> str:
    return f"pull failed: {event.error}: {event.message}"


@says(image.PullAbandoned)
def _(event: image.PullAbandoned) -> str:
    return f"pull abandoned: {event.reason}"


@says(image.ImageAdded)
def _(event: image.ImageAdded) -> str:
    return f"image {short(event.image_id)} added, {size(event.size_bytes)}, manifest {short(event.manifest)}"


@says(image.ImageNamed)
def _(event: image.ImageNamed) -> str:
    return f"{event.name} is image {short(event.image_id)} from now on"


@says(image.ImageRemoved)
def _(event: image.ImageRemoved) -> str:
    return f"image {short(event.image_id)} removed with its names"


@says(image.ImageReleased)
def _(event: image.ImageReleased) -> str:
    return f"no container needs image {short(event.image_id)} any more, which had left the catalog"


@says(image.LayersCollected)
def _(event: image.LayersCollected) -> str:
    return f"{event.layers} layers that nothing referred to were removed"


@says(layer.Wanted)
def _(event: layer.Wanted) -> str:
    return f"layer wanted by pull {short(event.pull_id)}: blob {short(event.blob)}, {size(event.blob_bytes)}"


@says(layer.Ready)
def _(event: layer.Ready) -> str:
    return f"verified, unpacked and durable: {size(event.size_bytes)} in {event.inodes} files"


@says(layer.Failed)
def _(event: layer.Failed) -> str:
    return f"could not be made: {event.error}: {event.message}"


@says(layer.Lost)
def _(event: layer.Lost) -> str:
    return f"gone from the store without our doing: {event.reason}"


always(image.PullLayersReady, "all layers are ready")
always(layer.RemoveRequested, "nothing refers to it any more")
always(layer.Removed, "removed")
