"""RPCs that are answered inline: the same answers on whatever way the request comes; a connection never breaks."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest
import trio
from grpclib.const import Status
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from h2.settings import SettingCodes

from ocid.cri.inline import PREFIX, REQUEST_BYTES_MAX
from ocid.cri.stubs import api_pb2 as pb
from tests.cri.daemon import Daemon

PLAIN = ((":method", "POST"), (":scheme", "http"), (":authority", "localhost"), ("te", "trailers"))
GRPC = (*PLAIN, ("content-type", "application/grpc"))


class Raw:
    """A client that speaks HTTP/2 as it likes."""

    def __init__(self, socket: trio.SocketStream, window: int) -> None:
        self._socket = socket
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})

    async def send(self) -> None:
        await self._socket.send_all(self.h2.data_to_send())

    async def call(
        self, path: str, pieces: Sequence[bytes], headers: Sequence[tuple[str, str]] = GRPC
    ) -> tuple[dict[str, str], bytes]:
        """Send a request in pieces, each a write of its own; return the last headers and the message."""
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, [(":path", path), *headers], end_stream=not pieces)
        await self.send()
        for number, piece in enumerate(pieces):
            for start in range(0, max(len(piece), 1), 16000):
                last = number == len(pieces) - 1 and start + 16000 >= len(piece)
                self.h2.send_data(stream_id, piece[start : start + 16000], end_stream=last)
            await self.send()
            await trio.testing.wait_all_tasks_blocked()
        return await self.answer(stream_id)

    async def answer(self, stream_id: int) -> tuple[dict[str, str], bytes]:
        said: dict[str, str] = {}
        body = b""
        while True:
            for event in self.h2.receive_data(await self._socket.receive_some()):
                match event:
                    case ResponseReceived() | TrailersReceived() if event.stream_id == stream_id:
                        said.update({str(k): str(v) for k, v in event.headers or ()})
                    case DataReceived() if event.stream_id == stream_id:
                        body += event.data or b""
                        self.h2.acknowledge_received_data(event.flow_controlled_length or 0, stream_id)
                    case StreamEnded() | StreamReset() if event.stream_id == stream_id:
                        return said, body
                    case _:
                        pass
            await self.send()


@contextlib.asynccontextmanager
async def connected(daemon: Daemon, window: int = 65535) -> AsyncIterator[Raw]:
    async with await trio.open_unix_socket(daemon.socket) as socket:
        raw = Raw(socket, window)
        await raw.send()
        raw.h2.receive_data(await socket.receive_some())  # the server's windows, larger than the default
        await raw.send()
        yield raw


def framed(message: bytes, *, compressed: bool = False) -> bytes:
    return PREFIX.pack(compressed, len(message)) + message


VERSION = "/runtime.v1.RuntimeService/Version"
LIST = "/runtime.v1.RuntimeService/ListContainers"
STATUS = "/runtime.v1.RuntimeService/ContainerStatus"


@pytest.mark.parametrize("size", [1, 3, 5, 1000])
async def test_a_request_may_come_in_pieces_of_any_size(daemon: Daemon, size: int) -> None:
    async with connected(daemon) as raw:
        request = framed(pb.VersionRequest(version="0.1.0").SerializeToString())
        said, body = await raw.call(VERSION, [request[at : at + size] for at in range(0, len(request), size)])

        assert (said[":status"], said["grpc-status"]) == ("200", "0")
        assert pb.VersionResponse.FromString(body[5:]).runtime_name == "ocid"


async def test_an_answer_larger_than_the_clients_window_comes_whole(daemon: Daemon) -> None:
    await daemon.pull()
    pod_id = await daemon.run_pod()
    for number in range(5):
        await daemon.create(pod_id, f"app-{number}")
    async with connected(daemon) as wide, connected(daemon, 100) as narrow:
        _, whole = await wide.call(LIST, [framed(b"")])
        said, in_pieces = await narrow.call(LIST, [framed(b"")])

        assert said["grpc-status"] == "0"
        assert in_pieces == whole
        assert len(pb.ListContainersResponse.FromString(whole[5:]).containers) == 5


async def test_errors_are_told_as_trailers_alone(daemon: Daemon) -> None:
    async with connected(daemon) as raw:
        request = framed(pb.ContainerStatusRequest(container_id="naïve").SerializeToString())
        said, body = await raw.call(STATUS, [request])

        assert (said["grpc-status"], body) == (str(Status.NOT_FOUND.value), b"")
        assert "na%C3%AFve" in said["grpc-message"]


@pytest.mark.parametrize(
    ("pieces", "headers", "status"),
    [
        ([framed(b"\xff\xff\xff")], GRPC, str(Status.INVALID_ARGUMENT.value)),
        ([], GRPC, str(Status.INVALID_ARGUMENT.value)),
        ([b"\0\0"], GRPC, None),
        ([framed(b"") + b"more"], GRPC, "0"),
        ([PREFIX.pack(False, 1 << 31)], GRPC, None),
        ([framed(b"", compressed=True)], GRPC, None),
        ([framed(b"")], PLAIN, str(Status.UNKNOWN.value)),
        ([framed(b"")], (*GRPC[:3], GRPC[4]), str(Status.UNKNOWN.value)),
        ([framed(b"")], ((":method", "GET"), *GRPC[1:]), None),
        ([framed(bytes(REQUEST_BYTES_MAX + 100))], GRPC, str(Status.INVALID_ARGUMENT.value)),
    ],
)
async def test_what_is_not_plain_ends_at_most_its_own_call(
    daemon: Daemon, pieces: list[bytes], headers: Sequence[tuple[str, str]], status: str | None
) -> None:
    async with connected(daemon, 1 << 20) as raw:
        said: dict[str, str] = {}
        with trio.move_on_after(5):
            said, _ = await raw.call(VERSION, pieces, headers)

        assert said.get("grpc-status") == status or (status is None and said.get("grpc-status") != "0")
        said, _ = await raw.call(VERSION, [framed(b"")])
        assert said["grpc-status"] == "0"


async def test_a_call_that_is_taken_back_leaves_nothing(daemon: Daemon) -> None:
    async with connected(daemon) as raw:
        for _ in range(3):
            stream_id = raw.h2.get_next_available_stream_id()
            raw.h2.send_headers(stream_id, [(":path", VERSION), *GRPC])
            raw.h2.send_data(stream_id, b"\0\0")
            await raw.send()
            await trio.testing.wait_all_tasks_blocked()
            raw.h2.reset_stream(stream_id)
            await raw.send()
        said, _ = await raw.call(VERSION, [framed(b"")])
        assert said["grpc-status"] == "0"


async def test_many_calls_of_one_write_are_all_answered(daemon: Daemon) -> None:
    async with connected(daemon) as raw:
        ids = []
        for _ in range(50):
            ids.append(raw.h2.get_next_available_stream_id())
            raw.h2.send_headers(ids[-1], [(":path", VERSION), *GRPC])
            raw.h2.send_data(ids[-1], framed(b""), end_stream=True)
        await raw.send()
        ended: set[int] = set()
        while len(ended) < 50:
            for event in raw.h2.receive_data(await raw._socket.receive_some()):
                if isinstance(event, StreamEnded) and event.stream_id is not None:
                    ended.add(event.stream_id)
        assert ended == set(ids)
