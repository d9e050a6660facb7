"""Which capabilities a container's process gets.

The default set is the one that containerd and Docker grant, which images in the wild are written for. The inheritable
set stays empty unless ambient capabilities are asked for: CVE-2022-24769.

Source: CRI Capability; OCI config.md "Linux Process"; capabilities(7).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ocid.domain.configs import CapabilityChanges
from ocid.errors import InvalidRequest


def _names(text: str) -> tuple[str, ...]:
    return tuple(f"CAP_{name}" for name in text.split())


ALL_CAPABILITIES: Final = _names(  # in the kernel's order: the position is the number
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
    "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL "
    "SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)

DEFAULT_CAPABILITIES: Final = _names(
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL "
    "AUDIT_WRITE"
)

# The narrower set that CRI-O grants, for operators who want it.
NARROW_CAPABILITIES: Final = _names("CHOWN DAC_OVERRIDE FSETID FOWNER SETGID SETUID SETPCAP NET_BIND_SERVICE KILL")

_NUMBER_OF: Final = {name: number for number, name in enumerate(ALL_CAPABILITIES)}


def capability_name(text: str) -> str:
    """Spell a capability as OCI does: ``net_admin`` → ``CAP_NET_ADMIN``; "ALL" stays.

    Raises:
        InvalidRequest: Linux has no such capability.
    """
    name = text.upper()
    if name in ("ALL", "CAP_ALL"):
        return "ALL"
    name = name if name.startswith("CAP_") else f"CAP_{name}"
    if name not in _NUMBER_OF:
        raise InvalidRequest(f"capability {text[:64]!r} is unknown: wanted a name of capabilities(7) or 'ALL'")
    return name


def available(held: Iterable[str], last_cap: int) -> tuple[str, ...]:
    """The capabilities that this daemon can hand on, in the kernel's order."""
    holds = frozenset(held)
    return tuple(name for number, name in enumerate(ALL_CAPABILITIES) if number <= last_cap and name in holds)


def capability_sets(
    changes: CapabilityChanges,
    *,
    privileged: bool,
    default: Iterable[str],
    available: tuple[str, ...],
) -> dict[str, list[str]]:
    """The five OCI capability sets of a process, each sorted in the kernel's order.

    "ALL" is applied first, whichever list it is in, so that single names can still be taken out or put back. A known
    capability that the daemon does not itself hold is left out, for the kernel would refuse the whole container.

    Raises:
        InvalidRequest: a name is unknown.
    """
    add = [capability_name(text) for text in changes.add_capabilities]
    drop = [capability_name(text) for text in changes.drop_capabilities]
    ambient_add = [capability_name(text) for text in changes.add_ambient_capabilities]
    if privileged:
        return _sets(frozenset(available), frozenset(), available)
    everything = frozenset(available)
    granted = everything if "ALL" in add + ambient_add else {capability_name(text) for text in default}
    ambient = everything if "ALL" in ambient_add else frozenset[str]()
    if "ALL" in drop:
        granted = ambient = frozenset()
    granted = (granted | {*add, *ambient_add}) - {*drop}
    ambient = (ambient | {*ambient_add}) - {*drop}
    return _sets(frozenset(granted), ambient, available)


def _sets(granted: frozenset[str], ambient: frozenset[str], available: tuple[str, ...]) -> dict[str, list[str]]:
    """*granted* in bounding, effective and permitted; *ambient* in inheritable and ambient too."""
    held = [name for name in available if name in granted]
    raised = [name for name in available if name in ambient]
    sets = {"bounding": held, "effective": list(held), "permitted": list(held)}
    if raised:
        sets["inheritable"] = raised
        sets["ambient"] = list(raised)
    return sets
