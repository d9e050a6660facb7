"""Hostile clients of the whole HTTP server, on loopback: each loses its own connection, a session beside goes on."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from ocid.ports.sessions import Kind
from ocid.streaming import server
from ocid.streaming.limits import Limits
from ocid.streaming.server import Server
from tests.streaming.clients import WebSocket, over_websocket, request
from tests.streaming.fake import FakeSessions, until
from tests.streaming.test_hostile import FORWARD, SAID, TUNNEL, nothing_logged
from tests.streaming.test_limits import SPDY, WEBSOCKET

REQUEST_S, LAST_WORDS_S = 0.3, 0.3
BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)
WAYS = [(Kind.EXEC, SPDY), (Kind.EXEC, WEBSOCKET), (Kind.FORWARD, FORWARD), (Kind.FORWARD, TUNNEL)]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have clients that are given up cut off soon."""
    monkeypatch.setattr(server, "LAST_WORDS_S", LAST_WORDS_S)


class Place:
    """A server, its core, and where it listens."""

    def __init__(self) -> None:
        self.sessions = FakeSessions()
        self.server = Server(self.sessions, limits=Limits(request_s=REQUEST_S, creation_s=REQUEST_S, requests=1000))
        self.address = ("", 0)

    async def dial(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(*self.address)

    def good(self, kind: Kind = Kind.EXEC, headers: dict[str, str] = WEBSOCKET) -> bytes:
        """A request with a token of its own."""
        path = self.sessions.issue("cat", kind, stdin=True, stdout=True, stderr=True, ports=(80, 81))
        return request(path, headers)

    async def lonely(self) -> bool:
        """Whether the server has only the one good session left, soon."""
        await until(lambda: (self.server._requests.now, self.server._running.now) == (0, 1))
        return True


@asynccontextmanager
async def besieged() -> AsyncIterator[Place]:
    """A server with one good session, which must work before and after; the server has nothing to say."""
    with nothing_logged():
        place = Place()
        async with trio.open_nursery() as nursery:
            place.address = await nursery.start(place.server.serve)
            path = place.sessions.issue("cat", stdin=True, stdout=True)
            async with over_websocket(await place.dial(), path, "v5.channel.k8s.io") as good:
                assert await good.receive() == (2, b"\x01")  # the server opens each output with nothing in it
                await echo(good, b"before")
                yield place
                await echo(good, b"after")
                await place.lonely()
            nursery.cancel_scope.cancel()


async def echo(client: WebSocket, data: bytes) -> None:
    with trio.fail_after(5):
        await client.send(2, b"\0" + data)
        assert await client.receive() == (2, b"\x01" + data)


def reset(stream: trio.SocketStream) -> None:
    """Close at once, with an RST."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def listen(stream: trio.abc.Stream) -> bytes:
    """Read all that the server has to say."""
    said = b""
    with contextlib.suppress(*BROKEN):
        while data := await stream.receive_some():
            said += data
    return said


async def flood(stream: trio.abc.Stream, first: bytes, piece: bytes) -> None:
    """Send *first* and then *piece* again and again until the server lets go, which it must do soon."""
    began = trio.current_time()
    with contextlib.suppress(*BROKEN):
        await stream.send_all(first)
        while trio.current_time() - began < REQUEST_S + LAST_WORDS_S + 3:
            await stream.send_all(piece)
            await trio.sleep(0.02)
        raise AssertionError("the server goes on taking it")


async def at_once(count: int, attack: Callable[[int], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(attack, number)


# --- requests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["closed", "reset", "finished"])
async def test_requests_cut_short_anywhere(end: str) -> None:
    async with besieged() as place:
        whole = place.good()

        async def attack(number: int) -> None:
            stream = await place.dial()
            await stream.send_all(whole[: number * 3])
            if end == "reset":
                reset(stream)
            elif end == "finished":
                await stream.send_eof()
                assert not (await listen(stream)).startswith(b"HTTP/1.1 101")
            await stream.aclose()

        await at_once(len(whole) // 3, attack)
        await place.lonely()


async def test_slow_requests_are_given_up_and_cost_only_themselves() -> None:
    async with besieged() as place:

        async def attack(number: int) -> None:
            async with await place.dial() as stream:
                began = trio.current_time()
                with contextlib.suppress(*BROKEN):
                    for byte in place.good() * 10:
                        await stream.send_all(bytes((byte,)))
                        await trio.sleep(REQUEST_S / (5 + number % 40))
                assert await listen(stream) == b""
                assert trio.current_time() - began < REQUEST_S + 5

        await at_once(60, attack)


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (b"", b"x" * 65536),
        (b"GET /exec/x HTTP/1.1\r\n", b"A: b\r\n" * 10_000),
        (b"GET /exec/x HTTP/1.1\r\nA: ", b"x" * 65536),
        (b"GET /exec/x HTTP/1.1\r\nHost: x\r\nA: b\r\n", b" folded\r\n" * 7_000),
        (b"GET /" + b"x" * 10_000, b"x" * 65536),
        (b"POST /exec/x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", b"x" * 65536),
        (b"POST /exec/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 10_000),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", bytes(65536)),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes(65536)),
    ],
    ids=["no end", "headers", "one header", "folds", "path", "body", "chunks", "TLS", "HTTP/2"],
)
async def test_heads_and_bodies_without_an_end(first: bytes, piece: bytes) -> None:
    async with besieged() as place:

        async def attack(number: int) -> None:
            async with await place.dial() as stream:
                await flood(stream, first, piece)

        await at_once(4, attack)


async def test_answers_that_nobody_reads() -> None:
    async with besieged() as place:

        async def attack(number: int) -> None:
            stream = await place.dial()
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            await stream.send_all(request("/", {}) * 3)
            await place.lonely()
            reset(stream)

        await at_once(30, attack)


# --- sessions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "headers"), WAYS, ids=["spdy", "websocket", "spdy forward", "tunnel"])
async def test_sessions_of_noise_and_of_what_is_cut_short(kind: Kind, headers: dict[str, str]) -> None:
    carrier = "SPDY" if headers["Upgrade"].startswith("SPDY") else "websocket"
    whole = [*SAID[carrier], os.urandom(3000)]

    async with besieged() as place:

        async def attack(number: int) -> None:
            dice = random.Random(number)
            raw = dice.choice(whole)
            stream = await place.dial()
            await stream.send_all(place.good(kind, headers))
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
            with contextlib.suppress(*BROKEN):
                await stream.send_all(raw[: dice.randrange(len(raw))])
            if number % 2:
                reset(stream)
            await stream.aclose()

        await at_once(100, attack)
        await place.lonely()


HUGE = {
    "spdy": (Kind.EXEC, SPDY, struct.pack(">II", 1, 0xFFFFFF)),
    "spdy control": (Kind.EXEC, SPDY, struct.pack(">HHI", 0x8003, 1, 0xFFFFFF)),
    "spdy settings": (Kind.FORWARD, FORWARD, struct.pack(">HHII", 0x8003, 4, 0xFFFFFF, 2**32 - 1)),
    "websocket": (Kind.EXEC, WEBSOCKET, b"\x82\xff" + struct.pack(">Q", 2**63 - 1) + b"\0\0\0\0"),
    "websocket ping": (Kind.EXEC, WEBSOCKET, b"\x89\xfe\xff\xff\0\0\0\0"),
    "tunnel": (Kind.FORWARD, TUNNEL, b"\x82\xff" + struct.pack(">Q", 2**40) + b"\0\0\0\0"),
}


@pytest.mark.parametrize("name", HUGE)
async def test_frames_that_announce_more_than_there_can_be(name: str) -> None:
    kind, headers, head = HUGE[name]
    async with besieged() as place:

        async def attack(number: int) -> None:
            async with await place.dial() as stream:
                await stream.send_all(place.good(kind, headers))
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
                await flood(stream, head, bytes(65536))

        await at_once(3, attack)


async def test_streams_that_come_drop_by_drop_are_given_up() -> None:
    """The streams of an exec must be made in time, however busy the connection is."""
    async with besieged() as place:

        async def attack(number: int) -> None:
            async with await place.dial() as stream:
                await stream.send_all(place.good(Kind.EXEC, SPDY))
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
                began = trio.current_time()
                with contextlib.suppress(*BROKEN):
                    for byte in SAID["SPDY"][1]:
                        await stream.send_all(bytes((byte,)))
                        await trio.sleep(REQUEST_S / 10)
                await listen(stream)
                assert trio.current_time() - began < REQUEST_S + 6

        await at_once(20, attack)
