"""Checkpoints over HTTP and OTLP, to servers on loopback that answer well, badly, never, or with our own token."""

from __future__ import annotations

import functools
import json
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from ocid_replay.witness import kept_in

from ocid.adapters import witness_http
from ocid.adapters.local import SystemClock
from ocid.adapters.witness_http import HttpWitness, Poster
from ocid.adapters.witness_otlp import OtlpWitness, logs_url
from ocid.adapters.witness_tls import read_token
from ocid.adapters.witnesses import witnesses_of
from ocid.config_witness import Push
from ocid.errors import EffectFailed, OcidError, Unavailable
from tests.adapters.certificates import certificate as certificate
from tests.fakes.witnesses import checkpoint

NOTE = checkpoint(4096)
TOKEN = "c4nary-T0ken.of_~the+witness/=="
Handler = Callable[[trio.abc.Stream], Awaitable[None]]


class Server:
    """Reads one request a connection, and sends what it is given."""

    def __init__(self, answer: bytes = b"HTTP/1.1 204 No Content\r\n\r\n") -> None:
        self.answer = answer
        self.requests: list[tuple[str, dict[str, str], bytes]] = []

    async def __call__(self, stream: trio.abc.Stream) -> None:
        raw = b""
        while b"\r\n\r\n" not in raw:
            raw += await stream.receive_some(4096)
        head, _, body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        while len(body) < int(headers["content-length"]):
            body += await stream.receive_some(4096)
        self.requests.append((first, headers, body))
        await stream.send_all(self.answer)


