"""Port-forward over real sockets: many connections in one, in all three ways to carry them."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from ocid.ports.sessions import Kind
from ocid.ports.streaming import Tunnel as CoreTunnel
from ocid.streaming.limits import Limits
from tests.streaming.clients import (
    Refused,
    SpdyClient,
    SpdyStream,
    Tunnel,
    dial,
    over_spdy,
    over_websocket,
    running,
)
from tests.streaming.fake import CLOSED_PORT, FakeSessions, serving, until

TUNNEL = "SPDY/3.1+portforward.k8s.io"
WAYS = ["spdy", "tunnel"]


@asynccontextmanager
async def forwarding(base: str, sessions: FakeSessions, way: str, **wanted: object) -> AsyncIterator[SpdyClient]:
    """Open a port-forward as kubectl does, directly or in a WebSocket."""
    stream, path = await dial(base + sessions.issue("forward", Kind.FORWARD, **wanted))
    if way == "spdy":
        async with over_spdy(stream, path, "portforward.k8s.io") as client:
            yield client
    else:
        async with over_websocket(stream, path, TUNNEL) as socket:
            assert socket.protocol == TUNNEL
            client = SpdyClient(Tunnel(socket))
            async with running(client):
                yield client


async def pair(client: SpdyClient, request: int | None, port: int = 80) -> tuple[SpdyStream, SpdyStream]:
    """Open a connection; return its streams for data and for the error."""
    headers = {"port": str(port)} | ({} if request is None else {"requestid": str(request)})
    error = await client.create({"streamtype": "error"} | headers)
    data = await client.create({"streamtype": "data"} | headers)
    return data, error


async def exchange(client: SpdyClient, request: int, size: int) -> None:
    """Send *size* bytes to an echo, and read them back."""
    data, error = await pair(client, request)
    await error.close()
    sent = os.urandom(16) * (size // 16)
    got: list[bytes] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send, data, sent)
        got.append(await data.read_all())
    assert got == [sent]
    assert await error.read_all() == b""


async def _send(stream: SpdyStream, data: bytes) -> None:
    await stream.write(data)
    await stream.close()


@pytest.mark.parametrize("way", WAYS)
async def test_many_connections_go_through_at_once(base: str, sessions: FakeSessions, way: str) -> None:
    async with forwarding(base, sessions, way) as client, trio.open_nursery() as nursery:
        for request in range(100):
            nursery.start_soon(exchange, client, request, 64 << 10)


@pytest.mark.parametrize("way", WAYS)
async def test_connections_come_and_go(base: str, sessions: FakeSessions, way: str) -> None:
    async with forwarding(base, sessions, way) as client:
        for request in range(50):
            await exchange(client, request, 1600)
            client.streams.clear()
    await until(lambda: bool(sessions.gone))


@pytest.mark.parametrize("way", WAYS)
async def test_a_refused_connection_tells_why_and_leaves_the_others(
    base: str, sessions: FakeSessions, way: str
) -> None:
    async with forwarding(base, sessions, way) as client:
        good, _ = await pair(client, 1)
        bad, error = await pair(client, 2, CLOSED_PORT)

        assert await error.read_all() == b"cannot connect to port 9999: connection refused"
        assert await bad.read_all() == b""
        assert bad.reset_status == 5
        await good.write(b"still here")
        assert await good.read() == b"still here"


async def test_clients_that_number_no_requests_are_served(base: str, sessions: FakeSessions) -> None:
    async with forwarding(base, sessions, "spdy") as client:
        for _ in range(2):
            data, _ = await pair(client, None)
            await data.write(b"x")
            assert await data.read() == b"x"


@pytest.mark.parametrize(
    "headers",
    [
        {"streamtype": "data"},
        {"streamtype": "data", "port": "0"},
        {"streamtype": "data", "port": "65536"},
        {"streamtype": "data", "port": "-1"},
        {"streamtype": "data", "port": "٣"},
        {"streamtype": "stdin", "port": "80"},
        {"streamtype": "data", "port": "80", "requestid": "x" * 65},
    ],
)
async def test_streams_that_make_no_sense_are_refused(
    base: str, sessions: FakeSessions, headers: dict[str, str]
) -> None:
    async with forwarding(base, sessions, "spdy") as client:
        stream = await client.create(headers)
        assert stream.reset_status == 1
        await exchange(client, 1, 16)


async def test_the_halves_of_a_connection_must_fit(base: str, sessions: FakeSessions) -> None:
    async with forwarding(base, sessions, "spdy") as client:
        await client.create({"streamtype": "error", "port": "80", "requestid": "1"})
        for headers in ({"streamtype": "error", "port": "80"}, {"streamtype": "data", "port": "81"}):
            assert (await client.create(headers | {"requestid": "1"})).reset_status == 1
        data = await client.create({"streamtype": "data", "port": "80", "requestid": "1"})
        await data.write(b"x")
        assert await data.read() == b"x"


async def test_ports_that_the_rpc_named_are_the_only_ones(base: str, sessions: FakeSessions) -> None:
    async with forwarding(base, sessions, "spdy", ports=(80, 81)) as client:
        await exchange(client, 1, 16)
        refused = await client.create({"streamtype": "error", "port": "82", "requestid": "2"})
        assert refused.reset_status == 1


async def test_more_connections_than_the_limit_are_refused(sessions: FakeSessions) -> None:
    async with (
        serving(sessions, Limits(streams=8)) as base,
        forwarding(base, sessions, "spdy") as client,
    ):
        open_ones = [await pair(client, request) for request in range(4)]
        refused, _ = await pair(client, 4)
        assert refused.reset_status == 3
        data, error = open_ones[0]
        for stream in (data, error):
            await stream.close()
        assert await data.read_all() == b""
        await exchange(client, 5, 16)


async def test_connections_that_the_core_still_holds_count_though_the_client_gave_them_up(
    sessions: FakeSessions,
) -> None:
    async def hold(tunnel: CoreTunnel) -> None:
        await trio.sleep_forever()

    sessions.connect = hold
    async with (
        serving(sessions, Limits(streams=8)) as base,
        trio.open_nursery() as nursery,
    ):
        async with forwarding(base, sessions, "spdy") as client:
            for request in range(4):
                for stream in await pair(client, request):
                    await stream.reset()
            refused = await client.create({"streamtype": "error", "port": "80", "requestid": "9"})
            assert refused.reset_status == 3
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("way", WAYS)
async def test_a_write_to_a_connection_that_is_gone_breaks(base: str, sessions: FakeSessions, way: str) -> None:
    broken = []

    async def write(tunnel: CoreTunnel) -> None:
        assert await tunnel.read() == b"go"
        try:
            while True:
                await tunnel.write(bytes(65536))
                await trio.sleep(0.01)
        except BrokenPipeError as error:
            broken.append(str(error))
        await tunnel.close()

    sessions.connect = write
    async with forwarding(base, sessions, way) as client:
        data, _ = await pair(client, 1)
        await data.write(b"go")
        await data.read()
        await data.reset()
        await until(lambda: bool(broken))
    assert broken == ["forwarded connection to port 80 is gone"]


@pytest.mark.parametrize("ends", ["connection", "client"])
async def test_a_write_that_waits_for_a_window_breaks_with_what_ends(
    base: str, sessions: FakeSessions, ends: str
) -> None:
    broken = []

    async def write(tunnel: CoreTunnel) -> None:
        try:
            await tunnel.write(bytes(1 << 20))
        except BrokenPipeError:
            broken.append(tunnel.port)

    sessions.connect = write
    stream, path = await dial(base + sessions.issue("forward", Kind.FORWARD))
    async with over_spdy(stream, path, "portforward.k8s.io", windows=True) as client:
        data, _ = await pair(client, 1)
        await until(lambda: data.received == 65536)
        assert broken == []
        if ends == "connection":
            await data.reset()
            await until(lambda: bool(broken))
            assert sessions.gone == []
    await until(lambda: bool(broken))


async def test_a_connection_nobody_reads_lets_the_others_read(base: str, sessions: FakeSessions) -> None:
    """Within the session's limit; beyond it the client is not read at all, as it keeps to no windows."""

    async def pick(tunnel: CoreTunnel) -> None:
        if tunnel.port == 81:
            await trio.sleep_forever()
        while data := await tunnel.read():
            await tunnel.write(data)
        await tunnel.close()

    sessions.connect = pick
    async with serving(sessions) as own, trio.open_nursery() as nursery:
        async with forwarding(own, sessions, "spdy") as client:
            stuck, _ = await pair(client, 1, 81)
            await stuck.write(bytes(500_000))
            await exchange(client, 2, 1 << 20)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("protocol", ["v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""])
async def test_the_old_way_over_websocket(base: str, sessions: FakeSessions, protocol: str) -> None:
    stream, path = await dial(base + sessions.issue("forward", Kind.FORWARD, ports=(80, CLOSED_PORT)))
    encoded = "base64" in protocol
    async with over_websocket(stream, path, *([protocol] if protocol else [])) as socket:

        async def receive() -> tuple[int, bytes]:
            message = await socket.receive()
            assert message is not None
            assert message[0] == (1 if encoded else 2)
            number = message[1][0] - (48 if encoded else 0)
            return number, base64.b64decode(message[1][1:]) if encoded else message[1][1:]

        assert [await receive() for _ in range(4)] == [
            (0, b"\x50\0"),
            (1, b"\x50\0"),
            (2, b"\x0f\x27"),
            (3, b"\x0f\x27"),
        ]
        await socket.send(*((1, b"0aGVsbG8=") if encoded else (2, b"\0hello")))
        got = {await receive(), await receive()}
        assert got == {(0, b"hello"), (3, b"cannot connect to port 9999: connection refused")}
        await socket.send_close()
        assert await socket.receive() is None


async def test_the_old_way_is_over_with_its_last_connection(base: str, sessions: FakeSessions) -> None:
    for ports, heads in (((CLOSED_PORT,), 2), ((), 0)):
        stream, path = await dial(base + sessions.issue("forward", Kind.FORWARD, ports=ports))
        async with over_websocket(stream, path, "v4.channel.k8s.io") as socket:
            messages = []
            with trio.fail_after(5):
                while (message := await socket.receive()) is not None:
                    messages.append(message[1])
            assert len(messages) == heads + len(ports)
            assert socket.close_code == 1000


async def test_other_protocols_are_refused(base: str, sessions: FakeSessions) -> None:
    path = sessions.issue("forward", Kind.FORWARD)
    for protocols in ((), ("v4.channel.k8s.io",)):
        stream, _ = await dial(base + path)
        with pytest.raises(Refused, match="403") as refused:
            async with over_spdy(stream, path, *protocols):
                raise AssertionError("it was accepted")
        assert refused.value.headers["x-accepted-stream-protocol-versions"] == "portforward.k8s.io"
    async with over_spdy((await dial(base))[0], path, "portforward.k8s.io") as client:  # the token was not spent
        await exchange(client, 1, 16)
