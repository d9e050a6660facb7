"""What an OCI spec's ``linux`` must be.

Source: OCI runtime-spec config-linux.md; namespaces(7), user_namespaces(7).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Final

from ocid.domain.spec.validate_resources import intel_rdt, resources
from ocid.domain.spec.validate_seccomp import seccomp
from ocid.domain.spec.validate_shape import (
    INT64,
    UINT32,
    Check,
    Fault,
    absolute,
    also,
    every,
    fault,
    fields,
    integer,
    items,
    mapping,
    one_of,
    part,
    shown,
    string,
    word,
)

NAMESPACES: Final = ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")
PROPAGATIONS: Final = frozenset(
    prefix + name for name in ("private", "shared", "slave", "unbindable") for prefix in ("", "r")
)
MAPPINGS_MAX: Final = 340  # lines of uid_map

# What a sysctl needs to be the container's own; "" in front of the "." stands for a whole tree.
SYSCTLS: Final = {
    "network": ("net.",),
    "ipc": ("kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue."),
    "uts": ("kernel.domainname", "kernel.hostname"),
}

mappings: Final[Check] = items(
    fields({}, {"containerID": integer(*UINT32), "hostID": integer(*UINT32), "size": integer(1, UINT32[1])})
)


def _once(value: object, path: str, faults: list[Fault]) -> None:
    assert isinstance(value, list)
    kinds = [one["type"] for one in value]
    for index, kind in enumerate(kinds):
        if kind in kinds[:index]:
            fault(faults, f"{path}[{index}].type", f"is {kind} once more, wanted each namespace once")


def _device(value: object, path: str, faults: list[Fault]) -> None:
    assert isinstance(value, dict)
    if value["type"] == "p":
        return
    for name in ("major", "minor"):
        if value.get(name) is None:
            fault(faults, f"{path}.{name}", f"is missing, wanted for a device of type {value['type']}")


def _paths_once(value: object, path: str, faults: list[Fault]) -> None:
    assert isinstance(value, list)
    paths = [one["path"] for one in value]
    for index, device in enumerate(paths):
        if device in paths[:index]:
            fault(faults, f"{path}[{index}].path", f"is {shown(device)} once more, wanted each path once")


def _cgroups_path(value: object, path: str, faults: list[Fault]) -> None:
    string(value, path, faults)
    if isinstance(value, str) and ".." in value.split("/"):
        fault(faults, path, f"is {shown(value)}, wanted it without '..'")


def _overlaps(value: object, path: str, faults: list[Fault]) -> None:
    """The kernel takes no id twice, on either side."""
    assert isinstance(value, list)
    if len(value) > MAPPINGS_MAX:
        fault(faults, path, f"has {len(value)} entries, the kernel takes {MAPPINGS_MAX}")
        return
    for side in ("containerID", "hostID"):
        ranges = sorted((one[side], one[side] + one["size"]) for one in value)
        for before, after in itertools.pairwise(ranges):
            if after[0] < before[1]:
                fault(faults, path, f"has {side} {after[0]} twice")
        if ranges and ranges[-1][1] > UINT32[1]:
            fault(faults, path, f"reaches past the last id, {UINT32[1] - 1}")


_DEVICE: Final = also(
    fields(
        {
            "major": integer(*INT64),
            "minor": integer(*INT64),
            "fileMode": integer(0, 0o7777_777),
            "uid": integer(*UINT32),
            "gid": integer(*UINT32),
        },
        {"type": one_of(("c", "b", "u", "p")), "path": absolute},
    ),
    _device,
)
_SHAPE: Final = fields(
    {
        "namespaces": also(items(fields({"path": also(word, absolute)}, {"type": one_of(NAMESPACES)})), _once),
        "uidMappings": also(mappings, _overlaps),
        "gidMappings": also(mappings, _overlaps),
        "timeOffsets": mapping(fields({"secs": integer(*INT64), "nanosecs": integer(0, 999_999_999)})),
        "devices": also(items(_DEVICE), _paths_once),
        "cgroupsPath": _cgroups_path,
        "resources": resources,
        "intelRdt": intel_rdt,
        "sysctl": mapping(string),
        "seccomp": seccomp,
        "rootfsPropagation": one_of(PROPAGATIONS),
        "maskedPaths": items(absolute),
        "readonlyPaths": items(absolute),
        "mountLabel": string,
        "personality": fields({"flags": items(string)}, {"domain": one_of(("LINUX", "LINUX32"))}),
    }
)


def namespace_paths(value: object) -> dict[str, object]:
    """The namespaces of a ``linux`` object, however broken it is: type → path, None for a new one."""
    listed = part(value, "namespaces")
    found = listed if isinstance(listed, list) else []
    return {str(part(one, "type")): part(one, "path") for one in found}


def _together(value: object, path: str, faults: list[Fault]) -> None:
    """What depends on which namespaces the container has."""
    own = namespace_paths(value)
    for name in ("uidMappings", "gidMappings"):
        if part(value, name) and "user" not in own:
            fault(faults, f"{path}.{name}", "is set, wanted a user namespace beside it")
        if not part(value, name) and "user" in own and not own["user"]:
            fault(faults, f"{path}.{name}", "is missing, wanted for a new user namespace")
    offsets, sysctls = part(value, "timeOffsets"), part(value, "sysctl")
    if offsets and "time" not in own:
        fault(faults, f"{path}.timeOffsets", "is set, wanted a time namespace beside it")
    for name in offsets if isinstance(offsets, dict) else ():
        if name not in ("monotonic", "boottime"):
            fault(faults, f"{path}.timeOffsets", f"has {shown(name)}, wanted monotonic or boottime")
    for name in sysctls if isinstance(sysctls, dict) else ():
        _sysctl(name, own, f"{path}.sysctl", faults)


def _sysctl(name: str, own: Collection[str], path: str, faults: list[Fault]) -> None:
    dotted = name.replace("/", ".")
    needed = next((kind for kind, names in SYSCTLS.items() if dotted.startswith(names)), None)
    if needed is None:
        fault(faults, path, f"has {shown(name)}, which is the whole host's")
    elif needed not in own:
        fault(faults, path, f"has {shown(name)}, wanted a {needed} namespace beside it")


linux: Final[Check] = every(_SHAPE, _together)
