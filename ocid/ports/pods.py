"""Processes, the namespaces of pods, and their network."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from ocid.domain.configs import DnsConfig, PortMapping, UserNamespace
from ocid.domain.networks import Wish
from ocid.domain.selinux import Labels
from ocid.ids import PodId


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A process that cannot be taken for another one: its pid with its start time (proc(5) stat field 22)."""

    pid: int
    start_ticks: int


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How a container's init ended."""

    at_ns: int
    exit_code: int  # 0-255; 128 + signal number; 255 when unknown
    oom_killed: bool
    source: str  # "monitor", "kernel" (the monitor was lost), or "unknown"


class SandboxOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that making and unmaking a pod's own resources needs."""

    pod_id: PodId
    run_dir: str  # <run>/pods/<id>: pins under ns/, shm/, resolv.conf, hostname
    netns: str  # path to pin the network namespace at; "" shares the host's
    hostname: str  # "" shares the host's UTS namespace
    dns: DnsConfig | None
    log_directory: str  # created when missing; "" for none
    cgroup_parent: str
    host_ipc: bool
    shared_pid: bool  # start_pause will be called
    handler: str
    sysctls: Mapping[str, str]  # written inside the pod's namespaces
    shm_bytes: int = 64 << 20
    userns: str = ""  # path to pin the user namespace at; "" shares the host's
    users: UserNamespace | None = None  # its mappings
    selinux: Labels = Labels()  # of its pause process, files and shared memory


class Sandboxes(Protocol):
    """Namespaces, mounts, files and the pause process of pods."""

    async def prepare(self, order: SandboxOrder) -> None:
        """Pin net, ipc and uts namespaces, mount /dev/shm, write files, apply sysctls but the network's."""

    async def tune(self, order: SandboxOrder) -> None:
        """Write the network's sysctls. Called when the network is attached, and again after a crash then."""

    async def furnish_again(self, order: SandboxOrder) -> None:
        """Give the pod its own name and sysctls back: a restored container brought those of its old pod along."""

    async def start_pause(self, order: SandboxOrder) -> Process:
        """Run the process that holds the shared PID namespace, through the OCI runtime, and return it."""

    async def wait_pause(self, process: Process) -> None:
        """Return when the pause process is gone; at once when it is already."""

    async def release(self, order: SandboxOrder) -> None:
        """End the pause process, unmount everything under the run directory and remove it. Nothing left is success."""

    def present(self, order: SandboxOrder) -> bool:
        """Say whether the pod's pinned namespaces are still there. They are not after a reboot."""


class NetworkOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that attaching and detaching a pod needs."""

    pod_id: PodId
    name: str
    namespace: str
    uid: str
    network: str  # "bridge" or "cni"
    netns: str
    interface: str  # host end of the veth pair (built-in bridge)
    addresses: tuple[str, ...]  # CIDRs leased in the log (built-in bridge)
    hostname: str
    port_mappings: tuple[PortMapping, ...]
    annotations: Mapping[str, str]
    handler: str = ""  # the runtime handler's name; some have a CNI configuration of their own
    dns: DnsConfig | None = None
    networks: tuple[Wish, ...] = ()  # further ones, in the order of their attaching ("cni")


class FurtherAttachment(msgspec.Struct, frozen=True, kw_only=True):
    """What attaching to one further network gave the pod."""

    network: str
    interface: str
    addresses: tuple[str, ...]  # without prefix length
    result: bytes  # the CNI result as JSON


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """What attaching gave the pod."""

    addresses: tuple[str, ...]  # without prefix length, the primary one first
    via: str  # "bridge", or "cni:<network name>"
    result: bytes | None = None  # the CNI result as JSON
    further: tuple[FurtherAttachment, ...] = ()  # in the order's order


class Network(Protocol):
    """The pod network: CNI when a conflist is configured, else the built-in bridge."""

    def kind(self, handler: str) -> str:
        """Return "cni" or "bridge": what a pod of this runtime handler, declared now, will use."""

    def subnets(self) -> tuple[str, ...]:
        """Return the built-in network's subnets as CIDRs, at most one IPv4 and one IPv6."""

    def not_ready(self) -> str | None:
        """Return why pods cannot be attached now, or None. Read by CRI Status; answers from memory."""

    def admit(self, handler: str, kind: str, names: Sequence[str]) -> None:
        """Say whether a pod on this *kind* of network can have the further networks *names*; InvalidRequest says no."""

    async def attach(self, order: NetworkOrder) -> Attachment:
        """Give the pod its interfaces and addresses. Called again for an attached pod, returns the same."""

    async def detach(
        self, order: NetworkOrder, result: bytes | None, further: Mapping[str, bytes] | None = None
    ) -> None:
        """Take them away again, the last one first. Works without the network namespace too.

        *result* is the one attach gave, if any, *further* those of further networks by interface.
        """

    async def check(self, order: NetworkOrder) -> None:
        """Look whether an attached pod still has what attach gave it; EffectFailed says what it lacks."""

    async def reconcile(self, live: Collection[NetworkOrder], others: Collection[NetworkOrder]) -> tuple[str, ...]:
        """Make the host's rules those of the *live* pods, whatever a crash left. Before any pod is attached.

        What a network remembers of pods that are neither live nor among the *others*, which are half attached or half
        detached, is freed; their ids are returned.
        """

    async def watch(self) -> None:
        """Keep ``not_ready`` current, for ever."""
