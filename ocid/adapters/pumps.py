"""Bytes between a descriptor of a command's, a pipe or a terminal, and a client, at the pace of the slower one."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios
from contextlib import suppress
from typing import Final

import trio

from ocid.adapters.command import DRAIN_S
from ocid.ports.streaming import Client, Output

PIPE_BYTES: Final = 1 << 20  # asked for; the default of 64 KiB costs a switch of process for each
_READ_FIRST: Final = 16 << 10  # a prompt needs no more; grows with what comes
_READ_MAX: Final = 256 << 10


def pipe(*, ours: int) -> tuple[int, int]:
    """Make a large pipe whose end *ours*, 0 for reading or 1 for writing, does not block; return both ends."""
    ends = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(ends[ours], False)
    with suppress(OSError):  # EPERM beyond the user's limit: a small one works, too
        fcntl.fcntl(ends[ours], fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return ends


class Pump:
    """Carries what a command writes to the client, until its end.

    What the command itself wrote always arrives whole. What others write that hold the pipe after it, is carried for a
    moment and no longer.
    """

    def __init__(self, descriptor: int, output: Output, client: Client) -> None:
        self.total = 0
        self._descriptor = descriptor
        self._output = output
        self._client = client
        self._deadline = float("inf")
        self._owed = 0
        self._waiting = trio.CancelScope()

    async def run(self) -> None:
        """Carry until no writer is left, or, after ``command_ended``, nothing is owed any more."""
        size = _READ_FIRST
        while self._owed > 0 or trio.current_time() < self._deadline:
            try:
                data = os.read(self._descriptor, size)
            except BlockingIOError:
                self._owed = 0
                with trio.CancelScope(deadline=self._deadline) as self._waiting:
                    await trio.lowlevel.wait_readable(self._descriptor)
                continue
            except OSError as error:
                if error.errno != errno.EIO:  # nobody has the terminal open any more
                    raise
                return
            if not data:
                return
            if len(data) == size:
                size = min(4 * size, _READ_MAX)
            self.total += len(data)
            self._owed -= len(data)
            await self._client.write(self._output, data)

    def command_ended(self) -> None:
        """Let ``run`` come to an end: what is there now is owed, what comes later only for a moment."""
        self._owed = _readable(self._descriptor)
        self._waiting.deadline = self._deadline = trio.current_time() + DRAIN_S


class Feed:
    """Carries what the client sends to a command's standard input.

    Args:
        closes: close the descriptor when the client's input ends; a terminal has no such end.
    """

    def __init__(self, descriptor: int, client: Client, *, closes: bool) -> None:
        self.total = 0
        self._descriptor = descriptor
        self._client = client
        self._closes = closes

    async def run(self) -> None:
        """Carry until the client has no more. What a command does not want is read from the client all the same."""
        wanted = True
        while data := await self._client.read_stdin():
            if wanted:
                wanted = await self._write(data)
                if not wanted:
                    self.close()
        if self._closes:
            self.close()

    async def _write(self, data: bytes) -> bool:
        """Write it all; say whether there is still a reader."""
        rest = memoryview(data)
        while rest:
            try:
                written = os.write(self._descriptor, rest)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._descriptor)
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.EIO):
                    raise
                return False
            else:
                self.total += written
                rest = rest[written:]
        return True

    def close(self) -> None:
        """Close a pipe's writing end, which is its reader's end of file."""
        if self._closes and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _readable(descriptor: int) -> int:
    count = bytearray(4)
    try:
        fcntl.ioctl(descriptor, termios.FIONREAD, count)
    except OSError:  # a terminal that everyone has left
        return 0
    return int(struct.unpack("i", count)[0])
