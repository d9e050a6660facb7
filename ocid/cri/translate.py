"""Between CRI protobuf messages and our own frozen configs, both ways, field by field.

Nothing is judged here but enum values, which have no meaning when unknown; ``ocid.cri.validate`` does the rest. What
is turned back is what Status and List have to echo, byte for byte as it came.

Source: CRI v1.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final, Protocol, TypeVar

from ocid.cri.stubs import api_pb2 as pb
from ocid.domain import configs
from ocid.domain.spec.users import ProcessUser
from ocid.errors import InvalidRequest

_RUNTIME_DEFAULT: Final = "RUNTIME_DEFAULT"  # CRI Signal: not set

E = TypeVar("E", bound=StrEnum)


class _EnumWrapper(Protocol):
    def Name(self, number: Any, /) -> str: ...  # each enum has its own integer type


# --- from the wire ---------------------------------------------------------------------------------------------------


def pod_config(message: pb.PodSandboxConfig) -> configs.PodConfig:
    """The pod config of a RunPodSandbox request.

    Raises:
        InvalidRequest: an enum has an unknown value.
    """
    return configs.PodConfig(
        metadata=pod_metadata(message.metadata),
        hostname=message.hostname,
        log_directory=message.log_directory,
        dns_config=dns_config(message.dns_config) if message.HasField("dns_config") else None,
        port_mappings=tuple(_port_mapping(one) for one in message.port_mappings),
        labels=dict(message.labels),
        annotations=dict(message.annotations),
        linux=_linux_pod(message.linux),
    )


def container_config(message: pb.ContainerConfig) -> configs.ContainerConfig:
    """The container config of a CreateContainer request.

    Raises:
        InvalidRequest: an enum has an unknown value.
    """
    return configs.ContainerConfig(
        metadata=configs.ContainerMetadata(name=message.metadata.name, attempt=message.metadata.attempt),
        image=image_spec(message.image),
        command=tuple(message.command),
        args=tuple(message.args),
        working_dir=message.working_dir,
        envs=tuple(configs.EnvVar(key=one.key, value=one.value) for one in message.envs),
        mounts=tuple(mount(one) for one in message.mounts),
        devices=tuple(_device(one) for one in message.devices),
        labels=dict(message.labels),
        annotations=dict(message.annotations),
        log_path=message.log_path,
        stdin=message.stdin,
        stdin_once=message.stdin_once,
        tty=message.tty,
        linux=configs.LinuxContainerConfig(
            resources=_optional_resources(message.linux),
            security_context=_container_security(message.linux.security_context),
        ),
        cdi_devices=tuple(one.name for one in message.CDI_devices),
        stop_signal=signal_name(message.stop_signal),
    )


def pod_metadata(message: pb.PodSandboxMetadata) -> configs.Metadata:
    """A pod's key."""
    return configs.Metadata(name=message.name, uid=message.uid, namespace=message.namespace, attempt=message.attempt)


def dns_config(message: pb.DNSConfig) -> configs.DnsConfig:
    """A pod's resolver configuration."""
    return configs.DnsConfig(
        servers=tuple(message.servers), searches=tuple(message.searches), options=tuple(message.options)
    )


def image_spec(message: pb.ImageSpec) -> configs.ImageSpec:
    """An image as the kubelet names it."""
    return configs.ImageSpec(
        image=message.image,
        annotations=dict(message.annotations),
        user_specified_image=message.user_specified_image,
        runtime_handler=message.runtime_handler,
        image_ref=message.image_ref,
    )


def mount(message: pb.Mount) -> configs.Mount:
    """One mount of a container."""
    return configs.Mount(
        container_path=message.container_path,
        host_path=message.host_path,
        readonly=message.readonly,
        selinux_relabel=message.selinux_relabel,
        propagation=_enum(configs.MountPropagation, pb.MountPropagation, message.propagation, "mount.propagation"),
        uid_mappings=_id_mappings(message.uidMappings),
        gid_mappings=_id_mappings(message.gidMappings),
        recursive_read_only=message.recursive_read_only,
        image=image_spec(message.image) if message.image.image else None,
        image_sub_path=message.image_sub_path,
    )


