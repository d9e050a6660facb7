"""What a container's writable layer changed of its image: the words for it, and what counts as a change. Pure.

An overlay's writable layer holds whole files: what a container wrote, and what the kernel copied up before a change.
What it took away is there as a whiteout. Source: kernel overlayfs.rst "whiteouts and opaque directories".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from ocid.domain.configs import IdMapping

ADDED: Final = "added"
CHANGED: Final = "changed"
DELETED: Final = "deleted"
REPLACED: Final = "replaced"  # an opaque directory: nothing of the image's directory of that name shows any more
TOUCHED: Final = "touched"  # copied up, and equal to the image's in everything but its times
MOUNT_POINT: Final = "mount point"  # an empty file or directory that the OCI runtime made to mount something on
UNREAD: Final = "not looked into"

BYTES_MAX: Final = 1 << 30  # of content that is read for hashes, unless another number is asked for
NOT_READ: Final = "-"  # in the place of a hash


class Lower(msgspec.Struct, frozen=True, kw_only=True):
    """One layer of the image."""

    chain_id: str
    number: int  # 1 is the base
    directory: str


class Layers(msgspec.Struct, frozen=True, kw_only=True):
    """A container's layers on disk, and how to read them."""

    upper: str
    lowers: tuple[Lower, ...]  # the uppermost first
    uids: tuple[IdMapping, ...] = ()  # of the container's user namespace: on disk the writable layer has host ids
    gids: tuple[IdMapping, ...] = ()
    mount_points: frozenset[str] = frozenset()  # absolute paths at which the specification mounts something


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file of any kind, on one side."""

    kind: str  # "file", "directory", "symlink", "fifo", "socket", "char", "block"
    mode: int  # permission bits
    uid: int  # as the container sees it
    gid: int
    size: int = 0
    mtime_ns: int = 0
    sha256: str = ""  # of a regular file; NOT_READ where the limit was reached or it cannot be read
    target: str = ""  # of a symbolic link
    device: str = ""  # "major:minor"
    xattrs: Mapping[str, str] = {}  # printable values as they are, others as 0x…


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One path that the writable layer says something about."""

    path: str  # absolute, in the container; bytes that are no UTF-8 as \\xNN
    path_hex: str = ""  # the exact bytes, where they are no UTF-8
    change: str  # one of the words above
    what: tuple[str, ...] = ()  # which fields of Entry differ, of one that is CHANGED
    now: Entry | None = None
    before: Entry | None = None
    layer: str = ""  # chain id of the layer that *before* is from
    layer_number: int = 0
    note: str = ""


class Walk(msgspec.Struct, frozen=True, kw_only=True):
    """All of a writable layer."""

    changes: tuple[Change, ...]  # by path
    bytes_read: int
    not_hashed: int  # files that the limit kept from being hashed
    complete: bool  # every entry was looked at


def classify(path: str, now: Entry, before: Entry | None, mount_points: Collection[str]) -> tuple[str, tuple[str, ...]]:
    """Say what became of *path*, and which fields differ; ("", ()) for a directory that others lie in, unchanged."""
    if before is None:
        empty = now.kind == "directory" or (now.kind == "file" and now.size == 0)
        return (MOUNT_POINT if empty and _leads_to(path, mount_points) else ADDED), ()
    compared = ("kind", "mode", "uid", "gid", "target", "device", "xattrs")
    what = [name for name in compared if getattr(now, name) != getattr(before, name)]
    if now.kind == before.kind == "file":
        if now.size != before.size:
            what.append("size")
        if now.sha256 != before.sha256 or now.sha256 == NOT_READ:
            what.append("content")
    if what:
        return CHANGED, tuple(what)
    return ("", ()) if now.kind == "directory" else (TOUCHED, ())


def _leads_to(path: str, mount_points: Collection[str]) -> bool:
    return any(one == path or one.startswith(f"{path}/") for one in mount_points)


def inside(host_id: int, mappings: Collection[IdMapping]) -> int:
    """Return the id that a container sees for one on disk; without a mapping that is the same."""
    for one in mappings:
        if one.host_id <= host_id < one.host_id + one.length:
            return host_id - one.host_id + one.container_id
    return host_id


def visible(text: str) -> str:
    """Write a name so that it takes one line and moves no cursor: what is not printable as an escape."""
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(char if char.isprintable() and char != "\\" else _escape(char) for char in text)


def _escape(char: str) -> str:
    code = ord(char)
    if char == "\\":
        return "\\\\"
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")
