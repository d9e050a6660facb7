"""The same server behind TLS."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from ocid.ports.sessions import Kind
from ocid.streaming.server import Server
from tests.streaming.clients import dial, exec_spdy, exec_websocket, over_spdy
from tests.streaming.fake import FakeSessions, until
from tests.streaming.test_limits import connected

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl, which makes the certificate, is missing"
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost with its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(path.with_suffix(".key")), "-out", str(path)),
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )
    path.write_text(path.read_text() + path.with_suffix(".key").read_text())
    return path


@pytest.fixture
def secured(sessions: FakeSessions, certificate: Path) -> Server:
    """A server with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return Server(sessions, tls=context)


@pytest.fixture
async def base(secured: Server) -> AsyncIterator[str]:
    """The URL of that server on loopback."""
    async with trio.open_nursery() as nursery:
        host, port = await nursery.start(secured.serve)
        yield f"https://{host}:{port}"
        nursery.cancel_scope.cancel()


async def dial_tls(url: str, certificate: Path) -> tuple[trio.SSLStream[trio.SocketStream], str]:
    stream, path = await dial(url)
    context = ssl.create_default_context(cafile=str(certificate))
    return trio.SSLStream(stream, context, server_hostname="localhost", https_compatible=True), path


async def test_commands_run_behind_tls(base: str, sessions: FakeSessions, certificate: Path) -> None:
    data = bytes(range(256)) * 4096
    for run in (exec_spdy, exec_websocket):
        path = sessions.issue("cat", stdin=True, stdout=True, stderr=True)
        result = await run(*await dial_tls(base + path, certificate), stdin=data)
        assert result.stdout == data
        assert result.exit_code == 0


async def test_the_core_sees_a_client_go_behind_tls(base: str, sessions: FakeSessions, certificate: Path) -> None:
    """Also one whose input nobody takes."""
    for flood in (0, 100):
        path = sessions.issue("forward", Kind.FORWARD)
        async with over_spdy(*await dial_tls(base + path, certificate), "portforward.k8s.io") as client:
            headers = {"port": "80", "requestid": "1"}
            await client.create({"streamtype": "error"} | headers)
            stream = await client.create({"streamtype": "data"} | headers)
            with trio.move_on_after(0.3):
                for _ in range(flood):
                    await stream.write(bytes(1 << 20))
        await until(lambda: bool(sessions.gone))
        sessions.gone.clear()


async def test_a_client_without_tls_gets_nothing(autojump_clock: MockClock, secured: Server) -> None:
    async with connected(secured) as (stream, over):
        await stream.send_all(b"GET /exec/unknown HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert not (await stream.receive_some()).startswith(b"HTTP")
        await over.wait()


async def test_the_handshake_must_come_in_time(autojump_clock: MockClock, secured: Server) -> None:
    async with connected(secured) as (_, over):
        began = trio.current_time()
        await over.wait()
        assert trio.current_time() - began == pytest.approx(10)
