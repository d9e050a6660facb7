"""Where an export goes: standard output, a file that grows, or one that appears when it is whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path
from typing import Final, Protocol

from ocid.errors import EffectFailed, InvalidRequest

from .cursor import Misfit, sync_directory
from .exits import BUSY

MODE: Final = 0o600  # whoever may read the log decides who may read what comes of it
_TAIL_BYTES: Final = 1 << 16
_RECORD_MAX: Final = 1 << 22  # of one exported record, or batch of them


class Output(Protocol):
    """What an export is written to. Whatever fails is an ``EffectFailed`` that names it, but for a closed pipe."""

    def write(self, data: bytes | bytearray) -> None:
        """Write all of *data*."""

    def flush(self) -> None:
        """Return when all that was written is out, and durable where it can be."""

    def finish(self) -> None:
        """It is whole: flush, and let it be seen."""

    def close(self) -> None:
        """Let go of it. What was not finished may be lost."""


def open_output(name: str, *, grows: bool) -> Output:
    """Return the output that ``-w`` names; standard output for "".

    Args:
        name: a file. A device or a pipe is written as it is.
        grows: append to the file; else it is replaced when the export is whole.
    Raises:
        EffectFailed: it cannot be opened.
        Misfit: another exporter appends to it.
    """
    if not name:
        return Plain(os.dup(1), "standard output")
    path = Path(os.path.realpath(name))
    try:
        if path.exists() and not path.is_file():
            return Plain(os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC), repr(name))
        return Growing(path) if grows else Whole(path)
    except OSError as error:
        raise EffectFailed(f"{name!r} cannot be written: {error.strerror}") from error


def refuse_inside(directory: Path, *names: str) -> None:
    """See that no output is a file of the log itself.

    Raises:
        InvalidRequest: one is, or two are the same file.
    """
    paths = [Path(os.path.realpath(name)) for name in names if name]
    for path in paths:
        if path.parent == Path(os.path.realpath(directory)):
            raise InvalidRequest(f"{str(path)!r} is in the log's own directory: write it elsewhere")
    if len(set(paths)) < len(paths):
        raise InvalidRequest(f"{str(paths[0])!r} cannot be both output and cursor")


class Plain:
    """A descriptor that is written as it is: standard output, a pipe, a device."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name

    def write(self, data: bytes | bytearray) -> None:
        """Write all of *data*, however slowly it is taken."""
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise EffectFailed(f"{self._name} cannot be written: {error.strerror}") from error

    def flush(self) -> None:
        """Sync a file; what a pipe took is the reader's."""
        try:
            if stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                os.fsync(self._descriptor)
        except OSError as error:
            raise EffectFailed(f"{self._name} cannot be written: {error.strerror}") from error

    def finish(self) -> None:
        """Flush it."""
        self.flush()

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)


class Growing(Plain):
    """A file that is appended to; when it is renamed or removed, as by logrotate, a new one takes its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__(self._open(), repr(str(path)))

    def write(self, data: bytes | bytearray) -> None:
        """Append all of *data*."""
        if self._was_renamed():
            self.flush()
            os.close(self._descriptor)
            try:
                self._descriptor = self._open()
            except OSError as error:
                raise EffectFailed(f"{self._name} cannot be written: {error.strerror}") from error
        super().write(data)

    def _was_renamed(self) -> bool:
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
        except FileNotFoundError:
            return True
        except OSError as error:
            raise EffectFailed(f"{self._name} cannot be written: {error.strerror}") from error

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, MODE)
        try:
            _hold(descriptor, self._path)
            _cut_torn_line(descriptor, self._path)
            sync_directory(self._path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


class Whole(Plain):
    """A file that appears under its name, in place of what was there, once it is finished."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beside = path.with_name(f".{path.name}.part")
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._beside, flags, MODE)
        try:
            _hold(descriptor, path)
            os.ftruncate(descriptor, 0)
        except BaseException:
            os.close(descriptor)
            raise
        self._finished = False
        super().__init__(descriptor, repr(str(path)))

    def finish(self) -> None:
        """Give it its name, durably."""
        self.flush()
        try:
            self._beside.replace(self._path)
            self._finished = True
            sync_directory(self._path.parent)
        except OSError as error:
            raise EffectFailed(f"{self._name} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Remove what was not finished."""
        if not self._finished:
            with contextlib.suppress(OSError):
                self._beside.unlink()
        super().close()


def _hold(descriptor: int, path: Path) -> None:
    """Lock a file against other exporters."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Misfit(f"{str(path)!r} is in use: another exporter writes it", BUSY) from None


def _cut_torn_line(descriptor: int, path: Path) -> None:
    """Take away a last line that an exporter had not written to its end when it was killed: it will come again.

    Raises:
        Misfit: the last line is long, or begins like nothing that is exported, so it is somebody else's.
    """
    end = size = os.fstat(descriptor).st_size
    tail = b""
    while end and b"\n" not in tail and len(tail) < _RECORD_MAX:
        begin = max(end - _TAIL_BYTES, 0)
        tail = os.pread(descriptor, end - begin, begin) + tail
        end = begin
    torn = tail[tail.rfind(b"\n") + 1 :]
    if not torn:
        return
    if len(torn) >= _RECORD_MAX or not torn.startswith((b"{", b"[")):
        raise Misfit(f"{str(path)!r} ends in the middle of a line that is no exported record: write to another file")
    os.ftruncate(descriptor, size - len(torn))
