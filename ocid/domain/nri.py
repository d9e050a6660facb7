"""What plugins are told of pods and containers, and what they may want of them: NRI's messages as our own structs.

Nothing here knows protobuf; ``ocid.nri.translate`` stands between. Numbers and meanings are those of NRI v1alpha1.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, ClassVar, Final

import msgspec

from ocid.classes import DataClass, Public

EVENTS_ALL: Final = (1 << 14) - 1


class Event(IntEnum):
    """What plugins subscribe to."""

    RUN_POD_SANDBOX = 1
    STOP_POD_SANDBOX = 2
    REMOVE_POD_SANDBOX = 3
    CREATE_CONTAINER = 4
    POST_CREATE_CONTAINER = 5
    START_CONTAINER = 6
    POST_START_CONTAINER = 7
    UPDATE_CONTAINER = 8
    POST_UPDATE_CONTAINER = 9
    STOP_CONTAINER = 10
    REMOVE_CONTAINER = 11
    UPDATE_POD_SANDBOX = 12
    POST_UPDATE_POD_SANDBOX = 13
    VALIDATE_CONTAINER_ADJUSTMENT = 14

    @property
    def bit(self) -> int:
        """Its bit in a subscription."""
        return 1 << (self - 1)


class ContainerState(IntEnum):
    """How far a container has come."""

    UNKNOWN = 0
    CREATED = 1
    RUNNING = 3
    STOPPED = 4


# --- what plugins are told -------------------------------------------------------------------------------------------


class PodFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A pod, as plugins see it."""

    pod_id: str
    name: str
    uid: str
    namespace: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    handler: str = ""
    cgroup_parent: str = ""
    ips: tuple[str, ...] = ()
    pid: int = 0  # of the pause process; 0 where there is none
    namespaces: tuple[tuple[str, str], ...] = ()  # (type, path)
    overhead: Resources | None = None
    resources: Resources | None = None


class ContainerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A container, as plugins see it."""

    container_id: str
    pod_id: str
    name: str
    state: ContainerState = ContainerState.UNKNOWN
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    spec: Mapping[str, Any]  # the OCI runtime spec: as it will be in CreateContainer, else as the log keeps it
    pid: int = 0
    created_at_ns: int = 0
    started_at_ns: int = 0
    finished_at_ns: int = 0
    exit_code: int = 0
    reason: str = ""


# --- what plugins want -----------------------------------------------------------------------------------------------


class DeviceRule(msgspec.Struct, frozen=True, kw_only=True):
    """OCI linux.resources.devices."""

    DATA: ClassVar[DataClass] = DataClass.PUBLIC

    allow: bool
    kind: str = ""
    major: int | None = None
    minor: int | None = None
    access: str = ""


class Resources(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """OCI linux.resources; None, and empty, is "not said"."""

    DATA: ClassVar[DataClass] = DataClass.PUBLIC

    memory_limit: int | None = None  # bytes, like all memory below
    memory_reservation: int | None = None
    memory_swap: int | None = None  # memory and swap together
    memory_kernel: int | None = None
    memory_kernel_tcp: int | None = None
    memory_swappiness: int | None = None
    memory_disable_oom_killer: bool | None = None
    memory_use_hierarchy: bool | None = None
    cpu_shares: int | None = None
    cpu_quota: int | None = None  # µs
    cpu_period: int | None = None  # µs
    cpu_realtime_runtime: int | None = None  # µs
    cpu_realtime_period: int | None = None  # µs
    cpu_cpus: str | None = None
    cpu_mems: str | None = None
    pids_limit: int | None = None
    hugepages: dict[str, int] = {}  # page size → bytes
    unified: dict[str, str] = {}
    blockio_class: str | None = None
    rdt_class: str | None = None
    devices: tuple[DeviceRule, ...] = ()


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """OCI mounts; a destination with a "-" before it is to be removed."""

    destination: str
    source: str = ""
    kind: str = ""
    options: tuple[str, ...] = ()


class Hook(msgspec.Struct, frozen=True, kw_only=True):
    """One OCI hook."""

    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout_s: int | None = None


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """OCI linux.devices; a path with a "-" before it is to be removed."""

    path: str
    kind: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    access: str = "rwm"  # what the device cgroup allows


class Rlimit(msgspec.Struct, frozen=True, kw_only=True):
    """OCI process.rlimits."""

    kind: str
    hard: int
    soft: int


class Rdt(msgspec.Struct, frozen=True, kw_only=True):
    """OCI linux.intelRdt; what is None is not said."""

    clos_id: str | None = None
    schemata: tuple[str, ...] | None = None
    monitoring: bool | None = None
    removed: bool = False  # what was there before goes first


class Adjustment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one plugin, or all together, want to be different about a container that is being made.

    A "-" before the key of an annotation, variable or sysctl, a destination, path or namespace type removes it.
    """

    annotations: dict[str, str] = {}
    mounts: tuple[Mount, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    args: tuple[str, ...] = ()  # an empty first one: replace what another plugin has set
    hooks: dict[str, tuple[Hook, ...]] = {}  # OCI's name, "createRuntime" → hooks
    rlimits: tuple[Rlimit, ...] = ()
    devices: tuple[Device, ...] = ()
    resources: Resources | None = None
    oom_score_adj: int | None = None
    seccomp: dict[str, Any] | None = None  # OCI linux.seccomp
    namespaces: tuple[tuple[str, str], ...] = ()  # (type, path)
    sysctl: dict[str, str] = {}
    cdi_devices: tuple[str, ...] = ()  # qualified names
    rdt: Rdt | None = None
    io_priority: dict[str, Any] | None = None  # OCI process.ioPriority; {}: none
    scheduler: dict[str, Any] | None = None  # OCI process.scheduler; {}: none
    refused: tuple[str, ...] = ()  # what the plugin set and this build cannot do, in words


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """New resources of a container that exists."""

    container_id: str
    resources: Resources
    ignore_failure: bool = False
    plugins: tuple[str, ...] = ()  # who wants it, in the order in which they were asked


class Eviction(msgspec.Struct, frozen=True, kw_only=True):
    """A container that a plugin wants to be ended."""

    container_id: str
    reason: str = ""
    plugin: str = ""


class Change(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One thing that a plugin set: the entry of a list or map, or a single value. Which value is not said."""

    plugin: Public  # "10-name"
    field: Public  # "env", "mounts", "memory limit", …
    key: Public = ""  # name, destination, path, …


class Adjusted(msgspec.Struct, frozen=True, kw_only=True):
    """What all plugins together made of a container."""

    spec: Mapping[str, Any]
    changes: tuple[Change, ...] = ()
    cdi_devices: tuple[str, ...] = ()  # which the specification does not have yet


class Updated(msgspec.Struct, frozen=True, kw_only=True):
    """What all plugins together made of a change of a container's resources."""

    resources: Resources
    changes: tuple[Change, ...] = ()


def combined(first: Adjustment, second: Adjustment) -> Adjustment:
    """Return both adjustments as one, for plugins that judge them; what can have one value only has the second's."""
    hooks = {name: first.hooks.get(name, ()) + second.hooks.get(name, ()) for name in {**first.hooks, **second.hooks}}
    return Adjustment(
        annotations={**first.annotations, **second.annotations},
        mounts=first.mounts + second.mounts,
        env=first.env + second.env,
        args=second.args or first.args,
        hooks=hooks,
        rlimits=first.rlimits + second.rlimits,
        devices=first.devices + second.devices,
        resources=overlaid(first.resources, second.resources),
        oom_score_adj=first.oom_score_adj if second.oom_score_adj is None else second.oom_score_adj,
        seccomp=second.seccomp or first.seccomp,
        namespaces=first.namespaces + second.namespaces,
        sysctl={**first.sysctl, **second.sysctl},
        cdi_devices=first.cdi_devices + second.cdi_devices,
        rdt=second.rdt or first.rdt,
        io_priority=first.io_priority if second.io_priority is None else second.io_priority,
        scheduler=first.scheduler if second.scheduler is None else second.scheduler,
    )


def overlaid(first: Resources | None, second: Resources | None) -> Resources | None:
    """Return *first* with what *second* says in its place; of maps and lists, both have a part."""
    if first is None or second is None:
        return second if first is None else first
    said = {
        name: value for name in Resources.__struct_fields__ if (value := getattr(second, name)) not in (None, {}, ())
    }
    for name in ("hugepages", "unified"):
        said[name] = {**getattr(first, name), **getattr(second, name)}
    said["devices"] = first.devices + second.devices
    return msgspec.structs.replace(first, **said)
