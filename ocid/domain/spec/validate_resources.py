"""What an OCI spec's ``linux.resources`` must be.

Source: OCI runtime-spec config-linux.md, "Control groups".
"""

from __future__ import annotations

import re
from typing import Final

from ocid.domain.spec.validate_shape import (
    INT64,
    UINT32,
    UINT64,
    Check,
    Fault,
    also,
    boolean,
    fault,
    fields,
    integer,
    items,
    mapping,
    one_of,
    shown,
    string,
)

CPU_SHARES: Final = (0, 262_144)  # kernel, MAX_SHARES; runtimes raise 0 and 1
CPU_PERIOD_US: Final = (1_000, 1_000_000)  # kernel, sched/core.c
WEIGHT: Final = (10, 1000)  # of block I/O

_LIMIT: Final = integer(-1, INT64[1])  # -1 is none
_CPUSET: Final = re.compile(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*")
_PAGE_SIZE: Final = re.compile(r"[1-9][0-9]*[KMG]B")
_FILE: Final = re.compile(r"[a-z0-9_]+(\.[A-Za-z0-9_]+)+")


def _cpuset(value: object, path: str, faults: list[Fault]) -> None:
    string(value, path, faults)
    if isinstance(value, str) and value and _CPUSET.fullmatch(value) is None:
        fault(faults, path, f"is {shown(value)}, wanted a list such as 0-2,7")


def _page_size(value: object, path: str, faults: list[Fault]) -> None:
    if not isinstance(value, str) or _PAGE_SIZE.fullmatch(value) is None:
        fault(faults, path, f"is {shown(value)}, wanted such as 2MB")


def _page_sizes_once(value: object, path: str, faults: list[Fault]) -> None:
    assert isinstance(value, list)
    sizes = [limit["pageSize"] for limit in value]
    for index, size in enumerate(sizes):
        if size in sizes[:index]:
            fault(faults, f"{path}[{index}].pageSize", f"is {size} once more, wanted each size once")


def _access(value: object, path: str, faults: list[Fault]) -> None:
    if not isinstance(value, str) or set(value) - set("rwm"):
        fault(faults, path, f"is {shown(value)}, wanted some of r, w and m")


def _memory_fits(value: object, path: str, faults: list[Fault]) -> None:
    assert isinstance(value, dict)
    limit, swap, reservation = (value.get(name) or 0 for name in ("limit", "swap", "reservation"))
    if 0 < swap < limit:
        fault(faults, f"{path}.swap", f"is {swap}, wanted at least the limit {limit}: it is memory and swap together")
    if 0 < limit < reservation:
        fault(faults, f"{path}.reservation", f"is {reservation}, above the limit {limit}")


def _cpu_fits(value: object, path: str, faults: list[Fault]) -> None:
    assert isinstance(value, dict)
    burst, quota = value.get("burst") or 0, value.get("quota") or 0
    if 0 < quota < burst:
        fault(faults, f"{path}.burst", f"is {burst}, above the quota {quota}")


def _unified(value: object, path: str, faults: list[Fault]) -> None:
    assert isinstance(value, dict)
    for name in value:
        if _FILE.fullmatch(name) is None:
            fault(faults, path, f"has {shown(name)}, wanted a file of cgroup v2 such as memory.high")


_NUMBER: Final = integer(*INT64)
_DEVICES: Final = items(
    fields(
        {
            "type": one_of(("a", "b", "c")),
            "major": integer(-1, INT64[1]),
            "minor": integer(-1, INT64[1]),
            "access": _access,
        },
        {"allow": boolean},
    )
)
_MEMORY: Final = also(
    fields(
        {
            **dict.fromkeys(("limit", "reservation", "swap", "kernel", "kernelTCP"), _LIMIT),
            **dict.fromkeys(("disableOOMKiller", "useHierarchy", "checkBeforeUpdate"), boolean),
            "swappiness": integer(0, 100),
        }
    ),
    _memory_fits,
)
_CPU: Final = also(
    fields(
        {
            "shares": integer(*CPU_SHARES),
            "quota": integer(*INT64),
            "burst": integer(*UINT64),
            "period": integer(*CPU_PERIOD_US),
            "realtimeRuntime": integer(*INT64),
            "realtimePeriod": integer(*UINT64),
            "cpus": _cpuset,
            "mems": _cpuset,
            "idle": integer(0, 1),
        }
    ),
    _cpu_fits,
)
_BLOCK: Final = {"major": _NUMBER, "minor": _NUMBER}
_THROTTLE: Final = items(fields({}, {**_BLOCK, "rate": integer(*UINT64)}))
_BLOCK_IO: Final = fields(
    {
        "weight": integer(*WEIGHT),
        "leafWeight": integer(*WEIGHT),
        "weightDevice": items(fields({"weight": integer(*WEIGHT), "leafWeight": integer(*WEIGHT)}, _BLOCK)),
        **dict.fromkeys(
            (
                "throttleReadBpsDevice",
                "throttleWriteBpsDevice",
                "throttleReadIOPSDevice",
                "throttleWriteIOPSDevice",
            ),
            _THROTTLE,
        ),
    }
)
_HUGEPAGES: Final = also(items(fields({}, {"pageSize": _page_size, "limit": integer(*UINT64)})), _page_sizes_once)
_NETWORK: Final = fields(
    {"classID": integer(*UINT32), "priorities": items(fields({}, {"name": string, "priority": integer(*UINT32)}))}
)

resources: Final[Check] = fields(
    {
        "devices": _DEVICES,
        "memory": _MEMORY,
        "cpu": _CPU,
        "pids": fields({}, {"limit": _LIMIT}),
        "blockIO": _BLOCK_IO,
        "hugepageLimits": _HUGEPAGES,
        "network": _NETWORK,
        "rdma": mapping(fields({"hcaHandles": integer(*UINT32), "hcaObjects": integer(*UINT32)})),
        "unified": also(mapping(string), _unified),
    }
)
intel_rdt: Final[Check] = fields(
    {
        "closID": string,
        "l3CacheSchema": string,
        "memBwSchema": string,
        "schemata": items(string),
        "enableCMT": boolean,
        "enableMBM": boolean,
        "enableMonitoring": boolean,
    }
)
