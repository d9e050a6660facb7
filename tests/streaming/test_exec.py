"""Exec and attach over real sockets: what the client sees, and what the core sees of the client."""

from __future__ import annotations

import json
import struct

import pytest
import trio
import trio.testing

from ocid.ports.sessions import Grant, Kind, Outcome
from ocid.ports.streaming import Client, Output, Size
from tests.streaming.clients import (
    GOAWAY,
    Refused,
    Result,
    control_frame,
    dial,
    exec_spdy,
    exec_websocket,
    over_spdy,
    over_websocket,
)
from tests.streaming.fake import FakeSessions, until

SPDY = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")
WEBSOCKET = ("v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io")
CARRIERS = [("spdy", "v4.channel.k8s.io"), *(("websocket", name) for name in WEBSOCKET[:3])]


async def run(carrier: str, protocol: str, url: str, stdin: bytes | None = None) -> Result:
    stream, path = await dial(url)
    if carrier == "spdy":
        return await exec_spdy(stream, path, stdin=stdin, protocol=protocol)
    return await exec_websocket(stream, path, stdin=stdin, protocol=protocol)


@pytest.mark.parametrize("kind", [Kind.EXEC, Kind.ATTACH])
@pytest.mark.parametrize(("carrier", "protocol"), CARRIERS)
async def test_output_and_exit_code_reach_the_client(
    base: str, sessions: FakeSessions, carrier: str, protocol: str, kind: Kind
) -> None:
    result = await run(carrier, protocol, base + sessions.issue("hello", kind, stdout=True, stderr=True))

    assert (result.stdout, result.stderr) == (b"hello world", b"oops")
    assert result.exit_code == 3


@pytest.mark.parametrize(("carrier", "protocol"), CARRIERS)
async def test_success_is_told(base: str, sessions: FakeSessions, carrier: str, protocol: str) -> None:
    result = await run(carrier, protocol, base + sessions.issue("true", stdout=True, stderr=True))

    assert result.status == {"metadata": {}, "status": "Success"}


@pytest.mark.parametrize("name", ["refused", "bug"])
@pytest.mark.parametrize(("carrier", "protocol"), CARRIERS)
async def test_a_failure_is_told_with_its_cause(
    base: str, sessions: FakeSessions, carrier: str, protocol: str, name: str
) -> None:
    status = (await run(carrier, protocol, base + sessions.issue(name, stdout=True, stderr=True))).status

    words = {"refused": "no such program: 'sh'", "bug": "RuntimeError; this is a bug of ocid"}[name]
    assert status["status"] == "Failure"
    assert status["reason"] == "InternalError"
    assert status["code"] == 500
    assert status["message"] == f"Internal error occurred: {words}"
    assert status["details"]["causes"] == [{"message": words}]


@pytest.mark.parametrize(("carrier", "protocol"), [*(("spdy", p) for p in SPDY[1:]), ("websocket", WEBSOCKET[3])])
async def test_old_protocols_get_words(base: str, sessions: FakeSessions, carrier: str, protocol: str) -> None:
    failed = await run(carrier, protocol, base + sessions.issue("hello", stdout=True, stderr=True))
    good = await run(carrier, protocol, base + sessions.issue("true", stdout=True, stderr=True))

    assert failed.stdout == b"hello world"
    assert failed.error == b"command terminated with exit code 3"
    assert good.error == b""


async def test_a_client_that_names_no_protocol_gets_the_first(base: str, sessions: FakeSessions) -> None:
    stream, path = await dial(base + sessions.issue("hello", stdout=True, stderr=True))
    async with over_spdy(stream, path) as client:
        error = await client.create({"streamtype": "error"})
        stdout = await client.create({"streamtype": "stdout"})
        await client.create({"streamtype": "stderr"})
        assert client.protocol == ""
        assert await stdout.read_all() == b"hello world"
        assert await error.read_all() == b"command terminated with exit code 3"

    result = await run("websocket", "", base + sessions.issue("hello", stdout=True, stderr=True))
    assert result.error == b"command terminated with exit code 3"


async def test_of_what_the_client_offers_the_first_that_we_have_is_taken(base: str, sessions: FakeSessions) -> None:
    stream, path = await dial(base + sessions.issue("true", stdout=True))
    async with over_spdy(stream, path, "v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io") as client:
        assert client.protocol == "v4.channel.k8s.io"


@pytest.mark.parametrize(
    ("carrier", "protocol"), [*(("spdy", one) for one in SPDY), ("websocket", "v5.channel.k8s.io")]
)
async def test_the_end_of_input_reaches_the_core(
    base: str, sessions: FakeSessions, carrier: str, protocol: str
) -> None:
    url = base + sessions.issue("cat", stdin=True, stdout=True, stderr=True)

    assert (await run(carrier, protocol, url, stdin=b"some input" * 10_000)).stdout == b"some input" * 10_000
    assert sessions.done == ["cat"]


