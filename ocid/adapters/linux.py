"""System calls that Python 3.11 has no function for, as thin functions that raise ``OSError``.

Numbers above 423 are the same on every architecture. All calls release the GIL while the kernel works.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from typing import Final

CLONE_FS: Final = 0x00000200
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 1 << 18
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8

RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_IN_ROOT: Final = 0x10

_FSCONFIG_SET_STRING: Final = 1
_FSCONFIG_SET_FLAG: Final = 0
_FSCONFIG_CMD_CREATE: Final = 6
_FSOPEN_CLOEXEC: Final = 1
_FSMOUNT_CLOEXEC: Final = 1
_MOVE_MOUNT_F_EMPTY_PATH: Final = 4
_NR_OPEN_TREE: Final = 428
_NR_MOVE_MOUNT: Final = 429
_NR_FSOPEN: Final = 430
_NR_FSCONFIG: Final = 431
_NR_FSMOUNT: Final = 432
_NR_OPENAT2: Final = 437
_NR_MOUNT_SETATTR: Final = 442
_OPEN_TREE_CLONE: Final = 1
_AT_EMPTY_PATH: Final = 0x1000
_MOUNT_ATTR_RDONLY: Final = 0x1
_MOUNT_ATTR_IDMAP: Final = 0x00100000
_AT_FDCWD: Final = -100
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_STATX_ATTR_MOUNT_ROOT: Final = 0x2000
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_CAPBSET_READ: Final = 23

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _checked(result: int, path: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def _syscall(number: int, *arguments: int | bytes | None, path: str | None = None) -> int:
    wide = [ctypes.c_long(value) if isinstance(value, int) else ctypes.c_char_p(value) for value in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *wide), path)


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """mount(2)."""
    words = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    _checked(_libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]), target)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _checked(_libc.umount2(os.fsencode(target), ctypes.c_int(flags)), target)


def unshare(flags: int) -> None:
    """unshare(2): the calling thread only."""
    _checked(_libc.unshare(ctypes.c_int(flags)))


def enter(namespace: int, kind: int) -> None:
    """setns(2): take the calling thread into the namespace of this *kind* that *namespace* is open on."""
    _checked(_libc.setns(ctypes.c_int(namespace), ctypes.c_int(kind)))


def enter_pinned(namespace: str, flags: int) -> None:
    """setns(2): move the calling thread into a pinned namespace of the kind that *flags* names."""
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.setns(ctypes.c_int(descriptor), ctypes.c_int(flags)), namespace)
    finally:
        os.close(descriptor)


def set_hostname(name: str) -> None:
    """sethostname(2) in the calling thread's UTS namespace."""
    raw = os.fsencode(name)
    _checked(_libc.sethostname(raw, ctypes.c_size_t(len(raw))))


def become_subreaper() -> None:
    """Let orphaned descendants be reparented to this process. prctl(2) PR_SET_CHILD_SUBREAPER."""
    one, zero = ctypes.c_ulong(1), ctypes.c_ulong(0)
    _checked(_libc.prctl(ctypes.c_int(_PR_SET_CHILD_SUBREAPER), one, zero, zero, zero))


def bounding_set_has(capability: int) -> bool:
    """Say whether the capability of this number is in the calling thread's bounding set."""
    zero = ctypes.c_ulong(0)
    return bool(_libc.prctl(ctypes.c_int(_PR_CAPBSET_READ), ctypes.c_ulong(capability), zero, zero, zero) == 1)


def openat2(root_fd: int, path: str, flags: int, resolve: int) -> int:
    """openat2(2): open *path* below *root_fd* as *resolve* says, and return the new descriptor."""
    how = struct.pack("QQQ", flags, 0, resolve)
    return _syscall(_NR_OPENAT2, root_fd, os.fsencode(path), how, len(how), path=path)


def is_mount_root(path: str) -> bool | None:
    """Say whether *path*, itself no symbolic link, is the root of a mount; None where the kernel cannot tell.

    Raises:
        OSError: it does not exist.
    Source: statx(2) STATX_ATTR_MOUNT_ROOT, Linux 5.8.
    """
    found = ctypes.create_string_buffer(256)
    _checked(_libc.statx(_AT_FDCWD, os.fsencode(path), _AT_SYMLINK_NOFOLLOW, ctypes.c_uint(0), found), path)
    attributes, known = struct.unpack_from("Q", found, 8)[0], struct.unpack_from("Q", found, 56)[0]
    return bool(attributes & _STATX_ATTR_MOUNT_ROOT) if known & _STATX_ATTR_MOUNT_ROOT else None


def fsopen(kind: str) -> int:
    """fsopen(2): begin a new file system of this kind; returns its context's descriptor."""
    return _syscall(_NR_FSOPEN, os.fsencode(kind), _FSOPEN_CLOEXEC)


def fsconfig_string(context: int, key: str, value: str) -> None:
    """fsconfig(2) FSCONFIG_SET_STRING; *value* has at most 255 bytes."""
    _syscall(_NR_FSCONFIG, context, _FSCONFIG_SET_STRING, os.fsencode(key), os.fsencode(value), 0, path=value)


def fsconfig_flag(context: int, key: str) -> None:
    """fsconfig(2) FSCONFIG_SET_FLAG."""
    _syscall(_NR_FSCONFIG, context, _FSCONFIG_SET_FLAG, os.fsencode(key), None, 0, path=key)


def fsmount(context: int) -> int:
    """Create the configured file system and return the descriptor of its detached mount."""
    _syscall(_NR_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
    return _syscall(_NR_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)


def move_mount(mount_fd: int, target: str) -> None:
    """Attach a detached mount at *target*. move_mount(2)."""
    _syscall(_NR_MOVE_MOUNT, mount_fd, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH, path=target)


def open_tree(path: str) -> int:
    """open_tree(2): return the descriptor of a detached mount of *path*, without what is mounted below it."""
    return _syscall(_NR_OPEN_TREE, _AT_FDCWD, os.fsencode(path), _OPEN_TREE_CLONE | os.O_CLOEXEC, path=path)


def map_ids(mount_fd: int, user_namespace_fd: int) -> None:
    """mount_setattr(2): show owners in a detached mount as the user namespace maps them, and make it read-only."""
    attributes = struct.pack("QQQQ", _MOUNT_ATTR_IDMAP | _MOUNT_ATTR_RDONLY, 0, 0, user_namespace_fd)
    _syscall(_NR_MOUNT_SETATTR, mount_fd, b"", _AT_EMPTY_PATH, attributes, len(attributes))


def reaped_status(pidfd: int) -> int | None:
    """Return the wait status of a process that someone else has reaped already; None where the kernel cannot tell.

    Source: linux/pidfd.h PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15.
    """
    info = bytearray(64)  # PIDFD_INFO_SIZE_VER0: mask, cgroup id, twelve 32-bit words
    struct.pack_into("Q", info, 0, 1 << 3)
    try:
        fcntl.ioctl(pidfd, (3 << 30) | (64 << 16) | (0xFF << 8) | 11, info, True)
    except OSError:
        return None
    mask = struct.unpack_from("Q", info, 0)[0]
    return int(struct.unpack_from("i", info, 60)[0]) if mask & (1 << 3) else None
