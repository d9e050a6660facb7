"""Looks that take many system calls, for a worker thread: networks from inside, and the processes of a cgroup."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Thread
from typing import Final

from ocid.adapters import linux, usage_text as text
from ocid.ports.usage import InterfaceUsage, ProcessUsage

PROCESSES_MAX: Final = 4096  # of one cgroup; of more, the rest is counted but not looked into
DESCRIPTORS_MAX: Final = 65_536  # of one cgroup that are looked at for being sockets
CONTENT_BYTES_MAX: Final = 1 << 20
_OWN_NET: Final = "/proc/thread-self/net/dev"


def networks(paths: Mapping[str, str]) -> dict[str, tuple[InterfaceUsage, ...]]:
    """Read the interfaces of pinned network namespaces; one that is gone is left out.

    A thread of its own goes from one to the next, and ends: no thread of a pool is ever left in a pod's namespace.
    """
    found: dict[str, tuple[InterfaceUsage, ...]] = {}

    def visit() -> None:
        for name, path in paths.items():
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    linux.enter(descriptor, linux.CLONE_NEWNET)
                finally:
                    os.close(descriptor)
                found[name] = text.interfaces(read_all(_OWN_NET))

    thread = Thread(target=visit, name="ocid-usage")
    thread.start()
    thread.join()
    return found


def processes(pids: Sequence[int]) -> ProcessUsage:
    """Look at what the processes of a cgroup have open, oldest first. What ends meanwhile has nothing open."""
    descriptors = sockets = 0
    for pid in pids[:PROCESSES_MAX]:
        with suppress(OSError):
            names = os.listdir(f"/proc/{pid}/fd")
            looked = names[: max(DESCRIPTORS_MAX - descriptors, 0)]
            descriptors += len(names)
            sockets += sum(_is_socket(f"/proc/{pid}/fd/{name}") for name in looked)
    limits = b""
    with suppress(OSError):
        limits = read_all(f"/proc/{pids[0]}/limits") if pids else b""
    return ProcessUsage(
        processes=len(pids), file_descriptors=descriptors, sockets=sockets, open_files_max=text.open_files_max(limits)
    )


def _is_socket(path: str) -> bool:
    try:
        return os.readlink(path).startswith("socket:")
    except OSError:
        return False


def read_all(path: str) -> bytes:
    """Return a file of the kernel that may take several reads.

    Raises:
        OSError: it is gone.
    """
    with open(path, "rb", buffering=0) as file:
        content = b""
        while len(content) < CONTENT_BYTES_MAX and (piece := file.read(CONTENT_BYTES_MAX)):
            content += piece
    return content
