"""Clients of the streaming server, written for tests: SPDY/3.1 and WebSocket, over any Trio stream.

They share no code with the server but the dictionary of header compression, so that a mistake does not cancel itself.
"""

from __future__ import annotations

import base64
import json
import os
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import trio

from ocid.streaming.spdy_headers import DICTIONARY

SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
FIRST_WINDOW = 65536


class Refused(Exception):
    """The server answered with an error."""

    def __init__(self, status: int, headers: dict[str, str], body: str) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.headers = headers
        self.body = body


async def dial(url: str) -> tuple[trio.SocketStream, str]:
    """Connect to the server of a URL; return the connection and the path."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return await trio.open_tcp_stream(parts.hostname, parts.port), parts.path


async def ask(stream: trio.abc.Stream, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send a request and read the head of its response; return status, headers, and what came after it."""
    await stream.send_all(request)
    raw = b""
    while b"\r\n\r\n" not in raw:
        more = await stream.receive_some()
        if not more:
            raise ConnectionError(f"closed after {raw!r}")
        raw += more
    head, _, rest = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status = int(first.split(" ")[1])
    if status == 101:
        return status, headers, rest
    while data := await stream.receive_some():
        rest += data
    raise Refused(status, headers, rest.decode())


def request(path: str, headers: dict[str, str], method: str = "GET") -> bytes:
    """Write a request."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "localhost", **headers}.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()


class SpdyStream:
    """One stream, as the client that made it sees it."""

    def __init__(self, owner: SpdyClient, number: int) -> None:
        self.number = number
        self.replied = trio.Event()
        self.reset_status: int | None = None
        self.send_window = owner.server_first_window
        self.received = 0
        self._owner = owner
        self._pieces: list[bytes] = []
        self._ended = False
        self._news = trio.lowlevel.ParkingLot()

    def feed(self, data: bytes, *, fin: bool) -> None:
        if data:
            self._pieces.append(data)
        self.received += len(data)
        self._ended |= fin
        self._news.unpark_all()

    async def read(self) -> bytes:
        """Return what came; b"" at the end, also of a stream that was reset."""
        while not self._pieces:
            if self._ended:
                return b""
            await self._news.park()
        data = b"".join(self._pieces)
        self._pieces.clear()
        await self._owner.taken(self, len(data))
        return data

    async def read_all(self) -> bytes:
        data = b""
        while more := await self.read():
            data += more
        return data

    async def read_until(self, end: bytes) -> bytes:
        data = b""
        while not data.endswith(end):
            more = await self.read()
            assert more, f"ended after {data!r}"
            data += more
        return data

    async def write(self, data: bytes) -> None:
        if self._owner.windows:
            await self._owner.write_in_windows(self, data)
            return
        for at in range(0, len(data), 32768):  # what client-go makes of it
            await self._owner.send(data_frame(self.number, data[at : at + 32768]))

    async def close(self) -> None:
        """Send no more."""
        await self._owner.send(data_frame(self.number, b"", fin=True))

    async def reset(self) -> None:
        await self._owner.send(control_frame(RST_STREAM, struct.pack(">II", self.number, 5)))


def data_frame(stream: int, data: bytes, *, fin: bool = False) -> bytes:
    return struct.pack(">II", stream, (1 if fin else 0) << 24 | len(data)) + data


def control_frame(kind: int, payload: bytes, flags: int = 0) -> bytes:
    return struct.pack(">HHI", 0x8003, kind, flags << 24 | len(payload)) + payload


class SpdyClient:
    """A SPDY session. With *windows* it keeps to flow control, which no client of Kubernetes does."""

    def __init__(self, stream: trio.abc.Stream, *, windows: bool = False, early: bytes = b"") -> None:
        self.windows = windows
        self.streams: dict[int, SpdyStream] = {}
        self.pings: list[int] = []
        self.went_away: int | None = None  # status of the server's GOAWAY
        self.closed = trio.Event()
        self.protocol = ""
        self.server_first_window = FIRST_WINDOW
        self._stream = stream
        self._session_window = FIRST_WINDOW
        self._widened = trio.lowlevel.ParkingLot()
        self._buffer = bytearray(early)
        self._deflate = zlib.compressobj(9, zdict=DICTIONARY)
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._next = 1
        self._lock = trio.Lock()
        self.may_read = trio.Event()
        self.may_read.set()

    async def send(self, raw: bytes) -> None:
        async with self._lock:
            await self._stream.send_all(raw)

    def block(self, headers: dict[str, str]) -> bytes:
        raw = struct.pack(">I", len(headers))
        for text in (part.encode() for pair in headers.items() for part in pair):
            raw += struct.pack(">I", len(text)) + text
        return self._deflate.compress(raw) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    async def create(self, headers: dict[str, str], *, wait: bool = True) -> SpdyStream:
        """Open a stream and wait for the answer; a refusal shows in ``reset_status``."""
        number, self._next = self._next, self._next + 2
        made = self.streams[number] = SpdyStream(self, number)
        await self.send(control_frame(SYN_STREAM, struct.pack(">IIBB", number, 0, 0, 0) + self.block(headers)))
        if wait:
            await made.replied.wait()
        return made

    async def ping(self, number: int = 1) -> None:
        await self.send(control_frame(PING, struct.pack(">I", number)))

    async def taken(self, stream: SpdyStream, count: int) -> None:
        if self.windows:
            for number in (stream.number, 0):
                await self.send(control_frame(WINDOW_UPDATE, struct.pack(">II", number, count)))

    async def write_in_windows(self, stream: SpdyStream, data: bytes) -> None:
        at = 0
        while at < len(data):
            count = min(len(data) - at, stream.send_window, self._session_window)
            if count <= 0:
                await self._widened.park()
                continue
            stream.send_window -= count
            self._session_window -= count
            await self.send(data_frame(stream.number, data[at : at + count]))
            at += count

    async def run(self) -> None:
        """Read what the server sends, for ever."""
        try:
            while True:
                self._take()
                await self.may_read.wait()
                data = await self._stream.receive_some(262144)
                if not data:
                    break
                self._buffer += data
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        for stream in self.streams.values():
            stream.replied.set()
            stream.feed(b"", fin=True)
        self.closed.set()

    def _take(self) -> None:
        at = 0
        while len(self._buffer) - at >= 8:
            first, second = struct.unpack_from(">II", self._buffer, at)
            length = second & 0xFFFFFF
            if len(self._buffer) - at < 8 + length:
                break
            payload = bytes(memoryview(self._buffer)[at + 8 : at + 8 + length])
            at += 8 + length
            if first >> 31:
                assert first >> 16 == 0x8003
                self._control(first & 0xFFFF, second >> 24, payload)
            elif first in self.streams:
                self.streams[first].feed(payload, fin=bool(second >> 24 & 1))
        del self._buffer[:at]

    def _control(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == SYN_REPLY:
            (number,) = struct.unpack_from(">I", payload)
            assert self._inflate.decompress(payload[4:]) == struct.pack(">I", 0)
            self.streams[number].replied.set()
            self.streams[number].feed(b"", fin=bool(flags & 1))
        elif kind == RST_STREAM:
            number, status = struct.unpack(">II", payload)
            if number in self.streams:
                self.streams[number].reset_status = status
                self.streams[number].replied.set()
                self.streams[number].feed(b"", fin=True)
        elif kind == PING:
            self.pings.append(struct.unpack(">I", payload)[0])
        elif kind == GOAWAY:
            self.went_away = struct.unpack(">II", payload)[1]
        elif kind == SETTINGS:
            settings = dict(struct.iter_unpack(">II", payload[4:]))
            self.server_first_window = settings.get(7, FIRST_WINDOW)
        elif kind == WINDOW_UPDATE:
            number, more = struct.unpack(">II", payload)
            if number == 0:
                self._session_window += more
            elif number in self.streams:
                self.streams[number].send_window += more
            self._widened.unpark_all()


@asynccontextmanager
async def over_spdy(
    stream: trio.abc.Stream,
    path: str,
    *protocols: str,
    method: str = "POST",
    windows: bool = False,
) -> AsyncIterator[SpdyClient]:
    """Upgrade a connection to SPDY and run the session while the block lasts; then close it.

    Raises:
        Refused: the server does not want to.
    """
    wanted = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", "Content-Length": "0"}
    wanted |= {"X-Stream-Protocol-Version": ", ".join(protocols)} if protocols else {}
    async with stream:
        _, headers, early = await ask(stream, request(path, wanted, method))
        client = SpdyClient(stream, windows=windows, early=early)
        client.protocol = headers.get("x-stream-protocol-version", "")
        async with running(client):
            if windows:
                await client.send(control_frame(SETTINGS, struct.pack(">III", 1, 7, FIRST_WINDOW)))
            yield client


@asynccontextmanager
async def running(client: SpdyClient) -> AsyncIterator[None]:
    """Run a session while the block lasts, then close its connection."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        yield
        nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(client._stream)


