"""CRI ListPodSandbox: the kubelet asks every second."""

from __future__ import annotations

from ocid.cri import present, validate
from ocid.cri.encoded import Encoded
from ocid.cri.facade import Facade
from ocid.cri.selectors import labels_match
from ocid.cri.stubs import api_pb2 as pb
from ocid.projections.pods import is_listed


def list_pod_sandbox(facade: Facade, request: pb.ListPodSandboxRequest) -> Encoded:
    """Answer from memory. The filter's fields must all match; an id may be cut short.

    Raises:
        InvalidRequest: the filter is malformed.
    """
    validate.list_pods(request)
    if request.filter.ByteSize() == 0:  # as the kubelet asks, each second
        return facade.pod_items.whole(facade.view.seq, lambda: pod_parts(facade, request.filter))
    return facade.pod_items.response(pod_parts(facade, request.filter))


def pod_parts(facade: Facade, wanted: pb.PodSandboxFilter) -> list[bytes]:
    """Return the encoded item of every pod that fits the filter."""
    view, items = facade.view, facade.pod_items
    items.sweep(view.pods.rows, view.seq)
    found = []
    for name, row in view.pods.rows.items():
        if not is_listed(row.state) or not name.startswith(wanted.id):
            continue
        if wanted.HasField("state") and wanted.state.state != present.pod_state(row.state):
            continue
        config = view.pods.config(name)
        if labels_match(wanted.label_selector, config.labels):
            found.append(items.part(name, row, config))
    return found
