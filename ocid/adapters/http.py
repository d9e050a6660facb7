"""A small HTTP/1.1 client on Trio: GET and POST, TLS, connection reuse, redirects, and a watch on every read.

h11 does the protocol. Whatever breaks between two machines is one exception, ``Broken``, whose message is fit for
people; the caller decides whether to try again. Nothing here knows of registries or credentials.

Source: RFC 9110, RFC 9112.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final
from urllib.parse import urljoin, urlsplit

import h11
import msgspec
import trio

from ocid.errors import EffectFailed

READ_BYTES: Final = 256 << 10
STALL_S: Final = 60.0
CONNECT_S: Final = 15.0
REDIRECTS_MAX: Final = 5
INFORMATIONAL_MAX: Final = 16  # 1xx answers before the real one
_IDLE_MAX: Final = 8  # connections kept for the next request
_IDLE_S: Final = 20.0
_HEAD_BYTES_MAX: Final = 64 << 10
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_AGENT: Final = "ocid"


class Broken(Exception):
    """The connection could not be made, was cut, stalled, or spoke no HTTP. The same request may succeed later."""

    def __init__(self, message: str, *, stalled: bool = False) -> None:
        super().__init__(message)
        self.stalled = stalled  # the whole time limit was waited for already


class _NoHandshake(Broken):
    """The other side does not speak TLS."""


class Origin(msgspec.Struct, frozen=True):
    """Whom a request goes to. Credentials for one origin are never sent to another."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = self.port == (443 if self.scheme == "https" else 80)
        return f"{self.scheme}://{host}" if usual else f"{self.scheme}://{host}:{self.port}"

    @property
    def authority(self) -> str:
        """Host and port, for the Host header."""
        return str(self).partition("//")[2]


