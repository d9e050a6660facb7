"""Checkpoints over syslog, to daemons on loopback that are as they should be, and to such as are not."""

from __future__ import annotations

import functools
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from ocid_replay.witness import kept_in

from ocid.adapters import witness_syslog
from ocid.adapters.local import SystemClock
from ocid.adapters.witness_syslog import SyslogWitness
from ocid.config_witness import Address
from ocid.errors import EffectFailed, Unavailable
from tests.adapters.certificates import certificate as certificate
from tests.fakes.witnesses import checkpoint

NOTE = checkpoint(4096)
Handler = Callable[[trio.abc.Stream], Awaitable[None]]


def witness(transport: str, host: str, port: int = 0, ca_file: str = "") -> SyslogWitness:
    return SyslogWitness("syslog", Address(transport, host, port), SystemClock(), ca_file=ca_file)


def assert_whole(message: bytes) -> None:
    assert message.startswith(b"<109>1 ")
    assert kept_in(message.decode()).notes == [NOTE]


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve each connection with *handler* on a port of 127.0.0.1."""

    async def one(stream: trio.SocketStream) -> None:
        served: trio.abc.Stream = stream if tls is None else trio.SSLStream(stream, tls, server_side=True)
        try:
            await handler(served)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        serve = functools.partial(trio.serve_tcp, one, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


class Collector:
    """A syslog daemon that reads to the end, as it should."""

    def __init__(self) -> None:
        self.read = b""

    async def __call__(self, stream: trio.abc.Stream) -> None:
        while piece := await stream.receive_some(100):
            self.read += piece

    def messages(self) -> list[bytes]:
        """Take the frames apart."""
        rest, found = self.read, []
        while rest:
            count, _, rest = rest.partition(b" ")
            found.append(rest[: int(count)])
            rest = rest[int(count) :]
        return found


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        await sock.bind(path)
        await witness("unix", path).keep(NOTE)
        assert_whole(await sock.recv(65536))
    with pytest.raises(Unavailable, match="Connection refused"):
        await witness("unix", path).keep(NOTE)
    with pytest.raises(Unavailable, match="No such file"):
        await witness("unix", str(tmp_path / "none")).keep(NOTE)


async def test_a_full_unix_socket_is_waited_for_and_the_wait_can_be_given_up(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        await sock.bind(path)
        with trio.move_on_after(0.5) as scope:
            for _ in range(10_000):
                await witness("unix", path).keep(NOTE)
        assert scope.cancelled_caught


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_udp(family: socket.AddressFamily) -> None:
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with trio.socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            await sock.bind((host, 0))
        except OSError as error:
            pytest.skip(f"no such address here: {error}")
        port = sock.getsockname()[1]
        await witness("udp", host, port).keep(NOTE)
        assert_whole(await sock.recv(65536))
    with pytest.raises(Unavailable, match=rf"syslog at udp:{host}:{port}: Connection refused"):
        await witness("udp", host, port).keep(NOTE)


async def test_tcp_with_counted_octets() -> None:
    collector = Collector()
    async with serving(collector) as port:
        for _ in range(2):
            await witness("tcp", "127.0.0.1", port).keep(NOTE)
    first, second = collector.messages()
    assert_whole(first)
    assert_whole(second)
    with pytest.raises(Unavailable, match=r"syslog at tcp:127\.0\.0\.1:\d+: "):
        await witness("tcp", "127.0.0.1", port).keep(NOTE)


async def closes_at_once(stream: trio.abc.Stream) -> None:
    pass


async def resets(stream: trio.abc.Stream) -> None:
    await stream.receive_some(10)
    inner = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    inner.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def never_closes(stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


async def talks_without_end(stream: trio.abc.Stream) -> None:
    while True:
        await stream.send_all(b"x" * 4096)


@pytest.mark.parametrize("handler", [resets, never_closes, talks_without_end])
async def test_a_receiver_that_may_not_have_read_it_has_not_kept_it(
    handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witness_syslog, "CLOSE_S", 0.3)
    async with serving(handler) as port:
        with pytest.raises(Unavailable), trio.fail_after(5):
            await witness("tcp", "127.0.0.1", port).keep(NOTE)


async def speaks_no_tls(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"220 what do you want\r\n")
    await Collector()(stream)


async def test_tls(certificate: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    collector = Collector()
    async with serving(collector, tls) as port:
        await witness("tls", "localhost", port, ca_file=str(certificate)).keep(NOTE)
        (message,) = collector.messages()
        assert_whole(message)
        with pytest.raises(EffectFailed, match=r"certificate is not trusted.*configure ca_file"):
            await witness("tls", "localhost", port).keep(NOTE)
        with pytest.raises(EffectFailed, match="certificate is not trusted"):
            await witness("tls", "127.0.0.1", port, ca_file=str(certificate)).keep(NOTE)
        with pytest.raises(EffectFailed, match="ca_file '/none' cannot be used: No such file"):
            await witness("tls", "localhost", port, ca_file="/none").keep(NOTE)
        assert len(collector.messages()) == 1
    async with serving(speaks_no_tls) as port:
        with pytest.raises(Unavailable, match="TLS failed"):
            await witness("tls", "localhost", port, ca_file=str(certificate)).keep(NOTE)


async def unwraps(stream: trio.abc.Stream) -> None:
    await Collector()(stream)
    assert isinstance(stream, trio.SSLStream)
    await stream.unwrap()


async def garbage(stream: trio.abc.Stream) -> None:
    assert isinstance(stream, trio.SSLStream)
    await stream.do_handshake()
    await stream.transport_stream.send_all(b"garbage" * 100)


@pytest.mark.parametrize(
    ("handler", "kept"),
    [(unwraps, True), (closes_at_once, False), (resets, False), (never_closes, False), (garbage, False),
     (talks_without_end, False)],
)  # fmt: skip
async def test_receivers_over_tls(
    certificate: Path, handler: Handler, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witness_syslog, "CLOSE_S", 0.3)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    async with serving(handler, tls) as port:
        with trio.move_on_after(3) as scope:  # who sends it bounds each attempt
            try:
                await witness("tls", "localhost", port, ca_file=str(certificate)).keep(NOTE)
            except Unavailable:
                assert not kept
            else:
                assert kept
        assert not (kept and scope.cancelled_caught)
