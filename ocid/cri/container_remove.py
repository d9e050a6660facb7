"""CRI RemoveContainer: end the container at once if it runs, and remove all of it but its log."""

from __future__ import annotations

from ocid.cri.facade import Facade
from ocid.cri.find import container_actor
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.container import Remove
from ocid.errors import Unavailable
from ocid.events.envelope import Context


async def remove_container(
    facade: Facade, request: pb.RemoveContainerRequest, context: Context
) -> pb.RemoveContainerResponse:
    """Return when nothing is left. A container that is not there is removed already.

    Raises:
        Unavailable: a step failed. It goes on being tried; the kubelet asks again.
    """
    actor = container_actor(facade, request.container_id)
    if actor is not None:
        await actor.ask(Remove(now_boot_ns=facade.core.host.clock.boot_ns()), context)
        state = await actor.until(lambda one: one.removed or one.failures > 0)
        if not state.removed:
            raise Unavailable(f"removing {actor.stream}: {state.last_error}; it is being tried again")
    return pb.RemoveContainerResponse()
