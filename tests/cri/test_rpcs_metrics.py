"""Metrics as cAdvisor names them: described all, sent as described, no time series twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
import trio

from ocid.cri import encoded, metrics_table as table, sandbox_metrics
from ocid.cri.metrics_table import Facts
from ocid.cri.sampler import NetworkSample
from ocid.cri.stubs import api_pb2 as pb
from ocid.ports.usage import CgroupUsage
from tests.cri.daemon import Daemon
from tests.cri.test_rpcs_stats import kubelet_pod, sampled, streamed
from tests.fakes.usage import MIB, link

Labels = dict[str, str]


async def described(daemon: Daemon) -> dict[str, list[str]]:
    response = await daemon.client.ListMetricDescriptors(pb.ListMetricDescriptorsRequest())
    assert all(one.help for one in response.descriptors)
    keys = {one.name: list(one.label_keys) for one in response.descriptors}
    assert len(keys) == len(response.descriptors), "a name is described twice"
    return keys


async def pods_of(daemon: Daemon) -> list[pb.PodSandboxMetrics]:
    return list((await daemon.client.ListPodSandboxMetrics(pb.ListPodSandboxMetricsRequest())).pod_metrics)


def series(metrics: Any, keys: dict[str, list[str]]) -> dict[str, list[tuple[Labels, pb.Metric]]]:
    """By name, the labels and the metric of every series; each is described."""
    found: dict[str, list[tuple[Labels, pb.Metric]]] = {}
    for metric in metrics:
        labels = dict(zip(keys[metric.name], metric.label_values, strict=True))
        found.setdefault(metric.name, []).append((labels, metric))
    return found


async def test_descriptors(daemon: Daemon) -> None:
    keys = await described(daemon)

    assert len(keys) > 50
    assert all(name.startswith("container_") for name in keys)
    assert all({"container", "pod", "namespace"} <= set(labels) for labels in keys.values())
    assert all(len(set(labels)) == len(labels) for labels in keys.values())
    assert keys == await described(daemon)


async def test_one_container(daemon: Daemon) -> None:
    await daemon.pull()
    pod_id = await kubelet_pod(daemon, "web")
    container_id = await daemon.run(pod_id)
    await sampled(daemon, 1)
    keys = await described(daemon)
    (pod,) = await pods_of(daemon)
    (of_container,) = pod.container_metrics
    found = series(of_container.metrics, keys)

    assert (pod.pod_sandbox_id, of_container.container_id) == (pod_id, container_id)
    assert {name for name in keys if not name.startswith("container_network_")} == found.keys()
    ((labels, usage),) = found["container_cpu_usage_seconds_total"]
    assert labels == {
        "container": "app",
        "cpu": "total",
        "id": f"/kubepods/pod-web/ocid-{container_id}",
        "image": "app:1",
        "name": container_id,
        "namespace": "prod",
        "pod": "web",
    }
    assert (usage.metric_type, usage.timestamp) == (pb.COUNTER, 0)
    values = {name: many[0][1].value.value for name, many in found.items() if len(many) == 1}
    assert values["container_cpu_user_seconds_total"] == 3
    assert values["container_memory_working_set_bytes"] == 8 * MIB
    assert values["container_memory_swap"] == MIB
    assert values["container_spec_memory_limit_bytes"] == 64 * MIB
    assert values["container_spec_cpu_quota"] == 20_000
    assert values["container_threads_max"] == 0
    assert values["container_ulimits_soft"] == 1024
    assert values["container_pressure_cpu_waiting_seconds_total"] == 0
    assert values["container_fs_usage_bytes"] == 8192
    assert values["container_start_time_seconds"] == values["container_last_seen"] - 1
    kinds = {labels["failure_type"] for labels, _ in found["container_memory_failures_total"]}
    assert kinds == {"pgfault", "pgmajfault"}
    assert {
        (labels["device"], labels["operation"]): one.value.value
        for labels, one in found["container_blkio_device_usage_total"]
    } == {("/dev/vda", "Read"): 1, ("/dev/vda", "Write"): 2}
    ((_, processes),) = found["container_processes"]
    assert processes.timestamp > 10**18, "it was counted a while ago"


async def test_pods(daemon: Daemon) -> None:
    """The network is the pod's; what its cgroup says is, too, where it has one for itself."""
    await daemon.pull()
    own, shared = await kubelet_pod(daemon, "web"), await daemon.run_pod("job")
    await daemon.run(own)
    await sampled(daemon, 1)
    keys = await described(daemon)
    pods = {one.pod_sandbox_id: series(one.metrics, keys) for one in await pods_of(daemon)}

    received = pods[own]["container_network_receive_bytes_total"]
    assert [(labels["interface"], one.value.value) for labels, one in received] == [("net1", 100), ("eth0", 100)]
    assert received[0][0]["container"] == received[0][0]["image"] == ""
    assert received[0][1].timestamp > 10**18
    ((labels, _),) = pods[own]["container_memory_usage_bytes"]
    assert (labels["id"], labels["pod"], labels["container"]) == ("/kubepods/pod-web", "web", "")
    assert all(name.startswith("container_network_") for name in pods[shared])
    assert "container_network_transmit_errors_total" in pods[shared]


