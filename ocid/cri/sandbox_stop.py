"""CRI StopPodSandbox: end the pod's containers, free its network, take down its namespaces."""

from __future__ import annotations

from ocid.cri.facade import Facade
from ocid.cri.find import pod_actor
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.pod import Stop
from ocid.errors import Unavailable
from ocid.events.envelope import Context


async def stop_pod_sandbox(
    facade: Facade, request: pb.StopPodSandboxRequest, context: Context
) -> pb.StopPodSandboxResponse:
    """Return when nothing of the pod runs. A pod that is not there is stopped already.

    Raises:
        Unavailable: a step failed. It goes on being tried; the kubelet asks again.
    """
    actor = pod_actor(facade, request.pod_sandbox_id)
    if actor is not None:
        await actor.ask(Stop(), context)
        state = await actor.until(lambda pod: pod.stopped or pod.removed or pod.failures > 0)
        if not (state.stopped or state.removed):
            raise Unavailable(f"stopping pod {actor.stream}: {state.last_error}; it is being tried again")
    return pb.StopPodSandboxResponse()
