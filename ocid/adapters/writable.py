"""What the writable layers of containers take, kept from walks over them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Final

import msgspec

from ocid.ports.usage import FilesystemRoom, WritableUsage

AGAIN_S: Final = 5.0  # a layer is walked at most so often
SHARE: Final = 20  # and rests so many times as long as its last walk took
ENTRIES_MAX: Final = 5_000_000  # of one layer; one with more is told of as if it ended there


class _Known(msgspec.Struct, frozen=True):
    usage: WritableUsage
    next_s: float  # on the monotonic clock


class WritableLayers:
    """Measures every container's directory below one, each in its own rhythm: a huge one is walked less often."""

    def __init__(self, directory: Path, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._directory = directory
        self._now_ns = now_ns
        self._known: dict[str, _Known] = {}
        self._room: FilesystemRoom | None = None
        self._walking = Lock()  # one thread at a time

    def of(self, path: str) -> WritableUsage | None:
        """Return what a container's directory took when it was last walked, from memory; None before that."""
        known = self._known.get(path)
        return None if known is None else known.usage

    def total(self) -> tuple[int, int]:
        """Return bytes and inodes of all, from memory."""
        known = list(self._known.values())
        return sum(one.usage.bytes for one in known), sum(one.usage.inodes for one in known)

    def room(self) -> FilesystemRoom | None:
        """Return how large the file system is, from memory; None before the first measurement."""
        return self._room

    def measure(self) -> None:
        """Walk what is due, and forget what is gone. Blocks for as long as there are files."""
        with self._walking:
            status = os.statvfs(self._directory)
            self._room = FilesystemRoom(
                bytes=status.f_blocks * status.f_frsize, inodes=status.f_files, inodes_free=status.f_favail
            )
            paths = [os.path.join(self._directory, name) for name in os.listdir(self._directory)]
            for path in paths:
                known = self._known.get(path)
                if known is None or known.next_s <= time.monotonic():
                    self._walk(path)
            for path in self._known.keys() - set(paths):
                self._known.pop(path, None)

    def _walk(self, path: str) -> None:
        began_s = time.monotonic()
        size_bytes, inodes = measure_tree(path)
        ended_s = time.monotonic()
        usage = WritableUsage(at_ns=self._now_ns(), bytes=size_bytes, inodes=inodes)
        self._known[path] = _Known(usage, ended_s + max(AGAIN_S, SHARE * (ended_s - began_s)))


def measure_tree(directory: str, entries_max: int = ENTRIES_MAX) -> tuple[int, int]:
    """Return bytes on disk and number of inodes below *directory*; what vanishes meanwhile takes nothing."""
    size_bytes = inodes = 0
    waiting = [directory]
    while waiting and inodes < entries_max:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    size_bytes += status.st_blocks * 512
                    inodes += 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
    return size_bytes, inodes
