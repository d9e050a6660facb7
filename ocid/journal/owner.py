"""The lock that makes one daemon the only writer of a log, and the note it leaves about how its life went.

The file ``owner`` in the log's directory is locked with flock(2) for the daemon's whole life, which the kernel ends
with the process, however it dies. Its text is one line, ``<pid> <boot id> opening|open``, and is empty after a clean
stop. So the next daemon knows, before it lets LMDB touch a page, whether the last one stopped on purpose, was killed,
lost power, or died while opening the log.
"""

from __future__ import annotations

import fcntl
import os
from enum import StrEnum
from pathlib import Path

from ocid.errors import Unavailable

NAME = "owner"


class LastLife(StrEnum):
    """How the daemon before this one ended, as far as its lock file tells."""

    NONE = "none"  # no daemon ever opened this log
    STOPPED = "stopped"
    KILLED = "killed"  # within this boot: the page cache outlived it, so nothing it wrote is lost
    POWER_LOST = "power lost"  # it never stopped, and the machine has booted since
    DIED_OPENING = "died while opening the log"  # which a damaged file can do to LMDB


class Owner:
    """Holds the lock of one log directory."""

    def __init__(self, directory: Path, boot_id: str) -> None:
        """Take the lock.

        Raises:
            Unavailable: another process holds it; the message has its pid.
        """
        self._path = directory / NAME
        self._boot_id = boot_id
        existed = self._path.exists()
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self._text().split(" ", 1)[0] or "unknown"
            os.close(self._fd)
            raise Unavailable(
                f"the log in {str(directory)!r} is in use by process {holder}: stop that daemon first, or give this "
                "one a root directory of its own"
            ) from None
        self.last_life = self._judge(existed)

    def _text(self) -> str:
        return os.pread(self._fd, 200, 0).decode("ascii", "replace").strip()

    def _judge(self, existed: bool) -> LastLife:
        text = self._text()
        if not text:
            return LastLife.STOPPED if existed else LastLife.NONE
        words = text.split()
        if len(words) != 3 or words[1] != self._boot_id:
            return LastLife.POWER_LOST
        return LastLife.KILLED if words[2] == "open" else LastLife.DIED_OPENING

    def note_opening(self) -> None:
        """Write down, durably, that the log is about to be opened."""
        self._write(f"{os.getpid()} {self._boot_id} opening\n")

    def note_open(self) -> None:
        """Write down that opening it went well."""
        self._write(f"{os.getpid()} {self._boot_id} open\n")

    def release(self, *, clean: bool) -> None:
        """Let go of the lock; after a *clean* stop, say so."""
        if clean:
            self._write("")
        os.close(self._fd)

    def _write(self, text: str) -> None:
        os.pwrite(self._fd, text.encode("ascii"), 0)
        os.ftruncate(self._fd, len(text))
        os.fsync(self._fd)