async def test_no_series_comes_twice(daemon: Daemon) -> None:
    """One that does makes the kubelet refuse to export anything."""
    await daemon.pull()
    for pod_id in (await kubelet_pod(daemon, "web"), await daemon.run_pod("web2"), await daemon.run_pod("web3")):
        for name in ("app", "side"):
            await daemon.run(pod_id, name)
    await sampled(daemon, 1)
    every = Counter(
        (metric.name, *metric.label_values)
        for pod in await pods_of(daemon)
        for metric in [*pod.metrics, *(one for each in pod.container_metrics for one in each.metrics)]
    )

    assert len(every) > 6 * 50
    assert set(every.values()) == {1}


async def test_what_is_unknown_is_not_sent(daemon: Daemon) -> None:
    await daemon.pull()
    pod_id = await daemon.run_pod()
    await daemon.run(pod_id)
    await daemon.create(pod_id, "created")
    keys = await described(daemon)
    (pod,) = await pods_of(daemon)
    (of_container,) = pod.container_metrics
    found = series(of_container.metrics, keys)

    assert list(pod.metrics) == []
    unknown = {"container_fs_usage_bytes", "container_fs_limit_bytes"}
    assert not unknown & found.keys()
    at_once = {"container_processes", "container_sockets", "container_file_descriptors"}
    assert at_once <= found.keys(), "what began since the last sample is looked into at once"
    assert "container_memory_usage_bytes" in found


async def test_quota_counters_are_sent_where_there_is_a_quota(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    await daemon.pull()
    await daemon.run(await daemon.run_pod())
    details = daemon.node.usage.details
    monkeypatch.setattr(daemon.node.usage, "details", lambda path: without_quota(details(path)))
    (pod,) = await pods_of(daemon)
    names = {one.name for one in pod.container_metrics[0].metrics}

    assert not {name for name in names if "cfs" in name or "quota" in name}
    assert "container_spec_cpu_period" in names


def without_quota(details: Any) -> Any:
    return msgspec.structs.replace(details, quota_us=None)


async def test_processes_are_looked_into_while_somebody_asks(daemon: Daemon) -> None:
    await daemon.pull()
    container_id = await daemon.run(await daemon.run_pod())
    orders = daemon.node.usage.orders

    def looked() -> int:
        return sum(container_id in order.processes for order in orders)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(daemon.facade.sampler.run)
        await trio.sleep(100)
        assert looked() == 1
        await pods_of(daemon)
        await trio.sleep(900)
        assert looked() == pytest.approx(31, abs=1), "for 300 s, every 10 s"
        nursery.cancel_scope.cancel()


def test_metrics_are_encoded_as_messages_would_be() -> None:
    facts = Facts(
        now_ns=1,
        usage=CgroupUsage(
            cpu_ns=(1 << 64) - 1, memory_bytes=(1 << 63) + 5, page_faults=0, rss_bytes=127, swap_bytes=128
        ),
        network=NetworkSample(10**18, (link("ü" * 100),)),
    )
    metrics = (*table.CPU, *table.MEMORY, *table.NETWORK)
    parts = list(sandbox_metrics.encoded(metrics, facts, ("", "ß", "x" * 300)))
    built = pb.PodSandboxMetrics(
        metrics=[
            pb.Metric(
                name=metric.name,
                timestamp=value.at_ns,
                metric_type=metric.kind,
                label_values=["", "ß", "x" * 300, *value.labels],
                value=pb.UInt64Value(value=value.number),
            )
            for metric in metrics
            for value in metric.values(facts)
        ]
    )

    assert len(built.metrics) > 10
    assert b"".join(parts) == built.SerializeToString()


async def test_streams_give_what_the_list_gives(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "BATCH_BYTES_MAX", 30_000)
    await daemon.pull()
    pods = [await daemon.run_pod(f"pod-{number}") for number in range(5)]
    for pod_id in pods:
        await daemon.run(pod_id)
    messages = await streamed(daemon, "StreamPodSandboxMetrics", pb.StreamPodSandboxMetricsRequest())

    assert 1 < len(messages) <= 5
    assert [one.pod_sandbox_id for message in messages for one in message.pod_sandbox_metrics] == pods
    listed = await pods_of(daemon)
    for one, other in zip(listed, (one for message in messages for one in message.pod_sandbox_metrics), strict=True):
        assert [metric.name for metric in one.container_metrics[0].metrics] == [
            metric.name for metric in other.container_metrics[0].metrics
        ]
