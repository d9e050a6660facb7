"""CRI ContainerStatus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ocid.cri import present
from ocid.cri.facade import Facade
from ocid.cri.find import container_row
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.spec.resources import oci_resources
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
            spec = _with_limits(spec, oci_resources(config.linux.resources, facade.core.host.runtime.host_facts()))
        response.info.update(present.container_info(facade.view, state, spec))
    return response


def _with_limits(spec: bytes, limits: Mapping[str, object]) -> bytes:
    """Put the limits that are in force now into the specification as it was recorded."""
    document = msgspec.json.decode(spec, type=dict[str, Any])
    document["linux"]["resources"].update(limits)
    return msgspec.json.encode(document)
