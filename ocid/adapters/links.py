"""Links in other namespaces, and links that go: what needs a thread of its own beside ``ocid.adapters.netlink``."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from threading import Thread
from typing import Final, TypeVar

from ocid.adapters import netlink
from ocid.adapters.netlink import Netlink, Watch

T = TypeVar("T")

WATCH_S: Final = 0.02  # how long to wait for an event before looking whether the deletion is over

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET: Final = 0x40000000
_SIOCSIFFLAGS: Final = 0x8914  # with a struct ifreq. Source: netdevice(7)
_IFF_UP: Final = 0x1


def inside(netns: int, work: Callable[[], T]) -> T:
    """Run *work* in a thread of its own within the network namespace that *netns* is open on, and return its result.

    The thread ends with the work, so that no thread of a pool is ever left in a pod's namespace.

    Raises:
        OSError: *netns* is no network namespace; whatever *work* raises.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def enter_and_work() -> None:
        try:
            if _LIBC.setns(netns, _CLONE_NEWNET) != 0:
                code = ctypes.get_errno()
                raise OSError(code, f"entering the network namespace: {os.strerror(code)}")
            results.append(work())
        except BaseException as error:
            failures.append(error)

    thread = Thread(target=enter_and_work, name="ocid-netns")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def index_of(name: str) -> int | None:
    """Return the number of the interface called *name* in this thread's namespace, or None; asks netlink nothing."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def loopback_up() -> None:
    """Bring up the loopback interface of this thread's namespace, without pyroute2: for pods on a CNI network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("@16sH14x", b"lo", _IFF_UP))


def delete_soon(name: str) -> None:
    """Delete an interface and return as soon as nobody can see or use it any more; none is fine.

    The kernel then still waits some 10 ms for readers of its own before it frees the memory; a thread of its own waits
    with it. Nothing depends on that thread: an interface that is unlisted is freed whoever dies.

    Raises:
        Refused: the kernel refuses.
    """
    failures: list[OSError] = []
    with Watch(WATCH_S) as watch:
        index = index_of(name)
        if index is None:
            return

        def delete() -> None:
            try:
                with Netlink() as own:
                    own.run(netlink.delete_link(name))
            except OSError as error:
                failures.append(error)

        thread = Thread(target=delete, name="ocid-unlink", daemon=True)
        thread.start()
        while thread.is_alive() and not watch.saw_deleted(index):
            pass
    if failures:
        raise failures[0]
