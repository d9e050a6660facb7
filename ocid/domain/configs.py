"""What a kubelet asks for: the CRI pod and container configs as plain frozen data.

Field names are those of CRI v1 in snake case, every field has the proto3 zero as its default, and ``None`` stands for
"message absent" where CRI gives absence a meaning of its own. Enums carry the CRI names, so that a record of the log
can be read aloud; the wire numbers live only in ``ocid.cri.translate``. Labels and annotations are kept byte for byte.
Defaults are left out of the encoding: it is short, and a field added later does not change old digests.

Source: CRI v1 PodSandboxConfig and ContainerConfig, and what they contain.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import ClassVar

import msgspec

from ocid.classes import DataClass
from ocid.ids import ImageId


class Asked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message of a request. What it says is confidential when it is written down, after redaction."""

    DATA: ClassVar[DataClass] = DataClass.SENSITIVE


class Protocol(StrEnum):
    """Transport of a port mapping. CRI Protocol."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"


class MountPropagation(StrEnum):
    """Which way mount events travel through a bind mount. CRI MountPropagation."""

    PRIVATE = "PROPAGATION_PRIVATE"
    HOST_TO_CONTAINER = "PROPAGATION_HOST_TO_CONTAINER"
    BIDIRECTIONAL = "PROPAGATION_BIDIRECTIONAL"


class NamespaceMode(StrEnum):
    """Whose namespace a container lives in. CRI NamespaceMode."""

    POD = "POD"
    CONTAINER = "CONTAINER"
    NODE = "NODE"
    TARGET = "TARGET"


class SupplementalGroupsPolicy(StrEnum):
    """Whether the image's /etc/group adds to the groups asked for. CRI SupplementalGroupsPolicy."""

    MERGE = "Merge"
    STRICT = "Strict"


class ProfileType(StrEnum):
    """Where a seccomp or AppArmor profile comes from. CRI SecurityProfile.ProfileType."""

    RUNTIME_DEFAULT = "RuntimeDefault"
    UNCONFINED = "Unconfined"
    LOCALHOST = "Localhost"


class IdMapping(Asked, frozen=True, kw_only=True, omit_defaults=True):
    """*length* ids from *container_id* are *host_id* and up on the host. CRI IDMapping."""

    host_id: int = 0
    container_id: int = 0
    length: int = 0


class UserNamespace(Asked, frozen=True, kw_only=True, omit_defaults=True):
    """The pod's user namespace: POD with mappings, or NODE for none. CRI UserNamespace."""

    mode: NamespaceMode = NamespaceMode.POD
    uids: tuple[IdMapping, ...] = ()
    gids: tuple[IdMapping, ...] = ()


class NamespaceOptions(Asked, frozen=True, kw_only=True, omit_defaults=True):
    """Which namespaces are shared with whom. CRI NamespaceOption."""

    network: NamespaceMode = NamespaceMode.POD
    pid: NamespaceMode = NamespaceMode.POD
    ipc: NamespaceMode = NamespaceMode.POD
    target_id: str = ""  # the container whose PID namespace to join, for pid TARGET
    userns_options: UserNamespace | None = None  # None: the host's user namespace

    @property
    def user_namespace(self) -> UserNamespace | None:
        """The user namespace to be made or joined, or None for the host's."""
        options = self.userns_options
        return options if options is not None and options.mode is NamespaceMode.POD and options.uids else None


class SecurityProfile(Asked, frozen=True, kw_only=True, omit_defaults=True):
    """A seccomp or AppArmor profile. CRI SecurityProfile."""

    profile_type: ProfileType = ProfileType.RUNTIME_DEFAULT
    localhost_ref: str = ""


class SelinuxOptions(Asked, frozen=True, kw_only=True, omit_defaults=True):
    """The four parts of an SELinux label. CRI SELinuxOption."""

    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


class HugepageLimit(Asked, frozen=True, kw_only=True, omit_defaults=True):
    """Bytes of huge pages of one size ("2MB"). CRI HugepageLimit."""

    DATA: ClassVar[DataClass] = DataClass.PUBLIC

    page_size: str = ""
    limit: int = 0


