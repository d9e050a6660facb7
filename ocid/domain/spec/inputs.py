"""Everything impure that an OCI spec depends on, gathered as data before the pure builder runs.

Adapters stat devices, resolve symbolic links and read /etc/passwd; the builder only decides. A ``SpecInputs`` can be
written down and replayed: the same inputs give the same spec, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ocid.domain.apparmor import Gap
from ocid.domain.configs import ContainerConfig, Mount, PodConfig, ProfileType
from ocid.domain.image_config import ImageConfig
from ocid.domain.spec.capabilities import ALL_CAPABILITIES, DEFAULT_CAPABILITIES


class DeviceNode(msgspec.Struct, frozen=True, kw_only=True):
    """One device as stat(2) saw it. OCI config-linux.md "Devices"."""

    path: str  # in the container
    kind: str  # "c", "b" or "p"
    major: int = 0
    minor: int = 0
    file_mode: int = 0o666
    uid: int = 0
    gid: int = 0
    access: str = "rwm"  # some of r, w, m: what the device cgroup allows


class ResolvedMount(msgspec.Struct, frozen=True, kw_only=True):
    """One config mount with the path that is really bound: symlinks resolved, or the mounted image."""

    mount: Mount
    source: str


class ExtraMount(msgspec.Struct, frozen=True, kw_only=True):
    """A mount that no CRI config asked for (an image volume, CDI). OCI config.md "Mounts"."""

    destination: str
    source: str
    kind: str = "bind"
    options: tuple[str, ...] = ("rbind", "rprivate")


class Rlimit(msgspec.Struct, frozen=True, kw_only=True):
    """A process limit, *kind* as in "RLIMIT_NOFILE". OCI config.md "POSIX process"."""

    kind: str
    soft: int
    hard: int


class NamespacePaths(msgspec.Struct, frozen=True, kw_only=True):
    """Where the pod's pinned namespaces are; empty: there is none to join."""

    net: str = ""
    ipc: str = ""
    uts: str = ""
    pid: str = ""  # of the pod (pid POD) or of the target container (pid TARGET)
    user: str = ""


class PodPaths(msgspec.Struct, frozen=True, kw_only=True):
    """Files of the pod on the host that each of its containers sees; empty: not mounted."""

    shm: str = ""  # a tmpfs, bound to /dev/shm
    resolv_conf: str = ""
    hostname: str = ""


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What this kernel and this daemon can do, found once at start."""

    capabilities: tuple[str, ...] = ALL_CAPABILITIES  # the daemon's own bounding set, "CAP_…"
    last_cap: int = len(ALL_CAPABILITIES) - 1  # /proc/sys/kernel/cap_last_cap
    can_lower_oom_score_adj: bool = True  # CAP_SYS_RESOURCE
    oom_score_adj: int = 0  # the daemon's own: the floor for its children without that capability
    rlimits_hard: dict[str, int] = {}  # "RLIMIT_NOFILE" → the daemon's own ceiling, where it cannot raise it
    cgroup_version: int = 2  # 1 or 2 ("hybrid" is 1)
    cgroup_controllers: tuple[str, ...] = ("cpu", "cpuset", "memory", "pids", "io", "hugetlb", "devices")
    swap_accounting: bool = True
    seccomp_enabled: bool = True
    apparmor_enabled: bool = False
    selinux_enabled: bool = False
    resctrl_mounted: bool = False  # /sys/fs/resctrl, without which there is no Intel RDT
    architecture: str = "amd64"  # Go's name, as in image configurations
    kernel: tuple[int, int] = (6, 1)
    hostname: str = ""  # the node's, for host-network pods


class SpecPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The node operator's choices, from the configuration file."""

    default_capabilities: tuple[str, ...] = DEFAULT_CAPABILITIES
    seccomp_when_absent: ProfileType = ProfileType.UNCONFINED  # what CRI and critest take a missing profile to mean
    apparmor_default: str = ""  # the profile that RuntimeDefault means; empty: none
    rlimits: tuple[Rlimit, ...] = ()
    pids_limit: int = 0  # processes in one container; 0 leaves it to the pod's cgroup
    env: tuple[str, ...] = ()  # "NAME=value", weaker than the image's
    annotation_prefixes: tuple[str, ...] = ()  # pod and container annotations that are passed on to the OCI runtime


class SpecInputs(msgspec.Struct, frozen=True, kw_only=True):
    """All that ``build_container_spec`` reads."""

    pod: PodConfig
    container: ContainerConfig
    image: ImageConfig = ImageConfig()
    pod_id: str = ""
    container_id: str = ""
    rootfs: str = ""  # absolute path of the prepared root file system
    passwd: bytes = b""  # the rootfs' /etc/passwd, as much as users.FILE_BYTES_MAX
    group: bytes = b""  # the rootfs' /etc/group, likewise
    mounts: tuple[ResolvedMount, ...] = ()  # one for each container.mounts
    extra_mounts: tuple[ExtraMount, ...] = ()
    devices: tuple[DeviceNode, ...] = ()  # the container's config (and CDI) devices
    host_devices: tuple[DeviceNode, ...] = ()  # every device of the host; used for privileged containers only
    namespaces: NamespacePaths = NamespacePaths()
    paths: PodPaths = PodPaths()
    cgroups_path: str = ""  # from cgroups.cgroups_path
    seccomp_localhost: bytes = b""  # the text of the profile file, where the config names one
    apparmor_loaded: frozenset[str] | None = None  # the profiles that the kernel has now; None: not looked
    apparmor_gap: Gap | None = None  # why our own default profile is not one of them
    selinux_process_label: str = ""
    selinux_mount_label: str = ""
    extra_env: tuple[str, ...] = ()  # "NAME=value", stronger than the config's (CDI)
    extra_gids: tuple[int, ...] = ()  # of the process (CDI)
    hooks: Mapping[str, list[dict[str, object]]] = {}  # OCI hooks (CDI)
    intel_rdt: Mapping[str, object] | None = None  # OCI linux.intelRdt (CDI)
    block_io: Mapping[str, object] | None = None  # OCI linux.resources.blockIO of the class that is asked for
    cdi: str = ""  # the digest of what CDI devices add
    policy: SpecPolicy = SpecPolicy()
    host: HostFacts = HostFacts()