async def test_a_client_without_input_has_it_at_its_end(base: str, sessions: FakeSessions) -> None:
    for carrier, protocol in CARRIERS:
        url = base + sessions.issue("cat", stdout=True, stderr=True)
        assert (await run(carrier, protocol, url)).exit_code == 0


@pytest.mark.parametrize("split", [1, 3, 1000])
async def test_base64_input_may_come_in_any_pieces(base: str, sessions: FakeSessions, split: int) -> None:
    stream, path = await dial(base + sessions.issue("shell", stdin=True, stdout=True))
    async with over_websocket(stream, path, "v4.base64.channel.k8s.io") as socket:
        assert await socket.receive() == (1, b"1")  # says that the session is there
        text = b"0YWJj\r\nZA=="
        frame = socket.frame(1, text)
        for at in range(0, len(frame), split):
            await stream.send_all(frame[at : at + split])
            await trio.testing.wait_all_tasks_blocked()
        got = b""
        while len(got) < 8:
            message = await socket.receive()
            assert message is not None
            got += message[1][1:]
        assert got.replace(b"=", b"") == b"QUJDRA"
        padded = socket.frame(1, b"0QQ==QQ==")
        await stream.send_all(padded[:-3])
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(padded[-3:])
        while await socket.receive() is not None:
            pass
        assert socket.close_code == 1007


async def test_a_terminal_over_spdy_has_its_size(base: str, sessions: FakeSessions) -> None:
    stream, path = await dial(base + sessions.issue("shell", stdin=True, stdout=True, tty=True, stderr=True))
    async with over_spdy(stream, path, "v4.channel.k8s.io") as client:
        error = await client.create({"streamtype": "error"})
        stdin = await client.create({"streamtype": "stdin"})
        stdout = await client.create({"streamtype": "stdout"})
        resize = await client.create({"streamtype": "resize"})
        for size in ((80, 24), (132, 43)):
            await resize.write(json.dumps({"Width": size[0], "Height": size[1]}).encode() + b"\n")
            assert await stdout.read_until(b";") == b"%dx%d;" % size
        await resize.write(b'{"Width": 0, "Height": 0}\n{"Width":')  # nobody's size, and half of one
        await stdin.write(b"abc")
        assert await stdout.read_until(b"C") == b"ABC"
        await resize.write(b'1,"Height":2}')
        assert await stdout.read_until(b";") == b"1x2;"
        await stdin.write(b"exit")
        assert json.loads(await error.read_all())["status"] == "Success"
        assert stdin.reset_status == 5

    assert sessions.sizes == [Size(columns=80, rows=24), Size(columns=132, rows=43), Size(columns=1, rows=2)]


async def test_a_terminal_over_websocket_has_its_size(base: str, sessions: FakeSessions) -> None:
    stream, path = await dial(base + sessions.issue("shell", stdin=True, stdout=True, tty=True))
    async with over_websocket(stream, path, "v5.channel.k8s.io") as socket:
        assert await socket.receive() == (2, b"\x01")
        await socket.send(2, b'\x04{"Width":80,"Height":24}{"Width":100,"Height":30}')

        assert await socket.receive() == (2, b"\x01100x30;")
        await socket.send(2, b"\x04no json}")
        await socket.send(2, b"\0abc")
        assert await socket.receive() == (2, b"\x01ABC")
        await socket.send(2, b"\xff\x00")
        assert await socket.receive() == (2, b'\x03{"metadata":{},"status":"Success"}')
        assert await socket.receive() is None
        assert socket.close_code == 1000


async def test_a_token_is_good_once(base: str, sessions: FakeSessions) -> None:
    path = sessions.issue("true", stdout=True, stderr=True)
    await run(*CARRIERS[0], base + path)

    for carrier, protocol in CARRIERS[:2]:
        with pytest.raises(Refused) as refused:
            await run(carrier, protocol, base + path)
        assert refused.value.status == 404
        assert refused.value.body == "not found\n"


async def test_a_token_is_good_for_its_kind_only(base: str, sessions: FakeSessions) -> None:
    path = sessions.issue("true", Kind.ATTACH, stdout=True)

    with pytest.raises(Refused, match="404"):
        await run(*CARRIERS[0], base + path.replace("attach", "exec"))