def linux_resources(message: pb.LinuxContainerResources) -> configs.LinuxResources:
    """Limits, as in CreateContainer and UpdateContainerResources."""
    return configs.LinuxResources(
        cpu_period=message.cpu_period,
        cpu_quota=message.cpu_quota,
        cpu_shares=message.cpu_shares,
        memory_limit_in_bytes=message.memory_limit_in_bytes,
        oom_score_adj=message.oom_score_adj,
        cpuset_cpus=message.cpuset_cpus,
        cpuset_mems=message.cpuset_mems,
        hugepage_limits=tuple(
            configs.HugepageLimit(page_size=one.page_size, limit=one.limit) for one in message.hugepage_limits
        ),
        unified=dict(message.unified),
        memory_swap_limit_in_bytes=message.memory_swap_limit_in_bytes,
    )


def namespace_options(message: pb.NamespaceOption) -> configs.NamespaceOptions:
    """Which namespaces are shared with whom."""
    users = message.userns_options
    return configs.NamespaceOptions(
        network=_mode(message.network, "network"),
        pid=_mode(message.pid, "pid"),
        ipc=_mode(message.ipc, "ipc"),
        target_id=message.target_id,
        userns_options=configs.UserNamespace(
            mode=_mode(users.mode, "userns_options.mode"),
            uids=_id_mappings(users.uids),
            gids=_id_mappings(users.gids),
        )
        if message.HasField("userns_options")
        else None,
    )


def signal_name(number: int) -> str:
    """A CRI signal in the spelling of signal(7), "SIGRTMIN+3"; RUNTIME_DEFAULT is "".

    Raises:
        InvalidRequest: CRI has no such signal.
    """
    name = _enum_name(pb.Signal, number, "stop_signal")
    return "" if name == _RUNTIME_DEFAULT else name.replace("PLUS", "+").replace("MINUS", "-")


def _linux_pod(message: pb.LinuxPodSandboxConfig) -> configs.LinuxPodConfig:
    return configs.LinuxPodConfig(
        cgroup_parent=message.cgroup_parent,
        security_context=_pod_security(message.security_context),
        sysctls=dict(message.sysctls),
        overhead=linux_resources(message.overhead) if message.HasField("overhead") else None,
        resources=linux_resources(message.resources) if message.HasField("resources") else None,
    )


def _pod_security(message: pb.LinuxSandboxSecurityContext) -> configs.PodSecurityContext:
    return configs.PodSecurityContext(
        namespace_options=namespace_options(message.namespace_options),
        selinux_options=_selinux(message.selinux_options) if message.HasField("selinux_options") else None,
        run_as_user=message.run_as_user.value if message.HasField("run_as_user") else None,
        run_as_group=message.run_as_group.value if message.HasField("run_as_group") else None,
        readonly_rootfs=message.readonly_rootfs,
        supplemental_groups=tuple(message.supplemental_groups),
        supplemental_groups_policy=_groups_policy(message.supplemental_groups_policy),
        privileged=message.privileged,
        seccomp=_profile(message.seccomp, "seccomp") if message.HasField("seccomp") else None,
        apparmor=_profile(message.apparmor, "apparmor") if message.HasField("apparmor") else None,
        seccomp_profile_path=message.seccomp_profile_path,
    )