class LinuxResources(Asked, frozen=True, kw_only=True, omit_defaults=True):
    """Limits of a container or pod; zero or empty means "not set". CRI LinuxContainerResources."""

    DATA: ClassVar[DataClass] = DataClass.PUBLIC

    cpu_period: int = 0  # µs
    cpu_quota: int = 0  # µs in each period; -1 is "no limit"
    cpu_shares: int = 0
    memory_limit_in_bytes: int = 0
    oom_score_adj: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    unified: dict[str, str] = {}
    memory_swap_limit_in_bytes: int = 0  # memory and swap together


class Metadata(Asked, frozen=True, kw_only=True, omit_defaults=True):
    """Who a pod is to the kubelet; (namespace, name, uid, attempt) is its key. CRI PodSandboxMetadata."""

    name: str = ""
    uid: str = ""
    namespace: str = ""
    attempt: int = 0


class DnsConfig(Asked, frozen=True, kw_only=True, omit_defaults=True):
    """Lines of the pod's resolv.conf. CRI DNSConfig."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class PortMapping(Asked, frozen=True, kw_only=True, omit_defaults=True):
    """One published port; host_port 0 means not published. CRI PortMapping."""

    protocol: Protocol = Protocol.TCP
    container_port: int = 0
    host_port: int = 0
    host_ip: str = ""


class PodSecurityContext(Asked, frozen=True, kw_only=True, omit_defaults=True):
    """How the pod itself is confined. CRI LinuxSandboxSecurityContext."""

    namespace_options: NamespaceOptions = NamespaceOptions()
    selinux_options: SelinuxOptions | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    readonly_rootfs: bool = False
    supplemental_groups: tuple[int, ...] = ()
    supplemental_groups_policy: SupplementalGroupsPolicy = SupplementalGroupsPolicy.MERGE
    privileged: bool = False
    seccomp: SecurityProfile | None = None
    apparmor: SecurityProfile | None = None
    seccomp_profile_path: str = ""  # deprecated by CRI, still sent by old kubelets


class LinuxPodConfig(Asked, frozen=True, kw_only=True, omit_defaults=True):
    """The Linux part of a pod. CRI LinuxPodSandboxConfig."""

    cgroup_parent: str = ""  # in cgroupfs spelling, or already a .slice
    security_context: PodSecurityContext = PodSecurityContext()
    sysctls: dict[str, str] = {}
    overhead: LinuxResources | None = None  # informational
    resources: LinuxResources | None = None  # informational: the sum over the containers


class PodConfig(Asked, frozen=True, kw_only=True, omit_defaults=True):
    """Everything the kubelet says about a pod. CRI PodSandboxConfig."""

    metadata: Metadata = Metadata()
    hostname: str = ""
    log_directory: str = ""
    dns_config: DnsConfig | None = None  # None: the host's resolv.conf
    port_mappings: tuple[PortMapping, ...] = ()
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    linux: LinuxPodConfig = LinuxPodConfig()

    @property
    def host_network(self) -> bool:
        """Whether the pod lives in the host's network (and so its UTS) namespace."""
        return self.linux.security_context.namespace_options.network is NamespaceMode.NODE

    def effective_hostname(self, pod_id: str, node_hostname: str) -> str:
        """The name in the pod's UTS namespace: the config's, else the node's for host network, else of the pod's id."""
        return self.hostname or (node_hostname if self.host_network else pod_id[:12])


class ContainerMetadata(Asked, frozen=True, kw_only=True, omit_defaults=True):
    """Who a container is within its pod. CRI ContainerMetadata."""

    name: str = ""
    attempt: int = 0


class ImageSpec(Asked, frozen=True, kw_only=True, omit_defaults=True):
    """An image as the kubelet names it. CRI ImageSpec."""

    image: str = ""  # what PullImage returned
    annotations: dict[str, str] = {}
    user_specified_image: str = ""  # what the user wrote; echoed, never resolved
    runtime_handler: str = ""
    image_ref: str = ""


