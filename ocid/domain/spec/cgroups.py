"""Where a container's cgroup is, under either cgroup driver.

The kubelet names a pod's cgroup in cgroupfs spelling (``/kubepods/burstable/pod1234``) or as a slice
(``kubepods-burstable-pod1234.slice``), whichever driver it runs with; both are understood under both drivers.
cAdvisor recognises a container by the 64 hex digits at the end, so the prefix stays ours to choose.

Source: CRI LinuxPodSandboxConfig.cgroup_parent; OCI config-linux.md "Control groups"; systemd.slice(5).
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

from ocid.errors import InvalidRequest

PREFIX: Final = "ocid"
NAME_BYTES_MAX: Final = 255  # NAME_MAX, for one directory under /sys/fs/cgroup
PATH_BYTES_MAX: Final = 2048  # leaves room for mount point and leaf below PATH_MAX
SYSTEM_SLICE: Final = "system.slice"  # where systemd puts what names no slice

_SLICE_SAFE: Final = re.compile(r"[A-Za-z0-9:_.]")


class CgroupDriver(StrEnum):
    """Who makes the cgroup directories. CRI CgroupDriver."""

    CGROUPFS = "cgroupfs"
    SYSTEMD = "systemd"


def cgroups_path(driver: CgroupDriver, parent: str, name: str) -> str:
    """The OCI ``linux.cgroupsPath`` of the container or pod *name*.

    Under cgroupfs a path, ``/kubepods/pod1/ocid-<name>``; under systemd ``slice:prefix:name``, which the OCI runtime
    turns into the scope ``ocid-<name>.scope`` of that slice. An empty *parent* is the root, or system.slice.

    Raises:
        InvalidRequest: *parent* holds "..", NUL, or a slice name that systemd could not have.
    """
    if driver is CgroupDriver.SYSTEMD:
        return f"{slice_name(parent) if parent else SYSTEM_SLICE}:{PREFIX}:{name}"
    directory = parent_path(driver, parent)
    return f"{directory.rstrip('/')}/{PREFIX}-{name}"


def parent_path(driver: CgroupDriver, parent: str) -> str:
    """The directory of the pod's own cgroup, relative to the root of a hierarchy, with a leading "/".

    Raises:
        InvalidRequest: as ``cgroups_path``.
    """
    if driver is CgroupDriver.SYSTEMD:
        return slice_path(slice_name(parent) if parent else SYSTEM_SLICE)
    _check(parent)
    last = parent.rstrip("/").rpartition("/")[2]
    if last.endswith(".slice"):
        return slice_path(last)
    return "/" + "/".join(part for part in parent.split("/") if part not in ("", "."))


def container_path(driver: CgroupDriver, parent: str, name: str) -> str:
    """The directory of the container's cgroup, relative to the root of a hierarchy, with a leading "/"."""
    if driver is CgroupDriver.CGROUPFS:
        return cgroups_path(driver, parent, name)
    return f"{parent_path(driver, parent).rstrip('/')}/{PREFIX}-{name}.scope"


def directory_of(path: str) -> str:
    """The directory of an OCI ``linux.cgroupsPath``, relative to the root of a hierarchy, with a leading "/".

    Raises:
        InvalidRequest: its slice is none.
    """
    if path.startswith("/") or path.count(":") < 2:
        return path
    unit, prefix, name = path.split(":", 2)
    return f"{slice_path(unit).rstrip('/')}/{prefix}-{name}.scope"


def slice_name(parent: str) -> str:
    """The systemd slice that *parent* means: ``/kubepods/pod1`` → ``kubepods-pod1.slice``; "/" → ``-.slice``.

    A "-" within one part is escaped, for in a slice name it means one level down. The kubelet does the same with "_".

    Raises:
        InvalidRequest: as ``cgroups_path``.
    """
    _check(parent)
    parts = [part for part in parent.split("/") if part not in ("", ".")]
    if not parts:
        return "-.slice"
    if parts[-1].endswith(".slice"):
        name = parts[-1]
        slice_path(name)  # refuses what systemd would
        return name
    name = "-".join(part.replace("-", "_") for part in parts)
    escaped = "".join(one if _SLICE_SAFE.match(one) or one == "-" else _escaped(one) for one in name)
    return f"{escaped}.slice"


def slice_path(name: str) -> str:
    """The directory of a slice: ``a-b.slice`` → ``/a.slice/a-b.slice``; ``-.slice`` → ``/``.

    Raises:
        InvalidRequest: *name* is no slice name: wrong suffix, a "/", an empty level.
    """
    stem = name.removesuffix(".slice")
    if stem == name or "/" in name:
        raise InvalidRequest(f"cgroup parent {name[:200]!r} is not a slice: wanted '<name>.slice' without '/'")
    if stem == "-":
        return "/"
    levels = stem.split("-")
    if not all(levels):
        raise InvalidRequest(f"cgroup parent {name[:200]!r} has an empty level: wanted 'a-b.slice'")
    names = ["-".join(levels[: depth + 1]) + ".slice" for depth in range(len(levels))]
    if len(name.encode()) > NAME_BYTES_MAX:
        raise InvalidRequest(f"cgroup parent is {len(name.encode())} bytes, one name holds {NAME_BYTES_MAX}")
    return "/" + "/".join(names)


def _escaped(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode())


def _check(parent: str) -> None:
    if "\0" in parent or ".." in parent.split("/"):
        raise InvalidRequest(f"cgroup parent {parent[:200]!r} holds '..' or NUL: wanted a plain path")
    if len(parent.encode("utf-8", "surrogatepass")) > PATH_BYTES_MAX:
        raise InvalidRequest(f"cgroup parent is {len(parent)} characters, the limit is {PATH_BYTES_MAX} bytes")
