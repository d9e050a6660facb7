"""The image store on disk: unpacked layers by chain id, and root file systems mounted from them.

::

    <root>/layers/<hex>/diff        one layer's files, as overlayfs wants them
    <root>/layers/<hex>/meta.json   what it is and what it takes
    <root>/containers/<id>/         upper/ and work/ of one container
    <root>/staging/                 downloads, half-made layers, and what is being removed: garbage after a crash

A layer appears under ``layers`` by one rename, after a sync: what stands there is whole. A layer disappears by one
rename as well, and is deleted afterwards.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
import trio

from ocid.adapters import idmap, mounts, volumes
from ocid.adapters.durable import StoreSync, sync_directory
from ocid.adapters.unpack import Unpacker
from ocid.adapters.writable import WritableLayers
from ocid.domain import manifest
from ocid.errors import EffectFailed, Exhausted, NotFound, Unavailable, Unsupported, tail
from ocid.ids import ChainId, Digest
from ocid.ports import AS_IT_IS, ContainerOrder, ImageView, LayerBlob, LayerSize, StoreUsage
from ocid.ports.usage import FilesystemRoom, WritableUsage

CLEANUP_S: Final = 30.0
_META: Final = "meta.json"
_DIFF: Final = "diff"
_MAPPED: Final = "mapped"  # in a bundle: the store as a user namespace sees it, while something of it is mounted


class _Meta(msgspec.Struct, frozen=True, kw_only=True):
    """The record beside a layer."""

    chain_id: ChainId
    diff_id: Digest
    blob: Digest
    size_bytes: int
    inodes: int
    covers_all: bool = False


class LayerStore:
    """The ``Layers`` port on a local file system."""

    def __init__(self, root: Path, unpacker: Unpacker, *, now_ns: Callable[[], int] = time.time_ns) -> None:
        """Open the store at *root*, which is made when missing. Blocks while it reads the records of all layers."""
        self._root = root
        self._layers_dir, self._staging = root / "layers", root / "staging"
        self._containers, self._nothing = root / "containers", root / "empty"
        for directory in (root, self._layers_dir, self._staging, self._containers, self._nothing):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.chmod(0o711)
        self._nothing.chmod(0o755)
        self._unpacker = unpacker
        self._now_ns = now_ns
        self._store_sync = StoreSync(root)
        self._trash_numbers = itertools.count()
        self._busy: set[Path] = set()  # in staging, and in use now
        self._deleting = trio.CapacityLimiter(1)
        self._writables = WritableLayers(self._containers, now_ns)
        self._layers: dict[ChainId, _Meta] = {}
        for place in self._layers_dir.iterdir():
            record = _read_meta(place)
            if record is None:
                self._move_to_trash(place)
            else:
                self._layers[record.chain_id] = record

    # --- layers ------------------------------------------------------------------------------------------------------

    def has(self, chain_id: ChainId) -> bool:
        """Say whether the layer is whole in the store."""
        return chain_id in self._layers

    def chain_ids(self) -> frozenset[ChainId]:
        """List the layers in the store."""
        return frozenset(self._layers)

    def directory(self, chain_id: ChainId) -> Path:
        """Name where the files of a layer are."""
        return self._layers_dir / _hex(chain_id) / _DIFF

    def blob_path(self, blob: Digest) -> Path:
        """Name the staging file that a blob is downloaded to."""
        return self._staging / f"blob-{_hex(blob)}"

    def forget_blob(self, blob: Digest) -> None:
        """Remove what was downloaded of a blob whose layer came to nothing. Nothing there is success."""
        with suppress(FileNotFoundError):
            os.unlink(self.blob_path(blob))

    async def unpack(self, layer: LayerBlob, blob: Path) -> LayerSize:
        """Unpack a blob, make it durable under its chain id, and delete the blob.

        Raises:
            EffectFailed: the diff id is another one, an entry is refused, or the disk fails; nothing is left.
            Exhausted: a limit was passed, or the disk is full; nothing is left.
            Unavailable: the blob is gone; it must be fetched again.
        """
        known = self._layers.get(layer.chain_id)
        if known is None:
            packing = manifest.compression(layer.media_type)
            try:
                descriptor = os.open(blob, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise Unavailable(f"blob {layer.blob} is not in the store any more: pull again") from None
            try:
                known = await self._make(layer, packing, descriptor, blob)
            finally:
                os.close(descriptor)
        _forget(blob)
        return LayerSize(size_bytes=known.size_bytes, inodes=known.inodes)

    async def _make(self, layer: LayerBlob, packing: str, descriptor: int, blob: Path) -> _Meta:
        staged = self._staging / f"unpack-{_hex(layer.chain_id)}"
        assert staged not in self._busy, f"layer {layer.chain_id} is unpacked twice at a time"
        self._busy.add(staged)
        try:
            if staged.exists():
                await self._discard(staged)
            (staged / _DIFF).mkdir(mode=0o755, parents=True)
            (staged / _DIFF).chmod(0o755)
            made = await self._unpacker.unpack(descriptor, packing, layer.diff_id, staged / _DIFF)
            record = _Meta(
                chain_id=layer.chain_id,
                diff_id=layer.diff_id,
                blob=layer.blob,
                size_bytes=made.size_bytes,
                inodes=made.inodes,
                covers_all=made.covers_all,
            )
            await trio.to_thread.run_sync(_seal, staged, record, blob)
            await self._store_sync.sync()
            await trio.to_thread.run_sync(self._publish, staged, layer.chain_id)
            self._layers[layer.chain_id] = record
            return record
        except BaseException as error:
            if isinstance(error, EffectFailed | Exhausted | Unsupported):
                _forget(blob)
            with trio.move_on_after(CLEANUP_S, shield=True):
                await self._discard(staged)
            if isinstance(error, OSError):
                raise EffectFailed(f"layer {layer.chain_id}: {error.strerror}") from error
            raise
        finally:
            self._busy.discard(staged)

    def _publish(self, staged: Path, chain_id: ChainId) -> None:
        place = self._layers_dir / _hex(chain_id)
        if place.exists():  # whole, but its record was not: it would have been loaded otherwise
            self._move_to_trash(place)
        staged.rename(place)
        sync_directory(self._layers_dir)

    async def remove(self, chain_id: ChainId) -> None:
        """Remove a layer. Nothing there is success."""
        self._layers.pop(chain_id, None)
        await self._discard(self._layers_dir / _hex(chain_id))

    async def clean_staging(self) -> None:
        """Remove what interrupted downloads, unpackings and removals left."""
        for place in await trio.to_thread.run_sync(lambda: list(self._staging.iterdir())):
            if place not in self._busy:
                await self._discard(place)

    # --- root file systems -------------------------------------------------------------------------------------------

    async def mount(self, order: ContainerOrder, layers: Sequence[ChainId], view: ImageView = AS_IT_IS) -> Path:
        """Mount a container's root file system, base layer first in *layers*, and return where. Idempotent.

        Raises:
            NotFound: a layer is not in the store.
            EffectFailed: the kernel refused.
            Unsupported: kernel or file system cannot map owners.
        """
        lowers = self._lowers(layers) or [self._nothing]
        target = Path(order.bundle) / "rootfs"

        def mount() -> None:
            with self._seen_by(view.userns, order, lowers) as seen:
                _mount(seen, Path(order.writable), target, view.label)

        await trio.to_thread.run_sync(mount)
        return target

    @contextmanager
    def _seen_by(self, userns: str, order: ContainerOrder, lowers: list[Path]) -> Iterator[list[Path]]:
        """Yield layers with their owners as a pod is to see them."""
        if not userns:
            yield lowers
            return
        bundle = Path(order.bundle)
        bundle.mkdir(mode=0o711, parents=True, exist_ok=True)
        bundle.chmod(0o711)  # the pod's root, who is nobody here, has to come through
        with idmap.mapped(self._root, userns, bundle / _MAPPED) as place:
            yield [place / lower.relative_to(self._root) for lower in lowers]

    def _lowers(self, layers: Sequence[ChainId]) -> list[Path]:
        """Return the directories that make up an image, the uppermost first."""
        lowers: list[Path] = []
        for chain_id in reversed(layers):
            record = self._layers.get(chain_id)
            if record is None:
                raise NotFound("layer", chain_id)
            lowers.append(self._layers_dir / _hex(chain_id) / _DIFF)
            if record.covers_all:
                break
        return lowers

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
            NotFound: a layer is not in the store.
            EffectFailed: the image has no such path, or the kernel refused.
        """
        lowers = self._lowers(layers)
        target = Path(order.bundle) / volumes.DIRECTORY / str(number)

        def mount() -> None:
            with self._seen_by(view.userns, order, [*lowers, self._nothing]) as seen:
                volumes.mount_readonly(seen, target, view.label)

        await trio.to_thread.run_sync(mount)
        return volumes.within(target, sub_path)

    async def unmount(self, order: ContainerOrder) -> None:
        """Unmount root file system and images. Not mounted is success."""
        await trio.to_thread.run_sync(_unmount, order.bundle)

    async def remove_writable(self, order: ContainerOrder) -> None:
        """Remove the container's writable layer and bundle directory; still mounted, it is unmounted first."""
        await self.unmount(order)
        await self._discard(Path(order.writable))
        await trio.to_thread.run_sync(_delete, Path(order.bundle))

    def read_in_root(self, order: ContainerOrder, path: str, limit: int) -> bytes:
        """Read at most *limit* bytes of a regular file inside the mounted root; b"" when there is none."""
        return mounts.read_in_root(os.path.join(order.bundle, "rootfs"), path, limit)

    # --- what it takes -----------------------------------------------------------------------------------------------

    def usage(self) -> StoreUsage:
        """Return what images and containers take, from memory; of containers as last measured by ``measure``."""
        container_bytes, container_inodes = self._writables.total()
        return StoreUsage(
            at_ns=self._now_ns(),
            image_path=str(self._root),
            image_bytes=sum(record.size_bytes for record in self._layers.values()),
            image_inodes=sum(record.inodes for record in self._layers.values()),
            container_path=str(self._root),
            container_bytes=container_bytes,
            container_inodes=container_inodes,
        )

    async def measure(self) -> None:
        """Measure the writable layers that are due, new ones first of all; a large one is not walked at every call.

        Raises:
            EffectFailed: the disk fails.
        """
        try:
            await trio.to_thread.run_sync(self._writables.measure, abandon_on_cancel=True)
        except OSError as error:
            raise EffectFailed(f"measuring {str(self._containers)!r}: {error.strerror}") from error

    def writable_usage(self, writable: str) -> WritableUsage | None:
        """Return what one writable layer took when it was last measured, from memory; None before that."""
        return self._writables.of(writable)

    def room(self) -> FilesystemRoom | None:
        """Return how large the writable layers' file system is, as last measured; None before that."""
        return self._writables.room()

    # --- removing ----------------------------------------------------------------------------------------------------

    async def _discard(self, place: Path) -> None:
        """Take *place* out of sight at once, then delete it. What a crash leaves is in staging."""
        trash = await trio.to_thread.run_sync(self._move_to_trash, place)
        if trash is None:
            return
        self._busy.add(trash)
        try:
            await trio.to_thread.run_sync(_delete, trash, abandon_on_cancel=True, limiter=self._deleting)
        finally:
            self._busy.discard(trash)

    def _move_to_trash(self, place: Path) -> Path | None:
        trash = self._staging / f"trash-{self._now_ns():x}-{next(self._trash_numbers)}"
        try:
            place.rename(trash)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise EffectFailed(f"removal of {str(place)!r}: {error.strerror}") from error
        return trash


