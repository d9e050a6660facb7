"""The ``Usage`` port on cgroups of either version, and on a v1 host's v2 hierarchy where it has one (pressure).

Files are opened, read and closed with one system call each: the kernel makes their content at the read, and what is
held open would keep a removed cgroup's directory alive. None of them waits for a disk or a network.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Final

import msgspec
import trio

from ocid.adapters import usage_text as text
from ocid.adapters.cgroups import Cgroups
from ocid.adapters.usage_survey import networks, processes
from ocid.errors import Unavailable
from ocid.ports.usage import (
    CgroupDetails,
    CgroupUsage,
    CpuSample,
    DeviceIo,
    HugePages,
    Pressure,
    ProcessUsage,
    Sample,
    SampleOrder,
)

FILE_BYTES_MAX: Final = 64 << 10

Reader = Callable[[str], bytes | None]


class CgroupUsages:
    """Reads what cgroups have used, and has namespaces and processes looked at."""

    def __init__(self, cgroups: Cgroups) -> None:
        self._cgroups = cgroups
        self._roots = cgroups.hierarchies
        self._v2 = cgroups.version == 2
        self._threads = trio.CapacityLimiter(1)

    def cgroup(self, path: str) -> CgroupUsage | None:
        """Read a cgroup's counters now; None when it is gone."""
        read = self._reader(path)
        return _usage_v2(read[""]) if self._v2 else _usage_v1(read)

    def details(self, path: str) -> CgroupDetails | None:
        """Read what only metrics tell, likewise."""
        read = self._reader(path)
        return _details_v2(read[""], self._huge_sizes(path)) if self._v2 else _details_v1(read, self._huge_sizes(path))

    def process_count(self, path: str) -> int:
        """Count the processes in a cgroup and below, now; 0 when it is gone."""
        return len(self._cgroups.processes(path))

    def processes(self, path: str) -> ProcessUsage | None:
        """Look into the processes of a cgroup, now; None where there are none."""
        pids = self._cgroups.processes(path)
        return processes(sorted(pids)) if pids else None

    async def sample(self, order: SampleOrder) -> Sample:
        """Look at many cgroups, networks and processes in a worker thread.

        Raises:
            Unavailable: the host is out of threads or descriptors.
        """
        try:
            return await trio.to_thread.run_sync(self._sample, order, limiter=self._threads, abandon_on_cancel=True)
        except (OSError, RuntimeError) as error:
            raise Unavailable(f"looking at what containers use: {error}") from error

    def _sample(self, order: SampleOrder) -> Sample:
        cpu = {name: taken for name, path in order.cpu.items() if (taken := self._cpu(path)) is not None}
        looked = {name: self.processes(path) for name, path in order.processes.items()}
        return Sample(
            cpu=cpu,
            networks=networks(order.networks) if order.networks else {},
            processes={name: found for name, found in looked.items() if found is not None},
        )

    def _cpu(self, path: str) -> CpuSample | None:
        read, now = self._reader(path), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        cpu_ns = _cpu_v2(read[""]("cpu.stat")) if self._v2 else text.single(read["cpuacct"]("cpuacct.usage"))
        return None if cpu_ns is None else CpuSample(now, cpu_ns)

    def _reader(self, path: str) -> _Readers:
        return _Readers(self._roots, self._cgroups.inner(path))

    def _huge_sizes(self, path: str) -> list[str]:
        """List the sizes of huge pages that the cgroup counts, such as "2MB"."""
        root = self._roots.get("" if self._v2 else "hugetlb")
        if root is None:
            return []
        end = ".current" if self._v2 else ".usage_in_bytes"
        try:
            names = os.listdir(os.path.join(root, self._cgroups.inner(path)))
        except OSError:
            return []
        mine = (name for name in names if name.startswith("hugetlb.") and name.endswith(end))
        return sorted(name.removeprefix("hugetlb.").removesuffix(end) for name in mine if ".rsvd." not in name)


