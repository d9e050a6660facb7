"""CRI limits as the OCI ``linux.resources`` object, which the OCI runtime turns into cgroup v1 or v2 files.

Zero means "not set" in CRI and is left out here, so the same function serves ``create`` and ``update``.

Source: CRI LinuxContainerResources; OCI config-linux.md "Control groups".
"""

from __future__ import annotations

from typing import Final

from ocid.domain.configs import HugepageLimit, LinuxResources
from ocid.domain.spec.inputs import HostFacts

UNLIMITED: Final = -1


def oci_resources(resources: LinuxResources | None, host: HostFacts, *, pids_limit: int = 0) -> dict[str, object]:
    """The ``linux.resources`` without its device list.

    A memory limit without a swap limit forbids swap, as the kubelet's accounting presumes, where the kernel counts
    swap at all. What this host's cgroups cannot hold (huge pages, pids, ``unified`` on v1) is left out.
    """
    limits = resources if resources is not None else LinuxResources()
    parts = {"memory": _memory(limits, host), "cpu": _cpu(limits)}
    found: dict[str, object] = {name: part for name, part in parts.items() if part}
    if "hugetlb" in host.cgroup_controllers and limits.hugepage_limits:
        found["hugepageLimits"] = [_hugepages(limit) for limit in limits.hugepage_limits]
    if pids_limit and "pids" in host.cgroup_controllers:
        found["pids"] = {"limit": pids_limit}
    if limits.unified and host.cgroup_version == 2:
        found["unified"] = dict(limits.unified)
    return found


def merged(current: LinuxResources, change: LinuxResources) -> LinuxResources:
    """The limits after an UpdateContainerResources: what is zero or empty in *change* stays as it is.

    A swap limit that forbade swap follows the memory limit, for it would else keep that from being raised.
    """
    swap = current.memory_swap_limit_in_bytes
    if swap and swap == current.memory_limit_in_bytes:
        swap = change.memory_limit_in_bytes or swap
    pages = {limit.page_size: limit for limit in current.hugepage_limits + change.hugepage_limits}
    return LinuxResources(
        cpu_period=change.cpu_period or current.cpu_period,
        cpu_quota=change.cpu_quota or current.cpu_quota,
        cpu_shares=change.cpu_shares or current.cpu_shares,
        memory_limit_in_bytes=change.memory_limit_in_bytes or current.memory_limit_in_bytes,
        oom_score_adj=change.oom_score_adj or current.oom_score_adj,
        cpuset_cpus=change.cpuset_cpus or current.cpuset_cpus,
        cpuset_mems=change.cpuset_mems or current.cpuset_mems,
        hugepage_limits=tuple(pages.values()),
        unified={**current.unified, **change.unified},
        memory_swap_limit_in_bytes=change.memory_swap_limit_in_bytes or swap,
    )


def _memory(limits: LinuxResources, host: HostFacts) -> dict[str, object]:
    memory: dict[str, object] = {}
    if limits.memory_limit_in_bytes:
        memory["limit"] = limits.memory_limit_in_bytes
    if host.swap_accounting and (limits.memory_swap_limit_in_bytes or limits.memory_limit_in_bytes):
        memory["swap"] = limits.memory_swap_limit_in_bytes or limits.memory_limit_in_bytes
    return memory


def _cpu(limits: LinuxResources) -> dict[str, object]:
    cpu: dict[str, object] = {
        "shares": limits.cpu_shares,
        "quota": limits.cpu_quota,
        "period": limits.cpu_period,
        "cpus": limits.cpuset_cpus,
        "mems": limits.cpuset_mems,
    }
    return {key: value for key, value in cpu.items() if value}


def _hugepages(limit: HugepageLimit) -> dict[str, object]:
    return {"pageSize": limit.page_size, "limit": limit.limit}