@dataclass
class WebSocket:
    """A WebSocket. Messages are sent whole and masked; those that come are put together again."""

    stream: trio.abc.Stream
    protocol: str = ""
    mask: bytes = b"\x11\x22\x33\x44"
    pongs: list[bytes] = field(default_factory=list)
    close_code: int | None = None
    _buffer: bytearray = field(default_factory=bytearray)
    _lock: trio.Lock = field(default_factory=trio.Lock)

    def frame(self, opcode: int, data: bytes, *, fin: bool = True) -> bytes:
        head = bytes((opcode | (0x80 if fin else 0),))
        if len(data) < 126:
            head += bytes((0x80 | len(data),))
        elif len(data) < 65536:
            head += bytes((0x80 | 126,)) + struct.pack(">H", len(data))
        else:
            head += bytes((0x80 | 127,)) + struct.pack(">Q", len(data))
        key = int.from_bytes((self.mask * (len(data) // 4 + 1))[: len(data)], "big")
        return head + self.mask + (int.from_bytes(data, "big") ^ key).to_bytes(len(data), "big")

    async def send(self, opcode: int, data: bytes, *, fin: bool = True) -> None:
        async with self._lock:
            await self.stream.send_all(self.frame(opcode, data, fin=fin))

    async def send_close(self, code: int = 1000) -> None:
        await self.send(8, struct.pack(">H", code))

    async def receive(self) -> tuple[int, bytes] | None:
        """Return opcode and payload of the next message; None once the server closed."""
        while True:
            frame = await self._frame()
            if frame is None:
                return None
            opcode, payload = frame
            if opcode == 10:
                self.pongs.append(payload)
            elif opcode == 8:
                self.close_code = struct.unpack(">H", payload[:2])[0] if payload else 1005
                return None
            else:
                return opcode, payload

    async def _frame(self) -> tuple[int, bytes] | None:
        await self._need(2)
        if len(self._buffer) < 2:
            return None
        first, short = self._buffer[0], self._buffer[1]
        assert first & 0xF0 == 0x80, "the server neither fragments nor extends"
        assert not short & 0x80, "the server does not mask"
        wide = {126: 2, 127: 8}.get(short, 0)
        await self._need(2 + wide)
        length = int.from_bytes(self._buffer[2 : 2 + wide], "big") if wide else short
        end = 2 + wide + length
        await self._need(end)
        if len(self._buffer) < end:
            return None
        payload = bytes(memoryview(self._buffer)[2 + wide : end])
        del self._buffer[:end]
        return first & 15, payload

    async def _need(self, count: int) -> None:
        while len(self._buffer) < count:
            try:
                data = await self.stream.receive_some(262144)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            if not data:
                return
            self._buffer += data


@asynccontextmanager
async def over_websocket(stream: trio.abc.Stream, path: str, *protocols: str, **more: str) -> AsyncIterator[WebSocket]:
    """Upgrade a connection to a WebSocket, and close it at the end of the block.

    Raises:
        Refused: the server does not want to.
    """
    wanted = {
        "Connection": "keep-alive, Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
    }
    wanted |= {"Sec-WebSocket-Protocol": ", ".join(protocols)} if protocols else {}
    async with stream:
        _, headers, early = await ask(stream, request(path, wanted | more))
        socket = WebSocket(stream, headers.get("sec-websocket-protocol", ""))
        socket._buffer += early
        yield socket
        await trio.aclose_forcefully(stream)


class Tunnel(trio.abc.Stream):
    """Bytes in the binary messages of a WebSocket, for a SPDY session."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._socket.send(2, bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        message = await self._socket.receive()
        return message[1] if message is not None else b""

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._socket.stream)


@dataclass
class Result:
    """What an exec or attach gave."""

    stdout: bytes = b""
    stderr: bytes = b""
    error: bytes = b""  # of the error channel

    @property
    def status(self) -> Any:
        return json.loads(self.error)

    @property
    def exit_code(self) -> int:
        """0 after success; the code that the status tells.

        Raises:
            AssertionError: it failed in another way.
        """
        if self.status["status"] == "Success":
            return 0
        assert self.status["reason"] == "NonZeroExitCode", self.status
        (cause,) = self.status["details"]["causes"]
        return int(cause["message"])


async def exec_spdy(
    stream: trio.abc.Stream,
    path: str,
    *,
    stdin: bytes | None = None,
    stdout: bool = True,
    stderr: bool = True,
    protocol: str = "v4.channel.k8s.io",
    windows: bool = False,
) -> Result:
    """Run an exec or attach without a terminal, as kubectl does: streams in their order, then input, then output."""
    result = Result()
    async with over_spdy(stream, path, protocol, windows=windows) as client:
        error = await client.create({"streamtype": "error"})
        if stdin is not None:
            into = await client.create({"streamtype": "stdin"})
        outputs = {
            name: await client.create({"streamtype": name})
            for name, wanted in (("stdout", stdout), ("stderr", stderr))
            if wanted
        }

        async def feed() -> None:
            assert stdin is not None
            await into.write(stdin)
            await into.close()

        async def keep(name: str) -> None:
            setattr(result, name, await outputs[name].read_all())

        async with trio.open_nursery() as nursery:
            if stdin is not None:
                nursery.start_soon(feed)
            for name in outputs:
                nursery.start_soon(keep, name)
            result.error = await error.read_all()
        await client.send(control_frame(GOAWAY, struct.pack(">II", 0, 0)))
    return result


async def exec_websocket(
    stream: trio.abc.Stream,
    path: str,
    *,
    stdin: bytes | None = None,
    protocol: str = "v5.channel.k8s.io",
) -> Result:
    """Run an exec or attach without a terminal."""
    async with over_websocket(stream, path, *([protocol] if protocol else [])) as socket:
        assert socket.protocol == protocol
        encoded = "base64" in protocol
        kept = {1: b"", 2: b"", 3: b""}

        async def feed() -> None:
            for at in range(0, len(stdin or b""), 32768):
                piece = (stdin or b"")[at : at + 32768]
                if encoded:
                    await socket.send(1, b"0" + base64.b64encode(piece))
                else:
                    await socket.send(2, b"\0" + piece)
            if stdin is not None and protocol == "v5.channel.k8s.io":
                await socket.send(2, b"\xff\0")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed)
            while (message := await socket.receive()) is not None:
                opcode, payload = message
                assert opcode == (1 if encoded else 2)
                channel = payload[0] - (48 if encoded else 0)
                kept[channel] += base64.b64decode(payload[1:]) if encoded else payload[1:]
        if socket.close_code is not None:
            await socket.send_close(socket.close_code)
        await trio.aclose_forcefully(stream)
        return Result(kept[1], kept[2], kept[3])
