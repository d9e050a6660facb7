"""The OCI runtime spec of a container, and of a pod's pause process, put together from one file per concern.

Pure: the same inputs give the same spec. What is impure (stat, symlinks, the image's /etc/passwd) is an input.

Source: OCI runtime-spec config.md, config-linux.md; CRI CreateContainer, RunPodSandbox.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ocid.domain.configs import LinuxResources, NamespaceMode, PodConfig
from ocid.domain.selinux import Labels
from ocid.domain.spec.classes import block_io, intel_rdt
from ocid.domain.spec.devices import device_nodes, device_rules
from ocid.domain.spec.inputs import (
    DeviceNode,
    ExtraMount,
    HostFacts,
    NamespacePaths,
    PodPaths,
    ResolvedMount,
    Rlimit,
    SpecInputs,
    SpecPolicy,
)
from ocid.domain.spec.mounts import container_mounts, rootfs_propagation
from ocid.domain.spec.namespaces import container_namespaces, effective_options, user_mappings
from ocid.domain.spec.process import clamped_oom_score_adj, container_process
from ocid.domain.spec.resources import oci_resources
from ocid.domain.spec.seccomp import default_seccomp
from ocid.domain.spec.security import (
    MASKED_PATHS,
    READONLY_PATHS,
    apparmor_profile,
    oci_seccomp,
    path_lists,
    seccomp_profile,
)

__all__ = [
    "DeviceNode",
    "ExtraMount",
    "HostFacts",
    "NamespacePaths",
    "PauseInputs",
    "PodPaths",
    "ResolvedMount",
    "Rlimit",
    "SpecInputs",
    "SpecPolicy",
    "build_container_spec",
    "build_pause_spec",
]

OCI_VERSION: Final = "1.0.2"  # the oldest that has all we use; OCI runtimes take any 1.x
PAUSE_OOM_SCORE_ADJ: Final = -998  # as the kubelet's own; the pause process must outlive the containers
PAUSE_PATH: Final = "/catatonit"  # where the pause process finds itself in its root file system
CDI_ANNOTATION: Final = "io.ocid.cdi"  # the digest of what CDI devices have added
PAUSE_ID: Final = 65_535  # uid and gid where the pod names none, "nobody" to Kubernetes' pause image

_KUBERNETES: Final = "io.kubernetes.cri"


class PauseInputs(msgspec.Struct, frozen=True, kw_only=True):
    """All that ``build_pause_spec`` reads."""

    pod: PodConfig
    pod_id: str = ""
    rootfs: str = ""  # an empty directory
    binary: str = "/usr/bin/catatonit"  # static, on the host
    namespaces: NamespacePaths = NamespacePaths()  # its PID namespace is new, whatever ``pid`` says
    cgroups_path: str = ""
    selinux: Labels = Labels()
    host: HostFacts = HostFacts()


def build_container_spec(inputs: SpecInputs) -> dict[str, object]:
    """The ``config.json`` of a container, ready to be encoded as JSON.

    Parts of the result are shared between calls and must not be changed in place.

    Raises:
        InvalidRequest: the config, image and inputs do not fit together; the message names the field.
        Unsupported: a profile is asked for that this host cannot apply.
    """
    inputs = _settled(inputs)
    security, host = inputs.container.linux.security_context, inputs.host
    apparmor = apparmor_profile(security, inputs.policy, host, inputs.apparmor_loaded, inputs.apparmor_gap)
    process = container_process(inputs, apparmor_profile=apparmor)
    spec: dict[str, object] = {
        "ociVersion": OCI_VERSION,
        "root": {"path": inputs.rootfs, "readonly": security.readonly_rootfs},
        "process": process,
        "mounts": container_mounts(inputs),
        "annotations": oci_annotations(inputs),
        "linux": _linux(inputs, _bounding(process)),
    }
    if inputs.hooks:
        spec["hooks"] = dict(inputs.hooks)
    return spec


def build_pause_spec(inputs: PauseInputs) -> dict[str, object]:
    """The ``config.json`` of ``catatonit -P``, PID 1 of a pod whose containers share one PID namespace.

    It has no capability, no network of its own and nothing but itself in its read-only root file system.
    """
    security = inputs.pod.linux.security_context
    options = msgspec.structs.replace(security.namespace_options, pid=NamespaceMode.CONTAINER, target_id="")
    host = inputs.host
    uid = PAUSE_ID if security.run_as_user is None else security.run_as_user
    gid = PAUSE_ID if security.run_as_group is None else security.run_as_group
    namespaces = container_namespaces(options, inputs.namespaces, private_cgroup=host.cgroup_version == 2)
    linux: dict[str, object] = {
        "cgroupsPath": inputs.cgroups_path,
        "namespaces": namespaces,
        "resources": {"devices": device_rules((), privileged=False)},
        "maskedPaths": list(MASKED_PATHS),
        "readonlyPaths": list(READONLY_PATHS),
        **user_mappings(options),
    }
    if host.seccomp_enabled:
        linux["seccomp"] = default_seccomp(frozenset(), host.architecture, host.kernel)
    if inputs.selinux.files:
        linux["mountLabel"] = inputs.selinux.files
    return {
        "ociVersion": OCI_VERSION,
        "root": {"path": inputs.rootfs, "readonly": True},
        "process": {
            "terminal": False,
            "user": {"uid": uid, "gid": gid},
            "args": [PAUSE_PATH, "-P"],
            "env": [],
            "cwd": "/",
            "capabilities": {},
            "noNewPrivileges": True,
            "oomScoreAdj": clamped_oom_score_adj(PAUSE_OOM_SCORE_ADJ, host),
            **({"selinuxLabel": inputs.selinux.process} if inputs.selinux.process else {}),
        },
        "mounts": _pause_mounts(inputs.binary),
        "annotations": {f"{_KUBERNETES}.container-type": "sandbox", **_pod_annotations(inputs.pod, inputs.pod_id)},
        "linux": linux,
    }


def oci_annotations(inputs: SpecInputs) -> dict[str, str]:
    """What tells tools (crictl, NRI, sandboxed OCI runtimes) whose container this is.

    The pod's and the container's own annotations are passed on only under the prefixes that the operator allows, for
    some OCI runtimes obey theirs.
    """
    config = inputs.container
    prefixes = inputs.policy.annotation_prefixes
    own = {**inputs.pod.annotations, **config.annotations}
    passed_on = {key: value for key, value in own.items() if prefixes and key.startswith(prefixes)}
    return {
        **passed_on,
        f"{_KUBERNETES}.container-type": "container",
        f"{_KUBERNETES}.container-name": config.metadata.name,
        f"{_KUBERNETES}.image-name": config.image.user_specified_image or config.image.image,
        **({CDI_ANNOTATION: inputs.cdi} if inputs.cdi else {}),
        **_pod_annotations(inputs.pod, inputs.pod_id),
    }


def _settled(inputs: SpecInputs) -> SpecInputs:
    """The inputs with the namespaces that really apply, so that no other file has to look at the pod's too."""
    linux = inputs.container.linux
    options = effective_options(
        inputs.pod.linux.security_context.namespace_options, linux.security_context.namespace_options
    )
    security = msgspec.structs.replace(linux.security_context, namespace_options=options)
    linux = msgspec.structs.replace(linux, security_context=security)
    return msgspec.structs.replace(inputs, container=msgspec.structs.replace(inputs.container, linux=linux))


