"""What a SPDY session travels in: the connection itself, or the binary messages of a WebSocket. No I/O."""

from __future__ import annotations

from typing import Protocol

from ocid.streaming import websocket


class Envelope(Protocol):
    """Puts the bytes of a session onto the connection and takes them off it."""

    def open(self, raw: bytes) -> tuple[list[bytes], bool]:
        """Return the session's bytes, and whether the connection is over."""

    def seal(self, *pieces: bytes) -> tuple[bytes, ...]:
        """Return what to send for bytes of the session."""

    def answers(self) -> bytes:
        """Return, once, what the envelope itself has to answer."""

    def farewell(self) -> bytes:
        """Return what ends the connection."""


class Bare:
    """The connection itself."""

    def open(self, raw: bytes) -> tuple[list[bytes], bool]:
        """See ``Envelope``."""
        return [raw], False

    def seal(self, *pieces: bytes) -> tuple[bytes, ...]:
        """See ``Envelope``."""
        return pieces

    def answers(self) -> bytes:
        """See ``Envelope``."""
        return b""

    def farewell(self) -> bytes:
        """See ``Envelope``."""
        return b""


class Tunnelled:
    """Binary messages, whose borders mean nothing. Source: Kubernetes client-go, tools/portforward."""

    def __init__(self) -> None:
        self._receiver = websocket.Receiver()
        self._code: int = websocket.Code.NORMAL

    def open(self, raw: bytes) -> tuple[list[bytes], bool]:
        """See ``Envelope``."""
        pieces: list[bytes] = []
        for event in self._receiver.receive(raw):
            if isinstance(event, websocket.Ended):
                self._code = event.code
                return pieces, True
            if event.text:
                self._code = websocket.Code.NOT_ACCEPTABLE
                return pieces, True
            pieces.append(event.data)
        return pieces, False

    def seal(self, *pieces: bytes) -> tuple[bytes, ...]:
        """See ``Envelope``."""
        return websocket.head(websocket.Opcode.BINARY, sum(map(len, pieces))), *pieces

    def answers(self) -> bytes:
        """See ``Envelope``."""
        return self._receiver.outgoing()

    def farewell(self) -> bytes:
        """See ``Envelope``."""
        return websocket.close(self._code)
