"""SELinux labels of files: what volumes carry, so that the containers of one pod may use them and others may not."""

from __future__ import annotations

import errno
import os
from typing import Final

from ocid.errors import EffectFailed, InvalidRequest

ATTRIBUTE: Final = "security.selinux"
# Directories of the host itself: with a container's label the host's own programs could not use them any more.
_HOSTS_OWN: Final = frozenset((
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64", "/media", "/mnt", "/opt", "/proc",
    "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/usr/bin", "/usr/lib", "/usr/sbin", "/usr/share", "/var",
    "/var/lib", "/var/log",
))  # fmt: skip
_UNABLE: Final = (errno.ENOTSUP, errno.EROFS)  # a file system without labels, or one that nobody writes to


def relabel(path: str, label: str) -> None:
    """Label *path* and all below it, links themselves and not what they point to. Blocks as long as there are files.

    The top is labelled last: one that has the label already was finished before.

    Raises:
        InvalidRequest: *path* is a directory of the host itself.
        EffectFailed: the kernel refused.
    """
    if os.path.realpath(path) in _HOSTS_OWN:
        raise InvalidRequest(f"mount source {path!r} is the host's own and cannot be relabelled for a container")
    if _label_of(path) == label:
        return
    if os.path.isdir(path) and not os.path.islink(path):
        for parent, directories, files in os.walk(path, topdown=False):
            for name in (*files, *directories):
                set_label(os.path.join(parent, name), label)
    set_label(path, label)


def set_label(path: str, label: str) -> None:
    """Label one file, which may be gone meanwhile; where the file system has no labels, nothing happens.

    Raises:
        EffectFailed: the kernel refused.
    """
    try:
        os.setxattr(path, ATTRIBUTE, f"{label}\0".encode(), follow_symlinks=False)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in _UNABLE:
            raise EffectFailed(f"SELinux label {label!r} of {path!r}: {error.strerror}") from error


def _label_of(path: str) -> str:
    try:
        return os.getxattr(path, ATTRIBUTE, follow_symlinks=False).rstrip(b"\0").decode()
    except (OSError, UnicodeDecodeError):
        return ""
