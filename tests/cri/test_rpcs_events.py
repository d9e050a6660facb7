"""GetContainerEvents: everything from now on, in order, each with the state of its very moment."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio_asyncio
from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.exceptions import StreamTerminatedError
from h2.exceptions import StreamClosedError

from ocid.cri import bridge, subscribers
from ocid.cri.encoded import Codec
from ocid.cri.events_rpc import get_container_events
from ocid.cri.stubs import api_pb2 as pb
from ocid.events import container, pod
from tests.cri.daemon import Client, Daemon, refused

CREATED, STARTED, STOPPED, DELETED = (
    pb.CONTAINER_CREATED_EVENT, pb.CONTAINER_STARTED_EVENT, pb.CONTAINER_STOPPED_EVENT, pb.CONTAINER_DELETED_EVENT,
)  # fmt: skip


class Stream:
    """The client's end of GetContainerEvents."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def next(self) -> pb.ContainerEventResponse:
        event: pb.ContainerEventResponse | None = await trio_asyncio.aio_as_trio(self._stream.recv_message)()
        if event is None:
            await trio_asyncio.aio_as_trio(self._stream.recv_trailing_metadata)()  # raises what it ended with
        assert event is not None, "the stream ended well"
        return event

    async def take(self, count: int) -> list[pb.ContainerEventResponse]:
        with trio.fail_after(30):
            return [await self.next() for _ in range(count)]

    async def quiet(self) -> bool:
        """Whether nothing more comes."""
        with trio.move_on_after(5):
            await self.next()
            return False
        return True


@contextlib.asynccontextmanager
async def subscribed(client: Client) -> AsyncIterator[Stream]:
    """A stream whose initial metadata has come: from here on nothing is missed."""
    async with trio_asyncio.aio_as_trio(client.GetContainerEvents.open()) as stream:
        await trio_asyncio.aio_as_trio(stream.send_message)(pb.GetEventsRequest(), end=True)
        with trio.fail_after(0.001):
            await trio_asyncio.aio_as_trio(stream.recv_initial_metadata)()
        yield Stream(stream)
        with contextlib.suppress(StreamTerminatedError, StreamClosedError):
            await trio_asyncio.aio_as_trio(stream.cancel)()


async def test_one_life_in_order(daemon: Daemon) -> None:
    await daemon.pull()
    async with subscribed(daemon.client) as stream:
        pod_id = await daemon.run_pod()
        container_id = await daemon.run(pod_id, "app", "run:1")
        await daemon.exited(container_id)
        await daemon.client.RemoveContainer(pb.RemoveContainerRequest(container_id=container_id))
        await daemon.client.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=pod_id))
        await daemon.client.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod_id))
        events = await stream.take(8)
        assert await stream.quiet()

    assert [(one.container_id, one.container_event_type) for one in events] == [
        (pod_id, CREATED), (pod_id, STARTED),
        (container_id, CREATED), (container_id, STARTED), (container_id, STOPPED), (container_id, DELETED),
        (pod_id, STOPPED), (pod_id, DELETED),
    ]  # fmt: skip
    times = [one.created_at for one in events]
    assert times == sorted(times)
    kinds = (
        pod.Prepared, pod.Ready, pod.Stopped, pod.Removed,
        container.Prepared, container.Started, container.Exited, container.Removed,
    )  # fmt: skip
    assert times == [one.wall_ns for one in daemon.log(*kinds)]


async def test_snapshots_are_as_of_the_event(daemon: Daemon) -> None:
    """Read long after, with everything changed since."""
    await daemon.pull()
    pod_id = await daemon.run_pod()
    other = await daemon.create(pod_id, "other")
    async with subscribed(daemon.client) as stream:
        container_id = await daemon.run(pod_id, "app", "run:1", "code:3")
        await daemon.exited(container_id)
        at_end = await daemon.status(container_id)
        await daemon.client.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod_id))
        created, started, stopped = await stream.take(3)

    states = [[one.state for one in event.containers_statuses] for event in (created, started, stopped)]
    idle = pb.CONTAINER_CREATED
    assert states == [[idle, idle], [idle, pb.CONTAINER_RUNNING], [idle, pb.CONTAINER_EXITED]]
    for event in (created, started, stopped):
        assert [one.id for one in event.containers_statuses] == [other, container_id]
        assert (event.pod_sandbox_status.id, event.pod_sandbox_status.state) == (pod_id, pb.SANDBOX_READY)
        assert event.pod_sandbox_status.network.ip
    assert stopped.containers_statuses[1] == at_end
    assert at_end.exit_code == 3