def _container_security(message: pb.LinuxContainerSecurityContext) -> configs.ContainerSecurityContext:
    return configs.ContainerSecurityContext(
        capabilities=configs.CapabilityChanges(
            add_capabilities=tuple(message.capabilities.add_capabilities),
            drop_capabilities=tuple(message.capabilities.drop_capabilities),
            add_ambient_capabilities=tuple(message.capabilities.add_ambient_capabilities),
        ),
        privileged=message.privileged,
        namespace_options=namespace_options(message.namespace_options),
        selinux_options=_selinux(message.selinux_options) if message.HasField("selinux_options") else None,
        run_as_user=message.run_as_user.value if message.HasField("run_as_user") else None,
        run_as_group=message.run_as_group.value if message.HasField("run_as_group") else None,
        run_as_username=message.run_as_username,
        readonly_rootfs=message.readonly_rootfs,
        supplemental_groups=tuple(message.supplemental_groups),
        supplemental_groups_policy=_groups_policy(message.supplemental_groups_policy),
        no_new_privs=message.no_new_privs,
        masked_paths=tuple(message.masked_paths),
        readonly_paths=tuple(message.readonly_paths),
        seccomp=_profile(message.seccomp, "seccomp") if message.HasField("seccomp") else None,
        apparmor=_profile(message.apparmor, "apparmor") if message.HasField("apparmor") else None,
        apparmor_profile=message.apparmor_profile,
        seccomp_profile_path=message.seccomp_profile_path,
    )


def _optional_resources(message: pb.LinuxContainerConfig) -> configs.LinuxResources | None:
    return linux_resources(message.resources) if message.HasField("resources") else None


def _port_mapping(message: pb.PortMapping) -> configs.PortMapping:
    return configs.PortMapping(
        protocol=_enum(configs.Protocol, pb.Protocol, message.protocol, "port_mappings.protocol"),
        container_port=message.container_port,
        host_port=message.host_port,
        host_ip=message.host_ip,
    )


def _device(message: pb.Device) -> configs.Device:
    return configs.Device(
        container_path=message.container_path, host_path=message.host_path, permissions=message.permissions
    )


def _selinux(message: pb.SELinuxOption) -> configs.SelinuxOptions:
    return configs.SelinuxOptions(user=message.user, role=message.role, type=message.type, level=message.level)


def _profile(message: pb.SecurityProfile, field: str) -> configs.SecurityProfile:
    kind = _enum(configs.ProfileType, pb.SecurityProfile.ProfileType, message.profile_type, f"{field}.profile_type")
    return configs.SecurityProfile(profile_type=kind, localhost_ref=message.localhost_ref)


def _groups_policy(number: int) -> configs.SupplementalGroupsPolicy:
    return _enum(configs.SupplementalGroupsPolicy, pb.SupplementalGroupsPolicy, number, "supplemental_groups_policy")


def _mode(number: int, field: str) -> configs.NamespaceMode:
    return _enum(configs.NamespaceMode, pb.NamespaceMode, number, f"namespace_options.{field}")


def _id_mappings(messages: Iterable[pb.IDMapping]) -> tuple[configs.IdMapping, ...]:
    return tuple(
        configs.IdMapping(host_id=one.host_id, container_id=one.container_id, length=one.length) for one in messages
    )


def _enum(kind: type[E], wrapper: _EnumWrapper, number: int, field: str) -> E:
    return kind(_enum_name(wrapper, number, field))


def _enum_name(wrapper: _EnumWrapper, number: int, field: str) -> str:
    try:
        return wrapper.Name(number)
    except ValueError as error:
        raise InvalidRequest(f"{field} has value {number}, which CRI v1 does not know") from error


# --- and back -------------------------------------------------------------------------------------------------------


def pod_metadata_to_pb(metadata: configs.Metadata) -> pb.PodSandboxMetadata:
    """A pod's key. CRI PodSandboxStatus.metadata."""
    return pb.PodSandboxMetadata(
        name=metadata.name, uid=metadata.uid, namespace=metadata.namespace, attempt=metadata.attempt
    )


def container_metadata_to_pb(metadata: configs.ContainerMetadata) -> pb.ContainerMetadata:
    """Who a container is within its pod. CRI ContainerStatus.metadata."""
    return pb.ContainerMetadata(name=metadata.name, attempt=metadata.attempt)


