"""Fakes of the layer store and of registries, and images to pull from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import trio

from ocid.domain import manifest as manifests
from ocid.errors import EffectFailed, NotFound, Unavailable
from ocid.ids import ChainId, Digest, ImageId, digest_of
from ocid.ports import AS_IT_IS, ContainerOrder, Credentials, ImageView, LayerBlob, LayerSize, ResolvedImage, StoreUsage
from ocid.ports.usage import FilesystemRoom, WritableUsage
from tests.fakes.life import Life
from tests.fakes.world import ROOT

STAGING = f"{ROOT}/staging"
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
BLOB_BYTES = 1000


@dataclass(frozen=True)
class Built:
    """An image as a registry has it."""

    resolved: ResolvedImage

    @property
    def image_id(self) -> ImageId:
        return self.resolved.image_id


def build_image(*contents: str, stop_signal: str = "", annotation: str = "") -> Built:
    """Make an image of one layer for each of *contents*; the same contents are the same layer."""
    diffs = [digest_of(f"diff {content}".encode()) for content in contents]
    blobs = [digest_of(f"blob {content}".encode()) for content in contents]
    config = msgspec.json.encode(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["run:1000"], "StopSignal": stop_signal},
            "rootfs": {"type": "layers", "diff_ids": diffs},
        }
    )
    manifest = msgspec.json.encode(
        {
            "schemaVersion": 2,
            "mediaType": manifests.OCI_MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest_of(config),
                "size": len(config),
            },
            "layers": [{"mediaType": GZIP, "digest": blob, "size": BLOB_BYTES} for blob in blobs],
            **({"annotations": {annotation: "old"}} if annotation else {}),
        }
    )
    layers = tuple(
        LayerBlob(chain_id=chain, diff_id=diff, blob=blob, media_type=GZIP, size_bytes=BLOB_BYTES)
        for chain, diff, blob in zip(manifests.chain_ids(diffs), diffs, blobs, strict=True)
    )
    return Built(
        ResolvedImage(
            endpoint="http://registry.test",
            index=None,
            manifest=manifest,
            config=config,
            manifest_digest=digest_of(manifest),
            index_digest=None,
            image_id=ImageId(digest_of(config)),
            layers=layers,
            total_bytes=len(manifest) + len(config) + BLOB_BYTES * len(layers),
        )
    )


@dataclass
class Shelf:
    """What the registries of the world have. Outlives the daemon, as the world does."""

    images: dict[str, Built] = field(default_factory=dict)  # by normalised reference
    downloads: list[Digest] = field(default_factory=list)  # blobs that came whole

    def put(self, reference: str, *contents: str, stop_signal: str = "", annotation: str = "") -> Built:
        built = self.images[reference] = build_image(*contents, stop_signal=stop_signal, annotation=annotation)
        return built


class FakeRegistry:
    """Port ``Registry``."""

    def __init__(self, life: Life, shelf: Shelf) -> None:
        self._life = life
        self._shelf = shelf

    async def resolve(self, reference: str, credentials: Credentials | None) -> ResolvedImage:
        async with self._life.effect("registry.resolve", f"resolve {self._life.new_name()}"):
            built = self._shelf.images.get(reference)
            if built is None:
                raise NotFound("image", reference)
        return built.resolved

    async def fetch(
        self,
        reference: str,
        credentials: Credentials | None,
        blob: LayerBlob,
        into: Path,
        progress: Callable[[int], None],
    ) -> None:
        paths = self._life.world.paths
        if paths.get(str(into)) == b"whole":
            return  # kept by an earlier try
        async with self._life.effect("registry.fetch", blob.blob, idempotent=False):
            partial = f"{into}.part"
            for part in range(2):
                paths[partial] = b"part"
                progress(BLOB_BYTES // 2)
                await self._life.step(f"registry.fetch part {part + 1}")
            del paths[partial]
            paths[str(into)] = b"whole"
            self._shelf.downloads.append(blob.blob)


class FakeLayers:
    """Port ``Layers``."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._world = life.world
        self._measured_at_ns = 0

    def has(self, chain_id: ChainId) -> bool:
        return chain_id in self._world.layers

    def chain_ids(self) -> frozenset[ChainId]:
        return frozenset(self._world.layers)

    def blob_path(self, blob: Digest) -> Path:
        return Path(STAGING, f"blob-{blob[7:]}")

    def forget_blob(self, blob: Digest) -> None:
        self._world.paths.pop(str(self.blob_path(blob)), None)

    async def unpack(self, layer: LayerBlob, blob: Path) -> LayerSize:
        world, staged = self._world, f"{STAGING}/unpack-{layer.chain_id[7:]}"
        async with self._life.effect("layers.unpack", layer.chain_id, idempotent=False):
            if layer.chain_id not in world.layers:
                if world.paths.get(str(blob)) != b"whole":
                    raise Unavailable(f"blob {layer.blob} is not in the store any more: pull again")
                world.paths[staged] = b"half"
                await self._life.step("layers.unpack half")
                del world.paths[staged]
                world.layers[layer.chain_id] = LayerSize(size_bytes=4 * BLOB_BYTES, inodes=10)
                await self._life.step("layers.unpack renamed")
            world.paths.pop(str(blob), None)
        return world.layers[layer.chain_id]

    async def remove(self, chain_id: ChainId) -> None:
        trash = f"{STAGING}/trash-{chain_id[7:]}"
        async with self._life.effect("layers.remove", chain_id, idempotent=False):
            if any(chain_id in layers for layers in self._world.mounts.values()):
                self._world.violate(f"layer {chain_id} is removed under a mounted root file system")
            if self._world.layers.pop(chain_id, None) is not None:
                self._world.paths[trash] = b""
                await self._life.step("layers.remove renamed")
            self._world.paths.pop(trash, None)

    async def mount(self, order: ContainerOrder, layers: Sequence[ChainId], view: ImageView = AS_IT_IS) -> Path:
        world, rootfs = self._world, f"{order.bundle}/rootfs"
        async with self._life.effect("layers.mount", order.container_id):
            missing = [layer for layer in layers if layer not in world.layers]
            if missing:
                raise EffectFailed(f"layer {missing[0]} is not in the store")
            for directory in (order.bundle, rootfs, order.writable):
                world.paths.setdefault(directory, b"")
            await self._life.step("layers.mount directories")
            if rootfs not in world.mounts:
                world.mount(rootfs, layers)
        return Path(rootfs)

    async def mount_image(
        self,
        order: ContainerOrder,
        number: int,
        layers: Sequence[ChainId],
        sub_path: str,
        view: ImageView = AS_IT_IS,
    ) -> Path:
        world, place = self._world, f"{order.bundle}/images/{number}"
        async with self._life.effect("layers.mount_image", order.container_id):
            missing = [layer for layer in layers if layer not in world.layers]
            if missing:
                raise EffectFailed(f"layer {missing[0]} is not in the store")
            if sub_path.startswith("missing"):
                raise EffectFailed(f"sub path {sub_path!r} of the image: No such file or directory")
            for directory in (order.bundle, f"{order.bundle}/images", place):
                world.paths.setdefault(directory, b"")
            if place not in world.mounts:
                world.mount(place, layers)
        return Path(place, sub_path)

    async def unmount(self, order: ContainerOrder) -> None:
        async with self._life.effect("layers.unmount", order.container_id):
            for place in [one for one in self._world.mounts if one.startswith(f"{order.bundle}/images/")]:
                self._world.unmount(place)
                await self._life.step("layers.unmount image")
            rootfs = f"{order.bundle}/rootfs"
            if rootfs in self._world.mounts:
                if order.container_id in self._world.contained:
                    self._world.violate(f"{rootfs} is unmounted under a container")
                self._world.unmount(rootfs)

    async def remove_writable(self, order: ContainerOrder) -> None:
        async with self._life.effect("layers.remove_writable", order.container_id):
            self._world.remove_tree(order.writable)
            await self._life.step("layers.remove_writable upper")
            self._world.remove_tree(order.bundle)

    def read_in_root(self, order: ContainerOrder, path: str, limit: int) -> bytes:
        return b"root:x:0:0::/root:/bin/sh\n"[:limit] if path == "etc/passwd" else b""

    def usage(self) -> StoreUsage:
        return StoreUsage(
            at_ns=self._world.wall_ns(),
            image_path=ROOT,
            image_bytes=sum(size.size_bytes for size in self._world.layers.values()),
            image_inodes=0,
            container_path=ROOT,
            container_bytes=0,
            container_inodes=0,
        )

    async def measure(self) -> None:
        await trio.lowlevel.checkpoint()
        self._measured_at_ns = self._world.wall_ns()

    def writable_usage(self, writable: str) -> WritableUsage | None:
        if writable not in self._world.paths or not self._measured_at_ns:
            return None
        return WritableUsage(at_ns=self._measured_at_ns, bytes=8192, inodes=4)

    def room(self) -> FilesystemRoom | None:
        return FilesystemRoom(bytes=1 << 40, inodes=1 << 20, inodes_free=1 << 19) if self._measured_at_ns else None

    async def clean_staging(self) -> None:
        await self._life.step("layers.clean_staging")
        for path in [path for path in self._world.paths if path.startswith(STAGING)]:
            del self._world.paths[path]
