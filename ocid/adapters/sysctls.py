"""Writing kernel parameters in a pod's namespaces, from a thread that has entered them."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Final

from ocid.adapters import linux
from ocid.domain import sysctls
from ocid.errors import EffectFailed, InvalidRequest

_THEIRS: Final = (errno.ENOENT, errno.EINVAL, errno.ERANGE)  # no such parameter, or no value of it


def write(wanted: Mapping[str, str]) -> None:
    """Write parameters in the calling thread's namespaces.

    Raises:
        InvalidRequest: the kernel has no such parameter there, or the value is none of it; the message names it.
        EffectFailed: the kernel refuses for another reason.
    """
    for name, value in wanted.items():
        try:
            with open(f"/proc/sys/{sysctls.path_of(name)}", "w", encoding="utf-8") as file:
                file.write(value)
        except OSError as error:
            kind = InvalidRequest if error.errno in _THEIRS else EffectFailed
            raise kind(f"sysctl {name!r} = {value[:100]!r}: {error.strerror}") from error


def write_inside(wanted: Mapping[str, str], namespace: str, flags: int) -> None:
    """Enter the namespace pinned at *namespace* with the calling thread, which must end soon, and write there.

    Raises:
        InvalidRequest: no such parameter, or no value of it.
        EffectFailed: the namespace is gone, or the kernel refuses.
    """
    try:
        linux.enter_pinned(namespace, flags)
    except OSError as error:
        raise EffectFailed(f"namespace {namespace!r}: {error.strerror}") from error
    write(wanted)
