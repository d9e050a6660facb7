"""Which namespace a kernel parameter belongs to, and whether a pod may set it. Only what is namespaced is ever written.

Whether a parameter is safe is the kubelet's affair; what is refused here would change the whole node.

Source: CRI LinuxPodSandboxConfig.sysctls; sysctl(8); namespaces(7); Linux ipc_sysctl.c, mq_sysctl.c, sysctl_net.c.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from ocid.domain.configs import NamespaceMode, NamespaceOptions
from ocid.errors import InvalidRequest

NAME_BYTES_MAX: Final = 253  # as Kubernetes has it
SHOWN_MAX: Final = 100  # characters of a name in a message

_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(?:[./][A-Za-z0-9_-]+)+")
_OF_IPC: Final = frozenset(
    f"kernel/{name}"
    for name in (
        *("msgmax", "msgmnb", "msgmni", "msg_next_id", "auto_msgmni", "sem", "sem_next_id"),
        *("shmall", "shmmax", "shmmni", "shm_next_id", "shm_rmid_forced"),
    )
)
_MQUEUE: Final = "fs/mqueue/"
_NET: Final = "net/"
_DOMAIN: Final = "kernel/domainname"
_HOSTNAME: Final = "kernel/hostname"


def path_of(name: str) -> str:
    """Return where a parameter lies below /proc/sys.

    Whichever of "." and "/" comes first in *name* is the separator; the other one stands for "." within a part, as in
    "net.ipv4.conf.eth0/100.forwarding" and in "net/ipv4/conf/eth0.100/forwarding".

    Raises:
        InvalidRequest: it is no name of a parameter.
    """
    if len(name) > NAME_BYTES_MAX or _NAME.fullmatch(name) is None:
        raise InvalidRequest(f"sysctl {name[:SHOWN_MAX]!r} is no name: wanted words joined by '.'")
    separator = next(letter for letter in name if letter in "./")
    return name if separator == "/" else name.translate({ord("."): "/", ord("/"): "."})


def namespace_of(name: str) -> str:
    """Return the kind of namespace that has a parameter of its own: "net", "ipc", "uts", or "" for the whole host's.

    Raises:
        InvalidRequest: it is no name of a parameter.
    """
    path = path_of(name)
    if path.startswith(_NET):
        return "net"
    if path in _OF_IPC or path.startswith(_MQUEUE):
        return "ipc"
    return "uts" if path in (_DOMAIN, _HOSTNAME) else ""


def own_namespaces(options: NamespaceOptions) -> frozenset[str]:
    """Return the kinds of namespace that a pod has for itself."""
    own_net, own_ipc = options.network is not NamespaceMode.NODE, options.ipc is not NamespaceMode.NODE
    return frozenset((*(("net", "uts") if own_net else ()), *(("ipc",) if own_ipc else ())))


def check(names: Iterable[str], own: frozenset[str]) -> None:
    """Check that each parameter belongs to a namespace that the pod has for itself.

    Raises:
        InvalidRequest: one is the whole host's, or no name at all; the message names it.
    """
    for name in names:
        kind = namespace_of(name)
        if not kind:
            raise InvalidRequest(
                f"sysctl {name[:SHOWN_MAX]!r} is the whole host's: wanted one of a namespace, that is 'net.…', "
                f"'kernel.shm…', 'kernel.msg…', 'kernel.sem', 'fs.mqueue.…' or 'kernel.domainname'"
            )
        if kind not in own:
            raise InvalidRequest(
                f"sysctl {name[:SHOWN_MAX]!r} needs a pod's own {kind} namespace, and this pod shares the host's"
            )
        if path_of(name) == _HOSTNAME:
            raise InvalidRequest(f"sysctl {name[:SHOWN_MAX]!r} would contradict the pod's hostname: set that instead")


def of(kind: str, sysctls: Mapping[str, str]) -> dict[str, str]:
    """Return those of one kind of namespace; of "net" they can be written when its interfaces are there."""
    return {name: value for name, value in sysctls.items() if namespace_of(name) == kind}
