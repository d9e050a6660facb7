"""Facts about layers of images in the store. Stream ``layer/<chain id>``."""

from __future__ import annotations

from typing import ClassVar

from ocid.classes import Public, Sensitive
from ocid.events.base import Event, enter
from ocid.ids import ChainId, Digest, PullId


class Wanted(Event, frozen=True, kw_only=True):
    """A pull needs this layer. Its place in the store is its chain id, so it is named here before it is made."""

    TYPE: ClassVar[str] = "layer.wanted"
    chain_id: ChainId
    diff_id: Digest  # digest of the uncompressed tar; OCI image-spec config.md "Layer DiffID"
    blob: Digest  # digest of the blob as the registry has it
    media_type: Public
    blob_bytes: int
    pull_id: PullId


class Ready(Event, frozen=True, kw_only=True):
    """The layer is verified, unpacked and durable under its chain id."""

    TYPE: ClassVar[str] = "layer.ready"
    size_bytes: int  # of the unpacked files
    inodes: int


class Failed(Event, frozen=True, kw_only=True):
    """The layer could not be made; nothing of it is left."""

    TYPE: ClassVar[str] = "layer.failed"
    error: Public
    message: Sensitive


class RemoveRequested(Event, frozen=True, kw_only=True):
    """Nothing refers to the layer any more."""

    TYPE: ClassVar[str] = "layer.remove_requested"


class Removed(Event, frozen=True, kw_only=True):
    """The layer's directory is gone."""

    TYPE: ClassVar[str] = "layer.removed"


class Lost(Event, frozen=True, kw_only=True):
    """A layer that the log calls ready is not in the store."""

    TYPE: ClassVar[str] = "layer.lost"
    reason: Sensitive


LayerEvent = Wanted | Ready | Failed | RemoveRequested | Removed | Lost

enter(Wanted, Ready, Failed, RemoveRequested, Removed, Lost)