def split(url: str) -> tuple[Origin, str]:
    """Split a URL into its origin and what follows.

    Raises:
        EffectFailed: it is no http or https URL, carries a user name, or is not ASCII.
    """
    if not url.isascii():
        raise EffectFailed(f"{url[:200]!r} is no URL: wanted ASCII")
    try:
        parts = urlsplit(url)
        port = parts.port
        (parts.hostname or "").encode("idna")  # what a look-up makes of it
    except ValueError as error:
        raise EffectFailed(f"{url[:200]!r} is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise EffectFailed(f"{parts.scheme}://{(parts.hostname or '')[:100]}: wanted an http or https URL without user")
    origin = Origin(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80))
    return origin, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def is_loopback(host: str) -> bool:
    """Say whether *host* names this machine: localhost, 127.0.0.0/8 or ::1."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


class Response:
    """The head of a response; the body is read through ``piece`` or ``read``."""

    def __init__(self, connection: _Connection, origin: Origin, head: h11.Response) -> None:
        self._connection = connection
        self.origin = origin  # after redirects
        self.status = int(head.status_code)
        self._headers = [(bytes(name), bytes(value)) for name, value in head.headers]

    def header(self, name: str) -> str:
        """Return the first header of this name, "" when there is none."""
        found = self.headers(name)
        return found[0] if found else ""

    def headers(self, name: str) -> list[str]:
        """Return all headers of this name."""
        wanted = name.lower().encode()
        return [value.decode("latin-1") for key, value in self._headers if key == wanted]

    async def piece(self) -> bytes:
        """Return the next piece of the body, b"" at its end.

        Raises:
            Broken: the connection was cut or stalled.
        """
        event = await self._connection.receive()
        if isinstance(event, h11.Data):
            return event.data
        if isinstance(event, h11.EndOfMessage):
            return b""
        raise Broken(f"{self.origin} closed the connection in the middle of a reply")

    async def read(self, limit: int) -> bytes:
        """Return the body, cut after *limit* bytes and some."""
        pieces: list[bytes] = []
        size = 0
        while size <= limit and (piece := await self.piece()):
            pieces.append(bytes(piece))
            size += len(piece)
        return b"".join(pieces)


class _Connection:
    """One connection, for one exchange after the other."""

    def __init__(self, origin: Origin, stream: trio.abc.Stream, stall_s: float) -> None:
        self.origin = origin
        self._stream = stream
        self._stall_s = stall_s
        self._protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES_MAX)
        self.idle_since = 0.0
        self.used = False  # for an exchange before

    async def send(self, *events: h11.Event) -> None:
        raw = b"".join(self._protocol.send(event) or b"" for event in events)
        with _watched(self.origin, "takes no request", self._stall_s):
            await self._stream.send_all(raw)

    async def receive(self) -> h11.Event | type[h11.PAUSED]:
        try:
            while (event := self._protocol.next_event()) is h11.NEED_DATA:
                with _watched(self.origin, "sends nothing", self._stall_s):
                    raw = await self._stream.receive_some(READ_BYTES)
                self._protocol.receive_data(bytes(raw))
        except h11.RemoteProtocolError as error:
            raise Broken(f"{self.origin} cut its reply, or sent no HTTP: {error}") from None
        assert not isinstance(event, type) or event is h11.PAUSED
        return event

    def recycle(self) -> bool:
        """Make ready for another exchange, and say whether that is possible."""
        if self._protocol.our_state is not h11.DONE or self._protocol.their_state is not h11.DONE:
            return False
        self._protocol.start_next_cycle()
        self.used = True
        self.idle_since = trio.current_time()
        return True

    async def close(self) -> None:
        await trio.aclose_forcefully(self._stream)


class Client:
    """Makes requests. Connections that are left whole are kept for a while."""

    def __init__(self, tls: Callable[[Origin], ssl.SSLContext], *, stall_s: float = STALL_S) -> None:
        """*tls* gives the settings for an https origin; *stall_s* ends a connection that makes no progress."""
        self._tls = tls
        self._stall_s = stall_s
        self._idle: list[_Connection] = []

    @asynccontextmanager
    async def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes = b""
    ) -> AsyncIterator[Response]:
        """Make one request and yield its response; GETs follow redirects, without credentials to other origins.

        Raises:
            Broken: no connection, or it was cut or stalled; also while the body is read.
            EffectFailed: the certificate is not trusted, or a redirect is refused.
        """
        sent = dict(headers)
        for _ in range(REDIRECTS_MAX + 1):
            origin, target = split(url)
            connection, head = await self._exchange(origin, target, method, sent, body)
            response = Response(connection, origin, head)
            keep = False
            try:
                if method != "GET" or response.status not in _REDIRECTS:
                    yield response
                    keep = True
                    return
                await response.read(_HEAD_BYTES_MAX)
                keep = True
            finally:
                await self._put_back(connection, keep=keep)
            url = _redirected(url, response)
            if split(url)[0] != origin:
                sent = {name: value for name, value in sent.items() if name.lower() != "authorization"}
        raise EffectFailed(f"{origin} redirects more than {REDIRECTS_MAX} times")

    async def speaks_tls(self, origin: Origin) -> bool:
        """Say whether whoever listens at *origin*, an https one, finishes a TLS handshake.

        Raises:
            Broken: nobody listens.
        """
        try:
            stream = await self._connect(Origin("http", origin.host, origin.port))
            await trio.aclose_forcefully(await self._secure(origin, stream))
        except EffectFailed:
            return True  # with a certificate that is not trusted
        except _NoHandshake:
            return False
        return True

    async def close(self) -> None:
        """Close the connections that are kept."""
        while self._idle:
            await self._idle.pop().close()

    async def _exchange(
        self, origin: Origin, target: str, method: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[_Connection, h11.Response]:
        while True:
            connection = await self._connected(origin)
            try:
                return connection, await _head(connection, target, method, headers, body)
            except Broken:
                await connection.close()
                if not connection.used:  # one that was kept may have been closed by the other side meanwhile
                    raise
            except BaseException:
                await connection.close()
                raise

    async def _connected(self, origin: Origin) -> _Connection:
        now = trio.current_time()
        for connection in [old for old in self._idle if now - old.idle_since > _IDLE_S]:
            self._idle.remove(connection)
            await connection.close()
        for connection in reversed(self._idle):
            if connection.origin == origin:
                self._idle.remove(connection)
                return connection
        return _Connection(origin, await self._connect(origin), self._stall_s)

    async def _connect(self, origin: Origin) -> trio.abc.Stream:
        with _watched(origin, "takes no connection", min(CONNECT_S, self._stall_s)):
            stream: trio.abc.Stream = await trio.open_tcp_stream(origin.host, origin.port)
        if origin.scheme == "http":
            return stream
        return await self._secure(origin, stream)

    async def _secure(self, origin: Origin, stream: trio.abc.Stream) -> trio.abc.Stream:
        secure: trio.SSLStream[trio.abc.Stream] = trio.SSLStream(
            stream, self._tls(origin), server_hostname=origin.host, https_compatible=True
        )
        try:
            with _watched(origin, "does not finish the TLS handshake", self._stall_s):
                await secure.do_handshake()
        except BaseException as error:
            await trio.aclose_forcefully(stream)
            if isinstance(error, Broken) and not error.stalled:
                raise _NoHandshake(f"{error} (is it a plain HTTP registry?)") from None
            raise
        return secure

    async def _put_back(self, connection: _Connection, *, keep: bool) -> None:
        if keep and len(self._idle) < _IDLE_MAX and connection.recycle():
            self._idle.append(connection)
        else:
            await connection.close()


async def _head(
    connection: _Connection, target: str, method: str, headers: Mapping[str, str], body: bytes
) -> h11.Response:
    fields = [("Host", connection.origin.authority), ("User-Agent", _AGENT), *headers.items()]
    if body:
        fields.append(("Content-Length", str(len(body))))
    try:
        request = h11.Request(method=method, target=target, headers=fields)
    except (h11.LocalProtocolError, UnicodeEncodeError) as error:
        raise EffectFailed(f"request to {connection.origin} cannot be written: {error}") from None
    await connection.send(request, *([h11.Data(data=body)] if body else []), h11.EndOfMessage())
    for _ in range(INFORMATIONAL_MAX + 1):
        event = await connection.receive()
        if isinstance(event, h11.Response):
            return event
        if not isinstance(event, h11.InformationalResponse):
            raise Broken(f"{connection.origin} closed the connection without a reply")
    raise Broken(f"{connection.origin} sent {INFORMATIONAL_MAX} informational replies and no real one")


def _redirected(url: str, response: Response) -> str:
    location = response.header("location")
    if not location:
        raise EffectFailed(f"{response.origin} redirects to nowhere")
    try:
        target = urljoin(url, location)
    except ValueError as error:
        raise EffectFailed(f"{response.origin} redirects to {location[:200]!r}, which is no URL: {error}") from None
    origin, _ = split(target)
    if response.origin.scheme == "https" and origin.scheme == "http":
        raise EffectFailed(f"{response.origin} redirects to {origin}, which is not encrypted: refused")
    return target


@contextmanager
def _watched(origin: Origin, what: str, limit_s: float) -> Iterator[None]:
    """Turn a stall and a broken stream into ``Broken``, a certificate that is not trusted into ``EffectFailed``."""
    try:
        with trio.fail_after(limit_s):
            yield
    except trio.TooSlowError:
        raise Broken(f"{origin} {what} for {limit_s:g} s", stalled=True) from None
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = cause.verify_message
            raise EffectFailed(f"certificate of {origin} is not trusted: {reason}; configure its ca_file") from None
        raise Broken(f"{origin}: {cause.strerror if isinstance(cause, OSError) else cause}") from None
