"""Exec and attach over SPDY: one stream each for error, stdin, stdout, stderr and resize, named by a header.

Source: Kubernetes client-go, tools/remotecommand; cri-streaming, remotecommand.
"""

from __future__ import annotations

from typing import Final

import trio

from ocid.errors import Unavailable
from ocid.ports.sessions import Grant, Outcome
from ocid.ports.streaming import Output, Size
from ocid.streaming import spdy
from ocid.streaming.command import told
from ocid.streaming.envelope import Bare
from ocid.streaming.limits import Limits
from ocid.streaming.pipe import Pipe
from ocid.streaming.spdy_connection import SpdyConnection
from ocid.streaming.terminal import Terminal
from ocid.streaming.transport import Transport
from ocid.streaming.upgrade import RESIZE_PROTOCOLS

_TYPE_HEADER: Final = "streamtype"
_ERROR: Final = "error"
_STDIN: Final = "stdin"
_RESIZE: Final = "resize"
_KNOWN: Final = frozenset({_ERROR, _STDIN, _RESIZE, *Output})
_FROM_CLIENT: Final = (_STDIN, _RESIZE)


class SpdyCommand:
    """A ``CommandClient``."""

    def __init__(self, transport: Transport, grant: Grant, protocol: str, limits: Limits) -> None:
        self.remote = transport.remote
        self._transport = transport
        self._protocol = protocol
        self._creation_s = limits.creation_s
        self._wanted = _wanted(grant, protocol)
        self._streams: dict[str, int] = {}  # by type
        self._inputs: dict[str, Pipe] = {}
        self._terminal = Terminal()
        self._made = trio.Event()  # all streams that are wanted
        self._connection = SpdyConnection(transport, Bare(), limits, self._handle)

    async def run(self) -> None:
        """See ``CommandClient``."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_sizes)
            await self._connection.run()
            self._made.set()
            nursery.cancel_scope.cancel()

    async def ready(self) -> None:
        """See ``CommandClient``."""
        with trio.move_on_after(self._creation_s):
            await self._made.wait()
            return
        missing = ", ".join(sorted(self._wanted - self._streams.keys()))
        raise Unavailable(
            f"timed out after {self._creation_s:g} s waiting for the client to make its streams: {missing}"
        )

    async def finish(self, outcome: Outcome) -> None:
        """See ``CommandClient``."""
        for kind in _FROM_CLIENT:
            if kind in self._streams:
                self._inputs[kind].drop()
                self._connection.stop(self._streams[kind])
        if _ERROR in self._streams:
            await self._connection.write(self._streams[_ERROR], told(outcome, self._protocol))
        for stream in self._streams.values():
            self._connection.finish(stream)

    async def read_stdin(self) -> bytes:
        """See ``Client``."""
        if _STDIN in self._wanted and _STDIN in self._inputs:
            return await self._inputs[_STDIN].read()
        await trio.lowlevel.checkpoint()
        return b""

    async def next_size(self) -> Size:
        """See ``Client``."""
        return await self._terminal.next_size()

    async def write(self, output: Output, data: bytes) -> None:
        """See ``Client``."""
        if output in self._wanted and output in self._streams:
            await self._connection.write(self._streams[output], data)
        else:
            await trio.lowlevel.checkpoint()

    async def gone(self) -> None:
        """See ``Client``."""
        await self._transport.gone.wait()

    def _handle(self, event: spdy.Event) -> None:
        if not isinstance(event, spdy.Opened):
            return
        kind = event.headers.get(_TYPE_HEADER, "")
        if kind not in _KNOWN or kind in self._streams:
            self._connection.refuse(event.stream, spdy.Status.PROTOCOL_ERROR)
            return
        self._streams[kind] = event.stream
        nothing_comes = kind not in self._wanted and kind not in _FROM_CLIENT
        self._inputs[kind] = pipe = self._connection.accept(event.stream, fin=nothing_comes)
        if kind not in self._wanted or kind not in _FROM_CLIENT:
            pipe.drop()
        if self._wanted <= self._streams.keys():
            self._made.set()

    async def _read_sizes(self) -> None:
        await self._made.wait()
        if _RESIZE in self._wanted and _RESIZE in self._inputs:  # else the client went before it was made
            while data := await self._inputs[_RESIZE].read():
                self._terminal.feed(data)


def _wanted(grant: Grant, protocol: str) -> frozenset[str]:
    """Say which streams the client has to make. What it makes beyond these is accepted and carries nothing."""
    kinds = {_ERROR}
    kinds |= {_STDIN} if grant.stdin else set()
    kinds |= {Output.STDOUT.value} if grant.stdout else set()
    kinds |= {Output.STDERR.value} if grant.stderr and not grant.tty else set()
    kinds |= {_RESIZE} if grant.tty and protocol in RESIZE_PROTOCOLS else set()
    return frozenset(kinds)
