"""CRI GetContainerEvents: every change of a container or pod, with a snapshot of its pod."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager

from ocid.cri.facade import Facade
from ocid.cri.stubs import api_pb2 as pb


def get_container_events(
    facade: Facade, request: pb.GetEventsRequest
) -> AbstractContextManager[AsyncGenerator[pb.ContainerEventResponse, None]]:
    """Stream events from now on, until the client goes away.

    Raises:
        Exhausted: the client fell too far behind.
    """
    return facade.subscribers.follow()
