"""CRI PodSandboxStats, ListPodSandboxStats and StreamPodSandboxStats: what ready pods use, with their containers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ocid.cri import present_stats as present, validate
from ocid.cri.container_stats import ITEMS, rate, stats_of
from ocid.cri.encoded import Encoded, embedded
from ocid.cri.facade import Facade
from ocid.cri.find import pod_row
from ocid.cri.sampler import is_counted
from ocid.cri.selectors import labels_match
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.pod import Pod
from ocid.errors import NotFound
from ocid.ids import PodId
from ocid.ports.usage import CgroupUsage
from ocid.projections.fold import Row

LINUX, CONTAINERS = 2, 5  # field numbers of PodSandboxStats.linux and LinuxPodSandboxStats.containers


def pod_sandbox_stats(facade: Facade, request: pb.PodSandboxStatsRequest) -> Encoded:
    """Answer for one pod.

    Raises:
        NotFound: there is no such pod, or it is not ready.
    """
    row = pod_row(facade, request.pod_sandbox_id)
    if not row.state.is_ready:
        raise NotFound("ready pod", request.pod_sandbox_id[:100])
    return Encoded(pb.PodSandboxStatsResponse, embedded(ITEMS, _stats(facade, row, facade.sampler.pod_cgroups())))


def all_pod_sandbox_stats(
    facade: Facade, request: pb.ListPodSandboxStatsRequest | pb.StreamPodSandboxStatsRequest
) -> Iterator[bytes]:
    """Answer for all ready pods that the filter lets through. Its fields must all match; an id may be cut short.

    Raises:
        InvalidRequest: the filter can match nothing.
    """
    validate.list_pods(request)
    wanted, view, cgroups = request.filter, facade.view, facade.sampler.pod_cgroups()
    facade.pod_heads.sweep(view.pods.rows, view.seq)
    for name in list(view.pods.rows):
        row = view.pods.rows.get(name)
        if row is None or not row.state.is_ready or not name.startswith(wanted.id):
            continue
        if labels_match(wanted.label_selector, view.pods.config(name).labels):
            yield embedded(ITEMS, _stats(facade, row, cgroups))


def _stats(facade: Facade, row: Row[Pod], cgroups: dict[str, str]) -> bytes:
    """Return a pod's encoded PodSandboxStats. One without a cgroup of its own has used what its containers have."""
    assert row.state.declared is not None, "only declared pods have rows"
    pod_id, usages = row.state.declared.pod_id, facade.core.host.usage
    containers: dict[str, CgroupUsage] = {}
    stats, paths = [], []
    for name, path in running(facade, pod_id):
        usage = usages.cgroup(path)
        item = None if usage is None else stats_of(facade, name, facade.view.containers.rows[name], usage)
        if usage is not None and item is not None:
            containers[name] = usage
            paths.append(path)
            stats.append(embedded(CONTAINERS, item))
    place = cgroups.get(pod_id)
    own = None if place is None else usages.cgroup(place)
    if place is not None and own is not None:
        paths, nano_cores = [place], rate(facade, pod_id, own)
    else:
        own = added(containers.values())
        nano_cores = present.total(rate(facade, name, usage) for name, usage in containers.items())
    at_ns = facade.core.host.clock.wall_ns()
    body = pb.LinuxPodSandboxStats(
        cpu=present.cpu(own, at_ns, nano_cores),
        memory=present.memory(own, at_ns),
        network=present.network(facade.sampler.networks.get(pod_id)),
        process=pb.ProcessUsage(
            timestamp=at_ns, process_count=present.number(sum(usages.process_count(one) for one in paths))
        ),
        io=present.io(own, at_ns),
    )
    head = facade.pod_heads.part(pod_id, row, facade.view.pods.config(pod_id))
    return head + embedded(LINUX, body.SerializeToString() + b"".join(stats))


def running(facade: Facade, pod_id: PodId) -> Iterator[tuple[str, str]]:
    """Yield the pod's running containers with their cgroups."""
    view = facade.view.containers
    for name in view.by_pod.get(pod_id, ()):
        state = view.rows[name].state
        if state.declared is not None and is_counted(state):
            yield name, state.declared.cgroup


def added(usages: Iterable[CgroupUsage]) -> CgroupUsage:
    """Return what several cgroups have used together. Limits and pressure do not add up."""
    known = list(usages)
    return CgroupUsage(
        cpu_ns=sum(one.cpu_ns or 0 for one in known),
        memory_bytes=sum(one.memory_bytes or 0 for one in known),
        inactive_file_bytes=sum(one.inactive_file_bytes for one in known),
        rss_bytes=sum(one.rss_bytes or 0 for one in known),
        page_faults=sum(one.page_faults or 0 for one in known),
        major_page_faults=sum(one.major_page_faults or 0 for one in known),
    )
