"""The HTTP server that the kubelet, or crictl, brings its tokens to.

Each connection carries one request, and after it one session. Whatever a client does, and whatever fails inside its
session, ends that connection only.
"""

from __future__ import annotations

import logging
import socket
import ssl
from typing import Final

import trio

from ocid.errors import EffectFailed, OcidError, Unavailable
from ocid.ports.sessions import Grant, Kind, Outcome, Sessions
from ocid.streaming.command import CommandClient
from ocid.streaming.command_spdy import SpdyCommand
from ocid.streaming.command_websocket import WebSocketCommand
from ocid.streaming.envelope import Bare, Tunnelled
from ocid.streaming.forward import Forwarding
from ocid.streaming.forward_spdy import SpdyForwarding
from ocid.streaming.forward_websocket import WebSocketForwarding
from ocid.streaming.limits import Limits
from ocid.streaming.request import Connection, Gone
from ocid.streaming.transport import Transport
from ocid.streaming.upgrade import NOT_FOUND, TUNNEL, Carrier, Refusal, Upgrade, decide

LAST_WORDS_S: Final = 5.0  # for a client that is given up to take what was said to it
_KEEP_ALIVE_S: Final = 30
_BUSY: Final = Refusal(status=503, message="too many connections")

log = logging.getLogger(__name__)


class Server:
    """Serves the sessions of one core."""

    def __init__(self, sessions: Sessions, *, limits: Limits | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._sessions = sessions
        self._limits = limits or Limits()
        self._tls = tls
        self._requests = _Count()  # connections without a session yet
        self._running = _Count()  # sessions

    async def serve(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve for ever; tell by *task_status* on which address and port.

        Raises:
            EffectFailed: the address cannot be had.
        """
        try:
            listeners = await trio.open_tcp_listeners(port, host=host)
        except OSError as error:
            reason = error.strerror or str(error)
            message = f"streaming server cannot listen on {host} port {port}: {reason}; choose another address"
            raise EffectFailed(message) from None
        bound: tuple[str, int] = listeners[0].socket.getsockname()[:2]
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self.handle, listeners)
            task_status.started(bound)

    async def handle(self, stream: trio.abc.Stream) -> None:
        """Serve one connection, and close it."""
        try:
            _keep_alive(stream)
            if self._requests.now >= self._limits.requests or self._running.now >= self._limits.sessions:
                if self._tls is None:
                    await Connection(stream, self._limits).refuse(_BUSY)
                return
            await self._serve(self._secured(stream))
        except Gone:
            pass
        except Exception as bug:
            log.error("a streaming session failed in a way nobody foresaw", exc_info=bug)
        finally:
            await trio.aclose_forcefully(stream)

    def _secured(self, stream: trio.abc.Stream) -> trio.abc.Stream:
        if self._tls is None:
            return stream
        return trio.SSLStream(stream, self._tls, server_side=True, https_compatible=True)

    async def _serve(self, stream: trio.abc.Stream) -> None:
        connection = Connection(stream, self._limits)
        with self._requests:
            wanted = await connection.request(decide)
            if isinstance(wanted, Refusal):
                await connection.refuse(wanted)
                return
            grant = self._sessions.claim(wanted.token)
            if grant is None or grant.kind is not wanted.kind:
                await connection.refuse(NOT_FOUND)
                return
        with self._running:
            early = await connection.accept(wanted.headers)
            await self._session(stream, early, wanted, grant)

    async def _session(self, stream: trio.abc.Stream, early: bytes, wanted: Upgrade, grant: Grant) -> None:
        limits = self._limits
        transport = Transport(stream, early=early, idle_s=limits.idle_s, output_bytes=limits.output_bytes)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.write_out)
            nursery.start_soon(transport.watch)
            if grant.kind is Kind.FORWARD:
                forwarding = _forwarding(transport, wanted, grant, limits)
                nursery.start_soon(forwarding.run)
                await self._forward(transport, forwarding, grant)
            else:
                client = _command(transport, wanted, grant, limits)
                nursery.start_soon(client.run)
                await self._command(transport, client, grant)
            with trio.move_on_after(LAST_WORDS_S):
                await transport.drained()
            nursery.cancel_scope.cancel()

    async def _command(self, transport: Transport, client: CommandClient, grant: Grant) -> None:
        """Run an exec or attach, and wait until the client has taken all of it and closes.

        To close before the client does would make the kernel throw away what is still on its way.
        """
        patience_s = self._limits.finish_s
        try:
            await client.ready()
            outcome = Outcome() if transport.gone.is_set() else await self._outcome(client, grant)
        except Unavailable as error:
            outcome, patience_s = Outcome(error=error.message), LAST_WORDS_S
        with trio.move_on_after(patience_s):
            if not transport.gone.is_set():
                await client.finish(outcome)
            await transport.gone.wait()

    async def _outcome(self, client: CommandClient, grant: Grant) -> Outcome:
        try:
            return await self._sessions.serve(grant, client)
        except Exception as error:
            cause = _cause(error)
            if isinstance(cause, OcidError):
                return Outcome(error=cause.message)
            log.error("%s %s failed in a way nobody foresaw", grant.kind, grant.session_id, exc_info=error)
            return Outcome(error=f"{type(cause).__name__}; this is a bug of ocid")

    async def _forward(self, transport: Transport, forwarding: Forwarding, grant: Grant) -> None:
        try:
            await self._sessions.forward(grant, forwarding)
        except Exception as error:
            if isinstance(cause := _cause(error), OcidError):
                log.warning("port-forward %s failed: %s", grant.session_id, cause.message)
            else:
                log.error("port-forward %s failed in a way nobody foresaw", grant.session_id, exc_info=error)
        with trio.move_on_after(LAST_WORDS_S):
            await forwarding.finish()
            await transport.gone.wait()


def _cause(error: Exception) -> Exception:
    """Take an error out of the groups that nurseries put around it."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class _Count:
    """How many are inside."""

    def __init__(self) -> None:
        self.now = 0

    def __enter__(self) -> None:
        self.now += 1

    def __exit__(self, *_: object) -> None:
        self.now -= 1


def _keep_alive(stream: trio.abc.Stream) -> None:
    """Have the kernel find out about a client whose machine is gone."""
    if isinstance(stream, trio.SocketStream):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEP_ALIVE_S)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEP_ALIVE_S)


def _command(transport: Transport, wanted: Upgrade, grant: Grant, limits: Limits) -> CommandClient:
    if wanted.carrier is Carrier.SPDY:
        return SpdyCommand(transport, grant, wanted.protocol, limits)
    return WebSocketCommand(transport, grant, wanted.protocol, limits)


def _forwarding(transport: Transport, wanted: Upgrade, grant: Grant, limits: Limits) -> Forwarding:
    if wanted.carrier is Carrier.SPDY:
        return SpdyForwarding(transport, Bare(), grant, limits)
    if wanted.protocol == TUNNEL:
        return SpdyForwarding(transport, Tunnelled(), grant, limits)
    return WebSocketForwarding(transport, grant, wanted.protocol, limits)
