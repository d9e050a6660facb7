"""Checkpoints sent to a syslog daemon: RFC 5424 over a unix socket, UDP, TCP or TLS.

Syslog has no answers. Over TCP and TLS the connection is closed after each checkpoint, and that the other side closes
it too, not with a reset, is taken for having read it. A unix socket and UDP only tell whether somebody listens.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

from ocid.adapters.witness_tls import Trust
from ocid.config_witness import Address
from ocid.domain.witness import framed, syslog_message
from ocid.errors import EffectFailed, Unavailable
from ocid.ports import Clock

REFUSAL_S: Final = 0.2  # for an ICMP "port unreachable" to come back
CLOSE_S: Final = 10.0  # for the other side to close the connection
_SAID_BYTES_MAX: Final = 64 << 10  # a syslog daemon says nothing


class SyslogWitness:
    """Implements the port ``Witness``."""

    kind = "syslog"
    keeps_all = True

    def __init__(self, name: str, address: Address, clock: Clock, *, ca_file: str = "") -> None:
        self.name = name
        self._address = address
        self._clock = clock
        self._trust = Trust(ca_file)

    async def keep(self, note: str) -> None:
        """See ``ocid.ports.Witness.keep``."""
        host = os.uname().nodename
        message = syslog_message(note, wall_ns=self._clock.wall_ns(), host=host, pid=os.getpid())
        address = self._address
        with _told(address):
            match address.transport:
                case "unix":
                    await _to_unix(address.host, message)
                case "udp":
                    await _to_udp(address, message)
                case "tcp":
                    stream = await trio.open_tcp_stream(address.host, address.port)
                    await _over(stream, framed(message))
                case "tls":
                    await self._over_tls(framed(message))
                case other:
                    raise AssertionError(other)

    async def _over_tls(self, frame: bytes) -> None:
        context = await self._trust.context()
        stream = await trio.open_tcp_stream(self._address.host, self._address.port)
        secure = trio.SSLStream(stream, context, server_hostname=self._address.host, https_compatible=False)
        try:
            await secure.do_handshake()
            await secure.send_all(frame)
            await _closed_tls(secure)
        except trio.BrokenResourceError as error:
            if isinstance(error.__cause__, ssl.SSLCertVerificationError):
                self._trust.forget()
            raise
        finally:
            await trio.aclose_forcefully(stream)


async def _to_unix(path: str, message: bytes) -> None:
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        await sock.connect(path)
        await sock.send(message)


async def _to_udp(address: Address, message: bytes) -> None:
    found = await trio.socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
    family, kind, protocol, _, target = found[0]
    with trio.socket.socket(family, kind, protocol) as sock:
        await sock.connect(target)
        await sock.send(message)
        await trio.sleep(REFUSAL_S)
        if number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(number, os.strerror(number))


async def _over(stream: trio.SocketStream, frame: bytes) -> None:
    async with stream:
        await stream.send_all(frame)
        await stream.send_eof()
        with trio.move_on_after(CLOSE_S):
            said = 0
            while piece := await stream.receive_some(4096):
                said += len(piece)
                if said > _SAID_BYTES_MAX:
                    break
            else:
                return
        raise Unavailable(
            "the syslog daemon does not close the connection, so whether it read the checkpoint is unknown"
        )


async def _closed_tls(secure: trio.SSLStream[trio.SocketStream]) -> None:
    """Say that nothing more comes, and see the other side do so: with TLS's close_notify, or by closing."""
    with trio.move_on_after(CLOSE_S):
        try:
            await secure.unwrap()
        except trio.BrokenResourceError as error:
            if not isinstance(error.__cause__, ssl.SSLEOFError):
                raise
        return
    raise Unavailable("the syslog daemon does not end TLS, so whether it read the checkpoint is unknown")


@contextmanager
def _told(address: Address) -> Iterator[None]:
    """Turn what can go wrong into a sentence about *address*."""
    where = f"{address.transport}:{address.host}" + (f":{address.port}" if address.port else "")
    try:
        yield
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = f"its certificate is not trusted: {cause.verify_message}; configure ca_file"
            raise EffectFailed(f"syslog at {where}: {reason}") from None
        if isinstance(cause, ssl.SSLError):
            raise Unavailable(f"syslog at {where}: TLS failed: {cause.reason or 'it was cut'}") from None
        said = cause.strerror if isinstance(cause, OSError) and cause.strerror else "the connection was cut"
        raise Unavailable(f"syslog at {where}: {said}") from None
