"""The OCI ``linux.namespaces`` list: which namespaces are new, which are joined, and which stay the host's.

Source: CRI NamespaceOption; OCI config-linux.md "Namespaces"; namespaces(7).
"""

from __future__ import annotations

import msgspec

from ocid.domain.configs import IdMapping, NamespaceMode, NamespaceOptions
from ocid.domain.spec.inputs import NamespacePaths
from ocid.errors import InvalidRequest


def effective_options(pod: NamespaceOptions, container: NamespaceOptions) -> NamespaceOptions:
    """What applies to a container of a pod: network, IPC and users are the pod's, whatever the container says.

    The PID mode is the container's, but POD, which is also what an absent field reads as, means whatever the pod has.
    """
    pid = pod.pid if container.pid is NamespaceMode.POD else container.pid
    return msgspec.structs.replace(pod, pid=pid, target_id=container.target_id if pid is NamespaceMode.TARGET else "")


def container_namespaces(
    options: NamespaceOptions, paths: NamespacePaths, *, private_cgroup: bool
) -> list[dict[str, str]]:
    """The namespaces of a container; one that is not listed is the host's.

    A host-network pod keeps the host's UTS namespace too, so that its host name is the node's. The mount namespace is
    always new. A private cgroup namespace hides the host's tree where cgroup v2 makes that safe to mount.

    Raises:
        InvalidRequest: a namespace is to be shared, but its path is not known.
    """
    namespaces = [{"type": "mount"}]
    if options.pid is NamespaceMode.CONTAINER:
        namespaces.append({"type": "pid"})
    elif options.pid is not NamespaceMode.NODE:
        namespaces.append(_joined("pid", paths.pid, options.pid))
    if options.network is not NamespaceMode.NODE:
        namespaces.append(_joined("network", paths.net, options.network))
        namespaces.append(_joined("uts", paths.uts, options.network))
    elif paths.uts:
        namespaces.append({"type": "uts", "path": paths.uts})
    if options.ipc is NamespaceMode.CONTAINER:
        namespaces.append({"type": "ipc"})
    elif options.ipc is not NamespaceMode.NODE:
        namespaces.append(_joined("ipc", paths.ipc, options.ipc))
    if options.user_namespace is not None:
        namespaces.append({"type": "user", "path": paths.user} if paths.user else {"type": "user"})
    if private_cgroup:
        namespaces.append({"type": "cgroup"})
    return namespaces


def user_mappings(options: NamespaceOptions) -> dict[str, object]:
    """``uidMappings`` and ``gidMappings`` of a pod with a user namespace, else nothing.

    They are given beside the namespace's path too, for crun needs them and runc takes identical ones.
    """
    namespace = options.user_namespace
    if namespace is None:
        return {}
    return {"uidMappings": id_mappings(namespace.uids), "gidMappings": id_mappings(namespace.gids)}


def id_mappings(mappings: tuple[IdMapping, ...]) -> list[dict[str, int]]:
    """CRI id mappings in OCI's spelling. OCI config-linux.md "User namespace mappings"."""
    return [{"containerID": one.container_id, "hostID": one.host_id, "size": one.length} for one in mappings]


def _joined(kind: str, path: str, mode: NamespaceMode) -> dict[str, str]:
    if not path:
        raise InvalidRequest(f"{kind} namespace mode is {mode}, but nothing to join is known: wanted its path")
    return {"type": kind, "path": path}
