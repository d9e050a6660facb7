"""Links in other namespaces, and links that go: what needs a thread of its own beside ``ocid.adapters.netlink``."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable
from threading import Thread
from typing import Final, Self, TypeVar

from ocid.adapters import netlink
from ocid.adapters.netlink import Netlink

T = TypeVar("T")

WATCH_MS: Final = 20  # how long to wait for an event before looking whether the deletion is over

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET: Final = 0x40000000


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


def delete_soon(name: str) -> None:
    """Delete an interface and return as soon as nobody can see or use it any more; none is fine.

    The kernel then still waits some 10 ms for readers of its own before it frees the memory; a thread of its own waits
    with it. Nothing depends on that thread: an interface that is unlisted is freed whoever dies.

    Raises:
        Refused: the kernel refuses.
    """
    failures: list[OSError] = []
    with Netlink() as requests, Watch() as watch:
        link = requests.link(name)
        if link is None:
            return

        def delete() -> None:
            try:
                with Netlink() as own:
                    own.run(netlink.delete_link(name))
            except OSError as error:
                failures.append(error)

        thread = Thread(target=delete, name="ocid-unlink", daemon=True)
        thread.start()
        while thread.is_alive() and not watch.saw_deleted(link.index):
            pass
    if failures:
        raise failures[0]


class Watch:
    """Hears of interfaces that go, in the namespace of the thread that opens it. Use as a context manager."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, WATCH_MS * 1000))
        self._socket.bind((0, 1))  # RTMGRP_LINK

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def saw_deleted(self, index: int) -> bool:
        """Wait for the next event, at most ``WATCH_MS``, and say whether it was that this interface went."""
        try:
            datagram = self._socket.recv(netlink.ANSWER_BYTES_MAX)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.ENOBUFS:  # events were lost; the deleting thread will end
                return False
            raise
        return any(
            kind == netlink.DELLINK and netlink.link_of(body).index == index and body[0] == 0  # 0: not a bridge's event
            for kind, _sequence, body in netlink.messages(datagram)
        )
