"""CRI StopContainer: ask the container to end, and end it when its time is up."""

from __future__ import annotations

from ocid.cri import validate
from ocid.cri.facade import Facade
from ocid.cri.find import container_actor
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.container import Stop
from ocid.errors import Unavailable
from ocid.events.envelope import Context


async def stop_container(
    facade: Facade, request: pb.StopContainerRequest, context: Context
) -> pb.StopContainerResponse:
    """Return when the container has ended. One that is not there, or ended before, is stopped already.

    The stop is durable: it goes on when the caller goes away. A second one wins when it would kill sooner.

    Raises:
        Unavailable: the process survives SIGKILL. It goes on being killed; the kubelet asks again.
    """
    grace_s = validate.stop_timeout(request.timeout)
    actor = container_actor(facade, request.container_id)
    if actor is not None:
        now = facade.core.host.clock.boot_ns()
        await actor.ask(Stop(grace_ms=grace_s * 1000, now_boot_ns=now), context)
        state = await actor.until(lambda one: one.ended or one.failures > 0)
        if not state.ended:
            raise Unavailable(f"stopping {actor.stream}: {state.last_error}; it is being tried again")
    return pb.StopContainerResponse()
