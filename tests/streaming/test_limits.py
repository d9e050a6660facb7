"""What a client may use up, on virtual time and in memory; and what gets an HTTP error."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair

from ocid.errors import EffectFailed
from ocid.ports.sessions import Grant, Kind, Outcome
from ocid.ports.streaming import Client, Output
from ocid.streaming.limits import Limits
from ocid.streaming.server import LAST_WORDS_S, Server
from tests.streaming.clients import (
    Refused,
    WebSocket,
    ask,
    control_frame,
    over_spdy,
    over_websocket,
    request,
)
from tests.streaming.fake import FakeSessions, serving

V4 = "v4.channel.k8s.io"
V5 = "v5.channel.k8s.io"
SPDY = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": V4}
WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": V5,
}


@asynccontextmanager
async def connected(server: Server, *, narrow: bool = False) -> AsyncIterator[tuple[trio.abc.Stream, trio.Event]]:
    """Connect in memory; yield the client's end, and what is set once the server has let go of the connection.

    *narrow*: nothing is held between the two, so a client that does not read is felt at once.
    """
    ours, theirs = lockstep_stream_pair() if narrow else memory_stream_pair()
    over = trio.Event()

    async def serve() -> None:
        await server.handle(theirs)
        over.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield ours, over
        await trio.aclose_forcefully(ours)
        with trio.fail_after(LAST_WORDS_S + 1):
            await over.wait()


@pytest.mark.parametrize("kind", [Kind.EXEC, Kind.ATTACH])
async def test_a_silent_client_is_gone_after_four_hours(
    autojump_clock: MockClock, sessions: FakeSessions, kind: Kind
) -> None:
    async with connected(Server(sessions)) as (stream, over):
        path = sessions.issue("wait", kind, stdin=True, stdout=True)
        async with over_websocket(stream, path, V5) as socket:
            assert await socket.receive() == (2, b"\x01")
            await trio.sleep(3 * 3600)
            await socket.send(9, b"still here")
            await trio.sleep(4 * 3600 - 1)
            assert sessions.gone == []
            await trio.sleep(2)
            assert sessions.gone == ["wait"]
            await over.wait()


async def test_a_silent_port_forward_is_over_after_four_hours(
    autojump_clock: MockClock, sessions: FakeSessions
) -> None:
    async with connected(Server(sessions)) as (stream, over):
        path = sessions.issue("forward", Kind.FORWARD)
        async with over_spdy(stream, path, "portforward.k8s.io"):
            await trio.sleep(4 * 3600 - 1)
            assert sessions.gone == []
            await trio.sleep(2)
            assert sessions.gone == ["forward"]
            await over.wait()


async def test_a_client_that_never_reads_is_silent_too(autojump_clock: MockClock, sessions: FakeSessions) -> None:
    async with connected(Server(sessions, limits=Limits(idle_s=60)), narrow=True) as (stream, _):
        path = sessions.issue("flood", stdout=True)
        async with over_websocket(stream, path, V4):
            await trio.sleep(59)
            written = sessions.written_bytes
            assert 0 < written < 1 << 20
            assert sessions.gone == []
            await trio.sleep(2)
            assert sessions.gone == ["flood"]


async def test_a_client_that_only_reads_is_not_silent(autojump_clock: MockClock, sessions: FakeSessions) -> None:
    async def clock(client: Client, grant: Grant) -> Outcome:
        for _ in range(20):
            await trio.sleep(50)
            await client.write(Output.STDOUT, b"tick")
        return Outcome(exit_code=0)

    sessions.commands["clock"] = clock
    async with (
        connected(Server(sessions, limits=Limits(idle_s=60))) as (stream, _),
        over_websocket(stream, sessions.issue("clock", stdout=True), V4) as socket,
    ):
        while await socket.receive() is not None:
            pass
        assert socket.close_code == 1000


async def test_a_write_ends_with_a_client_that_is_given_up(autojump_clock: MockClock, sessions: FakeSessions) -> None:
    ended = []

    async def writing(client: Client, grant: Grant) -> Outcome:
        with trio.CancelScope(shield=True):
            await client.write(Output.STDOUT, bytes(4 << 20))
        ended.append(trio.current_time())
        return Outcome(exit_code=0)

    sessions.commands["writing"] = writing
    async with (
        connected(Server(sessions, limits=Limits(idle_s=60)), narrow=True) as (stream, _),
        over_websocket(stream, sessions.issue("writing", stdout=True), V4),
    ):
        began = trio.current_time()
        await trio.sleep(61)
        assert ended == [pytest.approx(began + 60)]


async def test_output_for_a_client_that_is_gone_is_dropped(autojump_clock: MockClock, sessions: FakeSessions) -> None:
    written = []

    async def stubborn(client: Client, grant: Grant) -> Outcome:
        with trio.CancelScope(shield=True):  # does not end with its client
            await client.gone()
            for _ in range(100):
                await client.write(Output.STDOUT, bytes(1 << 20))
                written.append(1)
            assert await client.read_stdin() == b""
        return Outcome(exit_code=0)

    sessions.commands["stubborn"] = stubborn
    for carrier in (over_websocket, over_spdy):
        async with connected(Server(sessions)) as (stream, over):
            async with carrier(stream, sessions.issue("stubborn", stdin=True, stdout=True), V4) as client:
                if carrier is over_spdy:
                    for kind in ("error", "stdin", "stdout"):
                        await client.create({"streamtype": kind})  # type: ignore[attr-defined]
            with trio.fail_after(LAST_WORDS_S):
                await over.wait()
    assert len(written) == 200


async def test_streams_must_be_made_in_time(autojump_clock: MockClock, sessions: FakeSessions) -> None:
    async with connected(Server(sessions)) as (stream, over):
        path = sessions.issue("true", stdin=True, stdout=True)
        async with over_spdy(stream, path, V4) as client:
            error = await client.create({"streamtype": "error"})
            await client.create({"streamtype": "stdout"})
            began = trio.current_time()
            status = json.loads(await error.read_all())
            assert trio.current_time() - began == pytest.approx(30)
            assert "waiting for the client to make its streams: stdin" in status["message"]
            await over.wait()
            assert trio.current_time() - began == pytest.approx(30 + LAST_WORDS_S)
    assert sessions.done == []


async def test_half_a_forwarded_connection_is_given_up(autojump_clock: MockClock, sessions: FakeSessions) -> None:
    async with connected(Server(sessions)) as (stream, _):
        path = sessions.issue("forward", Kind.FORWARD)
        async with over_spdy(stream, path, "portforward.k8s.io") as client:
            half = await client.create({"streamtype": "data", "port": "80", "requestid": "1"})
            await trio.sleep(20)
            late = await client.create({"streamtype": "data", "port": "80", "requestid": "2"})
            await trio.sleep(11)
            assert (half.reset_status, late.reset_status) == (5, None)
            await trio.sleep(20)
            assert late.reset_status == 5


async def test_a_client_that_does_not_close_is_cut_off(autojump_clock: MockClock, sessions: FakeSessions) -> None:
    async with (
        connected(Server(sessions)) as (stream, over),
        over_websocket(stream, sessions.issue("true", stdout=True), V5) as socket,
    ):
        while await socket.receive() is not None:
            pass
        began = trio.current_time()
        while not over.is_set():
            await socket.send(9, b"")
            await trio.sleep(1)
        assert trio.current_time() - began == pytest.approx(900, abs=2)


async def test_a_flood_of_pings_without_reading_is_not_read(autojump_clock: MockClock, sessions: FakeSessions) -> None:
    async with connected(Server(sessions, limits=Limits(idle_s=60)), narrow=True) as (stream, over):
        async with over_spdy(stream, sessions.issue("wait", stdout=True), V4) as client:
            client.may_read = trio.Event()
            pings = control_frame(6, struct.pack(">I", 1)) * 1000
            sent = 0
            with trio.move_on_after(120), suppress(trio.BrokenResourceError):
                while not over.is_set():
                    await client.send(pings)
                    sent += len(pings)
        assert sent < 1 << 20


async def test_the_request_must_come_in_time(autojump_clock: MockClock, sessions: FakeSessions) -> None:
    for raw in (b"", b"GET /exec/x HTTP/1.1\r\nHost: x\r\n", request("/exec/x", SPDY | {"Content-Length": "0"})[:-2]):
        async with connected(Server(sessions)) as (stream, over):
            if raw:
                await stream.send_all(raw)
            began = trio.current_time()
            await over.wait()
            assert trio.current_time() - began == pytest.approx(10)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (request("/", {}), 404),
        (request("/exec", SPDY), 404),
        (request("/exec/", SPDY), 404),
        (request("/exec/a/b", SPDY), 404),
        (request("/logs/token", SPDY), 404),
        (request("/exec/" + "x" * 200, SPDY), 404),
        (request("/exec/unknown", SPDY, "POST"), 404),
        (request("/exec/unknown?command=ls", SPDY), 404),
        (request("http://localhost/exec/unknown", SPDY), 404),
        (request("http://[/exec/unknown", SPDY), 404),
        (request("/attach/unknown", WEBSOCKET), 404),
        (request("/exec/unknown", SPDY, "PUT"), 405),
        (request("/exec/unknown", SPDY, "HEAD"), 405),
        (request("/exec/unknown", WEBSOCKET, "POST"), 405),
        (request("/exec/unknown", {}), 426),
        (request("/exec/unknown", {"Connection": "Upgrade", "Upgrade": "h2c"}), 426),
        (request("/exec/unknown", {"Upgrade": "SPDY/3.1"}), 426),
        (request("/exec/unknown", WEBSOCKET | {"Sec-WebSocket-Version": "8"}), 426),
        (request("/exec/unknown", SPDY).replace(b"HTTP/1.1", b"HTTP/1.0"), 426),
        (request("/exec/unknown", WEBSOCKET | {"Sec-WebSocket-Key": "short"}), 400),
        (request("/exec/unknown", WEBSOCKET | {"Sec-WebSocket-Key": "!!!!"}), 400),
        (request("/exec/unknown", SPDY | {"Content-Length": "3"}, "POST") + b"abc", 400),
        (request("/exec/unknown", SPDY | {"Transfer-Encoding": "chunked"}, "POST"), 400),
        (request("/exec/unknown", SPDY | {"Content-Length": "x"}, "POST"), 400),
        (request("/exec/unknown", SPDY | {"X-Stream-Protocol-Version": "v9.channel.k8s.io"}), 403),
        (request("/exec/unknown", WEBSOCKET | {"Sec-WebSocket-Protocol": "chat"}), 403),
        (request("/exec/unknown", SPDY | {"X": "y" * 30_000}), 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /exec/x HTTP/1.1\r\n\r\n", 400),  # no Host
    ],
)
async def test_everything_else_gets_an_error_and_a_closed_connection(
    autojump_clock: MockClock, sessions: FakeSessions, raw: bytes, status: int
) -> None:
    async with connected(Server(sessions)) as (stream, over):
        with pytest.raises(Refused) as refused:
            await ask(stream, raw)
        assert refused.value.status == status
        assert refused.value.headers["connection"].startswith("close")
        expected = b"" if raw.startswith(b"HEAD") else refused.value.body.encode()
        assert refused.value.body.encode() == expected
        with trio.fail_after(2):
            await over.wait()
    assert "unknown" not in refused.value.body


async def test_connections_without_a_session_are_limited(autojump_clock: MockClock, sessions: FakeSessions) -> None:
    server = Server(sessions, limits=Limits(requests=2))
    async with connected(server), connected(server):
        await trio.testing.wait_all_tasks_blocked()
        async with connected(server) as (third, _):
            with pytest.raises(Refused, match="503"):
                await ask(third, request(sessions.issue("true", stdout=True), SPDY))
        await trio.sleep(11)
        async with connected(server) as (fourth, _):
            await ask(fourth, request(sessions.issue("true", stdout=True), SPDY))


async def test_sessions_are_limited(autojump_clock: MockClock, sessions: FakeSessions) -> None:
    server = Server(sessions, limits=Limits(sessions=1))
    async with connected(server) as (first, _):
        await ask(first, request(sessions.issue("wait", stdout=True), WEBSOCKET))
        async with connected(server) as (second, _):
            with pytest.raises(Refused, match="503"):
                await ask(second, request(sessions.issue("true", stdout=True), WEBSOCKET))


async def test_input_that_came_with_the_request_is_not_lost(autojump_clock: MockClock, sessions: FakeSessions) -> None:
    async with connected(Server(sessions)) as (stream, _):
        first = WebSocket(stream).frame(2, b"\0early") + WebSocket(stream).frame(2, b"\xff\0")
        path = sessions.issue("cat", stdin=True, stdout=True)
        _, _, rest = await ask(stream, request(path, WEBSOCKET) + first)
        socket = WebSocket(stream)
        socket._buffer += rest
        messages = []
        while (message := await socket.receive()) is not None:
            messages.append(message[1])
        assert messages == [b"\x01", b"\x01early", b'\x03{"metadata":{},"status":"Success"}']


async def test_an_address_that_is_taken_is_told() -> None:
    async with serving(FakeSessions()) as base:
        port = int(base.rpartition(":")[2])
        with pytest.raises(EffectFailed, match=rf"cannot listen on 127\.0\.0\.1 port {port}: .*choose another"):
            await Server(FakeSessions()).serve(port=port)
