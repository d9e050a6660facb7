"""What ``ocid spec`` reads of this host: capabilities, cgroups, devices, account files, and what is at a path."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from ocid.domain.spec.capabilities import ALL_CAPABILITIES
from ocid.domain.spec.inputs import DeviceNode, HostFacts
from ocid.domain.spec.validate import Found
from ocid.errors import InvalidRequest

DEVICES_MAX: Final = 4096

_KINDS: Final = {stat.S_IFCHR: "c", stat.S_IFBLK: "b", stat.S_IFIFO: "p"}
_NOT_OURS: Final = frozenset({"pts", "shm", "fd", "mqueue", "hugepages", ".lxc", ".lxd-mounts", ".udev"})
_GO_NAMES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


def facts() -> HostFacts:
    """Say what a container that this user starts here can have."""
    bounding = int(_field("CapBnd") or "0", 16)
    held = tuple(name for number, name in enumerate(ALL_CAPABILITIES) if bounding >> number & 1)
    controllers = _text("/sys/fs/cgroup/cgroup.controllers")
    names = (
        controllers.split() if controllers else [line.split()[0] for line in _text("/proc/cgroups").splitlines()[1:]]
    )
    major, minor = [*os.uname().release.split("-")[0].split("."), "0"][:2]
    return HostFacts(
        capabilities=held,
        last_cap=int(_text("/proc/sys/kernel/cap_last_cap") or len(ALL_CAPABILITIES) - 1),
        can_lower_oom_score_adj="CAP_SYS_RESOURCE" in held,
        oom_score_adj=int(_text("/proc/self/oom_score_adj") or 0),
        cgroup_version=2 if controllers else 1,
        cgroup_controllers=tuple(names),
        swap_accounting=_swap_is_counted(unified=bool(controllers)),
        seccomp_enabled=Path("/proc/sys/kernel/seccomp/actions_avail").exists(),
        architecture=_GO_NAMES.get(os.uname().machine, os.uname().machine),
        kernel=(int(major), int(minor)),
    )


def device(host_path: str, container_path: str, access: str) -> DeviceNode:
    """Return a device of the host as it shall be in the container.

    Raises:
        InvalidRequest: there is none at *host_path*.
    """
    try:
        node = _node(host_path, os.stat(host_path), container_path, access)
    except OSError as error:
        raise InvalidRequest(f"device {host_path!r}: {error.strerror}") from error
    if node is None:
        raise InvalidRequest(f"device {host_path!r} is no device node")
    return node


def all_devices(directory: str = "/dev") -> tuple[DeviceNode, ...]:
    """Return every device node below *directory*, links and other containers' left out."""
    nodes: list[DeviceNode] = []
    for parent, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if name not in _NOT_OURS)
        for name in sorted(names):
            path = os.path.join(parent, name)
            with suppress(OSError):
                node = _node(path, os.lstat(path), path, "rwm")
                if node is not None and path != "/dev/console":
                    nodes.append(node)
    return tuple(nodes[:DEVICES_MAX])


def read(path: str, limit: int) -> bytes:
    """Read a file of the user's, at most *limit* bytes of it.

    Raises:
        InvalidRequest: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except OSError as error:
        raise InvalidRequest(f"{path}: {error.strerror}") from error


def accounts(rootfs: str, name: str, limit: int) -> bytes:
    """Read an account file of a root file system; nothing where it has none, or where that is a link."""
    with suppress(OSError):
        file = os.open(Path(rootfs, "etc", name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(file, "rb") as opened:
            return opened.read(limit) if stat.S_ISREG(os.fstat(file).st_mode) else b""
    return b""


def look(paths: Iterable[str]) -> dict[str, Found]:
    """Say what is at each path."""
    return {path: _at(path) for path in paths}


def _at(path: str) -> Found:
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return Found.NOTHING
    if stat.S_ISDIR(mode):
        return Found.DIRECTORY
    return Found.PROGRAM if stat.S_ISREG(mode) and mode & 0o111 else Found.FILE


def _node(path: str, status: os.stat_result, container_path: str, access: str) -> DeviceNode | None:
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    return DeviceNode(
        path=container_path,
        kind=kind,
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        file_mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        access=access,
    )


def _swap_is_counted(*, unified: bool) -> bool:
    if unified:
        return True  # memory.swap.max is written only where it is there
    return Path("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()


def _field(name: str) -> str:
    lines = (line.partition(":") for line in _text("/proc/self/status").splitlines())
    return next((value.strip() for key, _, value in lines if key == name), "")


def _text(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text(encoding="utf-8").strip()
    return ""
