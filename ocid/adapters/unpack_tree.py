"""Makes the files of one layer in the current directory, as overlayfs wants them.

Every path used here is made of names below directories that this object itself made, so no symbolic link of the layer
is ever followed by the kernel: parents that are links are resolved by our own rules. Small files go to threads, since
making a file is nearly all kernel time. Runs in the unpack worker, shut into the layer's directory.

Source: kernel overlayfs.rst "whiteouts and opaque directories"; OCI image-spec layer.md.
"""

from __future__ import annotations

import errno
import os
import queue
import stat
import threading
from contextlib import suppress

from ocid.domain import archive, tar
from ocid.domain.archive import shown
from ocid.errors import EffectFailed, Exhausted, OcidError

TYPE_CHECKING = False  # as in typing, whose import takes longer than all others here together
if TYPE_CHECKING:
    from typing import Final, TypeAlias

    Job: TypeAlias = tuple[bytes, int, int, int, int, bytes]  # path, mode, uid, gid, mtime_ns, data

_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SMALL_BYTES: Final = 256 << 10  # larger files are written as they are read
_BATCH_JOBS: Final = 32
_BATCH_BYTES: Final = 1 << 20
_BATCHES_MAX: Final = 4  # waiting for a thread
_PENDING_MAX: Final = 50_000  # names remembered until the threads have caught up
_PAGE: Final = 4096
_OPAQUE_ATTRIBUTE: Final = "trusted.overlay.opaque"
_ROOT: Final = b"."


