"""Inputs for spec tests: a plain container of a plain pod, and named variations of it."""

from __future__ import annotations

from typing import Any

import msgspec

from ocid.domain import configs as c
from ocid.domain.image_config import ImageConfig
from ocid.domain.spec.build import DeviceNode, HostFacts, NamespacePaths, PodPaths, ResolvedMount, SpecInputs

POD_ID = "a" * 64
CONTAINER_ID = "b" * 64
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/srv:/bin/false\napp:x:1000:1000::/home/app:/bin/sh\n"
GROUP = b"root:x:0:\nwww:x:33:web\napp:x:1000:\nlogs:x:44:app,web\n"
PATHS = NamespacePaths(net="/run/ns/net", ipc="/run/ns/ipc", uts="/run/ns/uts", pid="/run/ns/pid", user="")
FILES = PodPaths(shm="/run/pod/shm", resolv_conf="/run/pod/resolv.conf", hostname="/run/pod/hostname")


def namespaces(**fields: Any) -> c.NamespaceOptions:
    """Namespace options as a kubelet sends them: a PID namespace for each container."""
    return c.NamespaceOptions(**{"pid": c.NamespaceMode.CONTAINER, **fields})


def inputs(
    *,
    security: dict[str, Any] | None = None,
    options: c.NamespaceOptions | None = None,
    container: dict[str, Any] | None = None,
    resources: c.LinuxResources | None = None,
    pod: dict[str, Any] | None = None,
    image: ImageConfig | None = None,
    host: HostFacts | None = None,
    mounts: tuple[c.Mount, ...] = (),
    **fields: Any,
) -> SpecInputs:
    """SpecInputs of a container, *security* and the like being fields of the CRI config."""
    options = options or namespaces()
    linux = c.LinuxContainerConfig(
        resources=resources,
        security_context=c.ContainerSecurityContext(**{"namespace_options": options, **(security or {})}),
    )
    config = c.ContainerConfig(
        **{
            "metadata": c.ContainerMetadata(name="main"),
            "image": c.ImageSpec(image="sha256:feed", user_specified_image="registry.example/app:1"),
            "linux": linux,
            "mounts": mounts,
            **(container or {}),
        }
    )
    pod_config = c.PodConfig(
        **{
            "metadata": c.Metadata(name="web-0", uid="uid-1", namespace="prod"),
            "hostname": "web-0",
            "linux": c.LinuxPodConfig(security_context=c.PodSecurityContext(namespace_options=options)),
            **(pod or {}),
        }
    )
    base = SpecInputs(
        pod=pod_config,
        container=config,
        image=image or ImageConfig(entrypoint=("/app",), cmd=("serve",), env=("LANG=C.UTF-8",), working_dir="/srv"),
        pod_id=POD_ID,
        container_id=CONTAINER_ID,
        rootfs="/run/rootfs",
        passwd=PASSWD,
        group=GROUP,
        mounts=tuple(ResolvedMount(mount=one, source=f"/resolved{one.host_path}") for one in mounts),
        namespaces=PATHS,
        paths=FILES,
        cgroups_path=f"/kubepods/pod1/ocid-{CONTAINER_ID}",
        host=host or HostFacts(),
    )
    return msgspec.structs.replace(base, **fields)


USERNS = c.UserNamespace(
    uids=(c.IdMapping(host_id=65536, container_id=0, length=65536),),
    gids=(c.IdMapping(host_id=65536, container_id=0, length=65536),),
)

CASES: dict[str, SpecInputs] = {
    "plain": inputs(),
    "kubelet": inputs(
        container={
            "command": ("/bin/server",),
            "args": ("--port", "80"),
            "working_dir": "/data",
            "envs": (c.EnvVar(key="PORT", value=b"80"), c.EnvVar(key="LANG", value="ä".encode())),
        },
        security={
            "run_as_user": 1000,
            "run_as_group": 3000,
            "supplemental_groups": (2000,),
            "no_new_privs": True,
            "readonly_rootfs": True,
            "capabilities": c.CapabilityChanges(add_capabilities=("NET_ADMIN",), drop_capabilities=("ALL",)),
            "masked_paths": ("/proc/kcore",),
            "readonly_paths": ("/proc/sys",),
            "seccomp": c.SecurityProfile(),
        },
        resources=c.LinuxResources(
            cpu_period=100000,
            cpu_quota=50000,
            cpu_shares=512,
            memory_limit_in_bytes=64 << 20,
            oom_score_adj=999,
            hugepage_limits=(c.HugepageLimit(page_size="2MB", limit=0),),
            unified={"memory.high": "60000000"},
        ),
        mounts=(
            c.Mount(container_path="/data/cache", host_path="/var/cache"),
            c.Mount(container_path="/data", host_path="/var/data", readonly=True),
            c.Mount(container_path="/etc/hosts", host_path="/var/lib/kubelet/etc-hosts"),
        ),
    ),
    "privileged": inputs(
        security={"privileged": True},
        options=namespaces(network=c.NamespaceMode.NODE, ipc=c.NamespaceMode.NODE, pid=c.NamespaceMode.NODE),
        namespaces=NamespacePaths(),
        host_devices=(DeviceNode(path="/dev/kmsg", kind="c", major=1, minor=11, file_mode=0o644),),
        container={"tty": True},
        host=HostFacts(hostname="node-1"),
    ),
    "user_namespace": inputs(
        options=namespaces(userns_options=USERNS),
        namespaces=msgspec.structs.replace(PATHS, user="/run/ns/user"),
        security={"namespace_options": namespaces()},
        mounts=(c.Mount(container_path="/v", host_path="/v", uid_mappings=USERNS.uids, gid_mappings=USERNS.gids),),
    ),
    "image_volumes": inputs(
        mounts=(
            c.Mount(
                container_path="/models/",
                readonly=True,
                image=c.ImageSpec(image="sha256:beef"),
                propagation=c.MountPropagation.BIDIRECTIONAL,  # means nothing for an image
                uid_mappings=USERNS.uids,
            ),
            c.Mount(container_path="/models/own", host_path="/srv/own"),
        ),
    ),
    "shared_pid_v1": inputs(
        options=c.NamespaceOptions(),
        host=HostFacts(cgroup_version=1, swap_accounting=False, can_lower_oom_score_adj=False, oom_score_adj=-5),
        resources=c.LinuxResources(memory_limit_in_bytes=1 << 26, oom_score_adj=-997, unified={"memory.high": "1"}),
        devices=(DeviceNode(path="/dev/fuse", kind="c", major=10, minor=229, access="rw"),),
    ),
}
