"""The one request of a connection, and its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import h11
import trio

from ocid.streaming.limits import Limits
from ocid.streaming.upgrade import Refusal, Upgrade

_RECEIVE_BYTES: Final = 4 << 10  # what a head may be longer than its limit
_LINGER_S: Final = 1.0  # for a client to read why it was refused, before the connection is cut
_LINGER_BYTES_MAX: Final = 256 << 10


class Gone(Exception):
    """The client went away, or took too long, before it had a session."""


class Connection:
    """A connection before its session."""

    def __init__(self, stream: trio.abc.Stream, limits: Limits) -> None:
        self._stream = stream
        self._deadline = trio.current_time() + limits.request_s
        self._head_only = False
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)

    async def request(self, decide: Callable[[h11.Request], Upgrade | Refusal]) -> Upgrade | Refusal:
        """Read the request and say what *decide* makes of it.

        Raises:
            Gone: none came in time.
        """
        try:
            request = await self._event()
            if not isinstance(request, h11.Request):
                raise Gone
            self._head_only = request.method == b"HEAD"
            decided = decide(request)
            if isinstance(decided, Upgrade) and not isinstance(await self._event(), h11.EndOfMessage):
                return Refusal(status=400, message="wanted a request without a body")
            return decided
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint
            return Refusal(status=status, message="the request's head is too long" if status == 431 else "no HTTP/1.1")

    async def accept(self, headers: list[tuple[str, str]]) -> bytes:
        """Switch protocols, and return what the client sent after its request.

        Raises:
            Gone: the client is.
        """
        await self._send(self._http.send(h11.InformationalResponse(status_code=101, headers=headers)))
        return bytes(self._http.trailing_data[0])

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with an error; no further request is read.

        Raises:
            Gone: the client is.
        """
        body = (refusal.message + "\n").encode()
        head = f"HTTP/1.1 {refusal.status} {_REASONS.get(refusal.status, 'Error')}\r\n"
        fields = [
            *refusal.headers,
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Connection", "close, Upgrade" if any(name == "Upgrade" for name, _ in refusal.headers) else "close"),
        ]
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        whole = (head + lines + "\r\n").encode("latin-1", "replace") + (b"" if self._head_only else body)
        await self._send(whole)
        await self._linger()

    async def _event(self) -> object:
        with trio.CancelScope(deadline=self._deadline):
            try:
                while (event := self._http.next_event()) is h11.NEED_DATA:
                    self._http.receive_data(bytes(await self._stream.receive_some(_RECEIVE_BYTES)))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise Gone from None
            return event
        raise Gone

    async def _send(self, raw: bytes | None) -> None:
        assert raw is not None, "an upgrade or an error has a head"
        try:
            with trio.CancelScope(deadline=trio.current_time() + _LINGER_S) as scope:
                await self._stream.send_all(raw)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Gone from None
        if scope.cancelled_caught:
            raise Gone

    async def _linger(self) -> None:
        """Let the client read the answer: to close with input unread would take it away."""
        with trio.move_on_after(_LINGER_S):
            try:
                if isinstance(self._stream, trio.abc.HalfCloseableStream):
                    await self._stream.send_eof()
                left = _LINGER_BYTES_MAX
                while left > 0 and (data := await self._stream.receive_some(_RECEIVE_BYTES)):
                    left -= len(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return


_REASONS: Final = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    426: "Upgrade Required",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