async def test_containers_removed_with_their_pod_are_told_with_it(daemon: Daemon) -> None:
    await daemon.pull()
    pod_id = await daemon.run_pod()
    container_id = await daemon.run(pod_id)
    async with subscribed(daemon.client) as stream:
        await daemon.client.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod_id))
        events = await stream.take(4)

    assert [(one.container_id, one.container_event_type) for one in events] == [
        (container_id, STOPPED), (pod_id, STOPPED), (container_id, DELETED), (pod_id, DELETED),
    ]  # fmt: skip
    assert events[2].pod_sandbox_status.id == pod_id, "the pod of a container that is gone"
    assert list(events[2].containers_statuses) == []


async def test_a_start_that_fails_is_a_stop(daemon: Daemon) -> None:
    await daemon.pull()
    container_id = await daemon.create(await daemon.run_pod(), "app", "noexec")
    async with subscribed(daemon.client) as stream:
        with refused(Status.UNKNOWN):
            await daemon.start(container_id)
        (event,) = await stream.take(1)

    assert (event.container_id, event.container_event_type) == (container_id, STOPPED)
    assert event.containers_statuses[0].reason == "StartError"


async def test_all_subscribers_get_all(daemon: Daemon) -> None:
    async with daemon.connect() as other, subscribed(daemon.client) as one, subscribed(other) as two:
        await daemon.run_pod()
        assert await one.take(2) == await two.take(2)


class Gate:
    """The server's end of a stream whose client has gone by the time the metadata are sent."""

    def __init__(self, daemon: Daemon) -> None:
        self.subscribers_at_metadata = -1
        self._daemon = daemon
        self._stream, self._codec, self._recv_type = self, Codec(), pb.GetEventsRequest

    async def recv_data(self, size: int) -> bytes:
        return bytes(size)  # an empty message

    async def send_initial_metadata(self) -> None:
        self.subscribers_at_metadata = len(self._daemon.facade.subscribers._channels)
        raise StreamTerminatedError("Connection lost")


async def test_the_metadata_come_when_nothing_can_be_missed_any_more(daemon: Daemon) -> None:
    gate = Gate(daemon)
    rpc = bridge.following(daemon.facade, "GetContainerEvents", get_container_events)
    with pytest.raises(StreamTerminatedError):
        await trio_asyncio.aio_as_trio(rpc)(gate)

    assert gate.subscribers_at_metadata == 1
    assert not daemon.facade.subscribers._channels


@pytest.mark.parametrize("how", ["cancelled", "disconnected"])
async def test_who_goes_away_is_forgotten(daemon: Daemon, how: str) -> None:
    async with daemon.connect() as client, subscribed(client):
        assert len(daemon.facade.subscribers._channels) == 1
        if how == "disconnected":
            client.close()
            await trio.sleep(0.1)
            assert not daemon.facade.subscribers._channels
    await trio.sleep(0.1)

    assert not daemon.facade.subscribers._channels
    await daemon.run_pod()


async def test_who_does_not_keep_up_loses_the_stream_and_nobody_else_anything(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscribers, "BUFFER_MAX", 4)
    narrow = Configuration(http2_stream_window_size=2**16)
    async with daemon.connect(narrow) as sluggard, subscribed(sluggard) as slow, subscribed(daemon.client) as brisk:
        for number in range(5):
            await daemon.run_pod(f"pod-{number}", annotations={"large": "x" * 50_000})
            assert len(await brisk.take(2)) == 2
        assert len(daemon.facade.subscribers._channels) == 1, "the slow one is cut off while it does not read"
        assert (await sluggard.Version(pb.VersionRequest())).runtime_name == "ocid", "its connection lives on"

        with refused(Status.RESOURCE_EXHAUSTED, "fell 4 events behind; list and subscribe again"):
            await slow.take(10)
        await daemon.run_pod("last")
        assert len(await brisk.take(2)) == 2


async def test_there_is_no_replay(daemon: Daemon) -> None:
    """The protocol has no token to resume at: who subscribes again lists again."""
    async with daemon.connect() as client, subscribed(client):
        await daemon.run_pod()
    await daemon.restart()
    async with subscribed(daemon.client) as stream:
        pod_id = await daemon.run_pod("job")
        assert [one.container_id for one in await stream.take(2)] == [pod_id, pod_id]
        assert await stream.quiet()