class Tree:
    """The layer being made. ``add`` entries in order, then ``finish``."""

    def __init__(self, limits: archive.Limits, threads: int = 2, *, layered: bool = True) -> None:
        """*layered*: names that begin with ".wh." speak of the layers below; else they are names like any other."""
        self._limits = limits
        self._layered = layered
        self._directories: dict[bytes, tuple[int, int | None]] = {b"": (0o755, None)}  # mode, mtime in ns
        self._whiteouts: set[bytes] = set()
        self._pending: set[bytes] = set()  # files that threads may not have made yet
        self._batch: list[Job] = []
        self._batch_bytes = 0
        self._queue: queue.Queue[list[Job] | None] = queue.Queue(_BATCHES_MAX)
        self._failure: BaseException | None = None
        self.size_bytes = _PAGE
        self.inodes = 1
        self.covers_all = False  # the layer's root is opaque: no layer below it shows
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def add(self, entry: tar.Entry, reader: tar.Reader) -> None:
        """Make one entry; the data of a file is taken from *reader*.

        Raises:
            EffectFailed: the entry is refused by the rules of ``ocid.domain.archive``, or by the kernel.
            Exhausted: a limit was passed, or the disk is full.
        """
        self._limits.count(entry.name)
        path = archive.path_of(entry.name)
        act, path = archive.meaning(path) if self._layered else (archive.KEEP, path)
        if act == archive.SKIP:
            return
        try:
            if act == archive.KEEP:
                self._keep(path, entry, reader)
            elif act == archive.COVER:
                self._cover(self._directory(path, entry.name))
            else:
                self._white_out(self._place(path, entry.name))
        except OSError as error:
            raise _explained(error, entry.name) from error

    def finish(self) -> None:
        """Wait for the threads, then give directories their final modes and times."""
        self._drain()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        for path, (mode, mtime_ns) in self._directories.items():
            try:
                if mode & 0o7000:
                    os.chmod(path or _ROOT, mode)
                if mtime_ns is not None:
                    os.utime(path or _ROOT, ns=(mtime_ns, mtime_ns))
            except OSError as error:
                raise _explained(error, path) from error

    def implied(self) -> list[bytes]:
        """List directories that no entry described: they were made for what is in them."""
        return [path for path, (_, mtime_ns) in self._directories.items() if path and mtime_ns is None]

    # --- places ------------------------------------------------------------------------------------------------------

    def _place(self, path: bytes, name: bytes) -> bytes:
        """Return *path* with its directory resolved and made."""
        directory, last = archive.split(path)
        if directory in self._directories:
            return path
        directory = self._directory(directory, name)
        return directory + b"/" + last if directory else last

    def _directory(self, path: bytes, name: bytes, *, make: bool = True) -> bytes:
        """Return the real directory that *path* means for entry *name*; missing ones are made."""
        if path in self._directories:
            return path
        todo, at, links = path.split(b"/"), b"", 0
        while todo:
            part = todo.pop(0)
            here = at + b"/" + part if at else part
            if here not in self._directories:
                if here in self._pending:
                    self._drain()
                mode = _mode_of(here)
                if mode is not None and stat.S_ISLNK(mode):
                    links += 1
                    if links > archive.SYMLINKS_MAX:
                        raise EffectFailed(f"layer entry {shown(name)} goes through too many symbolic links")
                    target = archive.through_link(at, os.readlink(here), name)
                    todo, at = [piece for piece in target.split(b"/") if piece] + todo, b""
                    continue
                if not make or (mode is not None and here not in self._whiteouts):
                    raise EffectFailed(f"layer entry {shown(name)}: {shown(here)} is not a directory of this layer")
                self._make_directory(here, 0o755)
            at = here
        return at

    def _make_directory(self, path: bytes, mode: int) -> None:
        """Make one directory. Special bits wait for ``finish``: files made meanwhile must not inherit a group."""
        self._limits.count(path)  # an entry may bring many directories with it
        covered = path in self._whiteouts
        self._clear(path)
        os.mkdir(path, mode & 0o777)
        self._directories[path] = (mode, None)
        self.size_bytes += _PAGE
        self.inodes += 1
        if covered:
            self._cover(path)

    def _clear(self, path: bytes) -> None:
        """Remove what an earlier entry of this layer put at *path*: the last one wins."""
        if path in self._pending:
            self._drain()
        self._whiteouts.discard(path)
        if path not in self._directories:
            with suppress(FileNotFoundError):
                os.unlink(path)
            return
        self._drain()  # there may be files below it that are still to be made
        below = path + b"/"
        for directory, names, files in os.walk(path, topdown=False, followlinks=False):
            for file in files:
                os.unlink(os.path.join(directory, file))
            for name in names:
                inner = os.path.join(directory, name)
                os.unlink(inner) if os.path.islink(inner) else os.rmdir(inner)
        os.rmdir(path)
        for known in [known for known in self._directories if known == path or known.startswith(below)]:
            del self._directories[known]
        self._whiteouts = {known for known in self._whiteouts if not known.startswith(below)}

    # --- entries -----------------------------------------------------------------------------------------------------

    def _keep(self, path: bytes, entry: tar.Entry, reader: tar.Reader) -> None:
        path = self._place(path, entry.name)
        kind = entry.kind
        if kind == tar.FILE:
            self._file(path, entry, reader)
        elif kind == tar.DIRECTORY:
            self._own_directory(path, entry)
        elif not path:
            raise EffectFailed(f"layer entry {shown(entry.name)} is the root, but not a directory: refused")
        else:
            self._clear_if_there(path)
            self._node(path, entry)

    def _clear_if_there(self, path: bytes) -> None:
        if path in self._pending:
            self._drain()
        if path in self._directories or _mode_of(path) is not None:
            self._clear(path)

    def _file(self, path: bytes, entry: tar.Entry, reader: tar.Reader) -> None:
        if not path:
            raise EffectFailed(f"layer entry {shown(entry.name)} is the root, but not a directory: refused")
        if path in self._directories:
            self._clear(path)
        elif path in self._pending:
            self._drain()
        self._whiteouts.discard(path)
        self.size_bytes += -(-entry.size // _PAGE) * _PAGE
        self.inodes += 1
        if entry.size > _SMALL_BYTES or entry.xattrs:
            self._large_file(path, entry, reader)
            return
        self._pending.add(path)
        data = reader.data(entry)
        self._batch.append((path, entry.mode, entry.uid, entry.gid, entry.mtime_ns, data))
        self._batch_bytes += len(data)
        if len(self._batch) >= _BATCH_JOBS or self._batch_bytes >= _BATCH_BYTES:
            self._hand_over()
            if len(self._pending) > _PENDING_MAX:
                self._drain()

    def _large_file(self, path: bytes, entry: tar.Entry, reader: tar.Reader) -> None:
        self._clear_if_there(path)
        descriptor = os.open(path, _NEW_FILE, entry.mode & 0o777)
        try:
            for piece in reader.chunks(entry):
                _write(descriptor, piece)
            _own_file(descriptor, entry.mode, entry.uid, entry.gid)
            _set_attributes(descriptor, entry)
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(descriptor)

    def _own_directory(self, path: bytes, entry: tar.Entry) -> None:
        where = path or _ROOT
        known = path in self._directories
        if known:
            os.chmod(where, entry.mode & 0o777)
        else:
            self._make_directory(path, entry.mode)
        if entry.uid or entry.gid or known:
            os.chown(where, entry.uid, entry.gid)
        _set_attributes(where, entry)
        self._directories[path] = (entry.mode, entry.mtime_ns)

    def _node(self, path: bytes, entry: tar.Entry) -> None:
        """Make a link, device or FIFO; nothing is at *path*."""
        kind = entry.kind
        if kind == tar.HARD_LINK:
            self._hard_link(path, entry)
            return
        if kind == tar.SYMLINK:
            if not entry.link:
                raise EffectFailed(f"layer entry {shown(entry.name)} is a symbolic link to nothing: refused")
            os.symlink(entry.link, path)
        elif kind == tar.FIFO:
            os.mkfifo(path, entry.mode & 0o777)
        else:
            archive.check_device(entry.major, entry.minor, entry.name)
            form = stat.S_IFCHR if kind == tar.CHARACTER_DEVICE else stat.S_IFBLK
            os.mknod(path, form | (entry.mode & 0o777), os.makedev(entry.major, entry.minor))
        self.inodes += 1
        if entry.uid or entry.gid:
            os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
        if kind != tar.SYMLINK and entry.mode & 0o7000:
            os.chmod(path, entry.mode)
        if kind != tar.SYMLINK:
            _set_attributes(path, entry)
        os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)

    def _hard_link(self, path: bytes, entry: tar.Entry) -> None:
        wanted = archive.link_path_of(entry.link, entry.name)
        above, last = archive.split(wanted)
        above = self._directory(above, entry.name, make=False)
        target = above + b"/" + last if above else last
        if target in self._pending:
            self._drain()
        mode = None if target in self._whiteouts or target in self._directories else _mode_of(target)
        if mode is None or stat.S_ISDIR(mode) or target == path:
            raise EffectFailed(
                f"layer entry {shown(entry.name)} is a hard link to {shown(wanted)}, which is not a file of this layer"
            )
        os.link(target, path, follow_symlinks=False)

    def _white_out(self, path: bytes) -> None:
        """Hide *path* of the layers below. What this layer itself has there stays; a directory becomes opaque."""
        if path in self._pending:
            return
        if path in self._directories:
            self._cover(path)
        elif _mode_of(path) is None:
            os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
            self._whiteouts.add(path)
            self.inodes += 1

    def _cover(self, path: bytes) -> None:
        if path:
            os.setxattr(path, _OPAQUE_ATTRIBUTE, b"y", follow_symlinks=False)
        else:
            self.covers_all = True

    # --- threads -----------------------------------------------------------------------------------------------------

    def _hand_over(self) -> None:
        if self._batch:
            self._queue.put(self._batch)
            self._batch, self._batch_bytes = [], 0
        if self._failure is not None:
            raise self._failure

    def _drain(self) -> None:
        """Wait until the threads have made all files handed to them."""
        self._hand_over()
        self._queue.join()
        self._pending.clear()
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while (batch := self._queue.get()) is not None:
            path = b""
            try:
                if self._failure is None:
                    for path, mode, uid, gid, mtime_ns, data in batch:
                        _small_file(path, mode, uid, gid, mtime_ns, data)
            except OSError as error:
                self._failure = _explained(error, path)
            except BaseException as error:
                self._failure = error
            finally:
                self._queue.task_done()