class EnvVar(Asked, frozen=True, kw_only=True, omit_defaults=True):
    """One environment variable; the value is bytes on the wire. CRI KeyValue."""

    key: str = ""
    value: bytes = b""


class Mount(Asked, frozen=True, kw_only=True, omit_defaults=True):
    """A bind mount of a host path, or of an image. CRI Mount."""

    container_path: str = ""
    host_path: str = ""
    readonly: bool = False
    selinux_relabel: bool = False
    propagation: MountPropagation = MountPropagation.PRIVATE
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    recursive_read_only: bool = False
    image: ImageSpec | None = None
    image_sub_path: str = ""


class Device(Asked, frozen=True, kw_only=True, omit_defaults=True):
    """A host device in a container; *permissions* is some of "rwm". CRI Device."""

    container_path: str = ""
    host_path: str = ""
    permissions: str = ""


class CapabilityChanges(Asked, frozen=True, kw_only=True, omit_defaults=True):
    """Changes to the default capability set, with or without "CAP_"; "ALL" is all. CRI Capability."""

    add_capabilities: tuple[str, ...] = ()
    drop_capabilities: tuple[str, ...] = ()
    add_ambient_capabilities: tuple[str, ...] = ()


class ContainerSecurityContext(Asked, frozen=True, kw_only=True, omit_defaults=True):
    """How a container is confined. CRI LinuxContainerSecurityContext."""

    capabilities: CapabilityChanges = CapabilityChanges()
    privileged: bool = False
    namespace_options: NamespaceOptions = NamespaceOptions()
    selinux_options: SelinuxOptions | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_username: str = ""
    readonly_rootfs: bool = False
    supplemental_groups: tuple[int, ...] = ()
    supplemental_groups_policy: SupplementalGroupsPolicy = SupplementalGroupsPolicy.MERGE
    no_new_privs: bool = False
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    seccomp: SecurityProfile | None = None
    apparmor: SecurityProfile | None = None
    apparmor_profile: str = ""  # deprecated: "", "runtime/default", "unconfined", "localhost/<name>"
    seccomp_profile_path: str = ""  # deprecated: "", "runtime/default", "unconfined", "localhost/<path>"


class LinuxContainerConfig(Asked, frozen=True, kw_only=True, omit_defaults=True):
    """The Linux part of a container. CRI LinuxContainerConfig."""

    resources: LinuxResources | None = None
    security_context: ContainerSecurityContext = ContainerSecurityContext()


class ContainerConfig(Asked, frozen=True, kw_only=True, omit_defaults=True):
    """Everything the kubelet says about a container. CRI ContainerConfig."""

    metadata: ContainerMetadata = ContainerMetadata()
    image: ImageSpec = ImageSpec()
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    envs: tuple[EnvVar, ...] = ()
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    log_path: str = ""  # relative to the pod's log_directory
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    linux: LinuxContainerConfig = LinuxContainerConfig()
    cdi_devices: tuple[str, ...] = ()  # fully qualified CDI device names
    stop_signal: str = ""  # "SIGTERM", "SIGRTMIN+3"; empty: the image's, else SIGTERM

    @property
    def mounted_images(self) -> tuple[ImageId, ...]:
        """The images of its mounts, by id, as they were found when the container was declared."""
        return tuple(ImageId(one.image.image_ref) for one in self.mounts if one.image is not None)

    def with_images_found(self, find: Callable[[Mount], ImageId]) -> ContainerConfig:
        """Return the same with what *find* says in each mount of an image: what is recorded, mounted and shown."""
        if not any(mount.image is not None for mount in self.mounts):
            return self
        change = msgspec.structs.replace
        mounts = tuple(
            mount if mount.image is None else change(mount, image=change(mount.image, image_ref=find(mount)))
            for mount in self.mounts
        )
        return change(self, mounts=mounts)
