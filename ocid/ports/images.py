"""Registries, the layer store, and the host's own files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec

from ocid.classes import Secret
from ocid.domain.cdi import Source as CdiSource
from ocid.domain.image_config import ImageConfig
from ocid.domain.spec.inputs import DeviceNode
from ocid.ids import ChainId, Digest, ImageId
from ocid.ports.containers import ContainerOrder
from ocid.ports.usage import FilesystemRoom, WritableUsage


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """CRI AuthConfig. Never in an event, a message or a log line."""

    username: Secret = ""
    password: Secret = ""
    auth: Secret = ""  # base64 of username:password
    identity_token: Secret = ""
    registry_token: Secret = ""

    def __repr__(self) -> str:
        return "Credentials(…)"


class LayerBlob(msgspec.Struct, frozen=True, kw_only=True):
    """One layer as manifest and configuration describe it."""

    chain_id: ChainId
    diff_id: Digest
    blob: Digest
    media_type: str
    size_bytes: int


class ResolvedImage(msgspec.Struct, frozen=True, kw_only=True):
    """A reference, resolved to one platform's manifest. All documents are verified against their digests."""

    endpoint: str  # scheme and host that answered
    index: bytes | None  # document
    manifest: bytes  # document
    config: bytes  # document
    manifest_digest: Digest
    index_digest: Digest | None
    image_id: ImageId
    layers: tuple[LayerBlob, ...]
    total_bytes: int  # manifest, configuration and blobs, as image list sizes go


class Registry(Protocol):
    """The registries' side of pulling."""

    async def resolve(self, reference: str, credentials: Credentials | None) -> ResolvedImage:
        """Fetch and verify manifest and configuration of a normalised reference, for this host's platform.

        Raises:
            NotFound: no such repository, tag or platform.
            EffectFailed: the registry refused, or lied about a digest or size.
            Unavailable: no registry or mirror answered, or none made progress in time.
        """

    async def fetch(
        self,
        reference: str,
        credentials: Credentials | None,
        blob: LayerBlob,
        into: Path,
        progress: Callable[[int], None],
    ) -> None:
        """Download one blob to the file *into*, verified and fsynced. *progress* gets the number of new bytes."""


class ImageView(msgspec.Struct, frozen=True, kw_only=True):
    """How a container is to see the files of an image."""

    userns: str = ""  # owned as the user namespace pinned there maps their owners; "" leaves them as they are
    label: str = ""  # all with this SELinux label; "" leaves them as they are


AS_IT_IS: Final = ImageView()


class Layers(Protocol):
    """Unpacked layers by chain id, and root file systems made of them."""

    def has(self, chain_id: ChainId) -> bool:
        """Say whether the layer is whole in the store."""

    def chain_ids(self) -> frozenset[ChainId]:
        """List the layers in the store, for finding orphans."""

    def blob_path(self, blob: Digest) -> Path:
        """Name the staging file that a blob is downloaded to."""

    def forget_blob(self, blob: Digest) -> None:
        """Remove what was downloaded of a blob whose layer came to nothing. Nothing there is success."""

    async def unpack(self, layer: LayerBlob, blob: Path) -> LayerSize:
        """Unpack a blob in a confined worker process, verify its diff id, make it durable under its chain id.

        Raises:
            EffectFailed: the diff id is another one, an entry escapes, or a limit was passed; nothing is left.
        """

    async def remove(self, chain_id: ChainId) -> None:
        """Remove a layer. Nothing there is success."""

    async def mount(self, order: ContainerOrder, layers: Sequence[ChainId], view: ImageView = AS_IT_IS) -> Path:
        """Mount a container's root file system, base layer first in *layers*, and return where. Idempotent.

        Raises:
            Unsupported: kernel or file system cannot map owners.
        """

    async def mount_image(
        self,
        order: ContainerOrder,
        number: int,
        layers: Sequence[ChainId],
        sub_path: str,
        view: ImageView = AS_IT_IS,
    ) -> Path:
        """Mount an image read-only at the bundle's images/*number*; return where *sub_path* of it is. Idempotent.

        Raises:
            EffectFailed: it has no such path, or the kernel refused.
        """

    async def unmount(self, order: ContainerOrder) -> None:
        """Unmount root file system and images. Not mounted is success."""

    async def remove_writable(self, order: ContainerOrder) -> None:
        """Remove the container's writable layer and bundle directory."""

    def read_in_root(self, order: ContainerOrder, path: str, limit: int) -> bytes:
        """Read at most *limit* bytes of a file inside the mounted root, never outside; b"" when there is none."""

    def usage(self) -> StoreUsage:
        """Return the bytes and inodes that images and containers take. CRI ImageFsInfo; answers from memory."""

    async def measure(self) -> None:
        """Measure the writable layers that are due for it, which takes as long as they have files."""

    def writable_usage(self, writable: str) -> WritableUsage | None:
        """Return what one writable layer took when it was last measured, from memory; None before that."""

    def room(self) -> FilesystemRoom | None:
        """Return how large the writable layers' file system is, as last measured; None before that."""

    async def clean_staging(self) -> None:
        """Remove what interrupted downloads and unpackings left."""


class LayerSize(msgspec.Struct, frozen=True, kw_only=True):
    """What an unpacked layer takes."""

    size_bytes: int
    inodes: int


class LayerProgress(msgspec.Struct, frozen=True):
    """How far one layer of a pull has come."""

    digest: str  # of the blob, as ``layer.wanted`` has it
    done_bytes: int
    total_bytes: int  # 0 where only the manifest knows it


class StoreUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What images and containers take of which file system."""

    at_ns: int
    image_path: str
    image_bytes: int
    image_inodes: int
    container_path: str
    container_bytes: int
    container_inodes: int


class HostFiles(Protocol):
    """Read-only looks at the host that building a specification needs."""

    def resolve_mount(self, host_path: str, *, create: bool) -> str:
        """Resolve symbolic links of a bind mount's source; make a missing one a directory when *create* is set.

        Raises:
            InvalidRequest: it is missing.
            EffectFailed: it cannot be made.
        """

    def devices(self, host_path: str, container_path: str, permissions: str) -> Sequence[DeviceNode]:
        """Return the device node at *host_path*, or all below it when it is a directory, as seen in the container.

        Raises:
            InvalidRequest: it is missing, or no device.
        """

    def all_devices(self) -> Sequence[DeviceNode]:
        """Return every device node of the host's /dev, for privileged containers."""

    def read(self, path: str, limit: int) -> bytes:
        """Read at most *limit* bytes of a host file, such as a seccomp profile.

        Raises:
            InvalidRequest: it is missing, or no file.
        """

    async def relabel(self, path: str, label: str) -> None:
        """Give a mount's source, and all below it, this SELinux label. Done already is success.

        Raises:
            InvalidRequest: *path* is a directory of the host itself.
        """

    def apparmor_profiles(self) -> frozenset[str] | None:
        """Return the names of the AppArmor profiles that are loaded; None where the kernel does not tell."""

    def block_devices(self, patterns: Sequence[str]) -> Sequence[tuple[int, int]]:
        """Return major and minor of the whole disks that these paths and shell patterns below /dev name, in order."""

    def cdi_specs(self) -> Sequence[CdiSource]:
        """Return the specifications of CDI devices that this node has now, in the order of directories and names."""


class ImageFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What creating a container needs to know of its image."""

    image_id: ImageId
    reference: str  # repository@digest, or the image id
    manifest: Digest
    config: ImageConfig
    layers: tuple[ChainId, ...]  # base layer first
    checkpoint: str = ""  # the name of the container that it is a checkpoint of; "" where it is none