def staged_blobs(root: Path) -> dict[str, int]:
    """Return the bytes that unfinished downloads to the store at *root* have, by the digest of the blob."""
    found = {}
    with suppress(OSError), os.scandir(root / "staging") as entries:
        for entry in entries:
            if entry.name.startswith("blob-"):
                with suppress(OSError):
                    found[f"sha256:{entry.name[5:69]}"] = entry.stat().st_size
    return found


def _hex(name: ChainId | Digest) -> str:
    return name.removeprefix("sha256:")


def _read_meta(place: Path) -> _Meta | None:
    try:
        record = msgspec.json.decode((place / _META).read_bytes(), type=_Meta)
    except (OSError, msgspec.DecodeError):
        return None
    return record if _hex(record.chain_id) == place.name and (place / _DIFF).is_dir() else None


def _seal(staged: Path, record: _Meta, blob: Path) -> None:
    """Put the record beside an unpacked layer, and drop the blob before the sync, which need not write it then."""
    (staged / _META).write_bytes(msgspec.json.encode(record))
    _forget(blob)


def _forget(blob: Path) -> None:
    blob.unlink(missing_ok=True)


def _mount(lowers: list[Path], writable: Path, target: Path, label: str) -> None:
    target.mkdir(mode=0o755, parents=True, exist_ok=True)
    if mounts.is_mount(str(target)):
        return
    upper, work = writable / "upper", writable / "work"
    writable.mkdir(mode=0o711, parents=True, exist_ok=True)
    work.mkdir(mode=0o700, exist_ok=True)
    if not upper.exists():
        upper.mkdir(mode=0o755)
        root = lowers[0].stat()  # an overlay's root looks like the root of its uppermost layer, as the pod sees them
        os.chown(upper, root.st_uid, root.st_gid)
        upper.chmod(root.st_mode & 0o7777)
    mounts.overlay(lowers, upper, work, target, label=label)


def _unmount(bundle: str) -> None:
    mounts.unmount(os.path.join(bundle, "rootfs"))
    volumes.unmount(bundle)
    mounts.unmount(os.path.join(bundle, _MAPPED))


def _delete(place: Path) -> None:
    """Delete a file or a tree, whatever a container has made of it; nothing there is success.

    Trees that are too deep for Python are left to rm(1), which has no such limit.
    """
    try:
        if not place.is_dir() or place.is_symlink():
            place.unlink(missing_ok=True)
            return
        shutil.rmtree(place)
    except FileNotFoundError:
        return
    except (OSError, RecursionError):
        command = ["rm", "-rf", "--one-file-system", "--", os.fspath(place)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode != 0:
            raise EffectFailed(f"removal of {str(place)!r}: {tail(done.stderr)}") from None