def image_spec_to_pb(image: configs.ImageSpec) -> pb.ImageSpec:
    """An image as the kubelet named it. CRI ContainerStatus.image, Image.spec."""
    return pb.ImageSpec(
        image=image.image,
        annotations=image.annotations,
        user_specified_image=image.user_specified_image,
        runtime_handler=image.runtime_handler,
        image_ref=image.image_ref,
    )


def mount_to_pb(mount: configs.Mount) -> pb.Mount:
    """A mount. CRI ContainerStatus.mounts."""
    return pb.Mount(
        container_path=mount.container_path,
        host_path=mount.host_path,
        readonly=mount.readonly,
        selinux_relabel=mount.selinux_relabel,
        propagation=pb.MountPropagation.Value(mount.propagation),
        uidMappings=_id_mappings_to_pb(mount.uid_mappings),
        gidMappings=_id_mappings_to_pb(mount.gid_mappings),
        recursive_read_only=mount.recursive_read_only,
        image=None if mount.image is None else image_spec_to_pb(mount.image),
        image_sub_path=mount.image_sub_path,
    )


def linux_resources_to_pb(resources: configs.LinuxResources) -> pb.LinuxContainerResources:
    """Limits of a container."""
    return pb.LinuxContainerResources(
        cpu_period=resources.cpu_period,
        cpu_quota=resources.cpu_quota,
        cpu_shares=resources.cpu_shares,
        memory_limit_in_bytes=resources.memory_limit_in_bytes,
        oom_score_adj=resources.oom_score_adj,
        cpuset_cpus=resources.cpuset_cpus,
        cpuset_mems=resources.cpuset_mems,
        hugepage_limits=[
            pb.HugepageLimit(page_size=one.page_size, limit=one.limit) for one in resources.hugepage_limits
        ],
        unified=resources.unified,
        memory_swap_limit_in_bytes=resources.memory_swap_limit_in_bytes,
    )


def resources_to_pb(resources: configs.LinuxResources | None) -> pb.ContainerResources | None:
    """CRI ContainerStatus.resources: absent where none were ever set, for the kubelet then keeps its own record."""
    return None if resources is None else pb.ContainerResources(linux=linux_resources_to_pb(resources))


def namespace_options_to_pb(options: configs.NamespaceOptions) -> pb.NamespaceOption:
    """Which namespaces are shared. CRI PodSandboxStatus.linux.namespaces.options."""
    users = options.userns_options
    return pb.NamespaceOption(
        network=pb.NamespaceMode.Value(options.network),
        pid=pb.NamespaceMode.Value(options.pid),
        ipc=pb.NamespaceMode.Value(options.ipc),
        target_id=options.target_id,
        userns_options=None
        if users is None
        else pb.UserNamespace(
            mode=pb.NamespaceMode.Value(users.mode),
            uids=_id_mappings_to_pb(users.uids),
            gids=_id_mappings_to_pb(users.gids),
        ),
    )


def signal_to_pb(name: str) -> pb.Signal.ValueType:
    """A signal in CRI's own numbering; "" is RUNTIME_DEFAULT. CRI ContainerStatus.stop_signal."""
    if not name:
        return pb.RUNTIME_DEFAULT
    return pb.Signal.Value(name.replace("+", "PLUS").replace("-", "MINUS"))


def user_to_pb(user: ProcessUser) -> pb.ContainerUser:
    """Who the container's first process is. CRI ContainerStatus.user."""
    return pb.ContainerUser(
        linux=pb.LinuxContainerUser(uid=user.uid, gid=user.gid, supplemental_groups=user.additional_gids)
    )


def _id_mappings_to_pb(mappings: Iterable[configs.IdMapping]) -> list[pb.IDMapping]:
    return [pb.IDMapping(host_id=one.host_id, container_id=one.container_id, length=one.length) for one in mappings]
