"""Letting go of the log's pages that this process has mapped: read once, mostly at the start, and counted ever after.

The pages stay in the kernel's cache; the process just stops holding them. The map is shared and read-only, so nothing
is lost: the next read maps what it needs again. Source: madvise(2) MADV_DONTNEED; proc(5) /proc/PID/maps.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

from ocid.journal.structure import DATA

_MADV_DONTNEED: Final = 4


def let_go(directory: Path) -> int:
    """Unmap what is resident of the log in *directory*; return the size of its maps in bytes, 0 when it has none."""
    path = os.fsencode(os.path.realpath(directory / DATA))
    libc = ctypes.CDLL(None, use_errno=True)
    total = 0
    with open("/proc/self/maps", "rb") as maps:
        for line in maps:
            fields = line.rstrip(b"\n").split(None, 5)
            if len(fields) == 6 and fields[5] == path and fields[1].endswith(b"s") and b"w" not in fields[1]:
                start, _, end = fields[0].partition(b"-")
                address, length = int(start, 16), int(end, 16) - int(start, 16)
                libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), ctypes.c_int(_MADV_DONTNEED))
                total += length
    return total
