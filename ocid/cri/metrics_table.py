"""All metrics that ListPodSandboxMetrics can send: cAdvisor's names, what they mean, and where each value comes from.

A value is a whole number on the wire, so durations are in whole seconds, rounded down. A metric without a value is not
sent: what the kernel does not tell is not 0.

Source: cAdvisor docs/storage/prometheus.md; CRI MetricDescriptor and Metric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from ocid.cri.sampler import NetworkSample, ProcessSample
from ocid.cri.stubs import api_pb2 as pb
from ocid.ports.usage import (
    CgroupDetails,
    CgroupUsage,
    DeviceIo,
    FilesystemRoom,
    InterfaceUsage,
    Pressure,
    Stalled,
    WritableUsage,
)

LABELS: Final = ("container", "id", "image", "name", "namespace", "pod")  # of every metric, as kubelets have them
NS: Final = 1_000_000_000
US: Final = 1_000_000


class Facts(NamedTuple):
    """What is known of one container, or of a pod as far as it is one cgroup and one network."""

    now_ns: int
    usage: CgroupUsage = CgroupUsage()
    details: CgroupDetails = CgroupDetails()
    started_at_ns: int | None = None
    writable: WritableUsage | None = None
    room: FilesystemRoom | None = None
    processes: ProcessSample | None = None
    network: NetworkSample | None = None


class Value(NamedTuple):
    """One time series' value: its labels beyond ``LABELS``, and when it was taken, 0 for now."""

    number: int
    labels: tuple[str, ...] = ()
    at_ns: int = 0


class Metric(NamedTuple):
    """One described metric."""

    name: str
    kind: pb.MetricType.ValueType
    help: str
    labels: tuple[str, ...]  # beyond ``LABELS``
    values: Callable[[Facts], Iterable[Value]]


One = Callable[[Facts], int | None]


def _single(name: str, kind: pb.MetricType.ValueType, text: str, one: One, *labels: tuple[str, str]) -> Metric:
    """A metric of one series; *labels* are constant."""
    words = tuple(value for _, value in labels)

    def values(facts: Facts) -> Iterable[Value]:
        number = one(facts)
        return () if number is None else (Value(number, words),)

    return Metric(name, kind, text, tuple(key for key, _ in labels), values)


def _counter(name: str, text: str, one: One, *labels: tuple[str, str]) -> Metric:
    return _single(name, pb.COUNTER, text, one, *labels)


def _gauge(name: str, text: str, one: One, *labels: tuple[str, str]) -> Metric:
    return _single(name, pb.GAUGE, text, one, *labels)


def _seconds(ns: int | None) -> int | None:
    return None if ns is None else ns // NS


def _limited(facts: Facts, number: int | None) -> int | None:
    """CFS counters mean something only where there is a quota."""
    return None if facts.details.quota_us is None else number


# --- cgroups ---------------------------------------------------------------------------------------------------------

CPU: Final = (
    _counter(
        "container_cpu_usage_seconds_total",
        "CPU time used, in seconds.",
        lambda f: _seconds(f.usage.cpu_ns),
        ("cpu", "total"),
    ),
    _counter(
        "container_cpu_user_seconds_total", "CPU time used in user mode, in seconds.",
        lambda f: _seconds(f.details.user_ns),
    ),
    _counter(
        "container_cpu_system_seconds_total", "CPU time used in the kernel, in seconds.",
        lambda f: _seconds(f.details.system_ns),
    ),
    _counter(
        "container_cpu_cfs_periods_total", "Periods in which the CPU quota was enforced.",
        lambda f: _limited(f, f.details.periods),
    ),
    _counter(
        "container_cpu_cfs_throttled_periods_total", "Periods in which the CPU quota ran out.",
        lambda f: _limited(f, f.details.throttled_periods),
    ),
    _counter(
        "container_cpu_cfs_throttled_seconds_total", "Time spent throttled for lack of CPU quota, in seconds.",
        lambda f: _seconds(_limited(f, f.details.throttled_ns)),
    ),
)  # fmt: skip

MEMORY: Final = (
    _gauge(
        "container_memory_usage_bytes", "Memory charged, in bytes, whenever it was last used.",
        lambda f: f.usage.memory_bytes,
    ),
    _gauge(
        "container_memory_working_set_bytes", "Memory charged without inactive file pages, in bytes.",
        lambda f: f.usage.working_set_bytes,
    ),
    _gauge("container_memory_rss", "Anonymous memory, in bytes.", lambda f: f.usage.rss_bytes),
    _gauge("container_memory_cache", "Page cache, in bytes.", lambda f: f.details.cache_bytes),
    _gauge("container_memory_mapped_file", "Mapped files, in bytes.", lambda f: f.details.mapped_file_bytes),
    _gauge("container_memory_kernel_usage", "Memory of the kernel, in bytes.", lambda f: f.details.kernel_bytes),
    _gauge("container_memory_swap", "Swap used, in bytes; 0 where there is none.", lambda f: f.usage.swap_bytes or 0),
    _gauge(
        "container_memory_max_usage_bytes", "The most memory that was ever charged, in bytes.",
        lambda f: f.usage.memory_bytes if f.details.max_memory_bytes is None else f.details.max_memory_bytes,
    ),
    _counter("container_memory_failcnt", "How often the memory limit was hit.", lambda f: f.details.limit_hits),
    Metric(
        "container_memory_failures_total", pb.COUNTER, "Page faults.", ("failure_type", "scope"),
        lambda f: _faults(f.usage),
    ),
    _counter("container_oom_events_total", "Processes that the OOM killer took.", lambda f: f.details.oom_kills),
)  # fmt: skip


