"""What a request must be before anything is done for it: one function per RPC, each a list of checks.

All raise InvalidRequest, which names the field, what was wanted and what is. What only the builder can know (is the
user in the image, does the host have the profile) is not looked at here. Stop, Remove and Status check no more than
that something is named, for they must never fail over a detail.

Source: CRI v1; notes of what the kubelet and critest rely on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ocid.cri import checks, translate
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain import sysctls
from ocid.domain.spec.capabilities import capability_name
from ocid.domain.spec.users import GROUPS_MAX, ID_MAX
from ocid.errors import InvalidRequest

NAME_BYTES_MAX: Final = 1024  # Kubernetes stops at 253; leaves room for other clients
ID_BYTES_MAX: Final = 256  # ours are 64; a caller may try a name
HOSTNAME_BYTES_MAX: Final = 64  # HOST_NAME_MAX, sethostname(2)
IMAGE_BYTES_MAX: Final = 4096  # the longest reference registries take is 255 + 128 + 72
METADATA_BYTES_MAX: Final = 1024 * 1024  # labels and annotations; Kubernetes stops at 256 KiB of annotations
ARGUMENT_BYTES_MAX: Final = 128 * 1024 - 1  # MAX_ARG_STRLEN, execve(2)
ARGUMENTS_BYTES_MAX: Final = 2 * 1024 * 1024  # a quarter of the default 8 MiB stack, execve(2)
ENVS_MAX: Final = 16_384
MOUNTS_MAX: Final = 4096
IMAGE_MOUNTS_MAX: Final = 64  # each is a mount of its own on the host
DEVICES_MAX: Final = 4096
PORTS_MAX: Final = 4096  # an nftables rule each
PATHS_MAX: Final = 1024  # masked or read-only, a mount each
SYSCTLS_MAX: Final = 256
CPU_PERIOD_US: Final = (1_000, 1_000_000)  # kernel, sched/core.c
CPU_SHARES_MAX: Final = 262_144  # kernel, MAX_SHARES
OOM_SCORE_ADJ: Final = (-1000, 1000)  # proc(5)
TIMEOUT_S_MAX: Final = 10 * 365 * 86_400  # beyond this a timeout is a slip, and overflows clocks further down

_INT64_MAX: Final = 2**63 - 1
_CPUSET: Final = re.compile(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*")
_PAGE_SIZE: Final = re.compile(r"[0-9]{1,7}[KMG]?B")


# --- pods ------------------------------------------------------------------------------------------------------------


def run_pod_sandbox(request: pb.RunPodSandboxRequest) -> None:
    """RunPodSandbox. An empty hostname is accepted: the pod then gets one, see PodConfig.effective_hostname."""
    checks.present(request, "config", "")
    checks.plain(request)
    checks.short(request.runtime_handler, "runtime_handler", NAME_BYTES_MAX)
    _pod_config(request.config, "config.")


def _pod_config(config: pb.PodSandboxConfig, where: str) -> None:
    checks.present(config, "metadata", where)
    for field in ("name", "uid", "namespace"):
        checks.filled(getattr(config.metadata, field), f"{where}metadata.{field}", NAME_BYTES_MAX)
    checks.short(config.hostname, f"{where}hostname", HOSTNAME_BYTES_MAX)
    if config.log_directory:
        checks.absolute_path(config.log_directory, f"{where}log_directory")
    _labels(config.labels.items(), config.annotations.items(), where)
    checks.at_most(len(config.port_mappings), f"{where}port_mappings", PORTS_MAX)
    for index, port in enumerate(config.port_mappings):
        at = f"{where}port_mappings[{index}]"
        checks.within(port.host_port, f"{at}.host_port", 0, 65535)
        checks.within(port.container_port, f"{at}.container_port", 1 if port.host_port else 0, 65535)
    security = config.linux.security_context
    at = f"{where}linux.security_context."
    options = security.namespace_options
    _namespace_options(options, f"{at}namespace_options.")
    if options.pid == pb.TARGET:
        raise InvalidRequest(f"{at}namespace_options.pid is TARGET, which only a container can have")
    _ids(security, at)
    if security.HasField("run_as_group") and not security.HasField("run_as_user"):
        raise InvalidRequest(f"{at}run_as_group is set, wanted run_as_user beside it")
    _sysctls(config.linux, f"{where}linux.sysctls")


def _sysctls(linux: pb.LinuxPodSandboxConfig, where: str) -> None:
    """A sysctl of a namespace that is the host's would change the node."""
    checks.at_most(len(linux.sysctls), where, SYSCTLS_MAX)
    options = translate.namespace_options(linux.security_context.namespace_options)
    try:
        sysctls.check(linux.sysctls, sysctls.own_namespaces(options))
    except InvalidRequest as error:
        raise InvalidRequest(f"{where}: {error.message}") from None


