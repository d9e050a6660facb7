"""What is no message at all: noise, messages cut short, broken framing, broken connections. The daemon serves on."""

from __future__ import annotations

import contextlib
import logging
import struct
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from grpclib.const import Status
from grpclib.encoding.proto import ProtoCodec
from grpclib.exceptions import GRPCError, StreamTerminatedError
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from hypothesis import HealthCheck, given, settings, strategies as st
from trio.testing import MockClock

from ocid.cri.receiving import MESSAGE_BYTES_MAX
from ocid.cri.stubs import api_pb2 as pb
from tests.cri import fuzzing
from tests.cri.daemon import Daemon, running
from tests.cri.played import FOLLOWED_S, PATIENCE_S, playing
from tests.cri.test_fuzz import SECONDS

EXAMPLES = 400 if SECONDS else 10  # daemons
LENGTH = 20  # calls of each
FORBIDDEN = (Status.UNKNOWN, Status.INTERNAL)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Logs of broken connections are no news here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


# --- messages ---------------------------------------------------------------------------------------------------------


class Raw(ProtoCodec):
    """Sends bytes as they are."""

    def encode(self, message: Any, message_type: type[Any]) -> bytes:
        return message if isinstance(message, bytes) else super().encode(message, message_type)


@st.composite
def broken(draw: st.DrawFn) -> tuple[Any, bytes]:
    """A method, and bytes instead of its request: noise, or a request cut short, spoilt or continued."""
    method = draw(st.sampled_from(fuzzing.METHODS))
    whole = fuzzing.good(method).SerializeToString()
    match draw(st.sampled_from(("noise", "cut", "spoilt", "continued"))):
        case "cut" if whole:
            return method, whole[: draw(st.integers(0, len(whole) - 1))]
        case "spoilt" if whole:
            raw = bytearray(whole)
            for _ in range(draw(st.integers(1, 4))):
                raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
            return method, bytes(raw)
        case "continued":
            return method, whole + draw(st.binary(max_size=40))
        case _:
            return method, draw(st.binary(max_size=200))


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=not SECONDS,
    suppress_health_check=list(HealthCheck),
)
@given(calls=st.lists(broken(), min_size=LENGTH // 2, max_size=LENGTH))
@pytest.mark.timeout(max(60.0, SECONDS))
def test_bytes_that_are_no_request_are_their_senders_fault(
    calls: list[tuple[Any, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    statuses: Counter[str] = Counter()

    async def main() -> None:
        async with (
            playing(tmp_path_factory.mktemp("wire"), Counter()) as session,
            session.daemon.connect(codec=Raw()) as client,
        ):
            session.client = client
            for method, raw in calls:
                try:
                    await session.call(method, raw)
                except GRPCError as error:
                    statuses[error.status.name] += 1
                    if error.status in FORBIDDEN:
                        session.fault(f"{method.name}: {error} for {raw!r}")
                else:
                    statuses["OK"] += 1
            await session.finish(restart=False)
            assert session.faults == []

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert statuses.total() == len(calls)


def test_text_that_is_not_unicode_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon, daemon.connect(codec=Raw()) as client:
            with pytest.raises(GRPCError) as caught:
                await client.ContainerStatus(b"\x0a\x02\xff\xfe", PATIENCE_S)
            assert caught.value.status is Status.INVALID_ARGUMENT
            assert "no runtime.v1.ContainerStatusRequest" in (caught.value.message or "")

    trio.run(main, clock=MockClock(autojump_threshold=0))


# --- frames -----------------------------------------------------------------------------------------------------------


class Http2:
    """A client that knows HTTP/2 and nothing of gRPC."""

    def __init__(self, socket: trio.SocketStream) -> None:
        self.socket = socket
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))

    async def open(self, path: str, *, end: bool = False, **changed: str | None) -> int:
        """Send the headers of a call; return its stream."""
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "localhost",
            "te": "trailers",
            "content-type": "application/grpc",
            **{name.replace("_", "-"): value for name, value in changed.items()},
        }
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, [(key, value) for key, value in headers.items() if value is not None], end)
        await self.flush()
        return stream

    async def data(self, stream: int, raw: bytes, *, end: bool = False) -> None:
        """Send data, as much at once as the server lets us."""
        while raw or end:
            size = min(len(raw), self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if raw and size == 0:
                self.h2.receive_data(await self.socket.receive_some())
                continue
            last = size == len(raw)
            self.h2.send_data(stream, raw[:size], end_stream=end and last)
            await self.flush()
            raw = raw[size:]
            if last:
                break

    async def flush(self) -> None:
        await self.socket.send_all(self.h2.data_to_send())

    async def answer(self, stream: int) -> tuple[str, str]:
        """Wait for the end of a call; return grpc-status and grpc-message, or the HTTP status where there is none."""
        found: dict[str, str] = {}
        while True:
            raw = await self.socket.receive_some()
            if not raw:
                return "closed", ""
            for event in self.h2.receive_data(raw):
                if isinstance(event, ResponseReceived | TrailersReceived) and event.stream_id == stream:
                    found.update({str(name): str(value) for name, value in event.headers or ()})
                if isinstance(event, StreamReset) and event.stream_id == stream and not found:
                    return "reset", ""
                if isinstance(event, StreamEnded | StreamReset) and event.stream_id == stream:
                    return found.get("grpc-status", found.get(":status", "")), found.get("grpc-message", "")
            await self.flush()


@contextlib.asynccontextmanager
async def http2(daemon: Daemon) -> AsyncIterator[Http2]:
    async with await trio.open_unix_socket(str(daemon.socket)) as socket:
        client = Http2(socket)
        client.h2.initiate_connection()
        await client.flush()
        yield client


VERSION = "/runtime.v1.RuntimeService/Version"
STOP = "/runtime.v1.RuntimeService/StopContainer"
FRAMES = {
    "no message": (b"", Status.INVALID_ARGUMENT, "no message"),
    "half a prefix": (b"\0\0\0", Status.INVALID_ARGUMENT, "ends before its length"),
    "no data after the prefix": (struct.pack(">?I", False, 10), Status.INVALID_ARGUMENT, "ends before its length"),
    "too little data": (struct.pack(">?I", False, 10) + b"\x0a\x01", Status.INVALID_ARGUMENT, "ends before its length"),
    "compressed": (struct.pack(">?I", True, 2) + b"\x0a\0", Status.UNIMPLEMENTED, "compressed"),
    "4 GiB announced": (struct.pack(">?I", False, 2**32 - 1) + b"x" * 100, Status.RESOURCE_EXHAUSTED, "limit"),
    "one byte too much": (struct.pack(">?I", False, MESSAGE_BYTES_MAX + 1), Status.RESOURCE_EXHAUSTED, "limit"),
}


@pytest.mark.parametrize("path", [VERSION, STOP, "/runtime.v1.RuntimeService/GetContainerEvents"])
@pytest.mark.parametrize("name", FRAMES)
async def test_broken_framing(daemon: Daemon, name: str, path: str) -> None:
    raw, status, words = FRAMES[name]
    async with http2(daemon) as client:
        stream = await client.open(path, end=not raw)
        if raw:
            await client.data(stream, raw, end=True)
        with trio.fail_after(PATIENCE_S):
            code, message = await client.answer(stream)
        assert (code, words in message) == (str(status.value), True), (code, message)

        stream = await client.open(VERSION)  # the connection is good still
        await client.data(stream, struct.pack(">?I", False, 0), end=True)
        assert (await client.answer(stream))[0] == str(Status.OK.value)


async def test_a_request_as_large_as_the_limit_is_read(daemon: Daemon) -> None:
    raw = pb.VersionRequest(version="v" * (MESSAGE_BYTES_MAX - 5)).SerializeToString()
    assert len(raw) == MESSAGE_BYTES_MAX
    async with http2(daemon) as client:
        stream = await client.open(VERSION)
        await client.data(stream, struct.pack(">?I", False, len(raw)) + raw, end=True)

        assert (await client.answer(stream))[0] == str(Status.OK.value)


@pytest.mark.parametrize("path", ["/runtime.v1.RuntimeService/Missing", "/", "/a" * 3000, VERSION + "/.."])
async def test_methods_that_are_not_there(daemon: Daemon, path: str) -> None:
    async with http2(daemon) as client:
        stream = await client.open(path, end=True)
        assert (await client.answer(stream))[0] == str(Status.UNIMPLEMENTED.value)


@pytest.mark.parametrize(
    "changed", [{"content_type": "text/plain"}, {"content_type": None}, {"te": None}, {"grpc_timeout": "soon"}]
)
async def test_calls_that_are_not_of_grpc(daemon: Daemon, changed: dict[str, str | None]) -> None:
    async with http2(daemon) as client:
        stream = await client.open(VERSION, end=True, **changed)
        with trio.fail_after(PATIENCE_S):
            assert (await client.answer(stream))[0] not in ("0", "closed")
    await daemon.client.Version(pb.VersionRequest())


@pytest.mark.parametrize("path", [VERSION, STOP])
async def test_clients_that_go_away_in_the_middle(daemon: Daemon, path: str) -> None:
    for raw in (b"", b"\0", struct.pack(">?I", False, 100), struct.pack(">?I", False, 100) + b"x" * 50):
        async with http2(daemon) as client:
            stream = await client.open(path)
            if raw:
                await client.data(stream, raw)
        async with http2(daemon) as client:
            stream = await client.open(path)
            if raw:
                await client.data(stream, raw)
            client.h2.reset_stream(stream)
            await client.flush()
            stream = await client.open(VERSION)
            await client.data(stream, struct.pack(">?I", False, 0), end=True)
            assert (await client.answer(stream))[0] == str(Status.OK.value)
    await daemon.client.Version(pb.VersionRequest())


NOISE = {
    "nothing": b"",
    "HTTP/1": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "zeros": bytes(1000),
    "TLS": bytes.fromhex("16030100c8010000c40303"),
    "preface alone": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "preface and zeros": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100),
    "a frame of 16 MiB": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff\xff\xff\x01\x04\0\0\0\x01" + b"x" * 100,
    "headers that are none": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\x05\x01\x04\0\0\0\x01" + b"\xff" * 5,
    "an endless line": b"x" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("name", NOISE)
async def test_noise_on_the_socket(daemon: Daemon, name: str) -> None:
    async with await trio.open_unix_socket(str(daemon.socket)) as socket:
        with contextlib.suppress(trio.BrokenResourceError):
            await socket.send_all(NOISE[name])
            with trio.move_on_after(FOLLOWED_S):
                while await socket.receive_some():
                    pass

    await daemon.client.Version(pb.VersionRequest())
    async with daemon.connect() as other:
        await other.Version(pb.VersionRequest())


async def test_a_client_with_many_connections_and_none_of_them_used(daemon: Daemon) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(200):
            await stack.enter_async_context(await trio.open_unix_socket(str(daemon.socket)))
        async with daemon.connect() as other:
            await other.Version(pb.VersionRequest())
    with contextlib.suppress(StreamTerminatedError):
        await daemon.client.Version(pb.VersionRequest())
