"""Shuts a process into one directory with few rights left. Used by workers that read what strangers packed.

Source: capabilities(7), prctl(2), chroot(2). Imports next to nothing, as workers start often.
"""

from __future__ import annotations

import ctypes
import os
import resource

TYPE_CHECKING = False  # as in typing, whose import takes longer than all others here together
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

CAP_CHOWN: Final = 0
CAP_DAC_OVERRIDE: Final = 1
CAP_FOWNER: Final = 3
CAP_FSETID: Final = 4
CAP_SYS_ADMIN: Final = 21  # only for trusted.* attributes
CAP_MKNOD: Final = 27
CAP_SETFCAP: Final = 31

_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_VERSION_3: Final = 0x20080522
_MEMORY_BYTES: Final = 1 << 30  # address space: interpreter, threads, a zstd window of 128 MiB
_DESCRIPTORS: Final = 64


def shut_in(directory: str, capabilities: Iterable[int], file_bytes_max: int) -> None:
    """Make *directory* the root of this process for good and drop every capability but *capabilities*.

    Everything that will be imported must have been imported before. Call it before starting threads.

    Raises:
        OSError: the kernel refused; the process must end then.
    """
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_NOFILE, _DESCRIPTORS),
        (resource.RLIMIT_FSIZE, file_bytes_max),
    ):
        hard = resource.getrlimit(limit)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (bound, bound))
    os.chroot(directory)
    os.chdir("/")
    os.umask(0)
    _drop(frozenset(capabilities))


def _drop(kept: frozenset[int]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    for number in range(64):
        if number not in kept and libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(number), zero, zero, zero) != 0:
            break  # EINVAL: the last capability that this kernel has is behind us
    _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero))
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    _checked(libc.capget(header, sets))
    mask = sum(1 << number for number in kept)
    low, high = mask & sets[1], (mask >> 32) & sets[4]  # permitted: some hosts lack what we would keep
    for place, value in enumerate((low, low, 0, high, high, 0)):  # effective, permitted, inheritable, twice
        sets[place] = value
    _checked(libc.capset(header, sets))


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
