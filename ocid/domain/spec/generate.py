"""An OCI spec from options instead of a CRI request, by the same builder that CreateContainer uses.

What a CRI request cannot say (a network namespace of the container's own, hooks, sysctls) is added to what the builder
makes; what only Kubernetes has (annotations that name the pod) is taken off.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ocid.domain import configs as c
from ocid.domain.image_config import ImageConfig
from ocid.domain.spec import template as templates
from ocid.domain.spec.build import build_container_spec
from ocid.domain.spec.capabilities import DEFAULT_CAPABILITIES
from ocid.domain.spec.inputs import ExtraMount, NamespacePaths, SpecInputs, SpecPolicy
from ocid.domain.spec.options import HOST, Hook, SpecOptions
from ocid.errors import InvalidRequest

ROOTFS: Final = "rootfs"  # beside the config.json, as the specification's own examples have it
COMMAND: Final = ("sh",)
SHM: Final = ExtraMount(
    destination="/dev/shm",
    source="shm",
    kind="tmpfs",
    options=("nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
)

_OWN: Final = "/own"  # stands for the path of a namespace that is made
_PROPAGATIONS: Final = {"shared": "rshared", "rshared": "rshared", "slave": "rslave", "rslave": "rslave"}


def generate(options: SpecOptions, template: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a config.json: a new one, or *template* with only what the options ask for changed.

    Raises:
        InvalidRequest: options that do not fit together; the message names them.
    """
    known = templates.capabilities(template) if template is not None else DEFAULT_CAPABILITIES
    built = _finished(build_container_spec(_inputs(options, known)), options)
    return built if template is None else templates.changed(template, built, options)


# --- for the builder -------------------------------------------------------------------------------------------------


def _inputs(options: SpecOptions, capabilities: tuple[str, ...]) -> SpecInputs:
    security = _security(options)
    namespaces = security.namespace_options
    resources = msgspec.structs.replace(options.resources, oom_score_adj=options.oom_score_adj or 0)
    return SpecInputs(
        pod=c.PodConfig(
            hostname=options.hostname,
            linux=c.LinuxPodConfig(security_context=c.PodSecurityContext(namespace_options=namespaces)),
        ),
        container=c.ContainerConfig(
            command=options.args or COMMAND,
            working_dir=options.cwd,
            envs=tuple(_variable(one) for one in options.env),
            tty=bool(options.tty),
            linux=c.LinuxContainerConfig(resources=resources, security_context=security),
        ),
        image=ImageConfig(user=options.user),
        rootfs=options.rootfs or ROOTFS,
        passwd=options.passwd,
        group=options.group,
        extra_mounts=(*(() if options.namespaces.get("ipc") == HOST else (SHM,)), *options.mounts),
        devices=options.devices,
        host_devices=options.host_devices,
        namespaces=_paths(options),
        cgroups_path=options.cgroups_path,
        seccomp_localhost=options.seccomp_profile,
        selinux_process_label=options.selinux_label or "",
        selinux_mount_label=options.mount_label or "",
        policy=SpecPolicy(default_capabilities=capabilities, rlimits=options.rlimits, pids_limit=options.pids_limit),
        host=msgspec.structs.replace(options.host, apparmor_enabled=True, selinux_enabled=True),
    )


def _security(options: SpecOptions) -> c.ContainerSecurityContext:
    if options.gid is not None and options.uid is None and not options.user:
        raise InvalidRequest("a group is given without a user: wanted both")
    return c.ContainerSecurityContext(
        capabilities=c.CapabilityChanges(
            add_capabilities=options.cap_add,
            drop_capabilities=options.cap_drop,
            add_ambient_capabilities=options.cap_ambient,
        ),
        privileged=options.privileged,
        namespace_options=_namespace_options(options),
        run_as_user=options.uid,
        run_as_group=options.gid if options.uid is not None else None,
        readonly_rootfs=bool(options.readonly),
        supplemental_groups=options.groups,
        no_new_privs=bool(options.no_new_privileges),
        masked_paths=options.masked_paths,
        readonly_paths=options.readonly_paths,
        seccomp=_seccomp(options.seccomp),
        apparmor=_apparmor(options.apparmor),
    )