@pytest.mark.parametrize("carrier", ["spdy", "websocket"])
async def test_the_core_sees_a_client_go(base: str, sessions: FakeSessions, carrier: str) -> None:
    stream, path = await dial(base + sessions.issue("wait", stdin=True, stdout=True))
    if carrier == "websocket":
        async with over_websocket(stream, path, "v5.channel.k8s.io"):
            pass
    else:
        async with over_spdy(stream, path, "v4.channel.k8s.io") as client:
            for kind in ("error", "stdin", "stdout"):
                await client.create({"streamtype": kind})
    await until(lambda: bool(sessions.done))
    assert sessions.gone == ["wait"]


async def test_the_core_sees_a_client_say_good_bye(base: str, sessions: FakeSessions) -> None:
    stream, path = await dial(base + sessions.issue("wait", stdout=True))
    async with over_spdy(stream, path, "v4.channel.k8s.io") as client:
        for kind in ("error", "stdout"):
            await client.create({"streamtype": kind})
        await client.send(control_frame(GOAWAY, struct.pack(">II", 0, 0)))
        with trio.fail_after(5):
            await client.closed.wait()
    assert sessions.gone == ["wait"]


async def test_the_core_sees_a_client_go_whose_input_nobody_takes(base: str, sessions: FakeSessions) -> None:
    """The socket is not read then, and only the kernel knows."""
    stream, path = await dial(base + sessions.issue("wait", stdin=True, stdout=True))
    async with over_websocket(stream, path, "v5.channel.k8s.io") as socket:
        with trio.move_on_after(0.5):
            while True:
                await socket.send(2, bytes(65536))
        await trio.aclose_forcefully(stream)
        await until(lambda: bool(sessions.done))
        assert sessions.gone == ["wait"]


async def test_pings_are_answered(base: str, sessions: FakeSessions) -> None:
    stream, path = await dial(base + sessions.issue("wait", stdout=True))
    async with over_spdy(stream, path, "v4.channel.k8s.io") as client:
        for kind in ("error", "stdout"):
            await client.create({"streamtype": kind})
        for number in (1, 3, 2, 5):  # an even number would be the answer to a ping of the server
            await client.ping(number)
        await until(lambda: len(client.pings) >= 3)
        assert client.pings == [1, 3, 5]

    stream, path = await dial(base + sessions.issue("wait", stdout=True))
    async with over_websocket(stream, path, "v5.channel.k8s.io") as socket:
        assert await socket.receive() == (2, b"\x01")
        await socket.send(9, b"there?")
        await socket.send_close(1001)
        assert await socket.receive() is None
        assert socket.pongs == [b"there?"]
        assert socket.close_code == 1001


async def test_streams_that_nobody_asked_for_carry_nothing(base: str, sessions: FakeSessions) -> None:
    stream, path = await dial(base + sessions.issue("cat", stdout=True))
    async with over_spdy(stream, path, "v4.channel.k8s.io") as client:
        stdin = await client.create({"streamtype": "stdin"})
        stderr = await client.create({"streamtype": "stderr"})
        await stdin.write(b"dropped")
        assert await stderr.read_all() == b""
        unknown = await client.create({"streamtype": "data"})
        assert unknown.reset_status == 1
        error = await client.create({"streamtype": "error"})
        again = await client.create({"streamtype": "error"})
        assert again.reset_status == 1
        stdout = await client.create({"streamtype": "stdout"})
        assert await stdout.read_all() == b""
        assert json.loads(await error.read_all())["status"] == "Success"
    assert sessions.stdin_bytes == 0


async def test_a_client_that_keeps_windows_is_served_within_them(base: str, sessions: FakeSessions) -> None:
    data = bytes(range(256)) * 8192  # 2 MiB
    stream, path = await dial(base + sessions.issue("cat", stdin=True, stdout=True, stderr=True))
    result = await exec_spdy(stream, path, stdin=data, windows=True)
    assert result.stdout == data

    stream, path = await dial(base + sessions.issue("large", stdout=True))
    async with over_spdy(stream, path, "v4.channel.k8s.io", windows=True) as client:
        await client.create({"streamtype": "error"})
        stdout = await client.create({"streamtype": "stdout"})
        await client.ping(1)
        await until(lambda: bool(client.pings) and stdout.received >= 65536)
        await trio.sleep(0.1)
        assert stdout.received == 65536  # nothing more until it is taken
        assert len(await stdout.read_all()) == 16 << 20


