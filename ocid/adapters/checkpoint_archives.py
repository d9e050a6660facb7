"""Archives of container checkpoints to go on from, and images that hold such: read and unpacked by confined workers."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
import trio

from ocid.adapters import linux
from ocid.adapters.restores import directory_of
from ocid.adapters.unpack import UnpackLimits, program_of, run_worker, said_ok
from ocid.domain import checkpoint_archive as rules
from ocid.domain.checkpoint_facts import CheckpointFacts, deleted_names, facts_of
from ocid.errors import EffectFailed, Exhausted, InvalidRequest, NotFound, OcidError
from ocid.ids import ChainId, Digest
from ocid.ports import ContainerOrder
from ocid.ports.archives import ArchiveSource

_GZIP: Final = b"\x1f\x8b"
_COPY_BYTES: Final = 1 << 30  # at a time, and that is all that sendfile(2) takes


class _Read(msgspec.Struct, frozen=True):
    digest: Digest
    documents: dict[str, str]


class CheckpointArchives:
    """The ``Archives`` port.

    Args:
        nothing: an empty directory, for workers that only read.
        layer_directory: names where the files of a layer are.
    """

    def __init__(self, nothing: Path, layer_directory: Callable[[ChainId], Path], limits: UnpackLimits) -> None:
        self._nothing = nothing
        self._layer_directory = layer_directory
        self._limits = limits
        self._program = program_of("checkpoint_worker")
        self._slots = trio.CapacityLimiter(2)

    def require(self) -> None:
        """Return: containers may go on from checkpoints on this node."""

    async def read(self, source: ArchiveSource) -> tuple[Digest | None, CheckpointFacts]:
        """Look at a checkpoint; return the digest of an archive, and what it says of its container.

        Raises:
            NotFound: it is not there.
            InvalidRequest: it is none, or one that is refused.
            Exhausted: it passes a limit.
        """
        if source.layer is not None:
            with _saying(f"checkpoint image of layer {source.layer}", InvalidRequest):
                directory = self._layer_directory(source.layer)
                return None, facts_of(await trio.to_thread.run_sync(_documents, directory))
        with _saying(f"checkpoint archive {source.archive!r}", InvalidRequest), opened(source.archive) as archive:
            said = msgspec.json.decode(await self._work("read", archive, self._nothing), type=_Read)
            return said.digest, facts_of({name: text.encode() for name, text in said.documents.items()})

    async def unpack(self, order: ContainerOrder, layers: Sequence[ChainId], source: ArchiveSource) -> CheckpointFacts:
        """Put a checkpoint's images beside the writable layer, and its changed files into it; it must not be mounted.

        Raises:
            EffectFailed: it is another one than it was, or refused.
        """
        place = directory_of(order)
        with _saying(f"checkpoint of container {order.container_id!r}", EffectFailed):
            await trio.to_thread.run_sync(_make_empty, place)
            if source.layer is not None:
                await trio.to_thread.run_sync(_copy_layer, self._layer_directory(source.layer), place)
            else:
                assert source.digest is not None, "an archive was looked at before it is unpacked"
                with opened(source.archive) as archive:
                    await self._work("unpack", archive, place, digest=source.digest)
            facts = facts_of(await trio.to_thread.run_sync(_documents, place))
            lowers = [self._layer_directory(one) for one in reversed(layers)]
            await self._apply_changes(Path(order.writable, "upper"), lowers, place / rules.DIFF.decode())
        return facts

    async def _apply_changes(self, upper: Path, lowers: list[Path], changes: Path) -> None:
        try:
            descriptor = os.open(changes, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            layered = os.pread(descriptor, len(_GZIP), 0) == _GZIP
            job, packing = ("layer", "gzip") if layered else ("files", "plain")
            implied = json.loads(await self._work(job, descriptor, upper, packing))
        finally:
            os.close(descriptor)
        await trio.to_thread.run_sync(_describe, upper, implied, lowers)
        os.unlink(changes)  # its files are in the layer now

    async def delete_files(self, order: ContainerOrder) -> None:
        """Delete from the mounted root what the container had deleted from its image."""
        with _saying(f"checkpoint of container {order.container_id!r}", EffectFailed):
            try:
                raw = (directory_of(order) / rules.DELETED.decode()).read_bytes()
            except FileNotFoundError:
                return
            names = deleted_names(raw)
            await trio.to_thread.run_sync(delete_in_root, f"{order.bundle}/rootfs", names)

    async def _work(self, job: str, blob: int, into: Path, packing: str = "plain", digest: str = "") -> str:
        entries = self._limits.entries_max if job in ("layer", "files") else rules.ENTRIES_MAX
        numbers = (blob, os.fstat(blob).st_size, self._limits.bytes_max, entries)
        words = [sys.executable, "-I", "-S", "-c", self._program, job, os.fspath(into), packing, digest]
        async with self._slots:
            done = await run_worker([*words, *(str(number) for number in numbers)], blob)
        return said_ok(done.stdout, done.stderr, done.returncode)


@contextmanager
def _saying(what: str, kind: type[OcidError]) -> Iterator[None]:
    """Begin messages with *what* it is about; what is wrong with a checkpoint itself is an error of this *kind*."""
    try:
        yield
    except Exhausted as error:
        raise Exhausted(f"{what}: {error.message}") from error
    except (EffectFailed, InvalidRequest) as error:
        raise kind(f"{what}: {error.message.removeprefix('layer ')}") from error
    except OSError as error:
        raise EffectFailed(f"{what}: {error.strerror}") from error


@contextmanager
def opened(path: str) -> Iterator[int]:
    """Open an archive, once, on a way without symbolic links.

    Raises:
        NotFound: it is not there.
        InvalidRequest: it is no regular file, or a link is on the way.
    """
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = linux.openat2(root, path.lstrip("/") or ".", flags, linux.RESOLVE_NO_SYMLINKS)
    except FileNotFoundError:
        raise NotFound("checkpoint archive", path) from None
    except OSError as error:
        raise InvalidRequest(f"{error.strerror}; wanted a regular file, and no link on the way to it") from error
    finally:
        os.close(root)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidRequest("it is no regular file")
        yield descriptor
    finally:
        os.close(descriptor)


# --- files -----------------------------------------------------------------------------------------------------------


def _make_empty(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)


def _documents(directory: Path) -> dict[str, bytes]:
    """Read the documents of a checkpoint that is unpacked, or a layer."""
    found = {}
    for name in (one.decode() for one in rules.DOCUMENTS):
        with suppress(FileNotFoundError), _member(directory, name) as file:
            if os.fstat(file).st_size > rules.DOCUMENT_BYTES_MAX:
                raise EffectFailed(f"its {name!r} has more than {rules.DOCUMENT_BYTES_MAX} bytes: refused")
            found[name] = os.read(file, rules.DOCUMENT_BYTES_MAX)
    for name in ("config.dump", "spec.dump"):
        if name not in found:
            raise EffectFailed(f"it has no {name!r}, so it is no container checkpoint")
    return found


def _describe(upper: Path, implied: list[str], lowers: list[Path]) -> None:
    """Make directories that changes only imply look like the image's: some runtimes pack no others."""
    for name in implied:
        found = next((status for lower in lowers if (status := _status_in(lower, name)) is not None), None)
        if found is None or not stat.S_ISDIR(found.st_mode):
            continue
        with _below(upper, name, os.O_RDONLY | os.O_DIRECTORY) as directory:
            os.fchown(directory, found.st_uid, found.st_gid)
            os.fchmod(directory, stat.S_IMODE(found.st_mode))
            os.utime(directory, ns=(found.st_atime_ns, found.st_mtime_ns))


