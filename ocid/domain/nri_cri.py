"""Between CRI's resources, where zero and empty are "not set", and those of NRI, which knows "not said"."""

from __future__ import annotations

import msgspec

from ocid.domain.configs import HugepageLimit, LinuxResources
from ocid.domain.nri import Resources


def from_cri(limits: LinuxResources) -> Resources:
    """CRI LinuxContainerResources as plugins are told of it."""
    return Resources(
        memory_limit=limits.memory_limit_in_bytes or None,
        memory_swap=limits.memory_swap_limit_in_bytes or None,
        cpu_shares=limits.cpu_shares or None,
        cpu_quota=limits.cpu_quota or None,
        cpu_period=limits.cpu_period or None,
        cpu_cpus=limits.cpuset_cpus or None,
        cpu_mems=limits.cpuset_mems or None,
        hugepages={one.page_size: one.limit for one in limits.hugepage_limits},
        unified=dict(limits.unified),
    )


def over_cri(limits: LinuxResources, wanted: Resources) -> LinuxResources:
    """Return *limits* with what plugins want in its place; what CRI cannot express is left out."""
    said = {
        "memory_limit_in_bytes": wanted.memory_limit,
        "memory_swap_limit_in_bytes": wanted.memory_swap,
        "cpu_shares": wanted.cpu_shares,
        "cpu_quota": wanted.cpu_quota,
        "cpu_period": wanted.cpu_period,
        "cpuset_cpus": wanted.cpu_cpus,
        "cpuset_mems": wanted.cpu_mems,
    }
    pages = {one.page_size: one.limit for one in limits.hugepage_limits} | wanted.hugepages
    return msgspec.structs.replace(
        limits,
        **{name: value for name, value in said.items() if value is not None},
        hugepage_limits=tuple(HugepageLimit(page_size=size, limit=limit) for size, limit in pages.items()),
        unified={**limits.unified, **wanted.unified},
    )
