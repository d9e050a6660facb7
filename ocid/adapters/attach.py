"""Attaching to a container's program through its monitor.

conmon listens on a SOCK_SEQPACKET socket in the bundle. Each packet from it begins with the number of the stream, 2 for
standard output and 3 for standard error; packets to it are the container's standard input, and our end of file closes
that if the container was made so (``stdin_once``). It writes to its clients one after the other, and waits for each:
one that does not read stops the container's output, its log, and all other clients. So here everything is read at once,
into a bounded buffer, and a client that lets that fill up, and does not catch up soon, is let go.

Source: conmon conn_sock.c, ctr_stdio.c and ctrl.c.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from contextlib import suppress
from typing import Final

import trio

from ocid.adapters.conmon import open_control
from ocid.adapters.exec_streams import WENT_AWAY
from ocid.errors import EffectFailed, OcidError, Unavailable, WrongState
from ocid.ports import ContainerOrder
from ocid.ports.streaming import Client, Output, StreamEnd

SPOOL_BYTES: Final = 1 << 20  # what a client may be behind
STALL_S: Final = 2.0  # how long one that is so far behind may take to catch up by half of it
CONNECT_S: Final = 5.0  # for a monitor that is busy with others
RESIZE_PAUSE_S: Final = 0.02  # between two sizes: conmon reads its FIFO in small pieces
_PACKET_BYTES: Final = 32 << 10  # conmon sends 8 KiB and a byte at most, and cuts off what is beyond 32 KiB
_SEND_BYTES: Final = 16 << 10
_WRITE_BYTES: Final = 256 << 10
_SIDE_MAX: Final = 1000  # conmon takes no larger sizes
_RESIZE: Final = 1
_OUTPUTS: Final = {2: Output.STDOUT, 3: Output.STDERR}
_TOO_SLOW: Final = f"the client was more than {SPOOL_BYTES >> 20} MiB behind, and did not catch up in {STALL_S:g} s"


async def attach(order: ContainerOrder, client: Client, *, stdin: bool) -> StreamEnd:
    """Join the client to the container's init, until either is gone.

    Raises:
        WrongState: the container has no monitor.
        Unavailable: the monitor did not answer in time.
    """
    with await _connect(order) as monitor:
        attachment = _Attachment(monitor, order, client)
        await attachment.serve(stdin=stdin and order.stdin)
    return attachment.end()


async def _connect(order: ContainerOrder) -> socket.socket:
    """Connect to the monitor, whose socket's name may be too long for a socket address."""
    monitor = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        bundle = os.open(order.bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with trio.fail_after(CONNECT_S):
                while not _connected(monitor, f"/proc/self/fd/{bundle}/attach"):  # noqa: ASYNC110 (nothing tells)
                    await trio.sleep(0.02)  # its queue is full
        finally:
            os.close(bundle)
    except trio.TooSlowError:
        monitor.close()
        raise Unavailable(
            f"the monitor of container {order.container_id!r} did not answer in {CONNECT_S:g} s"
        ) from None
    except OSError as error:
        monitor.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
            wants = "running under its monitor"
            raise WrongState("container", order.container_id, wants=wants, is_now="without one") from error
        raise EffectFailed(f"attach to container {order.container_id!r}: {error.strerror}") from error
    except BaseException:
        monitor.close()
        raise
    return monitor


def _connected(monitor: socket.socket, path: str) -> bool:
    try:
        monitor.connect(path)
    except BlockingIOError:
        return False
    return True


class _Attachment:
    """One client and its connection to the monitor."""

    def __init__(self, monitor: socket.socket, order: ContainerOrder, client: Client) -> None:
        self._monitor = monitor
        self._order = order
        self._client = client
        self._spool = _Spool()
        self._totals = dict.fromkeys(Output, 0)
        self._stdin_bytes = 0
        self._reason = ""

    def end(self) -> StreamEnd:
        return StreamEnd(
            exit_code=None,
            stdin_bytes=self._stdin_bytes,
            stdout_bytes=self._totals[Output.STDOUT],
            stderr_bytes=self._totals[Output.STDERR],
            reason=self._reason,
        )

    async def serve(self, *, stdin: bool) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            nursery.start_soon(self._read, nursery.cancel_scope)
            if stdin:
                nursery.start_soon(self._feed)
            if self._order.tty:
                nursery.start_soon(self._follow_size)
            while pieces := await self._spool.take():
                for output, data in pieces:
                    await self._client.write(output, data)
            nursery.cancel_scope.cancel()

    async def _watch(self, scope: trio.CancelScope) -> None:
        await self._client.gone()
        self._reason = WENT_AWAY
        scope.cancel()

    async def _read(self, scope: trio.CancelScope) -> None:
        """Read all that the monitor sends, whatever the client does."""
        while True:
            try:
                packet = self._monitor.recv(_PACKET_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._monitor)
                continue
            except ConnectionResetError:
                packet = b""
            if not packet:
                self._spool.close()
                return
            output = _OUTPUTS.get(packet[0])
            if output is not None and len(packet) > 1:
                self._totals[output] += len(packet) - 1
                self._spool.put(output, packet[1:])
            if self._spool.full and not await self._spool.half_empty(STALL_S):
                self._reason = _TOO_SLOW
                scope.cancel()
                return

    async def _feed(self) -> None:
        """Send what the client types. What the container does not want is read from the client all the same."""
        wanted = True
        while data := await self._client.read_stdin():
            for start in range(0, len(data) if wanted else 0, _SEND_BYTES):
                wanted = wanted and await self._send(data[start : start + _SEND_BYTES])
        with suppress(OSError):
            self._monitor.shutdown(socket.SHUT_WR)

    async def _send(self, data: bytes) -> bool:
        while True:
            try:
                self._monitor.send(data)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._monitor)
            except (BrokenPipeError, ConnectionResetError):
                return False
            else:
                self._stdin_bytes += len(data)
                return True

    async def _follow_size(self) -> None:
        while True:
            size = await self._client.next_size()
            rows, columns = (max(1, min(side, _SIDE_MAX)) for side in (size.rows, size.columns))
            with suppress(OcidError):  # the monitor has gone, which the reader will see
                control = open_control(self._order)
                try:
                    with suppress(OSError):
                        os.write(control, f"{_RESIZE} {rows} {columns}\n".encode())
                finally:
                    os.close(control)
            await trio.sleep(RESIZE_PAUSE_S)


