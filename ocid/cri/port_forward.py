"""CRI PortForward: say where a client can connect to ports inside a pod."""

from __future__ import annotations

from ocid.actors.session import Job
from ocid.cri import sessions, validate
from ocid.cri.facade import Facade
from ocid.cri.find import pod_row
from ocid.cri.stubs import api_pb2 as pb
from ocid.errors import WrongState
from ocid.events.envelope import Context
from ocid.events.session import Requested
from ocid.ids import ContainerId


async def port_forward(facade: Facade, request: pb.PortForwardRequest, context: Context) -> pb.PortForwardResponse:
    """Return a URL that is good for one client, once, for a minute. Without ports the client names them later.

    A pod in the host's network is served from there, as the kubelet expects.

    Raises:
        InvalidRequest: a port that is none.
        NotFound: there is no such pod.
        WrongState: it is not ready.
        Unavailable: no streaming server runs.
        Exhausted: too many sessions are open.
    """
    validate.port_forward(request)
    streaming = sessions.streaming_of(facade)
    state = pod_row(facade, request.pod_sandbox_id).state
    assert state.declared is not None, "only declared pods have rows"
    if not state.is_ready:
        raise WrongState("pod", state.declared.pod_id, wants="ready", is_now=state.phase)
    requested = Requested(
        session_id=sessions.new_session_id(facade),
        kind="portforward",
        pod_id=state.declared.pod_id,
        container_id=ContainerId(""),
        ports=tuple(dict.fromkeys(request.port)),
    )
    return pb.PortForwardResponse(url=await sessions.url_of(facade, streaming, requested, context, Job()))
