"""SELinux labels of pods and containers: which apply, and the level that keeps the pods of a node apart.

Pure: a level is chosen when a pod is declared, and recorded with it. Nothing of this is asked for where the kernel has
no SELinux.

Source: CRI SELinuxOption; container_selinux(8); OCI config.md "selinuxLabel", config-linux.md "mountLabel".
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Final

import msgspec

from ocid.domain.configs import ContainerSecurityContext, NamespaceMode, PodSecurityContext, SelinuxOptions
from ocid.errors import Exhausted, InvalidRequest

CATEGORIES: Final = 1024  # c0 to c1023, as the targeted policy has them
PAIRS: Final = CATEGORIES * (CATEGORIES - 1) // 2
PART_BYTES_MAX: Final = 255
PROCESS_TYPE: Final = "container_t"
FILE_TYPE: Final = "container_file_t"
FILE_ROLE: Final = "object_r"

_USER: Final = "system_u"
_ROLE: Final = "system_r"


class Labels(msgspec.Struct, frozen=True, kw_only=True):
    """Both labels of a container, ``user:role:type:level``; "" is the OCI runtime's own."""

    process: str = ""
    files: str = ""


def choose_level(pod_id: str, taken: Collection[str]) -> str:
    """Return a level of two categories that no pod of *taken* has: the same for the same pod, where it is free.

    Raises:
        Exhausted: every pair is taken.
    """
    start = int.from_bytes(hashlib.sha256(pod_id.encode()).digest()[:8], "big")
    for step in range(min(len(taken) + 1, PAIRS)):
        level = _level((start + step) % PAIRS)
        if level not in taken:
            return level
    raise Exhausted(f"all {PAIRS} pairs of SELinux categories are taken by pods of this node")


def _level(number: int) -> str:
    """The pair of that number, the lower category first: (0,1), (0,2), (1,2), (0,3) …"""
    high = 1
    while number >= high:
        number -= high
        high += 1
    return f"s0:c{number},c{high}"


def needs_level(pod: PodSecurityContext) -> bool:
    """Say whether a level has to be chosen for a pod: not where the request has one, or nothing is confined."""
    given = pod.selinux_options is not None and pod.selinux_options.level
    return not given and not _unconfined(privileged=False, pid=pod.namespace_options.pid, ipc=pod.namespace_options.ipc)


def labels(container: ContainerSecurityContext, pod: PodSecurityContext, level: str) -> Labels:
    """Return the labels of a container whose namespace options are those that apply, and whose pod has *level*.

    Its own options beat the pod's, part by part. Privileged containers, and those that share the host's PID or IPC
    namespace, are not confined, for their label would keep them from what they share.

    Raises:
        InvalidRequest: a part can be none.
    """
    options = container.namespace_options
    if _unconfined(privileged=container.privileged, pid=options.pid, ipc=options.ipc):
        return Labels()
    return _labels(_merged(container.selinux_options, pod.selinux_options), level)


def pod_labels(pod: PodSecurityContext, level: str) -> Labels:
    """Return the labels of what belongs to the pod as a whole: its pause process, files and shared memory."""
    if _unconfined(privileged=False, pid=pod.namespace_options.pid, ipc=pod.namespace_options.ipc):
        return Labels()
    return _labels(pod.selinux_options or SelinuxOptions(), level)


def _unconfined(*, privileged: bool, pid: NamespaceMode, ipc: NamespaceMode) -> bool:
    return privileged or pid is NamespaceMode.NODE or ipc is NamespaceMode.NODE


def _merged(own: SelinuxOptions | None, pods: SelinuxOptions | None) -> SelinuxOptions:
    first, second = own or SelinuxOptions(), pods or SelinuxOptions()
    return SelinuxOptions(
        user=first.user or second.user,
        role=first.role or second.role,
        type=first.type or second.type,
        level=first.level or second.level,
    )


def _labels(options: SelinuxOptions, level: str) -> Labels:
    for name in ("user", "role", "type", "level"):
        part = getattr(options, name)
        allowed = ":,.-_" if name == "level" else "_-."
        if len(part) > PART_BYTES_MAX or not all(one.isascii() and (one.isalnum() or one in allowed) for one in part):
            raise InvalidRequest(f"selinux_options.{name} is {part[:100]!r}, wanted a part of a label")
    user, at = options.user or _USER, options.level or level or "s0"
    return Labels(
        process=f"{user}:{options.role or _ROLE}:{options.type or PROCESS_TYPE}:{at}",
        files=f"{user}:{FILE_ROLE}:{FILE_TYPE}:{at}",
    )