def _faults(usage: CgroupUsage) -> Iterable[Value]:
    for kind, number in (("pgfault", usage.page_faults), ("pgmajfault", usage.major_page_faults)):
        if number is not None:
            yield Value(number, (kind, "container"))
            yield Value(number, (kind, "hierarchy"))


def _stalled(pick: Callable[[CgroupUsage], Pressure | None], line: Callable[[Pressure], Stalled | None]) -> One:
    def one(facts: Facts) -> int | None:
        pressure = pick(facts.usage)
        found = None if pressure is None else line(pressure)
        return None if found is None else found.total_us // US

    return one


_RESOURCES: Final[tuple[tuple[str, str, Callable[[CgroupUsage], Pressure | None]], ...]] = (
    ("cpu", "CPU", lambda usage: usage.cpu_pressure),
    ("memory", "memory", lambda usage: usage.memory_pressure),
    ("io", "I/O", lambda usage: usage.io_pressure),
)
PRESSURE: Final = tuple(
    metric
    for short, long, pick in _RESOURCES
    for metric in (
        _counter(
            f"container_pressure_{short}_waiting_seconds_total",
            f"Time in which some tasks waited for {long}, in seconds.",
            _stalled(pick, lambda pressure: pressure.some),
        ),
        _counter(
            f"container_pressure_{short}_stalled_seconds_total",
            f"Time in which no task could go on for lack of {long}, in seconds.",
            _stalled(pick, lambda pressure: pressure.full),
        ),
    )
)

HUGE_PAGES: Final = (
    Metric(
        "container_hugetlb_usage_bytes", pb.GAUGE, "Huge pages used, in bytes.", ("pagesize",),
        lambda f: (Value(one.bytes, (one.size,)) for one in f.details.huge_pages),
    ),
    Metric(
        "container_hugetlb_max_usage_bytes", pb.GAUGE, "The most huge pages that were ever used, in bytes.",
        ("pagesize",),
        lambda f: (Value(one.max_bytes, (one.size,)) for one in f.details.huge_pages if one.max_bytes is not None),
    ),
)  # fmt: skip

# --- disks -----------------------------------------------------------------------------------------------------------


def _io(name: str, text: str, pick: Callable[[DeviceIo], int]) -> Metric:
    return Metric(
        name, pb.COUNTER, text, ("device",), lambda f: (Value(pick(one), (one.name,)) for one in f.details.io)
    )


def _blkio(facts: Facts) -> Iterable[Value]:
    for one in facts.details.io:
        where = (one.name, str(one.major), str(one.minor))
        yield Value(one.read_bytes, (*where, "Read"))
        yield Value(one.write_bytes, (*where, "Write"))


def _fs_usage(facts: Facts) -> Iterable[Value]:
    return () if facts.writable is None else (Value(facts.writable.bytes, (), facts.writable.at_ns),)


IO: Final = (
    _io("container_fs_reads_bytes_total", "Bytes read from disks.", lambda one: one.read_bytes),
    _io("container_fs_reads_total", "Reads from disks.", lambda one: one.reads),
    _io("container_fs_writes_bytes_total", "Bytes written to disks.", lambda one: one.write_bytes),
    _io("container_fs_writes_total", "Writes to disks.", lambda one: one.writes),
    Metric(
        "container_blkio_device_usage_total", pb.COUNTER, "Bytes read from and written to each disk.",
        ("device", "major", "minor", "operation"), _blkio,
    ),
)  # fmt: skip
FILES: Final = (
    Metric("container_fs_usage_bytes", pb.GAUGE, "What the writable layer takes, in bytes.", (), _fs_usage),
    _gauge(
        "container_fs_limit_bytes", "Size of the file system that the writable layer is on, in bytes.",
        lambda f: None if f.room is None else f.room.bytes,
    ),
    _gauge(
        "container_fs_inodes_total", "Inodes of that file system.",
        lambda f: None if f.room is None else f.room.inodes,
    ),
    _gauge(
        "container_fs_inodes_free", "Free inodes of that file system.",
        lambda f: None if f.room is None else f.room.inodes_free,
    ),
)  # fmt: skip

