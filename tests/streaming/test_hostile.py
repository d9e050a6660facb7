"""Truncated and hostile clients against the whole server, in memory: they lose their connection, nothing else does."""

from __future__ import annotations

import itertools
import logging
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
from hypothesis import given, strategies as st
from trio.testing import MockClock, memory_stream_pair

from ocid.ports.sessions import Kind
from ocid.streaming.limits import Limits
from ocid.streaming.pipe import Pipe
from ocid.streaming.server import Server
from ocid.streaming.terminal import Terminal
from tests.streaming import test_spdy, test_websocket
from tests.streaming.clients import request
from tests.streaming.fake import FakeSessions
from tests.streaming.test_limits import SPDY, WEBSOCKET

FORWARD = SPDY | {"X-Stream-Protocol-Version": "portforward.k8s.io"}
TUNNEL = WEBSOCKET | {"Sec-WebSocket-Protocol": "SPDY/3.1+portforward.k8s.io"}
BASE64 = WEBSOCKET | {"Sec-WebSocket-Protocol": "v4.base64.channel.k8s.io"}
OLD_FORWARD = WEBSOCKET | {"Sec-WebSocket-Protocol": "v4.channel.k8s.io"}
WAYS = [
    (Kind.EXEC, SPDY),
    (Kind.EXEC, WEBSOCKET),
    (Kind.EXEC, BASE64),
    (Kind.FORWARD, FORWARD),
    (Kind.FORWARD, TUNNEL),
    (Kind.FORWARD, OLD_FORWARD),
]


def tunnelled(raw: bytes) -> bytes:
    return test_websocket.frame(2, raw[:100]) + test_websocket.frame(2, raw[100:])


def commands() -> bytes:
    """An exec over SPDY with all its streams, some input and its end."""
    peer = test_spdy.Peer()
    kinds = ("error", "stdin", "stdout", "stderr", "resize")
    opened = b"".join(peer.syn(2 * at + 1, {"streamtype": kind}) for at, kind in enumerate(kinds))
    size = test_spdy.data_frame(9, b'{"Width":80,"Height":24}')
    return opened + size + test_spdy.data_frame(3, b"input") + test_spdy.data_frame(3, b"", fin=True)


def forwards() -> bytes:
    """Two forwarded connections."""
    peer = test_spdy.Peer()
    raw = b""
    for at in range(2):
        headers = {"port": "80", "requestid": str(at)}
        raw += peer.syn(4 * at + 1, {"streamtype": "error"} | headers)
        raw += peer.syn(4 * at + 3, {"streamtype": "data"} | headers)
        raw += test_spdy.data_frame(4 * at + 3, b"hello", fin=True)
    return raw


SAID = {
    "SPDY": [test_spdy.conversation(), commands(), forwards()],
    "websocket": [test_websocket.conversation(), tunnelled(forwards()), tunnelled(test_spdy.conversation())],
}


