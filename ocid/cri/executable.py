"""The file that a peer runs, and its hash.

It is held from the moment the peer is identified on: a client such as crictl is gone before 40 MB are read. It is held
by O_PATH, which asks nothing of the file's own file system: the peer may have made that one (FUSE), and it may never
answer. Whatever may block happens in ``measure``, in a thread, bounded in size and time.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Mapping
from typing import Final, Self

import msgspec

BYTES_MAX: Final = 512 << 20  # a kubelet has about 100 MB
SECONDS_MAX: Final = 20.0
CHUNK_BYTES: Final = 1 << 20  # hashing lets go of the interpreter for each
SETTLED_NS: Final = 2_000_000_000  # a file that changed later than so long ago may change again under the same times

Key = tuple[int, int, int, int, int]  # device, inode, size, mtime_ns, ctime_ns


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """What came of hashing an executable."""

    sha256: str = ""  # hex; "" when it could not be read
    size_bytes: int = 0
    reason: str = ""  # why there is no hash
    key: Key | None = None  # to remember the hash by; None where it may not be relied on


class Executable:
    """An open file descriptor that exactly one taker closes: the thread that measures, or whoever gives up before."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Hold the file that *pid* runs, also when it was deleted or replaced; None where that cannot be."""
        try:
            return cls(os.open(f"/proc/{pid}/exe", os.O_PATH | os.O_CLOEXEC))
        except OSError:
            return None

    def take(self) -> int:
        """Return the descriptor, which is the caller's then; -1 when it is closed or taken."""
        with self._lock:
            fd, self._fd = self._fd, -1
            return fd

    def moved(self) -> Self:
        """Hand the descriptor on to a new holder; this one's ``close`` does nothing then."""
        return type(self)(self.take())

    def close(self) -> None:
        """Close it, if nobody has taken it."""
        if (fd := self.take()) >= 0:
            os.close(fd)


def measure(executable: Executable, known: Mapping[Key, str]) -> Measure:
    """Hash the file, or say why not. Blocks; never fails.

    Args:
        executable: is closed.
        known: hashes by what the file system says of a file; one that lies about that can only have its own files
            taken for one another.
    """
    held = executable.take()
    if held < 0:
        return Measure(reason="it was let go before it could be read")
    try:
        fd = os.open(f"/proc/self/fd/{held}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        return Measure(reason=f"it cannot be opened: {error.strerror}")
    finally:
        os.close(held)
    try:
        return _hashed(fd, known)
    except OSError as error:
        return Measure(reason=f"it cannot be read: {error.strerror}")
    finally:
        os.close(fd)


def _hashed(fd: int, known: Mapping[Key, str]) -> Measure:
    facts = os.fstat(fd)
    key, size = _key(facts), facts.st_size
    if not stat.S_ISREG(facts.st_mode):
        return Measure(reason="it is no regular file")
    if (digest := known.get(key)) is not None:
        return Measure(sha256=digest, size_bytes=size, key=key)
    if size > BYTES_MAX:
        return Measure(size_bytes=size, reason=f"it is larger than {BYTES_MAX >> 20} MiB")
    until_s = time.monotonic() + SECONDS_MAX
    digester, buffer, done = hashlib.sha256(), memoryview(bytearray(CHUNK_BYTES)), 0
    while count := os.readv(fd, [buffer]):
        digester.update(buffer[:count])
        done += count
        if done > size:
            break
        if time.monotonic() > until_s:
            return Measure(size_bytes=size, reason=f"it took longer than {SECONDS_MAX:.0f} s to read")
    after = os.fstat(fd)
    if done != size or _key(after) != key:
        return Measure(size_bytes=size, reason="it changed while it was read")
    settled = time.time_ns() - max(after.st_ctime_ns, after.st_mtime_ns) > SETTLED_NS
    return Measure(sha256=digester.hexdigest(), size_bytes=size, key=key if settled else None)


def _key(facts: os.stat_result) -> Key:
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