def port_forward(request: pb.PortForwardRequest) -> None:
    """PortForward."""
    pod_id(request.pod_sandbox_id)
    checks.at_most(len(request.port), "port", PORTS_MAX)
    for port in request.port:
        checks.within(port, "port", 1, 65535)


def pod_id(text: str) -> None:
    """Any RPC that names a pod."""
    checks.filled(text, "pod_sandbox_id", ID_BYTES_MAX)


# --- containers ------------------------------------------------------------------------------------------------------


def create_container(request: pb.CreateContainerRequest) -> None:
    """CreateContainer."""
    pod_id(request.pod_sandbox_id)
    checks.present(request, "config", "")
    checks.plain(request)
    config = request.config
    checks.present(config, "metadata", "config.")
    checks.filled(config.metadata.name, "config.metadata.name", NAME_BYTES_MAX)
    checks.present(config, "image", "config.")
    checks.filled(config.image.image, "config.image.image", IMAGE_BYTES_MAX)
    _labels(config.labels.items(), config.annotations.items(), "config.")
    checks.relative_path(config.log_path, "config.log_path")
    _argv((*config.command, *config.args), "config.command and args")
    _envs(config.envs)
    checks.at_most(len(config.mounts), "config.mounts", MOUNTS_MAX)
    for index, mount in enumerate(config.mounts):
        _mount(mount, f"config.mounts[{index}]")
    images = [mount for mount in config.mounts if mount.image.image]
    checks.at_most(len(images), "config.mounts with an image", IMAGE_MOUNTS_MAX)
    checks.at_most(len(config.devices), "config.devices", DEVICES_MAX)
    for index, device in enumerate(config.devices):
        _device(device, f"config.devices[{index}]")
    if config.linux.HasField("resources"):
        linux_resources(config.linux.resources, "config.linux.resources.")
    _container_security(config.linux.security_context, "config.linux.security_context.")
    privileged = config.linux.security_context.privileged
    if (
        privileged
        and request.HasField("sandbox_config")
        and not request.sandbox_config.linux.security_context.privileged
    ):
        raise InvalidRequest("config.linux.security_context.privileged is set, but the pod is not privileged")


def update_container_resources(request: pb.UpdateContainerResourcesRequest) -> None:
    """UpdateContainerResources."""
    container_id(request.container_id)
    checks.present(request, "linux", "")
    checks.plain(request)
    linux_resources(request.linux, "linux.")


def exec_sync(request: pb.ExecSyncRequest) -> None:
    """ExecSync. Timeout 0 is none."""
    container_id(request.container_id)
    _command(request.cmd)
    checks.within(request.timeout, "timeout", 0, TIMEOUT_S_MAX)


def exec_stream(request: pb.ExecRequest) -> None:
    """Exec."""
    container_id(request.container_id)
    _command(request.cmd)
    _streams(request)


def attach(request: pb.AttachRequest) -> None:
    """Attach."""
    container_id(request.container_id)
    _streams(request)


def stop_timeout(seconds: int) -> int:
    """The grace that StopContainer gives, in seconds: never refused, for a stop must not fail over a detail.

    Less than none is none; more than ``TIMEOUT_S_MAX`` is that.
    """
    return max(0, min(seconds, TIMEOUT_S_MAX))


def checkpoint_container(request: pb.CheckpointContainerRequest) -> None:
    """CheckpointContainer. The location is the archive's path."""
    container_id(request.container_id)
    checks.plain(request)
    checks.absolute_path(request.location, "location")
    checks.within(request.timeout, "timeout", 0, TIMEOUT_S_MAX)


def container_id(text: str) -> None:
    """Any RPC that names a container."""
    checks.filled(text, "container_id", ID_BYTES_MAX)


def image(spec: pb.ImageSpec) -> None:
    """Any RPC that names an image."""
    checks.plain(spec, "image.")
    checks.filled(spec.image, "image.image", IMAGE_BYTES_MAX)


