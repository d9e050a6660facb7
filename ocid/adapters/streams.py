"""What streaming sessions need of the host: the ``Streams`` port."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

import trio

from ocid.adapters.attach import attach
from ocid.adapters.exec_streams import Execution
from ocid.adapters.links import inside
from ocid.adapters.runc import OciRuntime
from ocid.errors import EffectFailed, tail
from ocid.ids import ExecId
from ocid.ports import ContainerOrder, ExecProcess
from ocid.ports.streaming import Client, Connection, StreamEnd

CONNECT_S: Final = 10.0  # loopback answers at once, unless a queue is full
_LOOPBACK: Final = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


class HostStreams:
    """Implements ``ocid.ports.streaming.Streams``.

    Args:
        scratch: directory of console sockets; short, for a socket's name holds 107 bytes, and root's alone.
    """

    def __init__(self, runtime: OciRuntime, scratch: Path) -> None:
        self._runtime = runtime
        self._scratch = scratch

    async def exec(
        self, order: ContainerOrder, exec_id: ExecId, process: ExecProcess, client: Client, *, stdin: bool, tty: bool
    ) -> StreamEnd:
        """Run a command in the running container with the client as its standard streams or its terminal.

        Raises:
            WrongState: the container does not run.
            EffectFailed: the command could not be executed.
        """
        handler, state = await self._runtime.ready_for_exec(order)
        execution = Execution(self._runtime.execs, self._scratch, handler, order, state, exec_id, client)
        run = execution.with_terminal if tty else execution.with_pipes
        return await run({**process.spec, "terminal": tty}, stdin=stdin)

    async def attach(self, order: ContainerOrder, client: Client, *, stdin: bool) -> StreamEnd:
        """Join the client to the streams of the container's init, until either is gone. Detaching kills nothing.

        A client that is so slow that it would hold up the container is let go.

        Raises:
            WrongState: the container does not run.
            Unavailable: its monitor did not answer in time.
        """
        return await attach(order, client, stdin=stdin)

    async def connect(self, netns: str, port: int) -> Connection:
        """Connect to 127.0.0.1 or else ::1 in a network namespace, given by its path; "" is the host's.

        Raises:
            EffectFailed: nobody listens there.
        """
        causes = []
        for family, address in _LOOPBACK:
            try:
                return await _connect(netns, family, address, port)
            except trio.TooSlowError:
                causes.append(f"{address}: no answer in {CONNECT_S:g} s")
            except OSError as error:
                causes.append(f"{address}: {error.strerror or error}")
        raise EffectFailed(f"cannot connect to port {port} of the pod: {tail('; '.join(causes))}")


async def _connect(netns: str, family: socket.AddressFamily, address: str, port: int) -> trio.SocketStream:
    """A socket belongs to the namespace it was made in; it can be connected from anywhere."""
    made = await trio.to_thread.run_sync(_socket, netns, family)
    connection = trio.socket.from_stdlib_socket(made)
    try:
        with trio.fail_after(CONNECT_S):
            await connection.connect((address, port))
    except BaseException:
        connection.close()
        raise
    return trio.SocketStream(connection)


def _socket(netns: str, family: socket.AddressFamily) -> socket.socket:
    def make() -> socket.socket:
        return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)

    if not netns:
        return make()
    descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return inside(descriptor, make)
    finally:
        os.close(descriptor)
