"""The pages of a log's file: lmdb's own check of them, with a short way over what most of them are.

``lmdb.verify`` walks every page of the file without LMDB, in Python, one field at a time. Nearly all of a log's pages
are leaves of plain values, and for these its rules can be looked at in a third of the time. Such a page is taken as
good only if it breaks none of them; whatever is not plainly good is left to ``lmdb.verify``, which says what is wrong.

Source: LMDB 0.9 mdb.c, ``MDB_page``, ``MDB_node``.
"""

from __future__ import annotations

import functools
import importlib
import os
import struct
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from .structure import DATA, fault_of

_HEADER_BYTES: Final = 16
_NODE_BYTES: Final = 8
_BOUNDS: Final = struct.Struct("<12x HH")  # lower, upper
_unpack_node = struct.Struct("<H I H").unpack_from  # low half of the value's size; high half and flags; size of the key


def faults_of_pages(directory: Path) -> list[str]:
    """Return what is wrong with the pages of a log's file. Before lmdb 3, which brings this check, only ends are seen.

    Of a log that is being written, pages are used again while they are read, and look wrong.

    Raises:
        Unsupported: the file has another format than that of LMDB 0.9.
    """
    try:
        verifier = importlib.import_module("lmdb.verify")
    except ImportError:
        fault = fault_of(directory)
        return [] if fault is None else [fault]
    try:
        if not _has_parts(verifier):
            return list(verifier.verify(str(directory / DATA), subdir=False))
        with (directory / DATA).open("rb") as file:
            walk = verifier._Verifier(file, os.fstat(file.fileno()).st_size)
            _shorten(walk, verifier._cmp_lexical)
            return list(walk.verify())
    except (verifier.VerifyError, OSError) as error:
        return [str(error)]


def _has_parts(verifier: ModuleType) -> bool:
    """Say whether the library has what we put the short way in; no promise of its own says so."""
    walk = getattr(verifier, "_Verifier", None)
    return sys.byteorder == "little" and hasattr(walk, "_walk_leaf") and hasattr(verifier, "_cmp_lexical")


def _shorten(walk: Any, lexical: Any) -> None:
    """Have a walk of ``lmdb.verify`` go the short way over plain leaves."""
    whole = walk._walk_leaf

    def walk_leaf(tree: dict[str, Any], number: int, page: bytes) -> None:
        plain = walk.hdrsz == _HEADER_BYTES and tree["key_cmp"] is lexical and not tree["is_free"]
        last = _last_key(page, tree["last_key"] or b"") if plain else None
        if last is None:
            whole(tree, number, page)
        else:
            tree["last_key"], count = last
            tree["entries"] += count

    walk._walk_leaf = walk_leaf


def _last_key(page: bytes, before: bytes) -> tuple[bytes, int] | None:
    """Return the last key of a leaf page and how many there are; None where it is not one of good, plain values.

    Args:
        page: all of it.
        before: the last key before those of the page, b"" if these are the first of their tree.
    """
    lower, upper = _BOUNDS.unpack_from(page)
    end = len(page)
    if not _HEADER_BYTES < lower <= upper <= end:
        return None
    offsets = _offsets((lower - _HEADER_BYTES) >> 1).unpack_from(page, _HEADER_BYTES)
    last_node, unpack = end - _NODE_BYTES, _unpack_node
    for at in offsets:
        if not upper <= at <= last_node:
            return None
        size, more, key_bytes = unpack(page, at)
        at += _NODE_BYTES  # of the key now
        value = at + key_bytes
        key = page[at:value]
        if more or key <= before or value + size > end:
            return None
        before = key
    return before, len(offsets)


@functools.cache
def _offsets(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}H")
