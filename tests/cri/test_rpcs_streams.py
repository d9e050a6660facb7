"""The lists as streams: what the lists have, each item once, as of one moment, and then the end."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio_asyncio
from grpclib.config import Configuration
from grpclib.const import Status

from ocid.cri import encoded, streams
from ocid.cri.stubs import api_pb2 as pb
from tests.cri.daemon import Client, Daemon, refused

PODS = ("StreamPodSandboxes", pb.StreamPodSandboxesRequest, "pod_sandboxes")
CONTAINERS = ("StreamContainers", pb.StreamContainersRequest, "containers")
IMAGES = ("StreamImages", pb.StreamImagesRequest, "images")


async def messages(client: Client, what: tuple[str, Any, str], **fields: Any) -> list[Any]:
    """Every message until the end of the stream."""
    name, request, _ = what
    got = []
    async with trio_asyncio.aio_as_trio(getattr(client, name).open()) as stream:
        await trio_asyncio.aio_as_trio(stream.send_message)(request(**fields), end=True)
        while (message := await trio_asyncio.aio_as_trio(stream.recv_message)()) is not None:
            got.append(message)
        await trio_asyncio.aio_as_trio(stream.recv_trailing_metadata)()
    return got


async def items(client: Client, what: tuple[str, Any, str], **fields: Any) -> list[Any]:
    return [item for message in await messages(client, what, **fields) for item in getattr(message, what[2])]


@pytest.fixture
async def busy(daemon: Daemon) -> Daemon:
    """Two images, three pods, four containers, one of which has ended."""
    await daemon.pull()
    await daemon.pull("registry.test/other:1", "other")
    pods = [await daemon.run_pod(name) for name in ("web", "db", "job")]
    await daemon.run(pods[0], "one", "run:1000")
    await daemon.run(pods[0], "two", "run:1000")
    await daemon.create(pods[1], "three")
    await daemon.exited(await daemon.run(pods[2], "four", "run:1"))
    await daemon.client.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=pods[2]))
    return daemon


@pytest.mark.parametrize("what", [PODS, CONTAINERS, IMAGES], ids=lambda what: what[0])
async def test_an_empty_list_is_no_message(daemon: Daemon, what: tuple[str, Any, str]) -> None:
    assert await messages(daemon.client, what) == []


async def test_a_stream_has_what_the_list_has(busy: Daemon) -> None:
    client = busy.client
    pods = (await client.ListPodSandbox(pb.ListPodSandboxRequest())).items
    containers = (await client.ListContainers(pb.ListContainersRequest())).containers
    images = (await client.ListImages(pb.ListImagesRequest())).images

    assert [len(pods), len(containers), len(images)] == [3, 4, 2]
    assert await items(client, PODS) == list(pods)
    assert await items(client, CONTAINERS) == list(containers)
    assert await items(client, IMAGES) == list(images)


async def test_filters(busy: Daemon) -> None:
    client = busy.client
    exited = pb.ContainerFilter(state=pb.ContainerStateValue(state=pb.CONTAINER_EXITED))
    named = pb.PodSandboxFilter(label_selector={"name": "db"})
    image = pb.ImageFilter(image=pb.ImageSpec(image="registry.test/other:1"))
    nothing = pb.ImageFilter(image=pb.ImageSpec(image="registry.test/none:1"))

    assert [one.metadata.name for one in await items(client, CONTAINERS, filter=exited)] == ["four"]
    assert [one.metadata.name for one in await items(client, PODS, filter=named)] == ["db"]
    assert [one.repo_tags for one in await items(client, IMAGES, filter=image)] == [["registry.test/other:1"]]
    assert await messages(client, IMAGES, filter=nothing) == []
    (web,) = await items(client, PODS, filter=pb.PodSandboxFilter(label_selector={"name": "web"}))
    in_pod = await items(client, CONTAINERS, filter=pb.ContainerFilter(pod_sandbox_id=web.id))
    assert {one.metadata.name for one in in_pod} == {"one", "two"}


async def test_messages_are_bounded_in_items_and_in_bytes(busy: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = await items(busy.client, CONTAINERS)
    monkeypatch.setattr(streams, "BATCH_ITEMS_MAX", 3)
    by_items = await messages(busy.client, CONTAINERS)
    monkeypatch.setattr(encoded, "BATCH_BYTES_MAX", 10)
    by_bytes = await messages(busy.client, CONTAINERS)

    assert [len(one.containers) for one in by_items] == [3, 1]
    assert [len(one.containers) for one in by_bytes] == [1, 1, 1, 1]
    assert [item for one in by_items for item in one.containers] == whole
    assert [item for one in by_bytes for item in one.containers] == whole


async def test_a_slow_client_sees_one_moment(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream is stuck in the client's window while everything on the node changes."""
    await daemon.pull()
    pod_id = await daemon.run_pod(annotations={"big": "x" * 100_000})
    names = [await daemon.create(pod_id, f"c{number}", annotations={"big": "x" * 60_000}) for number in range(6)]
    monkeypatch.setattr(streams, "BATCH_ITEMS_MAX", 1)
    narrow = Configuration(http2_connection_window_size=2**16, http2_stream_window_size=2**16)
    async with (
        daemon.connect(narrow) as sluggard,
        trio_asyncio.aio_as_trio(sluggard.StreamContainers.open()) as stream,
    ):
        await trio_asyncio.aio_as_trio(stream.send_message)(pb.StreamContainersRequest(), end=True)
        first = await trio_asyncio.aio_as_trio(stream.recv_message)()
        for name in names[:4]:
            await daemon.client.RemoveContainer(pb.RemoveContainerRequest(container_id=name))
        await daemon.create(pod_id, "late")
        await trio.sleep(1)
        got = [first]
        while (message := await trio_asyncio.aio_as_trio(stream.recv_message)()) is not None:
            got.append(message)

    assert [item.id for one in got for item in one.containers] == names
    now = [one.id for one in await items(daemon.client, CONTAINERS)]
    assert now[:2] == names[4:]
    assert len(now) == 3


async def test_refused_before_recovery_has_finished(daemon: Daemon) -> None:
    daemon.facade.open = False
    for what in (PODS, CONTAINERS, IMAGES):
        with refused(Status.UNAVAILABLE, "comparing its log"):
            await messages(daemon.client, what)
