"""Fake of the kernel's counters: every process uses half a core and 10 MiB from its machine's boot on."""

from __future__ import annotations

import trio

from ocid.ports.usage import (
    CgroupDetails,
    CgroupUsage,
    CpuSample,
    DeviceIo,
    HugePages,
    InterfaceUsage,
    Pressure,
    ProcessUsage,
    Sample,
    SampleOrder,
    Stalled,
)
from tests.fakes.world import World

MIB = 1 << 20
PRESSURE = Pressure(some=Stalled(1.5, 0.5, 0.25, 7), full=Stalled(0.5, 0.25, 0.125, 3))


class FakeUsage:
    """Port ``Usage``."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.gone: set[str] = set()  # cgroups that have vanished, whatever the log says
        self.orders: list[SampleOrder] = []

    def process_count(self, path: str) -> int:
        tasks = self._world.tasks.values()
        return 0 if path in self.gone else sum(f"{task.cgroup}/".startswith(f"{path}/") for task in tasks)

    def cgroup(self, path: str) -> CgroupUsage | None:
        count = self.process_count(path)
        if not count:
            return None
        return CgroupUsage(
            cpu_ns=count * self._world.boot_ns() // 2,
            memory_bytes=count * 10 * MIB,
            inactive_file_bytes=2 * MIB,
            rss_bytes=count * 5 * MIB,
            page_faults=11,
            major_page_faults=2,
            memory_limit_bytes=64 * MIB,
            swap_bytes=MIB,
            swap_limit_bytes=3 * MIB,
            cpu_pressure=PRESSURE,
            memory_pressure=PRESSURE,
            io_pressure=PRESSURE,
        )

    def details(self, path: str) -> CgroupDetails | None:
        if not self.process_count(path):
            return None
        return CgroupDetails(
            user_ns=3 * 10**9,
            system_ns=2 * 10**9,
            periods=10,
            throttled_periods=4,
            throttled_ns=5 * 10**9,
            quota_us=20_000,
            period_us=100_000,
            shares=1024,
            cache_bytes=3 * MIB,
            mapped_file_bytes=MIB,
            kernel_bytes=MIB,
            max_memory_bytes=20 * MIB,
            limit_hits=6,
            oom_kills=1,
            threads=9,
            io=(DeviceIo(major=254, minor=0, name="/dev/vda", read_bytes=1, write_bytes=2, reads=3, writes=4),),
            huge_pages=(HugePages(size="2MB", bytes=0, max_bytes=MIB),),
        )

    def processes(self, path: str) -> ProcessUsage | None:
        count = self.process_count(path)
        return ProcessUsage(processes=count, file_descriptors=8, sockets=1, open_files_max=1024) if count else None

    async def sample(self, order: SampleOrder) -> Sample:
        self.orders.append(order)
        await trio.sleep(0.001)
        used = {name: self.cgroup(path) for name, path in order.cpu.items()}
        now_ns = self._world.boot_ns()
        pins = self._world.pins
        return Sample(
            cpu={name: CpuSample(now_ns, one.cpu_ns or 0) for name, one in used.items() if one is not None},
            networks={name: (link("net1"), link("eth0")) for name, path in order.networks.items() if path in pins},
            processes={
                name: one for name, path in order.processes.items() if (one := self.processes(path)) is not None
            },
        )


def link(name: str) -> InterfaceUsage:
    """An interface whose counters tell themselves apart."""
    return InterfaceUsage(
        name=name,
        rx_bytes=100,
        rx_packets=10,
        rx_errors=1,
        rx_dropped=2,
        tx_bytes=200,
        tx_packets=20,
        tx_errors=3,
        tx_dropped=4,
    )
