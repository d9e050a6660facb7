"""Numbered channels in the messages of a WebSocket: the first byte names the channel, the rest is data.

In the base64 subprotocols a digit names the channel and the rest is base64. In version 5, channel 255 carries the
number of a channel on which the client will send no more.

Source: Kubernetes apimachinery, httpstream/wsstream.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Final

import trio

from ocid.streaming import websocket
from ocid.streaming.pipe import Pipe
from ocid.streaming.transport import Transport
from ocid.streaming.upgrade import BASE64_PROTOCOLS, V5

FRAME_BYTES_MAX: Final = 64 << 10  # of data, that we send
_CLOSE_SIGNAL: Final = 255
_DIGIT_0: Final = ord("0")


class _BadMessage(Exception):
    pass


class Channels:
    """The channels of one client."""

    def __init__(
        self,
        transport: Transport,
        protocol: str,
        input_bytes: int,
        take: Callable[[int, bytes], None],
        half_close: Callable[[int], None],
    ) -> None:
        """*take* gets data by channel; what it keeps is in a pipe of ``pipe``. *half_close* is for version 5."""
        self._transport = transport
        self._base64 = protocol in BASE64_PROTOCOLS
        self._has_close_signal = protocol == V5
        self._input_bytes = input_bytes
        self._take = take
        self._half_close = half_close
        self._receiver = websocket.Receiver()
        self._channel: int | None = None  # of the message that is arriving
        self._carry = b""  # base64 that makes no whole bytes yet
        self._signal = b""  # what follows the close signal
        self._held = 0
        self._closed = False

    async def run(self) -> None:
        """Read until the client is gone."""
        await self._transport.read_in(self._receive, lambda: self._held >= self._input_bytes)

    def pipe(self) -> Pipe:
        """Return a pipe whose content stops the reading when it is too much. Feed it through ``hold``."""
        return Pipe(self._taken)

    def hold(self, pipe: Pipe, data: bytes) -> None:
        """Put data into a pipe."""
        self._held += len(data)
        pipe.feed(data)

    async def write(self, channel: int, data: bytes) -> bool:
        """Send data on a channel, and wait while the client takes none; say False when the client is gone."""
        await trio.lowlevel.checkpoint()
        for at in range(0, len(data), FRAME_BYTES_MAX):
            await self._transport.room()
            if self._transport.gone.is_set():
                return False
            self.push(channel, data if len(data) <= FRAME_BYTES_MAX else data[at : at + FRAME_BYTES_MAX])
        return True

    def push(self, channel: int, data: bytes) -> None:
        """Send a message now."""
        if self._closed:
            return
        if self._base64:
            text = base64.b64encode(data)
            self._transport.push(
                websocket.head(websocket.Opcode.TEXT, 1 + len(text)), bytes((_DIGIT_0 + channel,)), text
            )
        else:
            self._transport.push(websocket.head(websocket.Opcode.BINARY, 1 + len(data)), bytes((channel,)), data)

    def end(self, code: int = websocket.Code.NORMAL) -> None:
        """Close; nothing is sent any more."""
        if not self._closed:
            self._transport.push(websocket.close(code))
            self._closed = True

    def _taken(self, count: int) -> None:
        self._held -= count
        self._transport.resume()

    def _receive(self, raw: bytes) -> None:
        for event in self._receiver.receive(raw):
            if isinstance(event, websocket.Ended):
                self.end(event.code)
                self._transport.leave()
                return
            try:
                self._piece(event)
            except _BadMessage:
                self.end(websocket.Code.BAD_DATA)
                self._transport.leave()
                return
        self._transport.push(self._receiver.outgoing())

    def _piece(self, piece: websocket.Piece) -> None:
        data = piece.data
        if piece.first:
            if not data:
                return
            self._channel = data[0] - (_DIGIT_0 if self._base64 else 0)
            data = data[1:]
        assert self._channel is not None, "the first piece of a message names its channel, or is all of it"
        if self._has_close_signal and self._channel == _CLOSE_SIGNAL:
            self._close_signal(data, last=piece.last)
            return
        if self._base64:
            data = self._decode(data, last=piece.last)
        if data:
            self._take(self._channel, data)

    def _close_signal(self, data: bytes, *, last: bool) -> None:
        self._signal += data
        if len(self._signal) > 1 or (last and not self._signal):
            raise _BadMessage
        if last:
            channel, self._signal = self._signal[0], b""
            self._half_close(channel)

    def _decode(self, text: bytes, *, last: bool) -> bytes:
        """Return the bytes of base64 so far. Text after padding is refused, also when it comes in another piece."""
        text = self._carry + text.translate(None, b"\r\n")
        whole = len(text) if last else max(0, (len(text) - 1) // 4 * 4)  # the last group may be padded: keep it
        self._carry = text[whole:]
        try:
            data = binascii.a2b_base64(text[:whole], strict_mode=True) if whole else b""
        except binascii.Error:
            raise _BadMessage from None
        if self._carry and text[:whole].endswith(b"="):
            raise _BadMessage
        return data
