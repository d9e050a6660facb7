"""CRI ListContainers: the kubelet asks every second."""

from __future__ import annotations

from ocid.cri import present, validate
from ocid.cri.encoded import Encoded
from ocid.cri.facade import Facade
from ocid.cri.selectors import labels_match
from ocid.cri.stubs import api_pb2 as pb
from ocid.projections.containers import is_listed


def list_containers(facade: Facade, request: pb.ListContainersRequest) -> Encoded:
    """Answer from memory. The filter's fields must all match; ids may be cut short.

    Raises:
        InvalidRequest: the filter is malformed.
    """
    validate.list_containers(request)
    if request.filter.ByteSize() == 0:  # as the kubelet asks, each second
        return facade.container_items.whole(facade.view.seq, lambda: container_parts(facade, request.filter))
    return facade.container_items.response(container_parts(facade, request.filter))


def container_parts(facade: Facade, wanted: pb.ContainerFilter) -> list[bytes]:
    """Return the encoded item of every container that fits the filter."""
    view, items = facade.view, facade.container_items
    items.sweep(view.containers.rows, view.seq)
    found = []
    for name, row in view.containers.rows.items():
        declared = row.state.declared
        if declared is None or not is_listed(row.state):
            continue
        if not name.startswith(wanted.id) or not declared.pod_id.startswith(wanted.pod_sandbox_id):
            continue
        if wanted.HasField("state") and wanted.state.state != present.container_state(row.state):
            continue
        config = view.containers.config(name)
        if labels_match(wanted.label_selector, config.labels):
            found.append(items.part(name, row, config))
    return found
