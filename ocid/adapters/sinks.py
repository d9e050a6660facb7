"""Where downloads go: hashed as they come, kept in memory or in a file that appears only when it is whole."""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from ocid.errors import EffectFailed, Exhausted, OcidError

_READ_BYTES: Final = 1 << 20
_BATCH_BYTES: Final = 1 << 20
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


class Sink:
    """Takes a download piece by piece and knows its size and digest. In memory, for small ones."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._hash = hashlib.sha256()
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> None:
        """Take the next bytes."""
        self._hash.update(piece)
        self.size_bytes += len(piece)
        self._keep(piece)

    def restart(self) -> None:
        """Forget everything: the download begins anew."""
        self.size_bytes = 0
        self._hash = hashlib.sha256()
        self._empty()

    def digest(self) -> str:
        """Return the digest of what was taken."""
        return "sha256:" + self._hash.hexdigest()

    def content(self) -> bytes:
        """Return what was taken."""
        return b"".join(self._pieces)

    def _keep(self, piece: bytes) -> None:
        self._pieces.append(bytes(piece))

    def _empty(self) -> None:
        self._pieces = []


class FileSink(Sink):
    """A download into a file. Leaving the ``with`` block removes it, unless it was published."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> FileSink:
        try:
            self._descriptor = os.open(self._path, _NEW, 0o600)
        except OSError as error:
            raise _explained(error, self._path) from error
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
        with suppress(FileNotFoundError):
            os.unlink(self._path)

    def publish(self, into: Path) -> None:
        """Make the file durable and give it its name. Blocks for the disk."""
        try:
            os.fsync(self._descriptor)
            os.rename(self._path, into)
        except OSError as error:
            raise _explained(error, into) from error

    def _keep(self, piece: bytes) -> None:
        try:
            done = os.write(self._descriptor, piece)
            while done < len(piece):
                done += os.write(self._descriptor, piece[done:])
        except OSError as error:
            raise _explained(error, self._path) from error

    def _empty(self) -> None:
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.ftruncate(self._descriptor, 0)


class Batches:
    """Hands what is downloaded to a sink in threads, a MiB at a time: a slow disk stops the download, nothing else."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0

    @property
    def size_bytes(self) -> int:
        """What the sink has and will have."""
        return self._sink.size_bytes + self._waiting_bytes

    async def write(self, piece: bytes) -> None:
        """Take the next bytes."""
        self._waiting.append(piece)
        self._waiting_bytes += len(piece)
        if self._waiting_bytes >= _BATCH_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Return when the sink has everything."""
        if self._waiting:
            batch, self._waiting, self._waiting_bytes = self._waiting, [], 0
            await trio.to_thread.run_sync(self._sink.write, b"".join(batch))


def file_is(path: Path, size_bytes: int, digest: str) -> bool:
    """Say whether *path* is a file of this size and digest. Blocks; one of another size costs nothing."""
    try:
        with open(path, "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != size_bytes:
                return False
            hashed = hashlib.sha256()
            while piece := file.read(_READ_BYTES):
                hashed.update(piece)
    except OSError:
        return False
    return "sha256:" + hashed.hexdigest() == digest


def _explained(error: OSError, path: Path) -> OcidError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Exhausted(f"download to {str(path)!r}: {error.strerror}: free space in the image store")
    return EffectFailed(f"download to {str(path)!r}: {error.strerror}")
