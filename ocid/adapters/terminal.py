"""The terminal of a command: its controlling end comes from the OCI runtime through a console socket.

Source: runc docs/terminals.md "Detached" and ``--console-socket``; ioctl_tty(2) TIOCSWINSZ.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ocid.errors import EffectFailed
from ocid.ports.streaming import Client, Size

_SIDE_MAX: Final = 65_535
_NAME_BYTES_MAX: Final = 4096


class Console:
    """A console socket that the runtime is told of, and what comes through it."""

    def __init__(self, listener: socket.socket, path: Path) -> None:
        self.path = path
        self._listener = listener

    def receive(self) -> int:
        """Return the terminal's controlling end, which the runtime has sent before it left. The caller closes it.

        Raises:
            EffectFailed: it has not.
        """
        try:
            connection, _ = self._listener.accept()
            with connection:
                connection.setblocking(False)  # the runtime has left: what is not here never comes
                _, descriptors, _, _ = socket.recv_fds(connection, _NAME_BYTES_MAX, 4, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError as error:
            raise EffectFailed("the OCI runtime sent no terminal") from error
        if len(descriptors) != 1:
            for descriptor in descriptors:
                os.close(descriptor)
            raise EffectFailed(f"the OCI runtime sent {len(descriptors)} terminals, wanted one")
        os.set_blocking(descriptors[0], False)
        return descriptors[0]


@contextmanager
def console(path: Path) -> Iterator[Console]:
    """Listen for one terminal. *path* must fit a socket's name, 107 bytes, and lie where only root can write."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as listener:
        try:
            listener.bind(str(path))
        except OSError as error:
            raise EffectFailed(f"console socket {str(path)!r}: {error.strerror or error}") from error
        try:
            listener.listen(1)
            yield Console(listener, path)
        finally:
            with suppress(FileNotFoundError):
                path.unlink()


def resize(terminal: int, size: Size) -> None:
    """Set the size of a terminal, of which its programs are told by SIGWINCH."""
    rows, columns = (max(1, min(side, _SIDE_MAX)) for side in (size.rows, size.columns))
    with suppress(OSError):  # everyone has left it
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


async def follow_size(terminal: int, client: Client) -> None:
    """Give a terminal every size that the client tells, for ever."""
    while True:
        resize(terminal, await client.next_size())
