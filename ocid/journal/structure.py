"""Looking at an LMDB file without letting LMDB look at it: a file that lost its end kills whoever maps it (SIGBUS).

Source: LMDB 0.9 mdb.c, ``MDB_page``, ``MDB_meta``, ``MDB_db``; 64-bit, native byte order.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

import lmdb

from ocid.errors import Unsupported

DATA: Final = "data.mdb"
DAMAGE: Final = (  # what LMDB says of damaged pages; its other errors speak of the host
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.IncompatibleError,
    lmdb.CursorFullError,
    lmdb.BadTxnError,
)

MENDED: Final = "data.mended"  # a copy without free pages, made by a check that found nothing else wrong

_MAGIC: Final = 0xBEEFC0DE
_VERSION: Final = 1  # of the 0.9 format
_P_META: Final = 0x08
_PAGE: Final = struct.Struct("=QHHHH")  # number, pad, flags, lower, upper
_META: Final = struct.Struct("=IIQQ 48s 48s QQ")  # magic, version, address, map size, free, main, last page, txnid
_PAGE_SIZES: Final = frozenset(1 << shift for shift in range(9, 17))


def has_data(directory: Path) -> bool:
    """Say whether there is a log at all; LMDB takes an empty file for a new one."""
    try:
        return (directory / DATA).stat().st_size > 0
    except FileNotFoundError:
        return False


def fault_of(directory: Path) -> str | None:
    """Return what is wrong with the file's two meta pages or its length, or None. Takes well under a millisecond.

    "The file lost its end" may be wrong in one rare case, pages that LMDB reserved and never wrote, so a whole check
    must confirm it. Never call this while the same process has the log open: closing a file drops its POSIX locks.

    Raises:
        Unsupported: the file has another format than that of LMDB 0.9.
    """
    path = directory / DATA
    size = path.stat().st_size
    with path.open("rb") as file:
        page_bytes, first = _meta(file.read(4096), 0)
        if isinstance(first, str):
            return first
        file.seek(page_bytes)
        other_bytes, second = _meta(file.read(4096), 1)
        if isinstance(second, str):
            return second
    if other_bytes != page_bytes:
        return "the two meta pages disagree about the size of a page"
    last_page = max(first, second)[1]
    if size < (last_page + 1) * page_bytes:
        return f"the file lost its end: it has {size} bytes of {(last_page + 1) * page_bytes}"
    return None


def commits(directory: Path) -> int:
    """Return the number of the last commit, as far as the meta pages can be read; 0 where they cannot."""
    with (directory / DATA).open("rb") as file:
        page_bytes, first = _meta(file.read(4096), 0)
        if isinstance(first, str):
            return 0
        file.seek(page_bytes)
        second = _meta(file.read(4096), 1)[1]
    return first[0] if isinstance(second, str) else max(first[0], second[0])


def _meta(page: bytes, number: int) -> tuple[int, tuple[int, int] | str]:
    """Return the size of a page, and transaction and last page of this meta page or what is wrong with it."""
    if len(page) < _PAGE.size + _META.size:
        return 0, f"the file ends within meta page {number}"
    page_number, _, flags, _, _ = _PAGE.unpack_from(page)
    magic, version, _, _, free, _, last_page, txn = _META.unpack_from(page, _PAGE.size)
    page_bytes: int = struct.unpack_from("=I", free)[0]
    if magic != _MAGIC or not flags & _P_META or page_number != number or page_bytes not in _PAGE_SIZES:
        return 0, f"meta page {number} is no meta page of an LMDB file"
    if version != _VERSION:
        raise Unsupported(f"the log's file has LMDB format {version}; this build reads {_VERSION}, that of LMDB 0.9")
    return page_bytes, (txn, last_page)
