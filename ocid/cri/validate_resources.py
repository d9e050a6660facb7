"""What limits must be. CRI LinuxContainerResources; cgroups(7). Used by ``ocid.cri.validate``."""

from __future__ import annotations

import re
from typing import Final

from ocid.cri import checks
from ocid.cri.stubs import api_pb2 as pb
from ocid.errors import InvalidRequest

CPU_PERIOD_US: Final = (1_000, 1_000_000)  # kernel, sched/core.c
CPU_SHARES: Final = (2, 262_144)  # kernel, MIN_SHARES and MAX_SHARES
OOM_SCORE_ADJ: Final = (-1000, 1000)  # proc(5)
CPU_MAX: Final = 65_535  # the highest number of a CPU or memory node that is believed; kernels stop at 8191
HUGEPAGES_MAX: Final = 64  # sizes; the architecture with most has 7
UNIFIED_MAX: Final = 256
UNIFIED_BYTES_MAX: Final = 4096  # of a value: what one write takes

_INT64_MAX: Final = 2**63 - 1
_CPUSET: Final = re.compile(r"[0-9]{1,9}(-[0-9]{1,9})?(,[0-9]{1,9}(-[0-9]{1,9})?)*")
_PAGE_SIZE: Final = re.compile(r"[0-9]{1,7}[KMG]?B")
_UNIFIED: Final = re.compile(r"[a-z0-9_]+(\.[A-Za-z0-9_]+)+")


def linux_resources(resources: pb.LinuxContainerResources, where: str) -> None:
    """Limits of a container: zero is "not set" throughout."""
    if resources.cpu_period:
        checks.within(resources.cpu_period, f"{where}cpu_period", *CPU_PERIOD_US)
    checks.within(resources.cpu_quota, f"{where}cpu_quota", -1, _INT64_MAX)
    if resources.cpu_shares:
        checks.within(resources.cpu_shares, f"{where}cpu_shares", *CPU_SHARES)
    checks.within(resources.oom_score_adj, f"{where}oom_score_adj", *OOM_SCORE_ADJ)
    _memory(resources, where)
    for field in ("cpuset_cpus", "cpuset_mems"):
        _cpuset(getattr(resources, field), f"{where}{field}")
    checks.at_most(len(resources.hugepage_limits), f"{where}hugepage_limits", HUGEPAGES_MAX)
    for limit in resources.hugepage_limits:
        if _PAGE_SIZE.fullmatch(limit.page_size) is None:
            raise InvalidRequest(f"{where}hugepage_limits page_size is {limit.page_size[:32]!r}, wanted such as '2MB'")
    checks.at_most(len(resources.unified), f"{where}unified", UNIFIED_MAX)
    for key, value in resources.unified.items():
        if _UNIFIED.fullmatch(key) is None or key.startswith("cgroup."):
            raise InvalidRequest(f"{where}unified has {key[:100]!r}, wanted a cgroup v2 file such as 'memory.high'")
        checks.short(value, f"{where}unified[{key[:100]!r}]", UNIFIED_BYTES_MAX)


def _memory(resources: pb.LinuxContainerResources, where: str) -> None:
    limit, swap = resources.memory_limit_in_bytes, resources.memory_swap_limit_in_bytes
    checks.within(limit, f"{where}memory_limit_in_bytes", -1, _INT64_MAX)
    checks.within(swap, f"{where}memory_swap_limit_in_bytes", -1, _INT64_MAX)
    if 0 < swap < limit:
        raise InvalidRequest(
            f"{where}memory_swap_limit_in_bytes is {swap}, wanted at least memory_limit_in_bytes, {limit}: "
            f"it is memory and swap together"
        )


def _cpuset(text: str, field: str) -> None:
    if not text:
        return
    if _CPUSET.fullmatch(text) is None:
        raise InvalidRequest(f"{field} is {text[:100]!r}, wanted a list such as '0-2,7'")
    for part in text.split(","):
        first, _, last = part.partition("-")
        checks.within(int(first), field, 0, CPU_MAX)
        if last and int(last) < int(first):
            raise InvalidRequest(f"{field} has {part!r}, wanted the lower number first")
        checks.within(int(last or first), field, 0, CPU_MAX)
