"""Which file systems can hold the log: LMDB maps its file and locks it between processes, and not all allow both."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

from ocid.errors import EffectFailed, Unsupported

# f_type of statfs(2), from linux/magic.h and the file systems' own headers.
_REFUSED: Final[dict[int, str]] = {
    0x794C7630: "overlay",  # a reader that opened the lower file never sees what the writer copied up
    0x61756673: "aufs",
    0x65735546: "fuse",  # virtiofs included
    0x01021997: "9p",
    0x6969: "nfs",
    0x517B: "smb",
    0xFF534D42: "cifs",
    0xFE534D42: "smb2",
    0x564C: "ncp",
    0x5346414F: "afs",
    0x6B414653: "afs",
    0x73757245: "coda",
    0x00C36400: "ceph",
    0x0BD00BD0: "lustre",
    0x01161970: "gfs2",
    0x7461636F: "ocfs2",
    0x786F4256: "vboxsf",
}
_FORGETFUL: Final[dict[int, str]] = {0x01021994: "tmpfs", 0x858458F6: "ramfs"}


def file_system_type(path: Path) -> int:
    """Return statfs(2) ``f_type`` of the file system that *path* is on. ``os.statvfs`` does not have it.

    Raises:
        EffectFailed: the kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(256)  # struct statfs is 120 bytes on 64-bit Linux
    if libc.statfs(os.fsencode(path), buffer) != 0:
        raise EffectFailed(f"statfs of {str(path)!r}: {os.strerror(ctypes.get_errno())}")
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF


def admit(path: Path) -> list[str]:
    """Return warnings about keeping the log at *path*; none on a local disk.

    Raises:
        Unsupported: the file system there cannot hold it.
    """
    kind = file_system_type(path)
    if (name := _REFUSED.get(kind)) is not None:
        raise Unsupported(
            f"{str(path)!r} is on {name}, where LMDB's shared memory map and locks do not hold: "
            "put the log on a local ext4, xfs, btrfs or zfs (setting 'root')"
        )
    if (name := _FORGETFUL.get(kind)) is not None:
        return [f"{str(path)!r} is on {name}: the log, and what it proves, is lost at every reboot"]
    return []
