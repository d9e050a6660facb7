"""CRI ListMetricDescriptors, ListPodSandboxMetrics and StreamPodSandboxMetrics: what cAdvisor would export."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

from ocid.cri import metrics_table as table
from ocid.cri.container_stats import ITEMS
from ocid.cri.encoded import embedded, varint
from ocid.cri.facade import Facade
from ocid.cri.metrics_table import Facts, Metric
from ocid.cri.sandbox_stats import running
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.pod import Pod
from ocid.domain.spec.cgroups import directory_of
from ocid.projections.fold import Row

METRICS, CONTAINER_METRICS = 2, 3  # field numbers of PodSandboxMetrics; ContainerMetrics.metrics is 2, too
NAME, LABEL_VALUES, VALUE = 1, 4, 5  # of Metric
TIMESTAMP, KIND = bytes((2 << 3,)), bytes((3 << 3,))  # of Metric: the heads of fields that are numbers
NUMBER = bytes((1 << 3,))  # of UInt64Value
NOTHING = embedded(VALUE, b"")  # a UInt64Value of 0


def list_metric_descriptors(
    facade: Facade, request: pb.ListMetricDescriptorsRequest
) -> pb.ListMetricDescriptorsResponse:
    """Describe everything that can ever be sent; the same for as long as the daemon lives."""
    return pb.ListMetricDescriptorsResponse(
        descriptors=[
            pb.MetricDescriptor(name=one.name, help=one.help, label_keys=[*table.LABELS, *one.labels])
            for one in table.ALL
        ]
    )


def all_pod_sandbox_metrics(
    facade: Facade, request: pb.ListPodSandboxMetricsRequest | pb.StreamPodSandboxMetricsRequest
) -> Iterator[bytes]:
    """Answer for all ready pods and their running containers."""
    facade.sampler.metrics_are_wanted()
    facade.sampler.look_into_new()
    cgroups, rows = facade.sampler.pod_cgroups(), facade.view.pods.rows
    for name in list(rows):
        row = rows.get(name)
        if row is not None and row.state.is_ready:
            yield embedded(ITEMS, _pod(facade, row, cgroups))


def _pod(facade: Facade, row: Row[Pod], cgroups: dict[str, str]) -> bytes:
    """Return a pod's encoded PodSandboxMetrics."""
    declared = row.state.declared
    assert declared is not None, "only declared pods have rows"
    pod_id, usages = declared.pod_id, facade.core.host.usage
    now_ns = facade.core.host.clock.wall_ns()
    place = cgroups.get(pod_id)
    parent = facade.sampler.path_of(declared.cgroup_parent)
    of_pod = ("", parent, "", "", declared.namespace, declared.name)
    message = [pb.PodSandboxMetrics(pod_sandbox_id=pod_id).SerializeToString()]
    network = Facts(now_ns, network=facade.sampler.networks.get(pod_id))
    message += encoded(table.NETWORK, network, (*of_pod[:3], pod_id, *of_pod[4:]))
    usage = None if place is None else usages.cgroup(place)
    if usage is not None:
        message += encoded(table.OF_CGROUPS, Facts(now_ns, usage), of_pod)
    for name, path in running(facade, pod_id):
        config = facade.view.containers.config(name)
        image = config.image.user_specified_image or config.image.image
        labels = (config.metadata.name, directory_of(path), image, name, declared.namespace, declared.name)
        facts = _container_facts(facade, name, path, now_ns)
        if facts is not None:
            head = pb.ContainerMetrics(container_id=name).SerializeToString()
            metrics = b"".join(encoded(table.OF_CONTAINERS, facts, labels))
            message.append(embedded(CONTAINER_METRICS, head + metrics))
    return b"".join(message)


def _container_facts(facade: Facade, name: str, path: str, now_ns: int) -> Facts | None:
    """Gather what is known of a running container; None when it ends just now."""
    state, host = facade.view.containers.rows[name].state, facade.core.host
    usage, details = host.usage.cgroup(path), host.usage.details(path)
    if usage is None or details is None or state.declared is None:
        return None
    return Facts(
        now_ns=now_ns,
        usage=usage,
        details=details,
        started_at_ns=state.started_at_ns,
        writable=host.layers.writable_usage(state.declared.writable),
        room=host.layers.room(),
        processes=facade.sampler.processes.get(name),
    )


def encoded(metrics: Iterable[Metric], facts: Facts, labels: tuple[str, ...]) -> Iterator[bytes]:
    """Yield every value of *metrics* as the encoded field that holds one Metric.

    There are some eighty for each container, so what they share is encoded once, and no message is built.
    """
    shared = _label_values(labels)
    for metric in metrics:
        name, kind = _constants(metric)
        for number, extra, at_ns in metric.values(facts):
            taken = TIMESTAMP + varint(at_ns) if at_ns else b""
            more = _label_values(extra) if extra else b""
            value = embedded(VALUE, NUMBER + varint(number)) if number else NOTHING
            yield embedded(METRICS, b"".join((name, taken, kind, shared, more, value)))


@functools.cache
def _constants(metric: Metric) -> tuple[bytes, bytes]:
    """Return the encoded name and type of a metric; a type of 0 is not written."""
    return embedded(NAME, metric.name.encode()), KIND + varint(metric.kind) if metric.kind else b""


def _label_values(values: Iterable[str]) -> bytes:
    return b"".join(embedded(LABEL_VALUES, value.encode()) for value in values)