def _namespace_options(options: SpecOptions) -> c.NamespaceOptions:
    modes = {kind: _mode(options.namespaces.get(kind, "")) for kind in ("network", "pid", "ipc")}
    if modes["network"] is c.NamespaceMode.CONTAINER:
        modes["network"] = c.NamespaceMode.POD  # a container's own is joined at a path that is taken off again
    users = None
    if options.uid_mappings or options.gid_mappings:
        users = c.UserNamespace(
            uids=options.uid_mappings or options.gid_mappings, gids=options.gid_mappings or options.uid_mappings
        )
    return c.NamespaceOptions(userns_options=users, **modes)


def _mode(wanted: str) -> c.NamespaceMode:
    if wanted == HOST:
        return c.NamespaceMode.NODE
    return c.NamespaceMode.POD if wanted else c.NamespaceMode.CONTAINER


def _paths(options: SpecOptions) -> NamespacePaths:
    given = {kind: path for kind, path in options.namespaces.items() if path != HOST}
    return NamespacePaths(
        net=given.get("network") or _OWN,
        ipc=given.get("ipc", ""),
        uts=given.get("uts") or _OWN,
        pid=given.get("pid", ""),
        user=given.get("user", ""),
    )


def _seccomp(wanted: str) -> c.SecurityProfile:
    if wanted in ("", "default"):
        return c.SecurityProfile(profile_type=c.ProfileType.RUNTIME_DEFAULT)
    if wanted == "unconfined":
        return c.SecurityProfile(profile_type=c.ProfileType.UNCONFINED)
    return c.SecurityProfile(profile_type=c.ProfileType.LOCALHOST, localhost_ref=wanted)


def _apparmor(wanted: str | None) -> c.SecurityProfile:
    if wanted in (None, "", "unconfined"):
        return c.SecurityProfile(profile_type=c.ProfileType.UNCONFINED)
    return c.SecurityProfile(profile_type=c.ProfileType.LOCALHOST, localhost_ref=wanted or "")


def _variable(text: str) -> c.EnvVar:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InvalidRequest(f"environment variable {text[:100]!r}: wanted NAME=value")
    return c.EnvVar(key=name, value=value.encode("utf-8", "surrogateescape"))


# --- of what the builder made ----------------------------------------------------------------------------------------


def _finished(built: dict[str, object], options: SpecOptions) -> dict[str, Any]:
    spec: dict[str, Any] = {key: value for key, value in built.items() if key != "annotations"}
    linux = spec["linux"] = dict(spec["linux"])
    linux["namespaces"] = _namespaces(linux["namespaces"], options.namespaces)
    if not linux["cgroupsPath"]:
        del linux["cgroupsPath"]
    if options.unmask:
        linux["maskedPaths"] = linux["readonlyPaths"] = []
    propagation = options.rootfs_propagation or _root_propagation(options.mounts)
    if propagation:
        linux["rootfsPropagation"] = propagation
    if options.sysctl:
        linux["sysctl"] = dict(options.sysctl)
    spec["mounts"] = [one for one in spec["mounts"] if one["destination"] not in options.mounts_removed]
    if options.hostname:
        spec["hostname"] = options.hostname
    if options.annotations:
        spec["annotations"] = dict(options.annotations)
    if options.hooks:
        spec["hooks"] = {kind: [_hook(one) for one in hooks] for kind, hooks in options.hooks.items()}
    return spec


def _namespaces(listed: list[dict[str, str]], given: dict[str, str]) -> list[dict[str, str]]:
    """The builder's list, with those that a CRI request has no word for as they are asked for."""
    found = {one["type"]: "" if one.get("path", _OWN) == _OWN else one["path"] for one in listed}
    for kind, wanted in given.items():
        if wanted == HOST:
            found.pop(kind, None)
        else:
            found[kind] = wanted
    return [{"type": kind, "path": path} if path else {"type": kind} for kind, path in found.items()]


def _hook(hook: Hook) -> dict[str, Any]:
    return {"path": hook.path, "args": list(hook.args)} if hook.args else {"path": hook.path}


def _root_propagation(mounts: tuple[ExtraMount, ...]) -> str:
    """A mount can only be shared with the host, or follow it, below a root that is not more private than it is."""
    wanted = {_PROPAGATIONS[option] for mount in mounts for option in mount.options if option in _PROPAGATIONS}
    return "rshared" if "rshared" in wanted else "rslave" if wanted else ""