@pytest.mark.parametrize("carrier", ["spdy", "websocket"])
async def test_a_slow_reader_gets_all_of_it_and_little_is_held(base: str, sessions: FakeSessions, carrier: str) -> None:
    """Also the end, though the core was done with it long before."""
    stream, path = await dial(base + sessions.issue("large", stdout=True))
    got = 0
    if carrier == "spdy":
        async with over_spdy(stream, path, "v4.channel.k8s.io") as client:
            error = await client.create({"streamtype": "error"})
            client.may_read = trio.Event()
            stdout = await client.create({"streamtype": "stdout"}, wait=False)
            held = await blocked(sessions)
            client.may_read.set()
            got = len(await stdout.read_all())
            status = json.loads(await error.read_all())
    else:
        async with over_websocket(stream, path, "v4.channel.k8s.io") as socket:
            held = await blocked(sessions)
            while (message := await socket.receive()) is not None:
                if message[1][0] == 1:
                    got += len(message[1]) - 1
                else:
                    status = json.loads(message[1][1:])
            assert socket.close_code == 1000

    assert got == 16 << 20
    assert status["status"] == "Success"
    assert held < 12 << 20  # what the kernel takes for a connection that nobody reads, and half a mebibyte of ours


async def blocked(sessions: FakeSessions) -> int:
    """Wait until the core can write no more, and return how much it wrote."""
    before = -1
    while before != sessions.written_bytes or not before:
        before = sessions.written_bytes
        await trio.sleep(0.3)
    return before


async def test_a_reader_that_stops_stops_only_its_own_writer(base: str, sessions: FakeSessions) -> None:
    stuck = await dial(base + sessions.issue("flood", stdout=True))
    async with over_websocket(*stuck, "v4.channel.k8s.io"):
        written = await blocked(sessions)
        assert written < 12 << 20

        result = await run(*CARRIERS[0], base + sessions.issue("cat", stdin=True, stdout=True, stderr=True), b"x")
        assert result.stdout == b"x"


async def test_input_still_flows_while_the_client_reads_no_output(base: str, sessions: FakeSessions) -> None:
    async def both(client: Client, grant: Grant) -> Outcome:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sessions._flood, client, grant)
            await sessions._sink(client, grant)
            nursery.cancel_scope.cancel()
        return Outcome(exit_code=0)

    sessions.commands["both"] = both
    stream, path = await dial(base + sessions.issue("both", stdin=True, stdout=True))
    async with over_websocket(stream, path, "v5.channel.k8s.io") as socket:
        await blocked(sessions)
        for _ in range(64):
            await socket.send(2, b"\0" + bytes(65536))
        await socket.send(2, b"\xff\0")
        await until(lambda: sessions.stdin_bytes >= 4 << 20)
        while await socket.receive() is not None:
            pass
        assert socket.close_code == 1000


@pytest.mark.parametrize("carrier", ["spdy", "websocket"])
async def test_a_flood_of_input_that_nobody_takes_is_not_read(base: str, sessions: FakeSessions, carrier: str) -> None:
    stream, path = await dial(base + sessions.issue("wait", stdin=True, stdout=True))
    sent = 0
    if carrier == "spdy":
        async with over_spdy(stream, path, "v4.channel.k8s.io") as client:
            for kind in ("error", "stdout"):
                await client.create({"streamtype": kind})
            stdin = await client.create({"streamtype": "stdin"})
            with trio.move_on_after(1):
                while sent < 64 << 20:
                    await stdin.write(bytes(32768))
                    sent += 32768
    else:
        async with over_websocket(stream, path, "v5.channel.k8s.io") as socket:
            with trio.move_on_after(1):
                while sent < 64 << 20:
                    await socket.send(2, b"\0" + bytes(65535))
                    sent += 65535

    assert sent < 16 << 20


@pytest.mark.parametrize(("carrier", "protocol"), CARRIERS[:2])
async def test_input_that_comes_after_the_end_is_dropped(
    base: str, sessions: FakeSessions, carrier: str, protocol: str
) -> None:
    """Or else the end would never reach a client that goes on writing."""
    url = base + sessions.issue("true", stdin=True, stdout=True, stderr=True)

    assert (await run(carrier, protocol, url, stdin=bytes(32 << 20))).exit_code == 0


async def test_a_cancelled_write_leaves_no_half_frame(base: str, sessions: FakeSessions) -> None:
    async def impatient(client: Client, grant: Grant) -> Outcome:
        written = 0
        while written < 4 << 20:
            with trio.move_on_after(0.001):
                await client.write(Output.STDOUT, bytes(256 << 10))
                written += 256 << 10
        return Outcome(exit_code=7)

    sessions.commands["impatient"] = impatient
    for carrier, protocol in CARRIERS[:2]:
        result = await run(carrier, protocol, base + sessions.issue("impatient", stdout=True, stderr=True))
        assert result.exit_code == 7
        assert len(result.stdout) >= 4 << 20
