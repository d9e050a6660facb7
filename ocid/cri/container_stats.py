"""CRI ContainerStats, ListContainerStats and StreamContainerStats: what running containers use."""

from __future__ import annotations

from collections.abc import Iterator

from ocid.cri import present_stats as present, validate
from ocid.cri.encoded import Encoded, embedded
from ocid.cri.facade import Facade
from ocid.cri.find import container_row
from ocid.cri.sampler import is_counted
from ocid.cri.selectors import labels_match
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.container import Container
from ocid.errors import NotFound
from ocid.ports.usage import CgroupUsage, CpuSample
from ocid.projections.fold import Row

ITEMS = 1  # number of the field that holds the items, in every response


def container_stats(facade: Facade, request: pb.ContainerStatsRequest) -> Encoded:
    """Answer for one container.

    Raises:
        NotFound: there is no such container, or it does not run.
    """
    row = container_row(facade, request.container_id)
    assert row.state.declared is not None, "only declared containers have rows"
    stats = stats_of(facade, row.state.declared.container_id, row)
    if stats is None:
        raise NotFound("running container", request.container_id[:100])
    return Encoded(pb.ContainerStatsResponse, embedded(ITEMS, stats))


def all_container_stats(
    facade: Facade, request: pb.ListContainerStatsRequest | pb.StreamContainerStatsRequest
) -> Iterator[bytes]:
    """Answer for all running containers that the filter lets through. Its fields must all match; ids may be short.

    Raises:
        InvalidRequest: the filter can match nothing.
    """
    validate.list_containers(request)
    wanted, view = request.filter, facade.view
    facade.container_heads.sweep(view.containers.rows, view.seq)
    for name in list(view.containers.rows):
        row = view.containers.rows.get(name)
        if row is None or row.state.declared is None or not is_counted(row.state):
            continue
        if not name.startswith(wanted.id) or not row.state.declared.pod_id.startswith(wanted.pod_sandbox_id):
            continue
        if labels_match(wanted.label_selector, view.containers.config(name).labels):
            stats = stats_of(facade, name, row)
            if stats is not None:
                yield embedded(ITEMS, stats)


def stats_of(facade: Facade, name: str, row: Row[Container], usage: CgroupUsage | None = None) -> bytes | None:
    """Return a container's encoded ContainerStats; None when it does not run, or ends just now.

    *usage* is what its cgroup says, where the caller has read it already.
    """
    declared = row.state.declared
    if declared is None or not is_counted(row.state):
        return None
    usage = usage or facade.core.host.usage.cgroup(declared.cgroup)
    if usage is None:
        return None
    layers, at_ns = facade.core.host.layers, facade.core.host.clock.wall_ns()
    body = pb.ContainerStats(
        cpu=present.cpu(usage, at_ns, rate(facade, name, usage)),
        memory=present.memory(usage, at_ns),
        writable_layer=present.writable(layers.writable_usage(declared.writable), str(facade.core.host.settings.root)),
        swap=present.swap(usage, at_ns),
        io=present.io(usage, at_ns),
    )
    head = facade.container_heads.part(name, row, facade.view.containers.config(name))
    return head + body.SerializeToString()


def rate(facade: Facade, name: str, usage: CgroupUsage) -> int | None:
    """Return how fast a container or pod uses CPU, in billionths of a core; None when too little is known."""
    if usage.cpu_ns is None:
        return None
    return facade.sampler.nano_cores(name, CpuSample(facade.core.host.clock.boot_ns(), usage.cpu_ns))
