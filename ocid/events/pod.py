"""Facts about pods (CRI pod sandboxes). Stream ``pod/<id>``."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from ocid.classes import Public, Sensitive
from ocid.events.base import Event, enter
from ocid.ids import Digest, PodId


class FurtherNetwork(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A network beside the first one, that the pod will be attached to."""

    name: Public
    interface: Public  # in the pod


class Declared(Event, frozen=True, kw_only=True):
    """A pod was asked for. Everything that making it will create on the host is named here, before it exists."""

    TYPE: ClassVar[str] = "pod.declared"
    pod_id: PodId
    name: Public
    namespace: Public
    uid: Public
    attempt: int
    created_at_ns: int  # never earlier than that of the same pod's sandboxes before it
    config: Digest  # confidential document: PodConfig as JSON
    handler: Public  # the runtime handler's name; "" is the default one
    network: Public  # "host", "bridge" or "cni"
    addresses: tuple[Public, ...] = ()  # leased for the built-in bridge, as CIDR; () for CNI and host
    interface: Public = ""  # name of the host end of the veth pair, built-in bridge only
    netns: Public = ""  # path of the pinned network namespace; "" for the host's
    run_dir: Public  # pins, shm and generated files
    cgroup_parent: Public  # as CRI LinuxPodSandboxConfig.cgroup_parent
    host_ipc: bool = False
    host_pid: bool = False
    shared_pid: bool = False  # one PID namespace for the pod, held by a pause process
    selinux_level: Public = ""  # chosen for this pod, as "s0:c1,c2"; "" without SELinux, or where the request has one
    userns: Public = ""  # path of the pinned user namespace, which owns the pod's others; "" for the host's
    plugins: bool = False  # the node's plugins are told of it before it is ready
    networks: tuple[FurtherNetwork, ...] = ()  # beside the first one, in the order of their attaching; CNI only


class Prepared(Event, frozen=True, kw_only=True):
    """Namespaces are pinned, shared memory is mounted, files are generated."""

    TYPE: ClassVar[str] = "pod.prepared"


class NetworkAttached(Event, frozen=True, kw_only=True):
    """The pod has its addresses."""

    TYPE: ClassVar[str] = "pod.network_attached"
    addresses: tuple[Public, ...]  # without prefix length, the primary one first
    via: Public  # "bridge", or "cni:<network name>"
    result: Digest | None = None  # document: the CNI result as JSON


class FurtherNetworkAttached(Event, frozen=True, kw_only=True):
    """The pod has an interface in a further network. Its addresses are no pod addresses: the kubelet hears of none."""

    TYPE: ClassVar[str] = "pod.further_network_attached"
    network: Public
    interface: Public
    addresses: tuple[Public, ...]  # without prefix length
    result: Digest | None = None  # document: the CNI result as JSON


class PauseStarted(Event, frozen=True, kw_only=True):
    """The pause process that holds the shared PID namespace runs."""

    TYPE: ClassVar[str] = "pod.pause_started"
    pid: int
    start_ticks: int


class Announced(Event, frozen=True, kw_only=True):
    """The node's plugins were told of the pod, and none refused it."""

    TYPE: ClassVar[str] = "pod.announced"


class Ready(Event, frozen=True, kw_only=True):
    """The pod can take containers."""

    TYPE: ClassVar[str] = "pod.ready"


class Failed(Event, frozen=True, kw_only=True):
    """Making the pod failed; what was made is being taken down again."""

    TYPE: ClassVar[str] = "pod.failed"
    step: Public
    error: Public  # class name from ocid.errors
    message: Sensitive


class Lost(Event, frozen=True, kw_only=True):
    """What the pod consists of is gone without our doing: a reboot, or somebody else's hand."""

    TYPE: ClassVar[str] = "pod.lost"
    reason: Sensitive
    network_gone: bool = False  # with the machine's last boot: what the network holds for the pod is freed at once


class StopRequested(Event, frozen=True, kw_only=True):
    """StopPodSandbox was called, or removal implies it."""

    TYPE: ClassVar[str] = "pod.stop_requested"


class ContainersStopped(Event, frozen=True, kw_only=True):
    """No container of the pod runs any more."""

    TYPE: ClassVar[str] = "pod.containers_stopped"


class NetworkDetached(Event, frozen=True, kw_only=True):
    """The pod's addresses are free again."""

    TYPE: ClassVar[str] = "pod.network_detached"


class Stopped(Event, frozen=True, kw_only=True):
    """Namespaces, mounts and the pause process are gone."""

    TYPE: ClassVar[str] = "pod.stopped"


class RemoveRequested(Event, frozen=True, kw_only=True):
    """RemovePodSandbox was called, or a failed pod takes itself down."""

    TYPE: ClassVar[str] = "pod.remove_requested"


class Removed(Event, frozen=True, kw_only=True):
    """Nothing of the pod is left on the host. The last event of its stream."""

    TYPE: ClassVar[str] = "pod.removed"


class EffectFailed(Event, frozen=True, kw_only=True):
    """Taking something down failed; it is tried again, ever more rarely."""

    TYPE: ClassVar[str] = "pod.effect_failed"
    step: Public
    error: Public
    message: Sensitive
    failures: int  # of this step, in a row


class ResourcesUpdated(Event, frozen=True, kw_only=True):
    """UpdatePodSandboxResources told what the kubelet has made of the pod's own cgroup, which is not ours to change."""

    TYPE: ClassVar[str] = "pod.resources_updated"
    overhead: Digest | None = None  # document: LinuxResources as JSON; None: not told
    resources: Digest | None = None  # document: LinuxResources as JSON, the sum over the containers; None: not told
    brief: Public = ""  # of both, for reading


class GaveUp(Event, frozen=True, kw_only=True):
    """The pod's actor crashed more often than its budget allows. The pod is NotReady; its containers go on."""

    TYPE: ClassVar[str] = "pod.gave_up"
    reason: Sensitive


PodEvent = (
    Declared | Prepared | NetworkAttached | PauseStarted | Announced | Ready | Failed | Lost | StopRequested
    | ContainersStopped | NetworkDetached | Stopped | RemoveRequested | Removed | EffectFailed | GaveUp
    | ResourcesUpdated | FurtherNetworkAttached
)  # fmt: skip

enter(
    Declared, Prepared, NetworkAttached, PauseStarted, Announced, Ready, Failed, Lost, StopRequested,
    ContainersStopped, NetworkDetached, Stopped, RemoveRequested, Removed, EffectFailed, GaveUp, ResourcesUpdated,
    FurtherNetworkAttached,
)  # fmt: skip