def _small_file(path: bytes, mode: int, uid: int, gid: int, mtime_ns: int, data: bytes) -> None:
    try:
        descriptor = os.open(path, _NEW_FILE, mode & 0o777)
    except FileExistsError:  # of an earlier entry of this layer, and not a directory
        os.unlink(path)
        descriptor = os.open(path, _NEW_FILE, mode & 0o777)
    try:
        if data:
            _write(descriptor, data)
        if uid or gid or mode & 0o7000:
            _own_file(descriptor, mode, uid, gid)
        os.utime(descriptor, ns=(mtime_ns, mtime_ns))
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    done = os.write(descriptor, data)
    while done < len(data):
        done += os.write(descriptor, data[done:])


def _own_file(descriptor: int, mode: int, uid: int, gid: int) -> None:
    """Set owner, then special bits: chown(2) clears them."""
    if uid or gid:
        os.fchown(descriptor, uid, gid)
    if mode & 0o7000:
        os.fchmod(descriptor, mode)


def _set_attributes(where: int | bytes, entry: tar.Entry) -> None:
    for attribute, value in (entry.xattrs or {}).items():
        if archive.keeps_attribute(attribute, value, entry.name):
            try:
                os.setxattr(where, attribute, value)
            except OSError as error:
                if error.errno != errno.ENOTSUP or attribute == b"security.capability":
                    raise


def _mode_of(path: bytes) -> int | None:
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return None


def _explained(error: OSError, name: bytes) -> OcidError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Exhausted(f"layer entry {shown(name)}: {error.strerror}: free space in the image store")
    return EffectFailed(f"layer entry {shown(name)}: {error.strerror}")