class _Spool:
    """What was read from the monitor and not yet taken by the client."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[Output, bytes]] = deque()
        self._size = 0
        self._closed = False
        self._changed = trio.Event()

    @property
    def full(self) -> bool:
        return self._size >= SPOOL_BYTES

    def put(self, output: Output, data: bytes) -> None:
        self._pieces.append((output, data))
        self._size += len(data)
        self._wake()

    def close(self) -> None:
        self._closed = True
        self._wake()

    async def take(self) -> list[tuple[Output, bytes]]:
        """Return the next pieces, neighbours of one stream put together; none at the end."""
        while not self._pieces and not self._closed:
            await self._changed.wait()
        taken: list[tuple[Output, list[bytes]]] = []
        size = 0
        while self._pieces and size < _WRITE_BYTES:
            output, data = self._pieces.popleft()
            size += len(data)
            if not taken or taken[-1][0] is not output:
                taken.append((output, []))
            taken[-1][1].append(data)
        self._size -= size
        self._wake()
        return [(output, b"".join(pieces)) for output, pieces in taken]

    async def half_empty(self, timeout_s: float) -> bool:
        """Wait until half of it is taken; False when that took too long."""
        with trio.move_on_after(timeout_s):
            while self._size > SPOOL_BYTES // 2:
                await self._changed.wait()
            return True
        return False

    def _wake(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()
