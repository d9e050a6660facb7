"""What ``ocid spec generate`` is asked for. Everything may be left out; None or nothing is "not given".

Source: OCI runtime-spec config.md, config-linux.md, whose words the fields have.
"""

from __future__ import annotations

import msgspec

from ocid.domain.configs import IdMapping, LinuxResources
from ocid.domain.spec.inputs import DeviceNode, ExtraMount, HostFacts, Rlimit

HOST = "host"  # of a namespace: stay in the host's


class Hook(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One hook. OCI config.md "POSIX-platform Hooks"."""

    path: str
    args: tuple[str, ...] = ()


class SpecOptions(msgspec.Struct, frozen=True, kw_only=True):
    """All that is asked for, and what was read for it."""

    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()  # "NAME=value"
    cwd: str = ""
    user: str = ""  # as in an image: "user", "uid", "user:group", "uid:gid"
    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()
    tty: bool | None = None
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    cap_ambient: tuple[str, ...] = ()
    no_new_privileges: bool | None = None
    rlimits: tuple[Rlimit, ...] = ()
    oom_score_adj: int | None = None
    apparmor: str | None = None
    selinux_label: str | None = None
    mount_label: str | None = None
    mounts: tuple[ExtraMount, ...] = ()
    mounts_removed: tuple[str, ...] = ()  # destinations
    namespaces: dict[str, str] = {}  # OCI's type → "" for a new one, a path to join, or HOST
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    seccomp: str = ""  # "default", "unconfined", or the path of a profile, whose text is seccomp_profile
    seccomp_profile: bytes = b""
    resources: LinuxResources = LinuxResources()
    pids_limit: int = 0
    cgroups_path: str = ""
    devices: tuple[DeviceNode, ...] = ()
    host_devices: tuple[DeviceNode, ...] = ()  # every device of the host, where privileged
    hostname: str = ""
    rootfs: str = ""
    readonly: bool | None = None
    rootfs_propagation: str = ""
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    unmask: bool = False  # neither masked nor read-only paths
    annotations: dict[str, str] = {}
    hooks: dict[str, tuple[Hook, ...]] = {}
    sysctl: dict[str, str] = {}
    privileged: bool = False
    passwd: bytes = b""  # of the root file system, where there is one
    group: bytes = b""
    host: HostFacts = HostFacts()