class _Readers:
    """By controller, a function from a file's name to its content: None for what is not there."""

    __slots__ = ("_inner", "_roots")

    def __init__(self, roots: dict[str, str], inner: str) -> None:
        self._roots, self._inner = roots, inner

    def __getitem__(self, controller: str) -> Reader:
        root = self._roots.get(controller)
        return _nothing if root is None else lambda name: read_file(f"{root}/{self._inner}/{name}")


def _nothing(name: str) -> None:
    """Read a file of a hierarchy that this host does not have."""


def read_file(path: str) -> bytes | None:
    """Return what a small file of the kernel holds, None when it is gone or the kernel does not tell."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, FILE_BYTES_MAX)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _named(devices: tuple[DeviceIo, ...]) -> tuple[DeviceIo, ...]:
    return tuple(msgspec.structs.replace(one, name=_device_name(one.major, one.minor)) for one in devices)


@functools.lru_cache(maxsize=256)
def _device_name(major: int, minor: int) -> str:
    """Return "/dev/sda" for 8:0, and "8:0" when sysfs does not know that device: names must differ."""
    try:
        return f"/dev/{os.path.basename(os.readlink(f'/sys/dev/block/{major}:{minor}'))}"
    except OSError:
        return f"{major}:{minor}"


# --- version 2 -------------------------------------------------------------------------------------------------------


def _cpu_v2(content: bytes | None) -> int | None:
    return text.scaled(text.whole(text.table(content).get(b"usage_usec")), 1000)


def _usage_v2(read: Reader) -> CgroupUsage | None:
    cpu_ns = _cpu_v2(read("cpu.stat"))
    if cpu_ns is None:
        return None
    memory = text.table(read("memory.stat"))
    some = _pressures(read)
    return CgroupUsage(
        cpu_ns=cpu_ns,
        memory_bytes=text.single(read("memory.current")),
        inactive_file_bytes=text.whole(memory.get(b"inactive_file")) or 0,
        rss_bytes=text.whole(memory.get(b"anon")),
        page_faults=text.whole(memory.get(b"pgfault")),
        major_page_faults=text.whole(memory.get(b"pgmajfault")),
        memory_limit_bytes=text.single(read("memory.max")),
        swap_bytes=text.single(read("memory.swap.current")),
        swap_limit_bytes=text.single(read("memory.swap.max")),
        cpu_pressure=some[0],
        memory_pressure=some[1],
        io_pressure=some[2],
    )


def _pressures(read: Reader) -> tuple[Pressure | None, Pressure | None, Pressure | None]:
    return (
        text.pressure(read("cpu.pressure")),
        text.pressure(read("memory.pressure")),
        text.pressure(read("io.pressure")),
    )


def _details_v2(read: Reader, sizes: list[str]) -> CgroupDetails | None:
    cpu = text.table(read("cpu.stat"))
    if not cpu:
        return None
    memory, events = text.table(read("memory.stat")), text.table(read("memory.events"))
    quota_us, period_us = text.quota_v2(read("cpu.max"))
    return CgroupDetails(
        user_ns=text.scaled(text.whole(cpu.get(b"user_usec")), 1000),
        system_ns=text.scaled(text.whole(cpu.get(b"system_usec")), 1000),
        periods=text.whole(cpu.get(b"nr_periods")),
        throttled_periods=text.whole(cpu.get(b"nr_throttled")),
        throttled_ns=text.scaled(text.whole(cpu.get(b"throttled_usec")), 1000),
        quota_us=quota_us,
        period_us=period_us,
        shares=text.shares_of_weight(text.single(read("cpu.weight"))),
        cache_bytes=text.whole(memory.get(b"file")),
        mapped_file_bytes=text.whole(memory.get(b"file_mapped")),
        kernel_bytes=text.first(memory, (b"kernel", b"kernel_stack")),
        max_memory_bytes=text.single(read("memory.peak")),
        limit_hits=text.whole(events.get(b"max")),
        reservation_bytes=text.single(read("memory.low")),
        oom_kills=text.whole(events.get(b"oom_kill")),
        threads=text.single(read("pids.current")),
        threads_max=text.single(read("pids.max")),
        io=_named(text.io_v2(read("io.stat"))),
        huge_pages=tuple(
            HugePages(size=size, bytes=used)
            for size in sizes
            if (used := text.single(read(f"hugetlb.{size}.current"))) is not None
        ),
    )


# --- version 1 -------------------------------------------------------------------------------------------------------


def _usage_v1(read: _Readers) -> CgroupUsage | None:
    cpu_ns = text.single(read["cpuacct"]("cpuacct.usage"))
    if cpu_ns is None:
        return None
    of_memory = read["memory"]
    memory = text.table(of_memory("memory.stat"))
    limit = text.limit_v1(of_memory("memory.limit_in_bytes"))
    both = text.limit_v1(of_memory("memory.memsw.limit_in_bytes"))  # memory and swap together
    some = _pressures(read[""])
    return CgroupUsage(
        cpu_ns=cpu_ns,
        memory_bytes=text.single(of_memory("memory.usage_in_bytes")),
        inactive_file_bytes=text.whole(memory.get(b"total_inactive_file")) or 0,
        rss_bytes=text.whole(memory.get(b"total_rss")),
        page_faults=text.whole(memory.get(b"total_pgfault")),
        major_page_faults=text.whole(memory.get(b"total_pgmajfault")),
        memory_limit_bytes=limit,
        swap_bytes=text.whole(memory.get(b"total_swap")),
        swap_limit_bytes=None if limit is None or both is None else max(both - limit, 0),
        cpu_pressure=some[0],
        memory_pressure=some[1],
        io_pressure=some[2],
    )


def _details_v1(read: _Readers, sizes: list[str]) -> CgroupDetails | None:
    cpuacct, cpu, of_memory, pids = read["cpuacct"], read["cpu"], read["memory"], read["pids"]
    user_ns = text.single(cpuacct("cpuacct.usage_user"))
    if user_ns is None:
        return None
    bandwidth, memory = text.table(cpu("cpu.stat")), text.table(of_memory("memory.stat"))
    return CgroupDetails(
        user_ns=user_ns,
        system_ns=text.single(cpuacct("cpuacct.usage_sys")),
        periods=text.whole(bandwidth.get(b"nr_periods")),
        throttled_periods=text.whole(bandwidth.get(b"nr_throttled")),
        throttled_ns=text.whole(bandwidth.get(b"throttled_time")),
        quota_us=text.single(cpu("cpu.cfs_quota_us")),
        period_us=text.single(cpu("cpu.cfs_period_us")),
        shares=text.single(cpu("cpu.shares")),
        cache_bytes=text.whole(memory.get(b"total_cache")),
        mapped_file_bytes=text.whole(memory.get(b"total_mapped_file")),
        kernel_bytes=text.single(of_memory("memory.kmem.usage_in_bytes")),
        max_memory_bytes=text.single(of_memory("memory.max_usage_in_bytes")),
        limit_hits=text.single(of_memory("memory.failcnt")),
        reservation_bytes=text.limit_v1(of_memory("memory.soft_limit_in_bytes")),
        oom_kills=text.whole(text.table(of_memory("memory.oom_control")).get(b"oom_kill")),
        threads=text.single(pids("pids.current")),
        threads_max=text.single(pids("pids.max")),
        io=_named(_io_v1(read["blkio"])),
        huge_pages=_huge_v1(read["hugetlb"], sizes),
    )


def _io_v1(read: Reader) -> tuple[DeviceIo, ...]:
    for scheduler in ("throttle", "bfq"):
        found = text.io_v1(
            read(f"blkio.{scheduler}.io_service_bytes_recursive"), read(f"blkio.{scheduler}.io_serviced_recursive")
        )
        if found:
            return found
    return ()


def _huge_v1(read: Reader, sizes: list[str]) -> tuple[HugePages, ...]:
    return tuple(
        HugePages(size=size, bytes=used, max_bytes=text.single(read(f"hugetlb.{size}.max_usage_in_bytes")))
        for size in sizes
        if (used := text.single(read(f"hugetlb.{size}.usage_in_bytes"))) is not None
    )
