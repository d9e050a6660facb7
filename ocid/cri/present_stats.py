"""What containers and pods use, as CRI messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ocid.cri import translate
from ocid.cri.sampler import NetworkSample
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.configs import ContainerConfig, PodConfig
from ocid.domain.container import Container
from ocid.domain.pod import Pod
from ocid.ports.usage import CgroupUsage, InterfaceUsage, Pressure, Stalled, WritableUsage

DEFAULT_INTERFACE = "eth0"  # what CNI and the built-in bridge call a pod's first interface


def container_attributes(state: Container, config: ContainerConfig) -> pb.ContainerAttributes:
    """CRI ContainerAttributes: what ListContainers says of the container, too."""
    assert state.declared is not None, "only declared containers have rows"
    return pb.ContainerAttributes(
        id=state.declared.container_id,
        metadata=translate.container_metadata_to_pb(config.metadata),
        labels=config.labels,
        annotations=config.annotations,
    )


def pod_attributes(state: Pod, config: PodConfig) -> pb.PodSandboxAttributes:
    """CRI PodSandboxAttributes: what ListPodSandbox says of the pod, too."""
    assert state.declared is not None, "only declared pods have rows"
    return pb.PodSandboxAttributes(
        id=state.declared.pod_id,
        metadata=translate.pod_metadata_to_pb(config.metadata),
        labels=config.labels,
        annotations=config.annotations,
    )


def cpu(usage: CgroupUsage, at_ns: int, nano_cores: int | None) -> pb.CpuUsage:
    """CRI CpuUsage. A rate that is not known yet is left out: the kubelet then makes its own."""
    return pb.CpuUsage(
        timestamp=at_ns,
        usage_core_nano_seconds=number(usage.cpu_ns),
        usage_nano_cores=number(nano_cores),
        psi=_psi(usage.cpu_pressure),
    )


def memory(usage: CgroupUsage, at_ns: int) -> pb.MemoryUsage:
    """CRI MemoryUsage. Without a limit nothing can be said of what is available."""
    working_set, limit = usage.working_set_bytes, usage.memory_limit_bytes
    return pb.MemoryUsage(
        timestamp=at_ns,
        working_set_bytes=number(working_set),
        available_bytes=None if limit is None or working_set is None else number(max(limit - working_set, 0)),
        usage_bytes=number(usage.memory_bytes),
        rss_bytes=number(usage.rss_bytes),
        page_faults=number(usage.page_faults),
        major_page_faults=number(usage.major_page_faults),
        psi=_psi(usage.memory_pressure),
    )


def swap(usage: CgroupUsage, at_ns: int) -> pb.SwapUsage | None:
    """CRI SwapUsage; None where the kernel counts none."""
    used, limit = usage.swap_bytes, usage.swap_limit_bytes
    if used is None:
        return None
    available = None if limit is None else number(max(limit - used, 0))
    return pb.SwapUsage(timestamp=at_ns, swap_usage_bytes=number(used), swap_available_bytes=available)


def io(usage: CgroupUsage, at_ns: int) -> pb.IoUsage | None:
    """CRI IoUsage; None where the kernel measures no pressure."""
    psi = _psi(usage.io_pressure)
    return None if psi is None else pb.IoUsage(timestamp=at_ns, psi=psi)


def writable(usage: WritableUsage | None, mountpoint: str) -> pb.FilesystemUsage | None:
    """CRI FilesystemUsage of a container's writable layer; None before its first measurement."""
    if usage is None:
        return None
    return pb.FilesystemUsage(
        timestamp=usage.at_ns,
        fs_id=pb.FilesystemIdentifier(mountpoint=mountpoint),
        used_bytes=number(usage.bytes),
        inodes_used=number(usage.inodes),
    )


def network(sample: NetworkSample | None) -> pb.NetworkUsage | None:
    """CRI NetworkUsage; None for a pod on the host's network, and before its first sample."""
    if sample is None or not sample.interfaces:
        return None
    names = [one.name for one in sample.interfaces]
    default = names.index(DEFAULT_INTERFACE) if DEFAULT_INTERFACE in names else 0
    others: Sequence[InterfaceUsage] = [*sample.interfaces[:default], *sample.interfaces[default + 1 :]]
    return pb.NetworkUsage(
        timestamp=sample.at_ns,
        default_interface=_interface(sample.interfaces[default]),
        interfaces=[_interface(one) for one in others],
    )


def _interface(usage: InterfaceUsage) -> pb.NetworkInterfaceUsage:
    return pb.NetworkInterfaceUsage(
        name=usage.name,
        rx_bytes=number(usage.rx_bytes),
        rx_errors=number(usage.rx_errors),
        tx_bytes=number(usage.tx_bytes),
        tx_errors=number(usage.tx_errors),
    )


def _psi(pressure: Pressure | None) -> pb.PsiStats | None:
    if pressure is None:
        return None
    return pb.PsiStats(Full=_stalled(pressure.full), Some=_stalled(pressure.some))


def _stalled(line: Stalled | None) -> pb.PsiData | None:
    """CRI PsiData, whose total is in nanoseconds."""
    if line is None:
        return None
    return pb.PsiData(Total=line.total_us * 1000, Avg10=line.avg10, Avg60=line.avg60, Avg300=line.avg300)


def number(value: int | None) -> pb.UInt64Value | None:
    """Wrap a number that may be unknown."""
    return None if value is None else pb.UInt64Value(value=value)


def total(parts: Iterable[int | None]) -> int | None:
    """Add up; None when one part is unknown, for a sum without it would be wrong."""
    known = list(parts)
    numbers = [one for one in known if one is not None]
    return sum(numbers) if len(numbers) == len(known) else None