@contextmanager
def nothing_logged() -> Iterator[None]:
    """Find that the server has nothing to say."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("ocid")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    assert [record.getMessage() for record in records] == []


def survive(kind: Kind, headers: dict[str, str], pieces: list[bytes]) -> None:
    """Say *pieces* to a server after a good request, and go away; then see that it is well."""

    async def main() -> None:
        sessions = FakeSessions()
        server = Server(sessions, limits=Limits(input_bytes=4096, output_bytes=4096))
        path = sessions.issue("cat", kind, stdin=True, stdout=True, stderr=True, tty=True, ports=(80, 81))
        await talk(server, [request(path, headers), *pieces])
        assert server._running.now == server._requests.now == 0
        path = sessions.issue("true", stdout=True)
        assert (await talk(server, [request(path, WEBSOCKET)])).endswith(
            b'{"metadata":{},"status":"Success"}\x88\x02\x03\xe8'
        )

    with nothing_logged():
        trio.run(main, clock=MockClock(autojump_threshold=0))


async def talk(server: Server, pieces: list[bytes]) -> bytes:
    """Send *pieces*, wait until nothing more happens, go away; return what the server said."""
    ours, theirs = memory_stream_pair()
    said = bytearray()

    async def listen() -> None:
        while data := await ours.receive_some():
            said.extend(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.handle, theirs)
        nursery.start_soon(listen)
        for piece in pieces:
            try:
                await ours.send_all(piece)
            except trio.BrokenResourceError:
                break
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(0.1)
        await ours.send_eof()
    return bytes(said)


def pieces_of(raw: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    return [raw[one:two] for one, two in itertools.pairwise(edges)]


CUTS = st.lists(st.integers(0, 2000), max_size=6)


@pytest.mark.parametrize(("kind", "headers"), WAYS)
@given(raw=st.binary(min_size=1, max_size=600), cuts=CUTS)
def test_random_bytes(kind: Kind, headers: dict[str, str], raw: bytes, cuts: list[int]) -> None:
    survive(kind, headers, pieces_of(raw, cuts))


@pytest.mark.parametrize(("kind", "headers"), WAYS)
@given(data=st.data(), changes=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=5), cuts=CUTS)
def test_sessions_with_changes(
    kind: Kind,
    headers: dict[str, str],
    data: st.DataObject,
    changes: list[tuple[int, int]],
    cuts: list[int],
) -> None:
    carrier = "SPDY" if headers["Upgrade"].startswith("SPDY") else "websocket"
    raw = bytearray(data.draw(st.sampled_from(SAID[carrier])))
    for at, byte in changes:
        raw[at % len(raw)] = byte
    survive(kind, headers, pieces_of(bytes(raw[: data.draw(st.integers(1, len(raw)))]), cuts))


@given(raw=st.binary(max_size=300))
def test_requests_of_random_bytes(raw: bytes) -> None:
    async def main() -> None:
        server = Server(FakeSessions())
        said = await talk(server, [raw, b"\r\n\r\n"])
        assert not said or said.startswith(b"HTTP/1.1 4")

    with nothing_logged():
        trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_a_pipe_of_single_bytes_weighs_what_it_holds() -> None:
    taken: list[int] = []
    tracemalloc.start()
    try:
        pipe = Pipe(taken.append)
        for _ in range(50_000):
            pipe.feed(b"x")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert held < 100_000
    got = 0
    while got < 50_000:
        data = await pipe.read()
        assert 0 < len(data) <= 65536
        got += len(data)
    assert sum(taken) == 50_000


async def test_a_pipe_gives_what_it_got_in_its_order() -> None:
    pipe = Pipe(lambda count: None)
    sent = [bytes((at % 256,)) * size for at, size in enumerate((1, 9000, 5, 70_000, 200_000, 3))]
    for piece in sent:
        pipe.feed(piece)
    pipe.end()
    got = []
    while data := await pipe.read():
        assert len(data) <= 65536
        got.append(data)

    assert b"".join(got) == b"".join(sent)


async def test_a_dropped_pipe_holds_nothing() -> None:
    taken: list[int] = []
    pipe = Pipe(taken.append)
    pipe.feed(b"before")
    pipe.drop()
    pipe.feed(b"after")

    assert sum(taken) == len(b"beforeafter")
    assert await pipe.read() == b""


@pytest.mark.parametrize(
    "raw", [b'{"x":' + b"[" * 1015 + b"}", b'{"\xff":1}', b'{"Width":1e999}', b'{"Width":' + b"1" * 900]
)
async def test_sizes_that_are_hard_to_read(raw: bytes) -> None:
    terminal = Terminal()
    terminal.feed(raw)
    terminal.feed(raw + b"}")
    assert terminal._size is None


@given(raw=st.binary(max_size=3000))
def test_sizes_of_random_bytes(raw: bytes) -> None:
    async def main() -> None:
        terminal = Terminal()
        terminal.feed(raw)
        assert len(terminal._rest) <= 1024

    trio.run(main)