def _status_in(lower: Path, name: str) -> os.stat_result | None:
    try:
        with _below(lower, name, os.O_PATH | os.O_NOFOLLOW) as found:
            return os.fstat(found)
    except OSError:
        return None


@contextmanager
def _below(directory: Path, path: str, flags: int) -> Iterator[int]:
    """Open what is below a directory that a stranger has filled."""
    root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = linux.openat2(root, path, flags | os.O_CLOEXEC, linux.RESOLVE_NO_SYMLINKS)
    finally:
        os.close(root)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _member(directory: Path, path: str) -> Iterator[int]:
    """Open a regular file there."""
    with _below(directory, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY) as descriptor:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise EffectFailed(f"its {path!r} is no regular file: refused")
        yield descriptor


def _copy_layer(layer: Path, place: Path) -> None:
    """Copy what is allowed of an image's layer; it was refused what archives are refused when it was unpacked."""
    images = rules.IMAGES.decode()
    (place / images).mkdir(mode=0o700)
    names = [one.decode() for one in sorted(rules.KEPT)]
    with os.scandir(layer / images) as entries:
        names += [f"{images}/{entry.name}" for entry in entries]
    if len(names) > rules.ENTRIES_MAX:
        raise EffectFailed(f"it has more than {rules.ENTRIES_MAX} files: refused")
    for name in names:
        with suppress(FileNotFoundError), _member(layer, name) as source:
            target = os.open(place / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                while os.sendfile(target, source, None, _COPY_BYTES):
                    pass
            finally:
                os.close(target)
    if not (place / rules.INVENTORY.decode()).exists():
        raise EffectFailed(f"it has no {rules.INVENTORY.decode()!r}, so it is no container checkpoint")


def delete_in_root(root: str, names: tuple[str, ...]) -> None:
    """Delete files and trees in a container's root; links on the way lead where they lead inside. Gone is success.

    Raises:
        EffectFailed: a name is none.
    """
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            parent, _, last = name.strip("/").rpartition("/")
            if last in ("", ".", "..") or "\0" in name:
                raise EffectFailed(f"its 'deleted.files' has the name {name[:200]!r}: refused")
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            with suppress(FileNotFoundError, NotADirectoryError):
                directory = linux.openat2(
                    top, parent or ".", flags, linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS
                )
                try:
                    _delete(directory, last)
                finally:
                    os.close(directory)
    finally:
        os.close(top)


def _delete(directory: int, name: str) -> None:
    if stat.S_ISDIR(os.lstat(name, dir_fd=directory).st_mode):
        shutil.rmtree(name, dir_fd=directory)
    else:
        os.unlink(name, dir_fd=directory)
