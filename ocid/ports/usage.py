"""What containers and pods use of the host: control groups, networks, processes. Numbers are as the kernel counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec


class Stalled(msgspec.Struct, frozen=True, gc=False):
    """One line of a pressure file. Averages in percent. Kernel psi.rst."""

    avg10: float
    avg60: float
    avg300: float
    total_us: int


class Pressure(msgspec.Struct, frozen=True):
    """For how long some, and how long all, tasks of a cgroup waited for one resource."""

    some: Stalled | None = None
    full: Stalled | None = None


class CgroupUsage(msgspec.Struct, frozen=True, kw_only=True):
    """One cgroup with all below it, now. None stands for what this kernel, or this hierarchy, does not tell."""

    cpu_ns: int | None = None
    memory_bytes: int | None = None
    inactive_file_bytes: int = 0
    rss_bytes: int | None = None
    page_faults: int | None = None
    major_page_faults: int | None = None
    memory_limit_bytes: int | None = None  # of this very cgroup; None for no limit
    swap_bytes: int | None = None
    swap_limit_bytes: int | None = None  # swap alone; None for no limit
    cpu_pressure: Pressure | None = None
    memory_pressure: Pressure | None = None
    io_pressure: Pressure | None = None

    @property
    def working_set_bytes(self) -> int | None:
        """What cannot be had back without swapping: everything but file pages that nobody has used lately."""
        return None if self.memory_bytes is None else max(self.memory_bytes - self.inactive_file_bytes, 0)


class DeviceIo(msgspec.Struct, frozen=True, kw_only=True):
    """What went to and from one block device."""

    major: int
    minor: int
    name: str = ""  # "/dev/sda", or the numbers when it has no name here
    read_bytes: int = 0
    write_bytes: int = 0
    reads: int = 0
    writes: int = 0


class HugePages(msgspec.Struct, frozen=True, kw_only=True):
    """Huge pages of one size, such as "2MB"."""

    size: str
    bytes: int
    max_bytes: int | None = None  # the most there ever were; v1 only


class CgroupDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What only metrics tell of a cgroup, beyond its ``CgroupUsage``."""

    user_ns: int | None = None
    system_ns: int | None = None
    periods: int | None = None  # CFS bandwidth control
    throttled_periods: int | None = None
    throttled_ns: int | None = None
    quota_us: int | None = None  # None for no quota
    period_us: int | None = None
    shares: int | None = None
    cache_bytes: int | None = None
    mapped_file_bytes: int | None = None
    kernel_bytes: int | None = None
    max_memory_bytes: int | None = None
    limit_hits: int | None = None
    reservation_bytes: int | None = None
    oom_kills: int | None = None
    threads: int | None = None
    threads_max: int | None = None  # None for no limit
    io: tuple[DeviceIo, ...] = ()
    huge_pages: tuple[HugePages, ...] = ()


class InterfaceUsage(msgspec.Struct, frozen=True, kw_only=True):
    """One network interface, as seen from inside its namespace."""

    name: str
    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


class ProcessUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The processes of a cgroup and below."""

    processes: int
    file_descriptors: int
    sockets: int
    open_files_max: int | None = None  # soft limit of the first process; None for no limit


class WritableUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What a container's writable layer took when it was last looked through."""

    at_ns: int
    bytes: int
    inodes: int


class FilesystemRoom(msgspec.Struct, frozen=True, kw_only=True):
    """How large a file system is."""

    bytes: int
    inodes: int
    inodes_free: int


class SampleOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What to look at: by an id that the answer repeats."""

    cpu: Mapping[str, str]  # cgroup paths
    networks: Mapping[str, str]  # paths of pinned network namespaces
    processes: Mapping[str, str]  # cgroup paths


class CpuSample(msgspec.Struct, frozen=True, gc=False):
    """The CPU time that a cgroup had used at one moment."""

    boot_ns: int
    cpu_ns: int


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What was found; whatever vanished meanwhile is left out."""

    cpu: Mapping[str, CpuSample]
    networks: Mapping[str, tuple[InterfaceUsage, ...]]  # without the loopback interface
    processes: Mapping[str, ProcessUsage]


class Usage(Protocol):
    """Looks at the kernel's counters. A cgroup path is an OCI ``linux.cgroupsPath``, or a plain path with a "/"."""

    def cgroup(self, path: str) -> CgroupUsage | None:
        """Read a cgroup's counters now, from files that cannot hang; None when it is gone."""

    def details(self, path: str) -> CgroupDetails | None:
        """Read what only metrics tell, likewise."""

    def process_count(self, path: str) -> int:
        """Count the processes in a cgroup and below, now; 0 when it is gone."""

    def processes(self, path: str) -> ProcessUsage | None:
        """Look into the processes of a cgroup, now; None where there are none."""

    async def sample(self, order: SampleOrder) -> Sample:
        """Look at many cgroups, networks and processes in a worker thread.

        Raises:
            Unavailable: the host is out of what that needs.
        """