def _linux(inputs: SpecInputs, bounding: frozenset[str]) -> dict[str, object]:
    config, host, policy = inputs.container, inputs.host, inputs.policy
    security = config.linux.security_context
    options = security.namespace_options
    masked, readonly = path_lists(security)
    private_cgroup = host.cgroup_version == 2 and not security.privileged
    nodes = (*inputs.host_devices, *inputs.devices) if security.privileged else inputs.devices
    block = block_io(inputs)
    linux: dict[str, object] = {
        "cgroupsPath": inputs.cgroups_path,
        "namespaces": container_namespaces(options, inputs.namespaces, private_cgroup=private_cgroup),
        "resources": {
            **oci_resources(_without_no_quota(config.linux.resources), host, pids_limit=policy.pids_limit),
            "devices": device_rules(inputs.devices, privileged=security.privileged),
            **({"blockIO": dict(block)} if block else {}),
        },
        "devices": device_nodes(nodes),
        "maskedPaths": masked,
        "readonlyPaths": readonly,
        **user_mappings(options),
    }
    seccomp = oci_seccomp(seccomp_profile(security, policy), inputs.seccomp_localhost, bounding, host)
    if seccomp is not None:
        linux["seccomp"] = seccomp
    propagation = rootfs_propagation(inputs.mounts)
    if propagation:
        linux["rootfsPropagation"] = propagation
    rdt = intel_rdt(inputs)
    if rdt is not None:
        linux["intelRdt"] = dict(rdt)
    if inputs.selinux_mount_label and host.selinux_enabled:
        linux["mountLabel"] = inputs.selinux_mount_label
    return linux


def _without_no_quota(resources: LinuxResources | None) -> LinuxResources | None:
    """A new cgroup has no quota anyway, and crun cannot write -1 under cgroup v1."""
    if resources is None or resources.cpu_quota >= 0:
        return resources
    return msgspec.structs.replace(resources, cpu_quota=0)


def _bounding(process: dict[str, object]) -> frozenset[str]:
    """The capabilities that the process, or anything it executes, can ever hold."""
    sets = process["capabilities"]
    assert isinstance(sets, dict)
    return frozenset(sets["bounding"])


def _pod_annotations(pod: PodConfig, pod_id: str) -> dict[str, str]:
    return {
        f"{_KUBERNETES}.sandbox-id": pod_id,
        f"{_KUBERNETES}.sandbox-name": pod.metadata.name,
        f"{_KUBERNETES}.sandbox-namespace": pod.metadata.namespace,
        f"{_KUBERNETES}.sandbox-uid": pod.metadata.uid,
    }


def _pause_mounts(binary: str) -> list[dict[str, object]]:
    quiet = ["nosuid", "noexec", "nodev"]
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": quiet},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
        {"destination": PAUSE_PATH, "type": "bind", "source": binary, "options": ["bind", "ro", "nosuid", "nodev"]},
    ]