# --- processes -------------------------------------------------------------------------------------------------------


def _of_processes(name: str, text: str, pick: Callable[[ProcessSample], int]) -> Metric:
    def values(facts: Facts) -> Iterable[Value]:
        found = facts.processes
        return () if found is None else (Value(pick(found), (), found.at_ns),)

    return Metric(name, pb.GAUGE, text, (), values)


def _ulimits(facts: Facts) -> Iterable[Value]:
    limit = None if facts.processes is None else facts.processes.usage.open_files_max
    return (
        () if limit is None or facts.processes is None else (Value(limit, ("max_open_files",), facts.processes.at_ns),)
    )


PROCESSES: Final = (
    _of_processes("container_processes", "Processes.", lambda one: one.usage.processes),
    _of_processes("container_file_descriptors", "Open file descriptors.", lambda one: one.usage.file_descriptors),
    _of_processes("container_sockets", "Open sockets.", lambda one: one.usage.sockets),
    _gauge("container_threads", "Threads.", lambda f: f.details.threads),
    _gauge(
        "container_threads_max", "Threads that are allowed; 0 for no limit.",
        lambda f: None if f.details.threads is None else f.details.threads_max or 0,
    ),
    Metric(
        "container_ulimits_soft", pb.GAUGE, "Soft limits of the first process; not sent where there is none.",
        ("ulimit",), _ulimits,
    ),
)  # fmt: skip

# --- limits and times ------------------------------------------------------------------------------------------------

SPEC: Final = (
    _gauge("container_spec_cpu_period", "CFS period, in microseconds.", lambda f: f.details.period_us),
    _gauge("container_spec_cpu_quota", "CFS quota, in microseconds, if there is one.", lambda f: f.details.quota_us),
    _gauge("container_spec_cpu_shares", "CPU shares.", lambda f: f.details.shares),
    _gauge(
        "container_spec_memory_limit_bytes", "Memory limit, in bytes; 0 for none.",
        lambda f: f.usage.memory_limit_bytes or 0,
    ),
    _gauge(
        "container_spec_memory_reservation_limit_bytes", "Memory reservation, in bytes; 0 for none.",
        lambda f: f.details.reservation_bytes or 0,
    ),
    _gauge(
        "container_spec_memory_swap_limit_bytes", "Swap limit, in bytes; 0 for none.",
        lambda f: f.usage.swap_limit_bytes or 0,
    ),
    _gauge(
        "container_start_time_seconds", "When the container was started, in seconds since 1970.",
        lambda f: _seconds(f.started_at_ns),
    ),
)  # fmt: skip
SEEN: Final = (
    _gauge("container_last_seen", "When this was looked at, in seconds since 1970.", lambda f: f.now_ns // NS),
)

# --- networks --------------------------------------------------------------------------------------------------------


def _network(name: str, text: str, pick: Callable[[InterfaceUsage], int]) -> Metric:
    def values(facts: Facts) -> Iterable[Value]:
        found = facts.network
        return () if found is None else (Value(pick(one), (one.name,), found.at_ns) for one in found.interfaces)

    return Metric(f"container_network_{name}_total", pb.COUNTER, text, ("interface",), values)


NETWORK: Final = (
    _network("receive_bytes", "Bytes received.", lambda one: one.rx_bytes),
    _network("receive_packets", "Packets received.", lambda one: one.rx_packets),
    _network("receive_packets_dropped", "Packets dropped while receiving.", lambda one: one.rx_dropped),
    _network("receive_errors", "Errors while receiving.", lambda one: one.rx_errors),
    _network("transmit_bytes", "Bytes sent.", lambda one: one.tx_bytes),
    _network("transmit_packets", "Packets sent.", lambda one: one.tx_packets),
    _network("transmit_packets_dropped", "Packets dropped while sending.", lambda one: one.tx_dropped),
    _network("transmit_errors", "Errors while sending.", lambda one: one.tx_errors),
)

OF_CONTAINERS: Final[tuple[Metric, ...]] = (
    *CPU, *MEMORY, *PRESSURE, *HUGE_PAGES, *IO, *FILES, *PROCESSES, *SPEC, *SEEN,
)  # fmt: skip
_OF_CGROUPS: Final = (
    "container_cpu_usage_seconds_total", "container_memory_usage_bytes", "container_memory_working_set_bytes",
    "container_memory_rss", "container_memory_swap", "container_memory_failures_total",
    "container_spec_memory_limit_bytes", "container_last_seen",
)  # fmt: skip
OF_CGROUPS: Final[tuple[Metric, ...]] = (  # of pods that have one for themselves: what ``CgroupUsage`` alone says
    *(metric for metric in OF_CONTAINERS if metric.name in _OF_CGROUPS), *PRESSURE,
)  # fmt: skip
ALL: Final[tuple[Metric, ...]] = (*OF_CONTAINERS, *NETWORK)
