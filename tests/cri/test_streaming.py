"""Streams that end: every item once, in messages of bounded size, none of them empty."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio_asyncio
from grpclib.config import Configuration
from grpclib.const import Status

from ocid.cri import encoded, server
from ocid.cri.encoded import Encoded, batches
from ocid.cri.facade import Facade
from ocid.cri.stubs import api_pb2 as pb
from ocid.errors import InvalidRequest
from tests.cri.daemon import Client, Daemon, refused

Response = pb.StreamContainersResponse


def part(name: str, size: int = 0) -> bytes:
    item = pb.Container(id=name, image_ref="x" * size)
    return pb.ListContainersResponse(containers=[item]).SerializeToString()


def handle(facade: Facade, request: pb.StreamContainersRequest) -> Iterator[Encoded]:
    """As many items as the filter's id says; "bug" and "bad" fail in the middle."""
    wanted = request.filter.id
    yield from batches(Response, (part(str(number), 1000) for number in range(int(wanted or 3))))
    if request.filter.pod_sandbox_id == "bug":
        raise ZeroDivisionError("nobody foresaw this")
    if request.filter.pod_sandbox_id == "bad":
        raise InvalidRequest("foreseen")


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "STREAMS", {"StreamContainers": handle})


async def stream(client: Client, **fields: str) -> list[pb.StreamContainersResponse]:
    """All messages until the end of the stream."""
    got: list[pb.StreamContainersResponse] = []
    async with trio_asyncio.aio_as_trio(client.StreamContainers.open()) as opened:
        request = pb.StreamContainersRequest(filter=pb.ContainerFilter(**fields))
        await trio_asyncio.aio_as_trio(opened.send_message)(request, end=True)
        while (message := await trio_asyncio.aio_as_trio(opened.recv_message)()) is not None:
            got.append(message)
        await trio_asyncio.aio_as_trio(opened.recv_trailing_metadata)()
    return got


def ids(messages: list[Any]) -> list[str]:
    return [item.id for message in messages for item in message.containers]


def test_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "BATCH_BYTES_MAX", 250)
    parts = [part("a", 100), part("b", 100), part("c", 1000), part("d"), part("e")]
    messages = [Response.FromString(one.data) for one in batches(Response, parts)]

    assert [[item.id for item in one.containers] for one in messages] == [["a", "b"], ["c"], ["d", "e"]]
    assert list(batches(Response, ())) == []


def test_all_is_taken_before_the_first_message() -> None:
    taken: list[int] = []

    def parts() -> Iterator[bytes]:
        for number in range(3000):
            taken.append(number)
            yield part(str(number), 1000)

    messages = batches(Response, parts())
    next(messages)
    assert len(taken) == 3000
    assert len(list(messages)) == 2


async def test_each_item_comes_once_and_then_the_end(streamed: None, daemon: Daemon) -> None:
    messages = await stream(daemon.client, id="3000")

    assert ids(messages) == [str(number) for number in range(3000)]
    assert len(messages) == 3
    assert all(len(one.SerializeToString()) <= encoded.BATCH_BYTES_MAX for one in messages)


async def test_nothing_is_no_message(streamed: None, daemon: Daemon) -> None:
    assert await stream(daemon.client, id="0") == []


async def test_errors_in_the_middle(streamed: None, daemon: Daemon) -> None:
    with refused(Status.INVALID_ARGUMENT, "foreseen"):
        await stream(daemon.client, pod_sandbox_id="bad")
    with refused(Status.INTERNAL, "nobody foresaw this"):
        await stream(daemon.client, pod_sandbox_id="bug")
    with refused(Status.INVALID_ARGUMENT, "foreseen"):
        await stream(daemon.client, id="0", pod_sandbox_id="bad")


async def test_refused_before_the_daemon_is_open(streamed: None, daemon: Daemon) -> None:
    daemon.facade.open = False
    with refused(Status.UNAVAILABLE):
        await stream(daemon.client)


async def test_who_does_not_read_holds_up_nobody(streamed: None, daemon: Daemon) -> None:
    narrow = Configuration(http2_stream_window_size=2**16)
    async with daemon.connect(narrow) as sluggard:
        opened = sluggard.StreamContainers.open()
        async with trio_asyncio.aio_as_trio(opened) as one:
            request = pb.StreamContainersRequest(filter=pb.ContainerFilter(id="3000"))
            await trio_asyncio.aio_as_trio(one.send_message)(request, end=True)
            await trio.sleep(0.1)
            assert len(ids(await stream(daemon.client))) == 3
            await trio_asyncio.aio_as_trio(one.cancel)()
    assert len(ids(await stream(daemon.client))) == 3
