"""The archive of a container checkpoint: what is in it, and packing it.

::

    checkpoint/       CRIU's images
    stats-dump        CRIU's statistics
    dump.log          CRIU's log
    config.dump       JSON: which container it was, and of what image
    status.dump       JSON: its labels and annotations
    spec.dump         its OCI runtime specification
    bind.mounts       JSON: which sources of its bind mounts are files, and which directories
    rootfs-diff.tar   what it changed in its root file system
    deleted.files     JSON: what it deleted there
    container.log     its log

The layout is the one that other runtimes write and tools for such archives read. The container is frozen while it is
packed, and nobody else writes to its layer.

Source: checkpointctl, "Checkpoint archive layout"; kernel overlayfs.rst "whiteouts and opaque directories".
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from ocid.adapters import mounts
from ocid.ports import CheckpointOrder, ContainerOrder

_NOT_OURS: Final = ("dev", "proc", "sys", "run")  # filled anew for every container
_OVERLAY_XATTRS: Final = ("trusted.overlay.", "user.overlay.")
_OPAQUE: Final = ("trusted.overlay.opaque", "user.overlay.opaque")
_PIECE_BYTES: Final = 1 << 20


class Stopped(threading.Event):
    """Set when nobody waits for the archive any more."""


class _Output(io.RawIOBase):
    """The archive's file, which counts, and refuses to go on when nobody waits."""

    def __init__(self, descriptor: int, stopped: Stopped) -> None:
        self._descriptor = descriptor
        self._stopped = stopped
        self.size_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self._stopped.is_set():
            raise InterruptedError("nobody waits for the archive any more")
        view = memoryview(data).cast("B")
        written = 0
        while written < len(view):
            written += os.write(self._descriptor, view[written:])
        self.size_bytes += written
        return written


def pack(archive: int, order: ContainerOrder, what: CheckpointOrder, work: Path, stopped: Stopped) -> int:
    """Write the archive of the dump in *work* to the descriptor *archive*, durably, and return its bytes.

    Raises:
        OSError: a file cannot be read or written, or the disk is full.
    """
    output = _Output(archive, stopped)
    spec = Path(order.bundle, "config.json").read_bytes()
    destinations = [mount for mount in msgspec.json.decode(spec).get("mounts", ()) if mount.get("destination")]
    with tarfile.open(fileobj=output, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_PIECE_BYTES) as tar:
        for name in ("checkpoint", "stats-dump", "dump.log"):
            _add_tree(tar, work / name, name)
        _add_bytes(tar, "config.dump", msgspec.json.format(msgspec.json.encode(what.config)))
        _add_bytes(tar, "status.dump", msgspec.json.format(msgspec.json.encode(what.status)))
        _add_bytes(tar, "spec.dump", spec)
        _add_bytes(tar, "bind.mounts", msgspec.json.encode(_bind_mounts(destinations)))
        mounted = {one["destination"].strip("/") for one in destinations}
        _add_diff(tar, order, mounted, work / "rootfs-diff.tar", stopped)
        _add_log(tar, order.log_path)
    os.fsync(archive)
    return output.size_bytes


def _bind_mounts(all_mounts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for mount in all_mounts:
        if "bind" in mount.get("options", ()) or "rbind" in mount.get("options", ()) or mount.get("type") == "bind":
            with suppress(OSError):
                mode = os.stat(mount["source"]).st_mode
                found.append(
                    {
                        "source": mount["source"],
                        "destination": mount["destination"],
                        "file_type": "directory" if stat.S_ISDIR(mode) else "file",
                        "permissions": stat.S_IMODE(mode) & 0o777,
                    }
                )
    return found


# --- the root file system --------------------------------------------------------------------------------------------


def _add_diff(tar: tarfile.TarFile, order: ContainerOrder, mounted: set[str], scratch: Path, stopped: Stopped) -> None:
    """Add the archive of changed files and the list of deleted ones."""
    upper = Path(order.writable, "upper")
    deleted: list[str] = []
    skipped = mounted | set(_NOT_OURS)
    with (
        open(scratch, "wb") as file,
        tarfile.open(fileobj=_Output(file.fileno(), stopped), mode="w|", format=tarfile.PAX_FORMAT) as diff,
    ):
        for path in _walk(upper, "", skipped):
            status = os.lstat(upper / path)
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                deleted.append(f"/{path}")
                continue
            if stat.S_ISDIR(status.st_mode) and _is_opaque(upper / path):
                deleted += [f"/{path}/{name}" for name in _hidden(order, upper, path)]
            _add_one(diff, upper / path, path)
    _add_tree(tar, scratch, scratch.name)
    scratch.unlink()
    if deleted:
        _add_bytes(tar, "deleted.files", msgspec.json.encode(deleted))


def _walk(upper: Path, below: str, skipped: set[str]) -> Iterator[str]:
    """Yield paths relative to *upper*, a directory before what is in it."""
    for name in sorted(os.listdir(upper / below)):
        path = f"{below}/{name}" if below else name
        if path in skipped:
            continue
        yield path
        if stat.S_ISDIR(os.lstat(upper / path).st_mode):
            yield from _walk(upper, path, skipped)


def _is_opaque(directory: Path) -> bool:
    for name in _OPAQUE:
        with suppress(OSError):
            if os.getxattr(directory, name, follow_symlinks=False) == b"y":
                return True
    return False


def _hidden(order: ContainerOrder, upper: Path, path: str) -> list[str]:
    """List what an opaque directory hides of the layers below and does not have itself."""
    there = set(os.listdir(upper / path))
    names: set[str] = set()
    for lower in mounts.lower_directories(f"{order.bundle}/rootfs"):
        place = Path(lower, path)
        if place.is_dir() and not place.is_symlink():
            names.update(os.listdir(place))
    return sorted(names - there)


# --- entries ---------------------------------------------------------------------------------------------------------


def _add_tree(tar: tarfile.TarFile, path: Path, name: str) -> None:
    """Add a file, or a directory with all that is in it; what is not there is left out."""
    if not os.path.lexists(path):
        return
    _add_one(tar, path, name)
    if path.is_dir() and not path.is_symlink():
        for entry in sorted(os.listdir(path)):
            _add_tree(tar, path / entry, f"{name}/{entry}")


def _add_one(tar: tarfile.TarFile, path: Path, name: str) -> None:
    if stat.S_ISSOCK(os.lstat(path).st_mode):
        return  # it means nothing without its process
    entry = tar.gettarinfo(path, name)
    entry.uname = entry.gname = ""
    entry.pax_headers = {**entry.pax_headers, **_attributes(path)}
    if entry.isreg():
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            tar.addfile(entry, file)
    else:
        tar.addfile(entry)


def _attributes(path: Path) -> dict[str, str]:
    """Return the extended attributes as PAX records; those that speak to the overlay are left out."""
    found = {}
    with suppress(OSError):
        for name in os.listxattr(path, follow_symlinks=False):
            if not name.startswith(_OVERLAY_XATTRS):
                value = os.getxattr(path, name, follow_symlinks=False)
                found[f"SCHILY.xattr.{name}"] = value.decode("utf-8", "surrogateescape")
    return found


def _add_bytes(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    _add_file(tar, name, io.BytesIO(content), len(content))


def _add_file(tar: tarfile.TarFile, name: str, file: IO[bytes], size_bytes: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.size = 0o600, size_bytes
    tar.addfile(entry, file)


def _add_log(tar: tarfile.TarFile, path: str) -> None:
    """Add the container's log as far as it is written now."""
    if not path:
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            _add_file(tar, "container.log", file, status.st_size)
