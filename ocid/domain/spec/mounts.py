"""The OCI ``mounts`` list: the kernel's file systems, the pod's files, then what the config asks for.

Source: CRI Mount; OCI config.md "Mounts", config-linux.md "Default Filesystems", "Rootfs Mount Propagation".
"""

from __future__ import annotations

from typing import Final

from ocid.domain.configs import IdMapping, MountPropagation, NamespaceMode
from ocid.domain.spec.inputs import ResolvedMount, SpecInputs
from ocid.domain.spec.namespaces import id_mappings
from ocid.errors import InvalidRequest

MOUNTS_MAX: Final = 4096  # of one container; the kernel's default is 100,000 in a whole mount namespace
TTY_GID: Final = 5  # of /dev/pts/*, the same in every distribution

_QUIET: Final = ("nosuid", "noexec", "nodev")
_OF_IMAGES: Final = ("rbind", "rprivate", "ro", "nosuid", "nodev")  # executable: critest runs a program of one
_PROPAGATION: Final = {
    MountPropagation.PRIVATE: "rprivate",
    MountPropagation.HOST_TO_CONTAINER: "rslave",
    MountPropagation.BIDIRECTIONAL: "rshared",
}

OciMount = dict[str, object]


def container_mounts(inputs: SpecInputs) -> list[OciMount]:
    """All mounts of a container, parents before children.

    Where two have the same destination the config's beats the extra's (image volumes, CDI), which beats the default.
    A config mount on /dev takes all defaults below /dev away, for they would hide parts of what was asked for.

    Raises:
        InvalidRequest: there are too many.
    """
    asked = [_config_mount(one) for one in inputs.mounts]
    extra = [_mount(normal_path(one.destination), one.kind, one.source, one.options) for one in inputs.extra_mounts]
    by_destination = {str(mount["destination"]): mount for mount in extra + asked}
    taken_dev = "/dev" in by_destination
    defaults = default_mounts(inputs) + pod_file_mounts(inputs)
    kept = [
        mount
        for mount in defaults
        if mount["destination"] not in by_destination
        and not (taken_dev and str(mount["destination"]).startswith("/dev/"))
    ]
    mounts = kept + list(by_destination.values())
    if len(mounts) > MOUNTS_MAX:
        raise InvalidRequest(f"container has {len(mounts)} mounts, the limit is {MOUNTS_MAX}")
    return sorted(mounts, key=_depth)  # stable: equals stay in the order of the config


def default_mounts(inputs: SpecInputs) -> list[OciMount]:
    """proc, /dev, devpts, mqueue, sysfs and cgroup; writable sysfs and cgroup for privileged containers.

    In a user namespace the kernel lets one mount a fresh sysfs, proc or mqueue only where the network, PID or IPC
    namespace belongs to it too; with the host's, the host's own mount is bound instead.
    """
    security = inputs.container.linux.security_context
    options = security.namespace_options
    remapped = options.user_namespace is not None
    access = "rw" if security.privileged else "ro"
    host_net, host_ipc, host_pid = (mode is NamespaceMode.NODE for mode in (options.network, options.ipc, options.pid))
    pts = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", f"gid={TTY_GID}")
    return [
        _kernel_mount("/proc", "proc", "proc", _QUIET, bound=remapped and host_pid),
        _mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
        _mount("/dev/pts", "devpts", "devpts", pts),
        _kernel_mount("/dev/mqueue", "mqueue", "mqueue", _QUIET, bound=remapped and host_ipc),
        _kernel_mount("/sys", "sysfs", "sysfs", (*_QUIET, access), bound=remapped and host_net),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", (*_QUIET, "relatime", access)),
    ]


def pod_file_mounts(inputs: SpecInputs) -> list[OciMount]:
    """/dev/shm, /etc/resolv.conf and /etc/hostname of the pod. /etc/hosts is the kubelet's, among the config mounts."""
    security, paths = inputs.container.linux.security_context, inputs.paths
    shm = "/dev/shm" if security.namespace_options.ipc is NamespaceMode.NODE else paths.shm
    access = "ro" if security.readonly_rootfs else "rw"
    mounts = []
    if shm:
        mounts.append(_mount("/dev/shm", "bind", shm, ("rbind", "rprivate", *_QUIET)))
    for destination, source in (("/etc/resolv.conf", paths.resolv_conf), ("/etc/hostname", paths.hostname)):
        if source:
            mounts.append(_mount(destination, "bind", source, ("rbind", "rprivate", access)))
    return mounts


def rootfs_propagation(mounts: tuple[ResolvedMount, ...]) -> str:
    """The OCI ``rootfsPropagation`` that lets every mount keep its own, or "" for the OCI runtime's default.

    A mount can only be shared with the host, or follow it, below a root that is not more private than it is.
    """
    wanted = {one.mount.propagation for one in mounts if one.mount.image is None}
    if MountPropagation.BIDIRECTIONAL in wanted:
        return "rshared"
    return "rslave" if MountPropagation.HOST_TO_CONTAINER in wanted else ""


def normal_path(path: str) -> str:
    """An absolute path without empty and "." parts and without a "/" at the end. ".." is refused by validation."""
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def _config_mount(resolved: ResolvedMount) -> OciMount:
    mount = resolved.mount
    if mount.image is not None:  # shared by all who mount it, and nobody's but the store's
        return _mount(normal_path(mount.container_path), "bind", resolved.source, _OF_IMAGES)
    options = ["rbind", _PROPAGATION[mount.propagation], "ro" if mount.readonly else "rw"]
    if mount.recursive_read_only:
        options.append("rro")
    found = _mount(normal_path(mount.container_path), "bind", resolved.source, tuple(options))
    return found | _mapped("uidMappings", mount.uid_mappings) | _mapped("gidMappings", mount.gid_mappings)


def _mapped(key: str, mappings: tuple[IdMapping, ...]) -> dict[str, object]:
    return {key: id_mappings(mappings)} if mappings else {}


def _kernel_mount(destination: str, kind: str, source: str, options: tuple[str, ...], *, bound: bool) -> OciMount:
    if not bound:
        return _mount(destination, kind, source, options)
    return _mount(destination, "bind", destination, ("rbind", "rprivate", *options))


def _mount(destination: str, kind: str, source: str, options: tuple[str, ...]) -> OciMount:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _depth(mount: OciMount) -> int:
    return str(mount["destination"]).count("/")
