"""CRI PodSandboxStatus."""

from __future__ import annotations

from ocid.cri import present
from ocid.cri.facade import Facade
from ocid.cri.find import pod_row
from ocid.cri.stubs import api_pb2 as pb
from ocid.projections.containers import is_listed


def pod_sandbox_status(facade: Facade, request: pb.PodSandboxStatusRequest) -> pb.PodSandboxStatusResponse:
    """Answer from memory, with all of the pod's containers as of the same moment.

    Raises:
        NotFound: there is no such pod.
    """
    state, view = pod_row(facade, request.pod_sandbox_id).state, facade.view
    assert state.declared is not None, "only declared pods have rows"
    pod_id = state.declared.pod_id
    config = view.pods.config(pod_id)
    now_ns = facade.core.host.clock.wall_ns()
    response = pb.PodSandboxStatusResponse(status=present.pod_status(state, config), timestamp=now_ns)
    for container_id in view.containers.by_pod.get(pod_id, ()):
        container = view.containers.rows[container_id].state
        if is_listed(container):
            status = present.container_status(container, view.containers.config(container_id))
            response.containers_statuses.append(status)
    if request.verbose:
        response.info.update(present.pod_info(view, state, config))
    return response