def linux_resources(resources: pb.LinuxContainerResources, where: str) -> None:
    """Limits of a container: zero is "not set" throughout."""
    if resources.cpu_period:
        checks.within(resources.cpu_period, f"{where}cpu_period", *CPU_PERIOD_US)
    checks.within(resources.cpu_quota, f"{where}cpu_quota", -1, _INT64_MAX)
    checks.within(resources.cpu_shares, f"{where}cpu_shares", 0, CPU_SHARES_MAX)
    checks.within(resources.memory_limit_in_bytes, f"{where}memory_limit_in_bytes", -1, _INT64_MAX)
    checks.within(resources.memory_swap_limit_in_bytes, f"{where}memory_swap_limit_in_bytes", -1, _INT64_MAX)
    checks.within(resources.oom_score_adj, f"{where}oom_score_adj", *OOM_SCORE_ADJ)
    for field in ("cpuset_cpus", "cpuset_mems"):
        text = getattr(resources, field)
        if text and _CPUSET.fullmatch(text) is None:
            raise InvalidRequest(f"{where}{field} is {text[:100]!r}, wanted a list such as '0-2,7'")
    for limit in resources.hugepage_limits:
        if _PAGE_SIZE.fullmatch(limit.page_size) is None:
            raise InvalidRequest(f"{where}hugepage_limits page_size is {limit.page_size[:32]!r}, wanted such as '2MB'")
    for key in resources.unified:
        if "/" in key or ".." in key or "." not in key:
            raise InvalidRequest(f"{where}unified has {key[:100]!r}, wanted a cgroup v2 file such as 'memory.high'")


# --- parts -----------------------------------------------------------------------------------------------------------


def _container_security(security: pb.LinuxContainerSecurityContext, where: str) -> None:
    options = security.namespace_options
    _namespace_options(options, f"{where}namespace_options.")
    if options.pid == pb.TARGET and not options.target_id:
        raise InvalidRequest(f"{where}namespace_options.pid is TARGET, wanted target_id beside it")
    _ids(security, where)
    if security.HasField("run_as_group") and not (security.HasField("run_as_user") or security.run_as_username):
        raise InvalidRequest(f"{where}run_as_group is set, wanted run_as_user or run_as_username beside it")
    checks.short(security.run_as_username, f"{where}run_as_username", NAME_BYTES_MAX)
    changes = security.capabilities
    for name in (*changes.add_capabilities, *changes.drop_capabilities, *changes.add_ambient_capabilities):
        capability_name(name)
    for field in ("masked_paths", "readonly_paths"):
        paths = getattr(security, field)
        checks.at_most(len(paths), f"{where}{field}", PATHS_MAX)
        for path in paths:
            checks.absolute_path(path, f"{where}{field}")


def _namespace_options(options: pb.NamespaceOption, where: str) -> None:
    if options.network not in (pb.POD, pb.NODE):
        raise InvalidRequest(f"{where}network is {pb.NamespaceMode.Name(options.network)}, wanted POD or NODE")
    if options.ipc not in (pb.POD, pb.NODE):
        raise InvalidRequest(f"{where}ipc is {pb.NamespaceMode.Name(options.ipc)}, wanted POD or NODE")
    if not options.HasField("userns_options"):
        return
    users = options.userns_options
    if users.mode == pb.NODE:
        if users.uids or users.gids:
            raise InvalidRequest(f"{where}userns_options has mappings, but its mode is NODE")
        return
    if users.mode != pb.POD:
        raise InvalidRequest(f"{where}userns_options.mode is {pb.NamespaceMode.Name(users.mode)}, wanted POD or NODE")
    for field in ("uids", "gids"):
        mappings = getattr(users, field)
        if len(mappings) != 1:
            raise InvalidRequest(f"{where}userns_options.{field} has {len(mappings)} mappings, wanted exactly one")
        if mappings[0].container_id != 0 or mappings[0].length == 0:
            raise InvalidRequest(f"{where}userns_options.{field} does not map container id 0")
        if mappings[0].host_id + mappings[0].length > 2**32 - 1:
            raise InvalidRequest(f"{where}userns_options.{field} reaches past the last id, {2**32 - 2}")


def _ids(security: pb.LinuxContainerSecurityContext | pb.LinuxSandboxSecurityContext, where: str) -> None:
    if security.HasField("run_as_user"):
        checks.within(security.run_as_user.value, f"{where}run_as_user", 0, ID_MAX)
    if security.HasField("run_as_group"):
        checks.within(security.run_as_group.value, f"{where}run_as_group", 0, ID_MAX)
    checks.at_most(len(security.supplemental_groups), f"{where}supplemental_groups", GROUPS_MAX)
    for group in security.supplemental_groups:
        checks.within(group, f"{where}supplemental_groups", 0, ID_MAX)


