"""Walks a container's writable layer and compares it with the layers below, while the container may run and change it.

Every directory is opened anew from the layer's root without following a link, and everything in it through that one's
descriptor, so that nothing a container does to its tree leads out of it. Devices and FIFOs are never opened. Limits
keep a hostile tree from taking more than its share.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

import msgspec

from ocid.adapters import linux
from ocid.domain.changes import (
    DELETED,
    NOT_READ,
    REPLACED,
    UNREAD,
    Change,
    Entry,
    Layers,
    Lower,
    Walk,
    classify,
    inside,
    visible,
)
from ocid.errors import EffectFailed, NotFound

ENTRIES_MAX: Final = 200_000  # in a writable layer; more are not looked at
DEPTH_MAX: Final = 2_000  # directories within one another; deeper ones are not looked into
XATTRS_MAX: Final = 64  # of one file
XATTR_BYTES_MAX: Final = 256  # of one value
_READ_BYTES: Final = 1 << 20
_PATH_BYTES: Final = 3_000  # that one openat2 takes in; PATH_MAX is 4096
_OVERLAYS_OWN: Final = "trusted.overlay."
_OPAQUE: Final = "trusted.overlay.opaque"
_REDIRECT: Final = "trusted.overlay.redirect"
_METACOPY: Final = "trusted.overlay.metacopy"
_RESOLVE_NO_XDEV, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x01, 0x04, 0x08  # openat2(2)
_RESOLVE: Final = _RESOLVE_NO_XDEV | _RESOLVE_NO_SYMLINKS | _RESOLVE_BENEATH
_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOATIME
_KINDS: Final = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}
_GONE: Final = (FileNotFoundError, NotADirectoryError)


def walk(layers: Layers, bytes_max: int) -> Walk:
    """Return what the writable layer holds, compared with the layers below it.

    Raises:
        NotFound: there is no such writable layer.
        EffectFailed: it cannot be read.
    """
    try:
        with _Walker(layers, bytes_max) as walker:
            return walker.walk()
    except OSError as error:
        raise EffectFailed(f"writable layer {layers.upper!r}: {error.strerror}") from error
    except ValueError as error:  # a path with NUL, which no daemon ever wrote
        raise EffectFailed(f"writable layer {layers.upper!r}: {error}") from error


class _Walker:
    def __init__(self, layers: Layers, bytes_max: int) -> None:
        self._layers = layers
        self._left = bytes_max
        self._read = 0
        self._not_hashed = 0
        self._entries = 0
        self._complete = True
        self._changes: list[tuple[tuple[str, ...], Change]] = []
        self._open = ExitStack()
        self._roots: dict[int, int] = {}  # position in layers.lowers → descriptor

    def __enter__(self) -> _Walker:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def walk(self) -> Walk:
        """Look into every directory, one at a time."""
        upper = self._root(self._layers.upper)
        if upper is None:
            raise NotFound("writable layer", self._layers.upper)
        for position, lower in enumerate(self._layers.lowers):
            root = self._root(lower.directory)
            if root is None:
                raise NotFound("layer", lower.chain_id)
            self._roots[position] = root
        below = tuple(self._roots)
        self._compare((), upper, [(position, self._roots[position]) for position in below[:1]])
        waiting: list[tuple[tuple[str, ...], tuple[int, ...]]] = [((), below)]
        while waiting:
            parts, lowers = waiting.pop()
            if len(parts) > DEPTH_MAX:
                self._skip(parts, f"more than {DEPTH_MAX} directories deep")
                continue
            with self._skipping(parts):
                waiting += self._directory(upper, parts, lowers)
        changes = tuple(change for _, change in sorted(self._changes, key=lambda one: one[0]))
        return Walk(changes=changes, bytes_read=self._read, not_hashed=self._not_hashed, complete=self._complete)

    def _root(self, directory: str) -> int | None:
        try:
            descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except _GONE:
            return None
        self._open.callback(os.close, descriptor)
        return descriptor

    @contextmanager
    def _skipping(self, parts: tuple[str, ...]) -> Iterator[None]:
        """Pass over what vanished meanwhile; say so where the tree ends at a mount, which the container cannot see."""
        try:
            yield
        except _GONE:
            pass
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._skip(parts, "something is mounted there")

    def _skip(self, parts: tuple[str, ...], why: str) -> None:
        self._complete = False
        self._note(parts, UNREAD, note=why)

    def _directory(
        self, upper: int, parts: tuple[str, ...], lowers: tuple[int, ...]
    ) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
        """Look at everything in one directory, and return the directories in it with the layers that show there."""
        with ExitStack() as stack:
            here = stack.enter_context(_below(upper, parts, _LIST))
            theirs: list[tuple[int, int]] = []
            for position in lowers:
                with suppress(*_GONE):
                    opened = _below(self._roots[position], parts, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                    theirs.append((position, stack.enter_context(opened)))
            with os.scandir(here) as entries:
                names = [one.name for one in itertools.islice(entries, max(ENTRIES_MAX - self._entries, 0) + 1)]
            found = []
            for name in sorted(names):
                if self._entries >= ENTRIES_MAX:
                    self._skip((*parts, name), f"the writable layer has more than {ENTRIES_MAX} entries")
                    break
                self._entries += 1
                with self._skipping((*parts, name)):
                    found += self._entry((*parts, name), here, name, theirs)
            return found

    def _entry(
        self, parts: tuple[str, ...], here: int, name: str, theirs: Sequence[tuple[int, int]]
    ) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
        with ExitStack() as stack:
            descriptor = _opened(here, name, _LOOK)
            stack.callback(os.close, descriptor)
            below = _lookup(name, theirs, stack)
            status = os.stat(descriptor)
            if _is_whiteout(status):
                self._deleted(parts, below)
                return []
            if not stat.S_ISDIR(status.st_mode):
                self._compare(parts, descriptor, below)
                return []
            renamed = _attribute(descriptor, _REDIRECT)
            if _attribute(descriptor, _OPAQUE) == b"y" or renamed:
                note = f"renamed from {visible(os.fsdecode(renamed))}" if renamed else ""
                self._compare(parts, descriptor, below, replaced=True, note=note)
                return [(parts, ())]
            self._compare(parts, descriptor, below)
            directories = [position for position, one in below if stat.S_ISDIR(os.stat(one).st_mode)]
            return [(parts, tuple(directories))]

    # --- one entry ---------------------------------------------------------------------------------------------------

    def _compare(
        self,
        parts: tuple[str, ...],
        descriptor: int,
        below: Sequence[tuple[int, int]],
        *,
        replaced: bool = False,
        note: str = "",
    ) -> None:
        before, lower = self._before(below)
        now, unsteady = self._entry_of(descriptor, writable=True)
        if before is not None and _attribute(descriptor, _METACOPY) is not None:
            now, note = msgspec.structs.replace(now, sha256=before.sha256), "the content is still the image's"
        path = "/" + "/".join(parts)
        change, what = classify(path, now, before, self._layers.mount_points)
        if replaced and before is not None:
            change, what = REPLACED, ()
        if unsteady:
            note = "changed while it was read"
        if change:
            self._note(parts, change, what=what, now=now, before=before, lower=lower, note=note)

    def _deleted(self, parts: tuple[str, ...], below: Sequence[tuple[int, int]]) -> None:
        before, lower = self._before(below)
        note = "" if before is not None else "the image has no such file"
        self._note(parts, DELETED, before=before, lower=lower, note=note)

    def _before(self, below: Sequence[tuple[int, int]]) -> tuple[Entry | None, Lower | None]:
        if not below:
            return None, None
        position, descriptor = below[0]
        return self._entry_of(descriptor, writable=False)[0], self._layers.lowers[position]

    def _entry_of(self, descriptor: int, *, writable: bool) -> tuple[Entry, bool]:
        """Describe what *descriptor* is of; say, too, whether its content changed while it was read."""
        status = os.stat(descriptor)
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "unknown")
        sha256, unsteady = self._hash(descriptor, status) if kind == "file" else ("", False)
        uids, gids = (self._layers.uids, self._layers.gids) if writable else ((), ())
        special = kind in ("char", "block")
        entry = Entry(
            kind=kind,
            mode=stat.S_IMODE(status.st_mode),
            uid=inside(status.st_uid, uids),
            gid=inside(status.st_gid, gids),
            size=status.st_size if kind == "file" else 0,
            mtime_ns=status.st_mtime_ns,
            sha256=sha256,
            target=visible(os.fsdecode(os.readlink(b"", dir_fd=descriptor))) if kind == "symlink" else "",
            device=f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}" if special else "",
            xattrs=_xattrs(descriptor),
        )
        return entry, unsteady

    def _hash(self, descriptor: int, status: os.stat_result) -> tuple[str, bool]:
        if status.st_size > self._left:
            self._not_hashed += 1
            return NOT_READ, False
        digest, done = hashlib.sha256(), 0
        try:
            with open(f"/proc/self/fd/{descriptor}", "rb", buffering=0) as file:
                while done < status.st_size and (chunk := file.read(min(_READ_BYTES, status.st_size - done))):
                    digest.update(chunk)
                    done += len(chunk)
        except OSError:
            return NOT_READ, False
        finally:
            self._left -= done
            self._read += done
        after = os.stat(descriptor)
        kept = ("st_size", "st_mtime_ns", "st_ctime_ns")
        return digest.hexdigest(), any(getattr(after, one) != getattr(status, one) for one in kept)

    def _note(
        self,
        parts: tuple[str, ...],
        change: str,
        *,
        what: tuple[str, ...] = (),
        now: Entry | None = None,
        before: Entry | None = None,
        lower: Lower | None = None,
        note: str = "",
    ) -> None:
        path, path_hex = "/" + "/".join(parts), ""
        if any(0xDC80 <= ord(char) <= 0xDCFF for char in path):
            path, path_hex = visible(path), os.fsencode(path).hex()
        noted = Change(
            path=path,
            path_hex=path_hex,
            change=change,
            what=what,
            now=now,
            before=before,
            layer=lower.chain_id if lower is not None else "",
            layer_number=lower.number if lower is not None else 0,
            note=note,
        )
        self._changes.append((parts, noted))


# --- reading a tree that somebody else may change ---------------------------------------------------------------------


@contextmanager
def _below(root: int, parts: tuple[str, ...], flags: int) -> Iterator[int]:
    """Open a directory below *root*, however deep, without following any link.

    Raises:
        FileNotFoundError: it is not there.
        NotADirectoryError: it, or something on the way, is no directory, or a link.
        OSError: EXDEV, something is mounted on the way.
    """
    here = os.dup(root)
    try:
        pieces = list(_pieces(parts)) or ["."]
        for number, piece in enumerate(pieces):
            last = number + 1 == len(pieces)
            there = _opened(here, piece, flags if last else os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            os.close(here)
            here = there
        yield here
    finally:
        os.close(here)


def _opened(here: int, piece: str, flags: int) -> int:
    try:
        return linux.openat2(here, piece, flags, _RESOLVE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotADirectoryError(*error.args) from error
        raise


def _pieces(parts: tuple[str, ...]) -> Iterator[str]:
    """Yield the path in pieces that one system call takes."""
    piece, length = list[str](), 0
    for part in parts:
        size = len(os.fsencode(part)) + 1
        if piece and length + size > _PATH_BYTES:
            yield "/".join(piece)
            piece, length = [], 0
        piece.append(part)
        length += size
    if piece:
        yield "/".join(piece)


def _lookup(name: str, theirs: Sequence[tuple[int, int]], stack: ExitStack) -> list[tuple[int, int]]:
    """Return what the layers below show of *name*, the uppermost first; more than one only of directories.

    A whiteout hides what is below it, and so does an opaque directory, or a file.
    """
    found: list[tuple[int, int]] = []
    for position, directory in theirs:
        try:
            descriptor = os.open(name, _LOOK, dir_fd=directory)
        except FileNotFoundError:
            continue
        stack.callback(os.close, descriptor)
        status = os.stat(descriptor)
        is_directory = stat.S_ISDIR(status.st_mode)
        if _is_whiteout(status) or (found and not is_directory):
            break
        found.append((position, descriptor))
        if not is_directory or _attribute(descriptor, _OPAQUE) == b"y":
            break
    return found


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _attribute(descriptor: int, name: str) -> bytes | None:
    with suppress(OSError):
        return os.getxattr(f"/proc/self/fd/{descriptor}", name)
    return None


def _xattrs(descriptor: int) -> dict[str, str]:
    """Return the extended attributes but the overlay's own."""
    found: dict[str, str] = {}
    with suppress(OSError):
        names = os.listxattr(f"/proc/self/fd/{descriptor}")
        for name in sorted(one for one in names if not one.startswith(_OVERLAYS_OWN))[:XATTRS_MAX]:
            value = _attribute(descriptor, name)
            if value is not None:
                found[visible(name)] = _value_text(value)
    return found


def _value_text(value: bytes) -> str:
    kept, more = value[:XATTR_BYTES_MAX], "…" if len(value) > XATTR_BYTES_MAX else ""
    text = kept.decode("ascii", "replace")
    return f"{text}{more}" if text.isascii() and text.isprintable() else f"0x{kept.hex()}{more}"
