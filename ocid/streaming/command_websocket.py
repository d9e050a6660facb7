"""Exec and attach over WebSocket: channels 0 to 4 for stdin, stdout, stderr, error and resize.

Source: Kubernetes apimachinery, util/remotecommand; cri-streaming, remotecommand.
"""

from __future__ import annotations

from typing import Final

import trio

from ocid.ports.sessions import Grant, Outcome
from ocid.ports.streaming import Output, Size
from ocid.streaming.channels import Channels
from ocid.streaming.command import told
from ocid.streaming.limits import Limits
from ocid.streaming.terminal import Terminal
from ocid.streaming.transport import Transport

_STDIN: Final = 0
_ERROR: Final = 3
_RESIZE: Final = 4
_OUTPUTS: Final = {Output.STDOUT: 1, Output.STDERR: 2}


class WebSocketCommand:
    """A ``CommandClient``."""

    def __init__(self, transport: Transport, grant: Grant, protocol: str, limits: Limits) -> None:
        self.remote = transport.remote
        self._transport = transport
        self._protocol = protocol
        self._channels = Channels(transport, protocol, limits.input_bytes, self._take, self._half_close)
        self._stdin = self._channels.pipe()
        if not grant.stdin:
            self._stdin.drop()
        self._terminal = Terminal()
        wanted = {Output.STDOUT: grant.stdout, Output.STDERR: grant.stderr and not grant.tty}
        self._outputs = {output: _OUTPUTS[output] for output in Output if wanted[output]}
        # an empty message tells the client that it is connected, as Kubernetes' own servers do
        self._channels.push(min(self._outputs.values(), default=_ERROR), b"")

    async def run(self) -> None:
        """See ``CommandClient``."""
        await self._channels.run()
        self._stdin.end()

    async def ready(self) -> None:
        """See ``CommandClient``."""
        await trio.lowlevel.checkpoint()

    async def finish(self, outcome: Outcome) -> None:
        """See ``CommandClient``."""
        self._stdin.drop()
        await self._channels.write(_ERROR, told(outcome, self._protocol))
        self._channels.end()

    async def read_stdin(self) -> bytes:
        """See ``Client``."""
        return await self._stdin.read()

    async def next_size(self) -> Size:
        """See ``Client``."""
        return await self._terminal.next_size()

    async def write(self, output: Output, data: bytes) -> None:
        """See ``Client``."""
        if output in self._outputs:
            await self._channels.write(self._outputs[output], data)
        else:
            await trio.lowlevel.checkpoint()

    async def gone(self) -> None:
        """See ``Client``."""
        await self._transport.gone.wait()

    def _take(self, channel: int, data: bytes) -> None:
        if channel == _STDIN:
            self._channels.hold(self._stdin, data)
        elif channel == _RESIZE:
            self._terminal.feed(data)

    def _half_close(self, channel: int) -> None:
        if channel == _STDIN:
            self._stdin.end()
