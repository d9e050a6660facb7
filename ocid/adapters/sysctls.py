"""Writing kernel parameters in a pod's namespaces, from a thread that has entered them."""

from __future__ import annotations

from collections.abc import Mapping

from ocid.adapters import linux
from ocid.domain import sysctls
from ocid.errors import EffectFailed


def write(wanted: Mapping[str, str]) -> None:
    """Write parameters in the calling thread's namespaces.

    Raises:
        EffectFailed: the kernel has no such parameter there, or refuses the value; the message names it.
    """
    for name, value in wanted.items():
        try:
            with open(f"/proc/sys/{sysctls.path_of(name)}", "w", encoding="utf-8") as file:
                file.write(value)
        except OSError as error:
            raise EffectFailed(f"sysctl {name!r} = {value[:100]!r}: {error.strerror}") from error


def write_inside(wanted: Mapping[str, str], namespace: str, flags: int) -> None:
    """Enter the namespace pinned at *namespace* with the calling thread, which must end soon, and write there.

    Raises:
        EffectFailed: the namespace is gone, or the kernel refuses.
    """
    try:
        linux.enter_pinned(namespace, flags)
    except OSError as error:
        raise EffectFailed(f"namespace {namespace!r}: {error.strerror}") from error
    write(wanted)