def _mount(mount: pb.Mount, where: str) -> None:
    checks.absolute_path(mount.container_path, f"{where}.container_path")
    if not mount.container_path.strip("/."):
        raise InvalidRequest(f"{where}.container_path is {mount.container_path!r}, wanted a path below the root")
    if mount.HasField("image") and (mount.image.image or not mount.host_path):
        if mount.host_path:
            raise InvalidRequest(f"{where}.host_path is {mount.host_path[:100]!r}, wanted it empty beside an image")
        checks.filled(mount.image.image, f"{where}.image.image", IMAGE_BYTES_MAX)
        if not mount.readonly:
            raise InvalidRequest(f"{where}.readonly is false, wanted true for an image")
    else:
        checks.absolute_path(mount.host_path, f"{where}.host_path")
        if mount.image_sub_path:
            raise InvalidRequest(f"{where}.image_sub_path is set, wanted an image beside it")
    checks.relative_path(mount.image_sub_path, f"{where}.image_sub_path")
    if mount.recursive_read_only:
        if not mount.readonly:
            raise InvalidRequest(f"{where}.recursive_read_only is set, wanted readonly beside it")
        if mount.propagation != pb.PROPAGATION_PRIVATE:
            raise InvalidRequest(f"{where}.recursive_read_only is set, wanted propagation PROPAGATION_PRIVATE")


def _device(device: pb.Device, where: str) -> None:
    checks.absolute_path(device.host_path, f"{where}.host_path")
    if device.container_path:
        checks.absolute_path(device.container_path, f"{where}.container_path")
    if set(device.permissions) - set("rwm"):
        raise InvalidRequest(f"{where}.permissions is {device.permissions[:32]!r}, wanted some of 'rwm'")


def _envs(envs: Iterable[pb.KeyValue]) -> None:
    checks.at_most(len(tuple(envs)), "config.envs", ENVS_MAX)
    for index, variable in enumerate(envs):
        checks.filled(variable.key, f"config.envs[{index}].key", ARGUMENT_BYTES_MAX)
        if "=" in variable.key:
            raise InvalidRequest(f"config.envs[{index}].key is {variable.key[:100]!r}, wanted a name without '='")
        if b"\0" in variable.value:
            raise InvalidRequest(f"config.envs[{index}].value of {variable.key[:100]!r} holds a NUL byte")
        size = len(variable.key.encode()) + len(variable.value) + 1
        checks.within(size, f"size of config.envs[{index}] in bytes", 0, ARGUMENT_BYTES_MAX)


def _command(argv: Iterable[str]) -> None:
    words = tuple(argv)
    if not words or not words[0]:
        raise InvalidRequest("cmd is empty, wanted at least one word")
    if any("\0" in word for word in words):
        raise InvalidRequest("cmd holds a NUL byte")
    _argv(words, "cmd")


def _argv(words: tuple[str, ...], field: str) -> None:
    sizes = [len(word.encode()) for word in words]
    if sizes and max(sizes) > ARGUMENT_BYTES_MAX:
        raise InvalidRequest(f"{field} has a word of {max(sizes)} bytes, the kernel's limit is {ARGUMENT_BYTES_MAX}")
    if sum(sizes) > ARGUMENTS_BYTES_MAX:
        raise InvalidRequest(f"{field} is {sum(sizes)} bytes, the limit is {ARGUMENTS_BYTES_MAX}")


def _streams(request: pb.ExecRequest | pb.AttachRequest) -> None:
    """A terminal has one output; and with no stream at all there is nothing to serve."""
    if request.tty and request.stderr:
        raise InvalidRequest("tty and stderr are both set, wanted one: a terminal has no stderr of its own")
    if not (request.stdin or request.stdout or request.stderr):
        raise InvalidRequest("none of stdin, stdout and stderr is set, wanted at least one")


def _labels(labels: Iterable[tuple[str, str]], annotations: Iterable[tuple[str, str]], where: str) -> None:
    for field, pairs in (("labels", labels), ("annotations", annotations)):
        size = sum(len(key.encode()) + len(value.encode()) for key, value in pairs)
        checks.within(size, f"size of {where}{field} in bytes", 0, METADATA_BYTES_MAX)
