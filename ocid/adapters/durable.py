"""Makes what was written last through a power failure: one ``syncfs`` for all who ask meanwhile."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import trio

from ocid.errors import EffectFailed

_libc = ctypes.CDLL(None, use_errno=True)


class StoreSync:
    """Syncs the file system of one directory, for many callers at once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._turn = trio.Lock()
        self._started = 0
        self._finished = 0

    async def sync(self) -> None:
        """Return when all that was written before this call is on disk. Callers that wait together share one sync.

        Raises:
            EffectFailed: the disk reported an error.
        """
        wanted = self._started + 1
        async with self._turn:
            if self._finished >= wanted:
                return
            self._started += 1
            number = self._started
            await trio.to_thread.run_sync(syncfs, self._directory)
            self._finished = number


def syncfs(directory: Path) -> None:
    """Write all dirty data of *directory*'s file system to disk. syncfs(2)."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(ctypes.c_int(descriptor)) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise EffectFailed(f"sync of the file system of {str(directory)!r}: {reason}")
    finally:
        os.close(descriptor)


def sync_directory(directory: Path) -> None:
    """Make the names in *directory* durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
