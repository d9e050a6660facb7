"""Those who follow container events, and what each of them gets. CRI GetContainerEvents."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator
from typing import TYPE_CHECKING

import trio

from ocid.cri import present
from ocid.cri.stubs import api_pb2 as pb
from ocid.errors import Exhausted
from ocid.events import container, pod
from ocid.events.envelope import Envelope
from ocid.projections.containers import is_listed

if TYPE_CHECKING:
    from ocid.cri.facade import Facade

BUFFER_MAX = 4096  # events one subscriber may be behind before its stream is ended

KINDS: dict[type, pb.ContainerEventType.ValueType] = {
    container.Prepared: pb.CONTAINER_CREATED_EVENT,
    container.Started: pb.CONTAINER_STARTED_EVENT,
    container.Exited: pb.CONTAINER_STOPPED_EVENT,
    container.StartFailed: pb.CONTAINER_STOPPED_EVENT,
    container.CreateFailed: pb.CONTAINER_STOPPED_EVENT,
    container.Removed: pb.CONTAINER_DELETED_EVENT,
    pod.Prepared: pb.CONTAINER_CREATED_EVENT,
    pod.Ready: pb.CONTAINER_STARTED_EVENT,
    pod.Lost: pb.CONTAINER_STOPPED_EVENT,
    pod.Stopped: pb.CONTAINER_STOPPED_EVENT,
    pod.Removed: pb.CONTAINER_DELETED_EVENT,
}


class Subscribers:
    """Each subscriber has a bounded buffer; one that does not keep up loses its stream, never the daemon its memory."""

    def __init__(self) -> None:
        self._channels: set[trio.MemorySendChannel[pb.ContainerEventResponse]] = set()
        self._pod_of: dict[str, str] = {}  # container → pod, for the event of its removal

    def offer(self, facade: Facade, envelope: Envelope) -> None:
        """Give the CRI event that *envelope* means, if any, to every subscriber. The view has it already."""
        if isinstance(envelope.event, container.Declared):
            self._pod_of[envelope.event.container_id] = envelope.event.pod_id
        kind = KINDS.get(type(envelope.event))
        aggregate, _, name = envelope.stream.partition("/")
        if kind is not None and self._channels:
            pod_id = name if aggregate == "pod" else self._pod(facade, name)
            event = respond(facade, name, kind, envelope.wall_ns, pod_id)
            for channel in list(self._channels):
                try:
                    channel.send_nowait(event)
                except (trio.WouldBlock, trio.BrokenResourceError):
                    self._channels.discard(channel)
                    channel.close()
        if isinstance(envelope.event, container.Removed):
            self._pod_of.pop(name, None)

    def _pod(self, facade: Facade, container_id: str) -> str:
        row = facade.view.containers.rows.get(container_id)
        if row is not None and row.state.declared is not None:
            return row.state.declared.pod_id
        return self._pod_of.get(container_id, "")

    @contextlib.contextmanager
    def follow(self) -> Iterator[AsyncGenerator[pb.ContainerEventResponse, None]]:
        """Subscribe at once, and give the events from now on.

        Raises:
            Exhausted: of the generator, when the subscriber fell too far behind.
        """
        send, receive = trio.open_memory_channel[pb.ContainerEventResponse](BUFFER_MAX)
        self._channels.add(send)
        try:
            yield _until_too_slow(receive)
        finally:
            self._channels.discard(send)
            send.close()


async def _until_too_slow(
    receive: trio.MemoryReceiveChannel[pb.ContainerEventResponse],
) -> AsyncGenerator[pb.ContainerEventResponse, None]:
    async for event in receive:
        yield event
    raise Exhausted(f"the subscriber fell {BUFFER_MAX} events behind; list and subscribe again")


def respond(
    facade: Facade, name: str, kind: pb.ContainerEventType.ValueType, at_ns: int, pod_id: str
) -> pb.ContainerEventResponse:
    """Build one event with the snapshot of its pod and of all the pod's containers, as of this very event."""
    view = facade.view
    response = pb.ContainerEventResponse(container_id=name, container_event_type=kind, created_at=at_ns)
    row = view.pods.rows.get(pod_id)
    if row is not None:
        response.pod_sandbox_status.CopyFrom(present.pod_status(row.state, view.pods.config(pod_id)))
    for container_id in view.containers.by_pod.get(pod_id, ()):  # type: ignore[call-overload]
        state = view.containers.rows[container_id].state
        if is_listed(state):
            status = present.container_status(state, view.containers.config(container_id))
            response.containers_statuses.append(status)
    return response
