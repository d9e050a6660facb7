"""Checkpoints appended to a file, which should lie on another machine: a mount where nothing can be taken back.

The file is opened anew for each checkpoint, so whoever rotates it need not tell the daemon.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

import trio

from ocid.errors import EffectFailed

_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OTHERS_WRITE: Final = 0o022


class FileWitness:
    """Implements the port ``Witness``: one note after the other, as ``ocid-replay verify --witness`` reads them."""

    kind = "file"
    keeps_all = True

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self._path = path
        self._turn = trio.CapacityLimiter(1)  # a mount that hangs holds one thread, not one for each try

    async def keep(self, note: str) -> None:
        """See ``ocid.ports.Witness.keep``. It is on disk then."""
        await trio.to_thread.run_sync(append, self._path, note.encode(), limiter=self._turn, abandon_on_cancel=True)


def append(path: Path, content: bytes) -> None:
    """Append *content* to a file that nobody but its owner, root or this user, can write, and sync it.

    What an interrupted append left at its end is closed with a newline first.

    Raises:
        EffectFailed: it is no such file, or the disk refused.
    """
    try:
        _check_directory(path.parent)
        descriptor = os.open(path, _FLAGS, 0o600)
        try:
            size = _check_file(path, os.fstat(descriptor))
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            whole = b"\n" * torn + content
            if os.write(descriptor, whole) != len(whole):
                raise EffectFailed(f"{str(path)!r} took only a part of a checkpoint: is the disk full?")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if not size:
            _sync_name(path.parent)
    except OSError as error:
        raise EffectFailed(f"{str(path)!r} cannot be written: {error.strerror}") from error


def _check_directory(directory: Path) -> None:
    status = directory.stat()
    if status.st_uid not in (0, os.geteuid()) or (status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX):
        raise EffectFailed(f"others than root can put files into {str(directory)!r}: chown it to root and chmod go-w")


def _check_file(path: Path, status: os.stat_result) -> int:
    """Return the file's size after seeing that it is one file, and who can write it."""
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise EffectFailed(f"{str(path)!r} must be a regular file with one name")
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & _OTHERS_WRITE:
        raise EffectFailed(f"others than root can write {str(path)!r}: chown it to root and chmod go-w")
    return status.st_size


def _sync_name(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
