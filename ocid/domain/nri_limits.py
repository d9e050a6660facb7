"""Limits of living containers where plugins have a say: those of CRI, with what CRI cannot express beside them.

A change starts from what the container was made with, plugins included, which is the recorded specification; what was
changed since is laid over it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ocid.domain.configs import LinuxResources
from ocid.domain.nri import Resources, overlaid
from ocid.domain.nri_apply import changed_resources, resources_of
from ocid.domain.nri_cri import from_cri, over_cri
from ocid.domain.spec.inputs import HostFacts
from ocid.domain.spec.resources import merged, oci_resources
from ocid.errors import InvalidRequest, Unsupported

_BEYOND: Final = ("memory_reservation", "cpu_realtime_runtime", "cpu_realtime_period", "pids_limit")
_FIXED: Final = (  # OCI runtimes set these when they make a container, and never again
    *("memory_kernel", "memory_kernel_tcp", "memory_swappiness", "memory_disable_oom_killer", "memory_use_hierarchy"),
    *("blockio_class", "rdt_class", "devices"),
)
_UNIFIED: Final = re.compile(r"[a-z0-9_]+(\.[A-Za-z0-9_]+)+")
_VALUE_CHARS_MAX: Final = 4096  # of a cpuset, or of what is written into a file of cgroup version 2
_ENTRIES_MAX: Final = 64  # huge page sizes, and files of cgroup version 2
_INT64_MAX: Final = 2**63 - 1


class WiderResources(LinuxResources, frozen=True, kw_only=True, omit_defaults=True):
    """A document of it reads as CRI LinuxResources, too."""

    beyond: Resources | None = None  # only what can change, and CRI has no field for


def check_changeable(wanted: Resources, plugin: str) -> None:
    """Check what *plugin* wants of a container that exists.

    Raises:
        Unsupported: it cannot change while a container lives.
        InvalidRequest: it means nothing.
    """
    for name in _FIXED:
        if getattr(wanted, name) not in (None, ()):
            words = name.replace("_", " ")
            raise Unsupported(f"plugin {plugin} wants another {words}, which cannot change after the creation")
    for name in wanted.unified:
        if _UNIFIED.fullmatch(name) is None or name.startswith("cgroup."):
            raise InvalidRequest(
                f"plugin {plugin} wants unified {name[:100]!r}; wanted a cgroup v2 file such as 'memory.high'"
            )
    if max(len(wanted.unified), len(wanted.hugepages)) > _ENTRIES_MAX:
        raise InvalidRequest(f"plugin {plugin} wants more than {_ENTRIES_MAX} unified entries or huge page sizes")
    for text in (wanted.cpu_cpus or "", wanted.cpu_mems or "", *wanted.unified.values()):
        if len(text) > _VALUE_CHARS_MAX or "\0" in text or not text.isascii():
            raise InvalidRequest(
                f"plugin {plugin} wants a value of {len(text)} characters; at most {_VALUE_CHARS_MAX} of ASCII"
            )
    for name in Resources.__struct_fields__:
        value = getattr(wanted, name)
        if isinstance(value, int) and not -1 <= value <= _INT64_MAX:
            raise InvalidRequest(f"plugin {plugin} wants {name.replace('_', ' ')} {value}; wanted -1 to {_INT64_MAX}")


def wider(limits: LinuxResources, wanted: Resources) -> WiderResources:
    """Return *limits* with what plugins want in its place."""
    fields = _fields(over_cri(limits, wanted))
    said = {name: value for name in _BEYOND if (value := getattr(wanted, name)) is not None}
    beyond = overlaid(fields.pop("beyond", None), Resources(**said) if said else None)
    return WiderResources(**fields, beyond=beyond)


def as_made(limits: LinuxResources, spec: Mapping[str, Any]) -> WiderResources:
    """Return what a container was made with: *limits* asked for, with what plugins made of them in its *spec*.

    A swap limit that only forbids swap beyond the memory limit goes without saying. What CRI has no field for stays
    in the specification.
    """
    made = resources_of(spec.get("linux", {}).get("resources", {}))
    if made.memory_swap == made.memory_limit and not limits.memory_swap_limit_in_bytes:
        made = msgspec.structs.replace(made, memory_swap=None)
    return WiderResources(**_fields(over_cri(limits, made)))


def after(current: WiderResources, change: WiderResources) -> WiderResources:
    """Return the limits after *change*; what is zero or empty in it stays as it is."""
    return WiderResources(**_fields(merged(current, change)), beyond=overlaid(current.beyond, change.beyond))


def oci_of(limits: WiderResources, spec: Mapping[str, Any], host: HostFacts) -> dict[str, Any]:
    """Return the complete OCI linux.resources, without devices, of a container made as *spec* that has *limits* now."""
    made = spec.get("linux", {}).get("resources", {})
    now = {name: part for name, part in made.items() if name in ("memory", "cpu", "hugepageLimits", "unified")}
    for name, part in oci_resources(limits, host).items():
        now[name] = {**now.get(name, {}), **part} if isinstance(part, dict) else part
    return now if limits.beyond is None else changed_resources(now, limits.beyond, lambda field, key: None)


def spec_now(spec: Mapping[str, Any], limits: WiderResources, host: HostFacts) -> dict[str, Any]:
    """Return *spec* as it is with the *limits* that are in force now."""
    linux = spec.get("linux", {})
    return {**spec, "linux": {**linux, "resources": {**linux.get("resources", {}), **oci_of(limits, spec, host)}}}


def told_of(limits: WiderResources) -> Resources:
    """Return *limits* as plugins are told of them."""
    told = overlaid(from_cri(limits), limits.beyond)
    assert told is not None, "the first is there"
    return told


def _fields(limits: LinuxResources) -> dict[str, Any]:
    return {name: getattr(limits, name) for name in limits.__struct_fields__}
