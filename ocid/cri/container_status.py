"""CRI ContainerStatus."""

from __future__ import annotations

from typing import Any

import msgspec

from ocid.cri import present
from ocid.cri.facade import Facade
from ocid.cri.find import container_row
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.nri_limits import WiderResources, spec_now
from ocid.errors import NotFound
from ocid.projections.containers import is_listed


def container_status(facade: Facade, request: pb.ContainerStatusRequest) -> pb.ContainerStatusResponse:
    """Answer from memory.

    Raises:
        NotFound: there is no such container; one in the making is none yet, as in lists.
    """
    state = container_row(facade, request.container_id).state
    if not is_listed(state):
        raise NotFound("container", request.container_id[:100])
    assert state.declared is not None, "only declared containers have rows"
    config = facade.view.containers.config(state.declared.container_id)
    response = pb.ContainerStatusResponse(status=present.container_status(state, config))
    if request.verbose:
        spec = b"" if state.prepared is None else facade.core.host.journal.document(state.prepared.spec)
        if spec and state.limits.in_force is not None:
            journal, facts = facade.core.host.journal, facade.core.host.runtime.host_facts()
            limits = msgspec.json.decode(journal.document(state.limits.in_force), type=WiderResources)
            spec = msgspec.json.encode(spec_now(msgspec.json.decode(spec, type=dict[str, Any]), limits, facts))
        response.info.update(present.container_info(facade.view, state, spec))
    return response
