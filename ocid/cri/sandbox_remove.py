"""CRI RemovePodSandbox: stop the pod, remove its containers and all that is left."""

from __future__ import annotations

from ocid.cri.facade import Facade
from ocid.cri.find import pod_actor
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.pod import Remove
from ocid.errors import Unavailable
from ocid.events.envelope import Context


async def remove_pod_sandbox(
    facade: Facade, request: pb.RemovePodSandboxRequest, context: Context
) -> pb.RemovePodSandboxResponse:
    """Return when nothing of the pod is left. A pod that is not there is removed already.

    Raises:
        Unavailable: a step failed. It goes on being tried; the kubelet asks again.
    """
    actor = pod_actor(facade, request.pod_sandbox_id)
    if actor is not None:
        await actor.ask(Remove(), context)
        state = await actor.until(lambda pod: pod.removed or pod.failures > 0)
        if not state.removed:
            raise Unavailable(f"removing pod {actor.stream}: {state.last_error}; it is being tried again")
    return pb.RemovePodSandboxResponse()
