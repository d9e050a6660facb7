"""Facts about pulls (stream ``pull/<id>``) and about the catalog of images (stream ``catalog/images``)."""

from __future__ import annotations

from typing import ClassVar

from ocid.classes import Public, Sensitive
from ocid.events.base import Event, enter
from ocid.ids import Digest, ImageId, PullId, StreamId

CATALOG = StreamId("catalog/images")


class PullRequested(Event, frozen=True, kw_only=True):
    """PullImage was called. Credentials are not part of the fact."""

    TYPE: ClassVar[str] = "pull.requested"
    pull_id: PullId
    reference: Public  # normalised: registry/path:tag or registry/path@digest
    with_credentials: bool


class PullResolved(Event, frozen=True, kw_only=True):
    """The registry named the manifest, and a platform was chosen. Manifest and configuration are documents."""

    TYPE: ClassVar[str] = "pull.resolved"
    endpoint: Public  # the registry or mirror that answered, scheme and host
    manifest: Digest  # of the chosen platform's manifest
    index: Digest | None  # of the index or manifest list it was chosen from
    image_id: ImageId
    layers: int
    total_bytes: int  # of the blobs, as the manifest says


class PullLayersReady(Event, frozen=True, kw_only=True):
    """Every layer of the image is in the store."""

    TYPE: ClassVar[str] = "pull.layers_ready"


class PullCompleted(Event, frozen=True, kw_only=True):
    """Every layer is ready and the image stands in the catalog."""

    TYPE: ClassVar[str] = "pull.completed"
    image_id: ImageId


class PullFailed(Event, frozen=True, kw_only=True):
    """The pull ended without an image."""

    TYPE: ClassVar[str] = "pull.failed"
    error: Public
    message: Sensitive


class PullAbandoned(Event, frozen=True, kw_only=True):
    """The daemon ended during the pull. Verified layers stay for the caller's next try; credentials died with us."""

    TYPE: ClassVar[str] = "pull.abandoned"
    reason: Sensitive


class ImageAdded(Event, frozen=True, kw_only=True):
    """An image whose layers are all in the store was entered in the catalog."""

    TYPE: ClassVar[str] = "image.added"
    image_id: ImageId
    manifest: Digest  # document
    config: Digest  # document
    size_bytes: int  # of manifest, configuration and blobs


class ImageNamed(Event, frozen=True, kw_only=True):
    """A name points to the image from now on, and to no other."""

    TYPE: ClassVar[str] = "image.named"
    image_id: ImageId
    name: Public  # registry/path:tag, or registry/path@digest


class ImageRemoved(Event, frozen=True, kw_only=True):
    """The image and all its names left the catalog. Layers go when nothing else refers to them."""

    TYPE: ClassVar[str] = "image.removed"
    image_id: ImageId


class ImageReleased(Event, frozen=True, kw_only=True):
    """The last container of an image that had left the catalog is gone, so its layers may go."""

    TYPE: ClassVar[str] = "image.released"
    image_id: ImageId


class LayersLeft(Event, frozen=True, kw_only=True):
    """A start found layers that nothing refers to: the daemon had died before it could have them collected."""

    TYPE: ClassVar[str] = "image.layers_left"
    layers: int


class LayersCollected(Event, frozen=True, kw_only=True):
    """Layers that nothing referred to were removed after an image had gone."""

    TYPE: ClassVar[str] = "image.layers_collected"
    layers: int


PullEvent = PullRequested | PullResolved | PullLayersReady | PullCompleted | PullFailed | PullAbandoned
CatalogEvent = ImageAdded | ImageNamed | ImageRemoved | ImageReleased | LayersLeft | LayersCollected

enter(
    PullRequested, PullResolved, PullLayersReady, PullCompleted, PullFailed, PullAbandoned,
    ImageAdded, ImageNamed, ImageRemoved, ImageReleased, LayersLeft, LayersCollected,
)  # fmt: skip
