"""Images mounted into containers as volumes: read-only file systems beside the container's own.

::

    <bundle>/images/<number>      the whole image, by the position of the mount in the container's configuration
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from ocid.adapters import linux, mounts
from ocid.errors import EffectFailed

DIRECTORY: Final = "images"


def mount_readonly(lowers: Sequence[Path], target: Path, label: str = "") -> None:
    """Mount layers read-only at *target*, which is made. Done already is success.

    Args:
        lowers: the uppermost first. The last one is an empty directory, for an overlay without a writable layer must
            have two at least; what has no other is that directory, which nobody could write to anyway.
    Raises:
        EffectFailed: the kernel refused.
    """
    target.mkdir(mode=0o711, parents=True, exist_ok=True)
    if mounts.is_mount(str(target)):
        return
    if len(lowers) > 1:
        mounts.overlay(lowers, None, None, target, label=label)
    else:
        mounts.bind(str(lowers[0]), str(target))


def within(root: Path, sub_path: str) -> Path:
    """Return where *sub_path* of a mounted image is, all links resolved as if *root* were the root of everything.

    The image is read-only, so what was resolved stays so.

    Raises:
        EffectFailed: it is not in the image.
    Source: openat2(2) RESOLVE_IN_ROOT.
    """
    if not sub_path.strip("/."):
        return root
    root_fd = found = -1
    try:
        root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        resolve = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS
        found = linux.openat2(root_fd, sub_path, os.O_PATH | os.O_CLOEXEC, resolve)
        path = Path(os.readlink(f"/proc/self/fd/{found}"))
    except OSError as error:
        raise EffectFailed(f"sub path {sub_path[:200]!r} of the image: {error.strerror}") from error
    finally:
        for descriptor in (found, root_fd):
            if descriptor >= 0:
                os.close(descriptor)
    assert path.is_relative_to(os.path.realpath(root)), "openat2 confines it"
    return path


def unmount(bundle: str) -> None:
    """Unmount every image of a container. None there is success.

    Raises:
        EffectFailed: the kernel refused.
    """
    directory = os.path.join(bundle, DIRECTORY)
    with suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(directory):
            mounts.unmount(os.path.join(directory, name))
