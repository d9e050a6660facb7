"""What tests of unpacking share."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ocid.adapters.unpack import Unpacked, Unpacker, UnpackLimits
from ocid.ids import digest_of


@contextmanager
def opened(path: Path, blob: bytes) -> Iterator[int]:
    path.write_bytes(blob)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def unpack(
    tmp_path: Path, raw: bytes, blob: bytes | None = None, packing: str = "plain", limits: UnpackLimits | None = None
) -> Unpacked:
    """Unpack *raw*, or the *blob* that is said to be it, to ``tmp_path/layer``."""
    into = tmp_path / "layer"
    into.mkdir()
    with opened(tmp_path / "blob", raw if blob is None else blob) as descriptor:
        return await Unpacker(limits=limits).unpack(descriptor, packing, digest_of(raw), into)


def tree(root: Path) -> dict[str, str]:
    """Every path below *root*, and what is there in a word."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        word = stat.filemode(status.st_mode)
        if path.is_symlink():
            word += f" -> {os.readlink(path)}"
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            word += f" {os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        elif path.is_file():
            word += f" {path.read_bytes().decode()}"
        elif "trusted.overlay.opaque" in os.listxattr(path):
            word += " opaque"
        found[str(path.relative_to(root))] = word
    return found