@asynccontextmanager
async def serving(handler: Handler, tls: Path | None = None) -> AsyncIterator[str]:
    """Serve each connection with *handler*, and yield the URL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if tls is not None:
        context.load_cert_chain(tls)

    async def one(stream: trio.SocketStream) -> None:
        served = stream if tls is None else trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            await handler(served)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(served)

    async with trio.open_nursery() as nursery:
        serve = functools.partial(trio.serve_tcp, one, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        yield f"{'http' if tls is None else 'https'}://localhost:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


@pytest.fixture
def token(tmp_path: Path) -> str:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return str(path)


def http(url: str, **further: str) -> HttpWitness:
    return HttpWitness("http", Poster(url, **further))


def otlp(url: str, **further: str) -> OtlpWitness:
    return OtlpWitness("otlp", Poster(logs_url(url), **further), SystemClock())


async def test_a_note_is_posted_as_it_is(token: str) -> None:
    server = Server()
    async with serving(server) as url:
        await http(f"{url}/checkpoints/node-7", token_file=token).keep(NOTE)
        await http(url).keep(NOTE)
    (first, headers, body), (second, bare, _) = server.requests
    assert (first, second) == ("POST /checkpoints/node-7 HTTP/1.1", "POST / HTTP/1.1")
    assert body.decode() == NOTE
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert "authorization" not in bare
    with pytest.raises(Unavailable, match="localhost"):
        await http(url).keep(NOTE)


@pytest.mark.parametrize("path", ["", "/", "/v1/logs", "/base/"])
async def test_a_collector_gets_one_log_record(token: str, path: str) -> None:
    server = Server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    async with serving(server) as url:
        await otlp(url + path, token_file=token).keep(NOTE)
    ((first, headers, body),) = server.requests
    assert first == f"POST {'/base' if path == '/base/' else ''}/v1/logs HTTP/1.1"
    assert headers["content-type"] == "application/json"
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert json.loads(body)["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]["eventName"] == "ocid.checkpoint"
    assert kept_in(body.decode() + "\n").notes == [NOTE]


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_2xx_is_success(status: int) -> None:
    async with serving(Server(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)) as url:
        await http(url).keep(NOTE)
        await otlp(url).keep(NOTE)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 413, 429, 500, 503])
async def test_everything_else_is_none_and_redirects_are_not_followed(status: int) -> None:
    elsewhere = Server()
    async with serving(elsewhere) as other:
        there = f"HTTP/1.1 {status} X\r\nLocation: {other}/\r\nContent-Length: 0\r\n\r\n"
        async with serving(Server(there.encode())) as url:
            for witness in (http(url), otlp(url)):
                with pytest.raises(EffectFailed, match=rf"{url} answered {status}") as caught:
                    await witness.keep(NOTE)
                assert ("redirect" in caught.value.message) == (status < 400)
    assert elsewhere.requests == []


@pytest.mark.parametrize(
    "answer",
    [b"<html>sign in</html>", b'{"partialSuccess":{"rejectedLogRecords":"1"}}', b"[]", b" " * 100_000],
)
async def test_a_collector_that_rejects_or_is_none(answer: bytes) -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer)
    async with serving(Server(raw)) as url:
        with pytest.raises(EffectFailed, match="rejected the record, or its answer is no OTLP"):
            await otlp(url).keep(NOTE)
        await http(url).keep(NOTE)  # the body means nothing there


# --- hostile servers -------------------------------------------------------------------------------------------------


async def says_nothing(stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


async def closes(stream: trio.abc.Stream) -> None:
    await stream.receive_some(10)


async def garbage(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"SSH-2.0-OpenSSH_9.2\r\n" * 10)


async def endless_headers(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\n")
    while True:
        await stream.send_all(b"X: y\r\n" * 1000)


async def endless_informational(stream: trio.abc.Stream) -> None:
    while True:
        await stream.send_all(b"HTTP/1.1 103 X\r\n\r\n" * 1000)


async def half_a_head(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Le")
    await trio.sleep_forever()


async def drips(stream: trio.abc.Stream) -> None:
    for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000:
        await stream.send_all(bytes([byte]))
        await trio.sleep(0.1)


HOSTILE = (says_nothing, closes, garbage, endless_headers, endless_informational, half_a_head)


@pytest.mark.parametrize("handler", HOSTILE)
@pytest.mark.parametrize("make", [http, otlp])
async def test_hostile_servers(
    make: Callable[[str], HttpWitness], handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witness_http, "STALL_S", 0.3)
    async with serving(handler) as url:
        with pytest.raises(Unavailable) as caught, trio.fail_after(5):
            await make(url).keep(NOTE)
        assert "localhost" in caught.value.message


async def test_an_endless_body_is_not_read() -> None:
    async def endless(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await stream.send_all(b"1\r\n \r\n" * 1000)

    async with serving(endless) as url:
        with trio.fail_after(5):
            await http(url).keep(NOTE)
            with pytest.raises(EffectFailed, match="no OTLP"):
                await otlp(url).keep(NOTE)


async def test_one_that_drips_can_be_given_up() -> None:
    async with serving(drips) as url:
        with trio.move_on_after(0.5) as scope:
            await http(url).keep(NOTE)
        assert scope.cancelled_caught


@pytest.mark.parametrize(
    "answer",
    [
        "%s\r\n\r\n",
        "HTTP/1.1 500 %s\r\n\r\n",
        "HTTP/1.1 200 OK\r\n%s\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n",
        "HTTP/1.1 302 X\r\nLocation: http://%s/\r\nContent-Length: 0\r\n\r\n",
        'HTTP/1.1 200 OK\r\n\r\n{"partialSuccess":{"rejectedLogRecords":1,"errorMessage":"%s"}}',
    ],
)
async def test_a_server_that_says_our_token_is_not_repeated(token: str, answer: str) -> None:
    async with serving(Server((answer % TOKEN).encode())) as url:
        for witness in (http(url, token_file=token), otlp(url, token_file=token)):
            said = ""
            try:
                await witness.keep(NOTE)
            except OcidError as error:
                said = repr(error)
            assert TOKEN not in said


# --- TLS and the token -----------------------------------------------------------------------------------------------


async def test_tls_with_an_authority_of_our_own(certificate: Path, token: str) -> None:
    server = Server()
    async with serving(server, certificate) as url:
        await http(url, ca_file=str(certificate), token_file=token).keep(NOTE)
        with pytest.raises(EffectFailed, match=r"not trusted.*ca_file"):
            await http(url, token_file=token).keep(NOTE)
        with pytest.raises(EffectFailed, match="not trusted"):
            await http(url.replace("localhost", "127.0.0.1"), ca_file=str(certificate), token_file=token).keep(NOTE)
    assert len(server.requests) == 1, "nobody got the token who is not trusted"


async def test_authorities_that_were_replaced_are_read_anew(certificate: Path, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    os.symlink("/etc/ssl/certs/ca-certificates.crt", ca_file)
    if not os.path.exists(ca_file):  # noqa: ASYNC240
        pytest.skip("this machine has no certificates of the public authorities")
    async with serving(Server(), certificate) as url:
        witness = http(url, ca_file=str(ca_file))
        with pytest.raises(EffectFailed, match="not trusted"):
            await witness.keep(NOTE)
        os.unlink(ca_file)
        os.symlink(certificate, ca_file)
        await witness.keep(NOTE)


async def test_a_token_is_read_each_time(token: str) -> None:
    server = Server()
    async with serving(server) as url:
        witness = http(url, token_file=token)
        await witness.keep(NOTE)
        with open(token, "w") as file:  # noqa: ASYNC230
            file.write("another")
        await witness.keep(NOTE)
        os.chmod(token, 0o640)
        with pytest.raises(EffectFailed, match="root alone can read"):
            await witness.keep(NOTE)
    assert [headers["authorization"] for _, headers, _ in server.requests] == [f"Bearer {TOKEN}", "Bearer another"]


@pytest.mark.parametrize("content", ["", "\n", "two words", "a\nb", "é", "x" * 9000, "a\r\nHost: evil", '"q"'])
def test_what_is_no_token_is_refused_and_not_quoted(token: str, content: str) -> None:
    Path(token).write_text(content)
    with pytest.raises(EffectFailed, match="holds no bearer token") as caught:
        read_token(Path(token))
    assert not content.strip() or content not in caught.value.message


def test_a_token_file_must_be_a_file(tmp_path: Path, token: str) -> None:
    link, fifo = tmp_path / "link", tmp_path / "fifo"
    link.symlink_to(token)
    os.mkfifo(fifo, 0o600)
    for path, said in ((link, "symbolic link"), (fifo, "must be a file"), (tmp_path / "none", "No such file")):
        with pytest.raises(EffectFailed, match=said):
            read_token(path)


def test_each_place_of_the_configuration_becomes_a_witness() -> None:
    places = (
        Push(kind="file", path="/mnt/kept"),
        Push(kind="syslog"),
        Push(kind="syslog", name="far", address="tls://h"),
        Push(kind="http", url="https://h/x", token_file="/t", ca_file="/c"),
        Push(kind="otlp", url="http://127.0.0.1:4318"),
    )
    found = witnesses_of(places, SystemClock())
    assert [(one.name, one.kind, one.keeps_all) for one in found] == [
        ("file", "file", True),
        ("syslog", "syslog", True),
        ("far", "syslog", True),
        ("http", "http", False),
        ("otlp", "otlp", False),
    ]
