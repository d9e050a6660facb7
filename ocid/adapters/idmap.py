"""Id-mapped mounts: the store's layers as a user namespace is to see them, without changing an owner on disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ocid.adapters import linux, mounts
from ocid.errors import EffectFailed, Unsupported

_IMPOSSIBLE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


@contextmanager
def mapped(directory: Path, namespace: str, at: Path) -> Iterator[Path]:
    """Mount *directory* read-only at *at*, its owners mapped as in the user *namespace*, while the block lasts.

    What was mounted of it meanwhile keeps the mapping.

    Raises:
        Unsupported: the kernel, or the file system of *directory*, has no id-mapped mounts.
        EffectFailed: the kernel refused for another reason.
    Source: mount_setattr(2) MOUNT_ATTR_IDMAP, Linux 5.12.
    """
    at.mkdir(mode=0o711, parents=True, exist_ok=True)
    mounts.unmount(str(at))  # what a crash left
    try:
        _attach(directory, namespace, at)
    except OSError as error:
        message = f"id-mapped mount of {str(directory)!r}: {error.strerror}"
        if error.errno in _IMPOSSIBLE:
            raise Unsupported(f"{message}; wanted a kernel and file system that have them, such as ext4") from error
        raise EffectFailed(message) from error
    try:
        yield at
    finally:
        mounts.unmount(str(at))


def _attach(directory: Path, namespace: str, at: Path) -> None:
    tree = users = -1
    try:
        tree = linux.open_tree(os.fspath(directory))
        users = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        linux.map_ids(tree, users)
        linux.move_mount(tree, os.fspath(at))
    finally:
        for descriptor in (tree, users):
            if descriptor >= 0:
                os.close(descriptor)
