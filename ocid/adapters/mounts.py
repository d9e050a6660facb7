"""Mounts: bind, tmpfs, overlay of any depth, unmount, and what is mounted where. All functions block for a moment."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from ocid.adapters import linux
from ocid.errors import EffectFailed, Exhausted

LAYERS_MAX: Final = 500  # the kernel's OVL_MAX_STACK
_STRING_BYTES_MAX: Final = 255  # fsconfig(2) takes no longer ones
_OPTIONS_BYTES_MAX: Final = 4095  # mount(2) passes one page
_MOUNTINFO: Final = "/proc/self/mountinfo"
_UNMOUNT_ROUNDS: Final = 8  # mounts stacked upon one place
_READ_BYTES_MAX: Final = 1 << 30


class Mounted(msgspec.Struct, frozen=True, kw_only=True):
    """One line of /proc/self/mountinfo. proc(5)."""

    mount_id: int
    parent_id: int
    device: str  # major:minor
    root: str
    target: str
    options: str
    propagation: tuple[str, ...]  # "shared:N", "master:N" …; empty is private
    kind: str
    source: str
    super_options: str


def mountinfo(text: str | None = None) -> tuple[Mounted, ...]:
    """Return what is mounted in this mount namespace, in the order of mounting."""
    if text is None:
        with open(_MOUNTINFO, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    return tuple(_parse(line) for line in text.splitlines() if line)


def _parse(line: str) -> Mounted:
    head, _, rear = line.partition(" - ")
    mount_id, parent_id, device, root, target, options, *propagation = head.split(" ")
    kind, source, super_options = [*rear.split(" "), "", "", ""][:3]
    return Mounted(
        mount_id=int(mount_id),
        parent_id=int(parent_id),
        device=device,
        root=_unescape(root),
        target=_unescape(target),
        options=options,
        propagation=tuple(tag for tag in propagation if tag),
        kind=kind,
        source=_unescape(source),
        super_options=super_options,
    )


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text) if "\\" in text else text


def lower_directories(target: str) -> list[str]:
    """Return the layers below the writable one of the overlay mounted at *target*, the uppermost first."""
    for entry in mountinfo():
        if entry.target == target and entry.kind == "overlay":
            options = [option.partition("=") for option in entry.super_options.split(",")]
            lowers = [value for key, _, value in options if key in ("lowerdir", "lowerdir+")]
            return [_unescape(one) for value in lowers for one in value.split(":")]
    return []


def targets_below(directory: str) -> list[str]:
    """Return the mount points at and below *directory*, the latest mounted first: the order to unmount in."""
    prefix = directory.rstrip("/") + "/"
    found = [entry.target for entry in mountinfo() if entry.target == directory or entry.target.startswith(prefix)]
    return found[::-1]


def is_mount(target: str) -> bool:
    """Say whether *target* is the root of a mount; False when it does not exist. Costs one system call."""
    try:
        told = linux.is_mount_root(target)
    except (FileNotFoundError, NotADirectoryError):
        return False
    if told is None:
        real = os.path.realpath(target)
        return any(entry.target == real for entry in mountinfo())
    return told


def bind(source: str, target: str) -> None:
    """Bind-mount *source*, a file or directory, at *target*, which exists.

    Raises:
        EffectFailed: the kernel refused.
    """
    _call("bind", target, linux.mount, source, target, None, linux.MS_BIND)


def tmpfs(target: str, size_bytes: int, mode: int, flags: int, label: str = "") -> None:
    """Mount a new tmpfs of at most *size_bytes* at *target*, which exists; with an SELinux *label* for all in it."""
    options = f"mode={mode:o},size={size_bytes}{_context(label)}"
    _call("tmpfs", target, linux.mount, "shm", target, "tmpfs", flags, options)


def _context(label: str) -> str:
    """The mount option of an SELinux label, quoted for its commas. mount(8) "context"."""
    return f',context="{label}"' if label else ""


def make_private(directory: str) -> None:
    """Make *directory* a mount of its own whose mounts are seen nowhere else. Done already is success."""
    if is_mount(directory):
        real = os.path.realpath(directory)
        if any(entry.target == real and not entry.propagation for entry in mountinfo()):
            return
    else:
        bind(directory, directory)
    _call("private", directory, linux.mount, "none", directory, None, linux.MS_PRIVATE)


def unmount(target: str, *, detach: bool = True) -> bool:
    """Unmount everything at *target* itself, and say whether there was anything. Not mounted is success.

    With *detach* a busy mount vanishes from the tree at once and ends with its last user.
    """
    flags = linux.UMOUNT_NOFOLLOW | (linux.MNT_DETACH if detach else 0)
    for done in range(_UNMOUNT_ROUNDS):
        try:
            linux.umount(target, flags)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
                return done > 0
            raise EffectFailed(f"unmount of {target!r}: {error.strerror}") from error
    return True


def unmount_below(directory: str) -> None:
    """Unmount everything at and below *directory*, the latest first."""
    for target in targets_below(os.path.realpath(directory)):
        unmount(target)


def clear_files(directory: Path) -> None:
    """Remove the files of a directory, and what is mounted upon them; directories stay. Missing is success."""
    for entry in directory.iterdir() if directory.is_dir() else ():
        if not entry.is_dir():
            unmount(str(entry))
            entry.unlink()


def overlay(
    lowers: Sequence[str | Path],
    upper: str | Path | None,
    work: str | Path | None,
    target: str | Path,
    *,
    volatile: bool = False,
    label: str = "",
) -> None:
    """Mount an overlay at *target*; without *upper* and *work* it is read-only.

    Args:
        lowers: read-only layers, the uppermost first, at most ``LAYERS_MAX``.
        volatile: skip syncing the upper layer; what a power failure does to it is no matter then.
        label: the SELinux label of everything in it; "" keeps that of each file.
    Raises:
        EffectFailed: the kernel refused.
        Exhausted: there are too many layers.
    Source: kernel overlayfs.rst; ``lowerdir+`` since Linux 6.7, else one page of options with short relative names.
    """
    names = [os.fspath(lower) for lower in lowers]
    if len(names) > LAYERS_MAX:
        raise Exhausted(f"{len(names)} layers at {str(target)!r}: an overlay takes at most {LAYERS_MAX}")
    above = None if upper is None else os.fspath(upper)
    aside = None if work is None else os.fspath(work)
    try:
        _overlay_by_fsconfig(names, above, aside, os.fspath(target), volatile=volatile, label=label)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL, errno.EPERM):
            raise EffectFailed(f"overlay at {str(target)!r}: {error.strerror} {error.filename or ''}") from error
        overlay_by_options(names, above, aside, os.fspath(target), volatile=volatile, label=label)


def _overlay_by_fsconfig(
    names: list[str], upper: str | None, work: str | None, target: str, *, volatile: bool, label: str
) -> None:
    held: list[int] = []

    def short(path: str) -> str:
        if len(os.fsencode(path)) <= _STRING_BYTES_MAX:
            return path
        held.append(os.open(path, os.O_PATH | os.O_CLOEXEC))
        return f"/proc/self/fd/{held[-1]}"

    try:
        context = linux.fsopen("overlay")
        held.append(context)
        linux.fsconfig_string(context, "source", "overlay")
        for name in names:
            linux.fsconfig_string(context, "lowerdir+", short(name))
        if upper is not None and work is not None:
            linux.fsconfig_string(context, "upperdir", short(upper))
            linux.fsconfig_string(context, "workdir", short(work))
            if volatile:
                linux.fsconfig_flag(context, "volatile")
        if label:
            linux.fsconfig_string(context, "context", label)
        mount_fd = linux.fsmount(context)
        held.append(mount_fd)
        linux.move_mount(mount_fd, target)
    finally:
        for descriptor in held:
            os.close(descriptor)


def overlay_by_options(
    names: list[str], upper: str | None, work: str | None, target: str, *, volatile: bool, label: str = ""
) -> None:
    """The same through mount(2), for older kernels: its page of options holds names, not paths."""

    def options_of(lowers: Sequence[str]) -> str:
        options = "lowerdir=" + ":".join(_escape(lower, r"\:,") for lower in lowers)
        if upper is not None and work is not None:
            options += f",upperdir={_escape(upper, chr(92) + ',')},workdir={_escape(work, chr(92) + ',')}"
            options += ",volatile" if volatile else ""
        return options + _context(label)

    options = options_of(names)
    if len(os.fsencode(options)) <= _OPTIONS_BYTES_MAX:
        _call("overlay", target, linux.mount, "overlay", target, "overlay", 0, options)
        return
    farm = tempfile.mkdtemp(prefix="ocid-overlay-")
    try:
        for number, name in enumerate(names):
            os.symlink(os.path.abspath(name), os.path.join(farm, str(number)))
        short = options_of([str(number) for number in range(len(names))])
        absolute = os.path.abspath(target)
        _in_directory(farm, lambda: linux.mount("overlay", absolute, "overlay", 0, short), target)
    finally:
        shutil.rmtree(farm, ignore_errors=True)


def _escape(path: str, special: str) -> str:
    return "".join("\\" + letter if letter in special else letter for letter in path)


def _in_directory(directory: str, work: Callable[[], None], target: str) -> None:
    """Run *work* in a thread with a working directory of its own."""
    failure: list[OSError] = []

    def run() -> None:
        try:
            linux.unshare(linux.CLONE_FS)
            os.chdir(directory)
            work()
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="ocid-overlay")
    thread.start()
    thread.join()
    if failure:
        raise EffectFailed(f"overlay at {target!r}: {failure[0].strerror}") from failure[0]


def _call(what: str, target: str, function: Callable[..., None], *arguments: object) -> None:
    try:
        function(*arguments)
    except OSError as error:
        raise EffectFailed(f"{what} mount at {target!r}: {error.strerror}") from error


def read_in_root(root: str | Path, path: str, limit: int) -> bytes:
    """Read at most *limit* bytes of a regular file below *root*, never outside; b"" when there is none.

    The file's root is *root*: absolute links and ``..`` end there, and links of /proc are not followed.

    Raises:
        EffectFailed: *root* is missing, or the kernel refused for another reason.
    Source: openat2(2) RESOLVE_IN_ROOT.
    """
    absent = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG)
    try:
        root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise EffectFailed(f"root file system {str(root)!r}: {error.strerror}") from error
    found = -1
    try:
        resolve = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS
        found = linux.openat2(root_fd, path, os.O_PATH | os.O_CLOEXEC, resolve)
        return _read_regular(found, limit)
    except OSError as error:
        if error.errno in absent:
            return b""
        raise EffectFailed(f"{path!r} in {str(root)!r}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            os.close(found)
        os.close(root_fd)


def _read_regular(path_fd: int, limit: int) -> bytes:
    """Read through an O_PATH descriptor, so that a device or FIFO is never opened."""
    if not os.path.isfile(f"/proc/self/fd/{path_fd}"):
        return b""
    with open(f"/proc/self/fd/{path_fd}", "rb") as file:
        return file.read(min(limit, _READ_BYTES_MAX))
