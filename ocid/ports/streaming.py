"""Streaming sessions: what a client of exec, attach or port-forward is to the core, and what the core asks of the host.

A client is one remote end, whatever it speaks (SPDY/3.1 or WebSocket). All waiting in it is Trio's, and all of its
buffers are bounded: a client that does not read makes ``write`` wait, and nothing else.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

import msgspec

from ocid.ids import ExecId
from ocid.ports.containers import ContainerOrder, ExecProcess


class Output(StrEnum):
    """The streams that a container writes. With a terminal there is only the first."""

    STDOUT = "stdout"
    STDERR = "stderr"


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """Of a terminal, in characters. 1 to 65535 each."""

    columns: int
    rows: int


class Client(Protocol):
    """The remote end of an exec or attach. Who made it closes it."""

    @property
    def remote(self) -> str:
        """Where it is, "127.0.0.1:53412"; "" where nobody can tell."""

    async def read_stdin(self) -> bytes:
        """Return the next bytes, at most 64 KiB; b"" once the client has closed its standard input, or has none."""

    async def next_size(self) -> Size:
        """Wait for a size that was not told yet, and return the newest; for ever where there is no terminal."""

    async def write(self, output: Output, data: bytes) -> None:
        """Send what the container wrote; wait while the client takes nothing. Dropped once the client is gone."""

    async def gone(self) -> None:
        """Return when the client has gone away, or was silent for too long."""


class Tunnel(Protocol):
    """One connection of a port-forward."""

    port: int  # in the pod, 1 to 65535

    async def read(self) -> bytes:
        """Return the next bytes from the client, at most 64 KiB; b"" when it will send no more."""

    async def write(self, data: bytes) -> None:
        """Send bytes to the client; wait while it takes nothing.

        Raises:
            BrokenPipeError: this connection, or the whole client, is gone.
        """

    async def close(self, error: str = "") -> None:
        """Tell the client that the pod's end is over, and why if it failed."""


class ForwardClient(Protocol):
    """The remote end of a port-forward."""

    @property
    def remote(self) -> str:
        """Where it is, as of ``Client``."""

    async def accept(self) -> Tunnel | None:
        """Wait for the next connection; None when the client has gone away, or was silent for too long."""


class StreamEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How an exec or attach ended, and what went over it. Bytes as the container read and wrote them."""

    exit_code: int | None  # 128 + signal number when killed by a signal; None for attach, and where nobody knows
    stdin_bytes: int
    stdout_bytes: int
    stderr_bytes: int
    reason: str = ""  # why it was cut short; "" when the container's end came to its end


class Connection(Protocol):
    """A TCP connection to a port of a pod."""

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        """Return the next bytes; b"" at their end."""

    async def send_all(self, data: bytes) -> None:
        """Send bytes."""

    async def send_eof(self) -> None:
        """Say that no more will be sent."""

    async def aclose(self) -> None:
        """Close it."""


class Streams(Protocol):
    """What sessions need of the host."""

    async def exec(
        self, order: ContainerOrder, exec_id: ExecId, process: ExecProcess, client: Client, *, stdin: bool, tty: bool
    ) -> StreamEnd:
        """Run a command in the running container with the client as its standard streams or its terminal.

        The command is killed when the client is gone. ``ExecProcess.output_bytes_max`` does not count here.

        Raises:
            WrongState: the container does not run.
            EffectFailed: the command could not be executed.
        """

    async def attach(self, order: ContainerOrder, client: Client, *, stdin: bool) -> StreamEnd:
        """Join the client to the streams of the container's init, until either is gone. Detaching kills nothing.

        A client that is so slow that it would hold up the container is let go.

        Raises:
            WrongState: the container does not run.
        """

    async def connect(self, netns: str, port: int) -> Connection:
        """Connect to 127.0.0.1 or else ::1 in a network namespace, given by its path; "" is the host's.

        Raises:
            EffectFailed: nobody listens there.
        """
