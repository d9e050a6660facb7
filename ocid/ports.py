"""What the core needs from the world, as protocols. Adapters implement them for real hosts, fakes for simulation.

All methods that make or unmake something are idempotent: called again with the same order after a crash, they find
what is there and finish the rest. All of them may be cancelled at any checkpoint; what they leave then is named by the
order, and the next call deals with it. They raise the errors of ``ocid.errors`` only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ocid.domain.configs import DnsConfig, PortMapping
from ocid.domain.image_config import ImageConfig
from ocid.domain.spec.inputs import DeviceNode, HostFacts
from ocid.events.base import Event
from ocid.events.envelope import Context, Envelope
from ocid.ids import ChainId, ContainerId, Digest, ExecId, ImageId, PodId, StreamId

# --- time and the log ------------------------------------------------------------------------------------------------


class Clock(Protocol):
    """Reads the host's clocks."""

    def wall_ns(self) -> int:
        """CLOCK_REALTIME in nanoseconds since the Unix epoch."""

    def boot_ns(self) -> int:
        """CLOCK_BOOTTIME in nanoseconds: monotone within one boot, suspend included."""


class Journal(Protocol):
    """The log, as the actors use it."""

    async def append(
        self,
        stream: StreamId,
        expected_version: int,
        events: Sequence[Event],
        context: Context,
        documents: Sequence[bytes] = (),
    ) -> tuple[Envelope, ...]:
        """Make *events* durable as the next of *stream* and return them in their envelopes.

        Projections have applied them when this returns. *documents* are stored with them, each under its sha256
        digest; one that is there already costs nothing. ``expected_version`` is the stream's last version, 0 for none;
        another one is a bug (``AssertionError``). A cancelled append may still become durable.
        """

    async def drained(self) -> None:
        """Return when every append that was asked for before is durable and applied, or refused."""

    def read_stream(self, stream: StreamId) -> Sequence[Envelope]:
        """Return all durable events of *stream*, the first one first."""

    def document(self, digest: Digest) -> bytes:
        """Return a stored document.

        Raises:
            NotFound: no event ever brought it.
        """


class Secrets(Protocol):
    """Holds what must not reach the log, in memory, for as long as making a container needs it."""

    def keep(self, owner: str, secrets: Mapping[int, bytes]) -> None:
        """Remember the secret values of *owner*'s configuration by their index."""

    def take(self, owner: str) -> Mapping[int, bytes] | None:
        """Return what is kept for *owner*, or None when nothing is: the daemon was restarted in between."""

    def drop(self, owner: str) -> None:
        """Forget *owner*'s secrets."""


# --- processes -------------------------------------------------------------------------------------------------------


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


# --- pods ------------------------------------------------------------------------------------------------------------


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


class Sandboxes(Protocol):
    """Namespaces, mounts, files and the pause process of pods."""

    async def prepare(self, order: SandboxOrder) -> None:
        """Pin net, ipc and uts namespaces, mount /dev/shm, write resolv.conf and hostname, apply sysctls."""

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


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """What attaching gave the pod."""

    addresses: tuple[str, ...]  # without prefix length, the primary one first
    via: str  # "bridge", or "cni:<network name>"
    result: bytes | None = None  # the CNI result as JSON


class Network(Protocol):
    """The pod network: CNI when a conflist is configured, else the built-in bridge."""

    def kind(self) -> str:
        """Return "cni" or "bridge": what a pod declared now will use."""

    def subnets(self) -> tuple[str, ...]:
        """Return the built-in network's subnets as CIDRs, at most one IPv4 and one IPv6."""

    def not_ready(self) -> str | None:
        """Return why pods cannot be attached now, or None. Read by CRI Status; answers from memory."""

    async def attach(self, order: NetworkOrder) -> Attachment:
        """Give the pod its interface and addresses. Called again for an attached pod, returns the same."""

    async def detach(self, order: NetworkOrder, result: bytes | None) -> None:
        """Take them away again; *result* is the one attach gave, if any. Works without the network namespace too."""

    async def reconcile(self, live: Collection[NetworkOrder]) -> None:
        """Make the host's rules those of the *live* pods, whatever a crash left."""


# --- containers ------------------------------------------------------------------------------------------------------


class ContainerOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that running and removing a container needs, its specification aside."""

    container_id: ContainerId
    pod_id: PodId
    handler: str
    bundle: str  # <run>/containers/<id>: config.json, rootfs/ (mount point), monitor's files
    writable: str  # <root>/containers/<id>: upper/ and work/
    cgroup: str  # OCI linux.cgroupsPath
    log_path: str  # absolute; "" for none
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False


class Signalled(msgspec.Struct, frozen=True, kw_only=True):
    """What to send, and to whom."""

    signal: int  # number, as on this machine
    everyone: bool  # all processes of the container's cgroup, not only init


class Wanting(Protocol):
    """An event that can be waited for, such as ``trio.Event``."""

    def is_set(self) -> bool:
        """Say whether it has happened."""

    async def wait(self) -> None:
        """Return when it has happened."""


class Runtime(Protocol):
    """OCI runtime and monitor: makes, starts, watches, signals and deletes containers."""

    def handlers(self) -> Mapping[str, HandlerFeatures]:
        """Return the configured handlers by name; "" is the default one. From memory."""

    def host_facts(self) -> HostFacts:
        """Return what the specification builder needs to know of this host. From memory."""

    async def write_bundle(self, order: ContainerOrder, spec: Mapping[str, Any]) -> None:
        """Write the bundle's config.json, mode 0600. It may hold secrets; it lies under the run directory."""

    def read_bundle(self, order: ContainerOrder) -> dict[str, Any]:
        """Return the specification that ``write_bundle`` wrote.

        Raises:
            EffectFailed: it is gone.
        """

    async def create(self, order: ContainerOrder) -> Process:
        """Make the container of a written bundle through monitor and runtime; return its waiting init.

        Finds and returns a container that was created already. One that is half made is deleted first.

        Raises:
            EffectFailed: the runtime refused; its own words are in the message.
        """

    async def start(self, order: ContainerOrder) -> None:
        """Let the container's program run. Success when it runs already or ran.

        Raises:
            EffectFailed: the program could not be executed.
        """

    async def wait(self, order: ContainerOrder, process: Process) -> Exit:
        """Wait until the container's init is gone, and return how it ended, from the monitor's exit file."""

    async def signal(self, order: ContainerOrder, process: Process, what: Signalled) -> None:
        """Send a signal. Success when the process is gone."""

    async def delete(self, order: ContainerOrder) -> None:
        """Remove the runtime's state, what is left of processes, and the cgroup of an ended container."""

    async def reopen_log(self, order: ContainerOrder) -> None:
        """Make the monitor reopen the log file; returns when it has.

        Raises:
            WrongState: there is no monitor; the file is not created then.
        """

    async def exec_sync(
        self,
        order: ContainerOrder,
        exec_id: ExecId,
        process: ExecProcess,
        timeout_s: float | None,
        unwanted: Wanting,
    ) -> ExecResult:
        """Run a command in the running container and gather its output; kill it when its time is up.

        It is killed, too, when *unwanted* is set: nobody waits for it any more.
        """

    async def abandon_exec(self, order: ContainerOrder, exec_id: ExecId) -> None:
        """Kill what a daemon that died left running of this command, and remove its files."""

    async def container_ids(self) -> frozenset[ContainerId]:
        """List what the runtime's state directories hold, for finding orphans."""


class HandlerFeatures(msgspec.Struct, frozen=True, kw_only=True):
    """From ``<runtime> features`` where it has that command. OCI runtime-spec features.md."""

    path: str
    version: str
    recursive_read_only_mounts: bool = False
    user_namespaces: bool = False


class ExecProcess(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. ``spec`` is the process object of the container's own OCI spec with the command put in."""

    spec: Mapping[str, Any]
    output_bytes_max: int = 16 << 20  # of each stream; what is beyond is read and dropped


class ExecResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    exit_code: int
    timed_out: bool
    stdout: bytes
    stderr: bytes
    stdout_bytes: int  # as produced, before the cap
    stderr_bytes: int


# --- images ----------------------------------------------------------------------------------------------------------


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """CRI AuthConfig. Never in an event, a message or a log line."""

    username: str = ""
    password: str = ""
    auth: str = ""  # base64 of username:password
    identity_token: str = ""
    registry_token: str = ""

    def __repr__(self) -> str:
        return "Credentials(…)"


class LayerBlob(msgspec.Struct, frozen=True, kw_only=True):
    """One layer as manifest and configuration describe it."""

    chain_id: ChainId
    diff_id: Digest
    blob: Digest
    media_type: str
    size_bytes: int


class ResolvedImage(msgspec.Struct, frozen=True, kw_only=True):
    """A reference, resolved to one platform's manifest. All documents are verified against their digests."""

    endpoint: str  # scheme and host that answered
    index: bytes | None  # document
    manifest: bytes  # document
    config: bytes  # document
    manifest_digest: Digest
    index_digest: Digest | None
    image_id: ImageId
    layers: tuple[LayerBlob, ...]
    total_bytes: int  # manifest, configuration and blobs, as image list sizes go


class Registry(Protocol):
    """The registries' side of pulling."""

    async def resolve(self, reference: str, credentials: Credentials | None) -> ResolvedImage:
        """Fetch and verify manifest and configuration of a normalised reference, for this host's platform.

        Raises:
            NotFound: no such repository, tag or platform.
            EffectFailed: the registry refused, or lied about a digest or size.
            Unavailable: no registry or mirror answered, or none made progress in time.
        """

    async def fetch(
        self,
        reference: str,
        credentials: Credentials | None,
        blob: LayerBlob,
        into: Path,
        progress: Callable[[int], None],
    ) -> None:
        """Download one blob to the file *into*, verified and fsynced. *progress* gets the number of new bytes."""


class Layers(Protocol):
    """Unpacked layers by chain id, and root file systems made of them."""

    def has(self, chain_id: ChainId) -> bool:
        """Say whether the layer is whole in the store."""

    def chain_ids(self) -> frozenset[ChainId]:
        """List the layers in the store, for finding orphans."""

    def blob_path(self, blob: Digest) -> Path:
        """Name the staging file that a blob is downloaded to."""

    async def unpack(self, layer: LayerBlob, blob: Path) -> LayerSize:
        """Unpack a blob in a confined worker process, verify its diff id, make it durable under its chain id.

        Raises:
            EffectFailed: the diff id is another one, an entry escapes, or a limit was passed; nothing is left.
        """

    async def remove(self, chain_id: ChainId) -> None:
        """Remove a layer. Nothing there is success."""

    async def mount(self, order: ContainerOrder, layers: Sequence[ChainId]) -> Path:
        """Mount a container's root file system, base layer first in *layers*, and return where. Idempotent."""

    async def unmount(self, order: ContainerOrder) -> None:
        """Unmount it. Not mounted is success."""

    async def remove_writable(self, order: ContainerOrder) -> None:
        """Remove the container's writable layer and bundle directory."""

    def read_in_root(self, order: ContainerOrder, path: str, limit: int) -> bytes:
        """Read at most *limit* bytes of a file inside the mounted root, never outside; b"" when there is none."""

    async def usage(self) -> StoreUsage:
        """Return the bytes and inodes that images and containers take. CRI ImageFsInfo; answers from memory."""

    async def measure(self) -> None:
        """Measure the writable layers anew, which takes as long as they have files."""

    async def clean_staging(self) -> None:
        """Remove what interrupted downloads and unpackings left."""


class LayerSize(msgspec.Struct, frozen=True, kw_only=True):
    """What an unpacked layer takes."""

    size_bytes: int
    inodes: int


class LayerProgress(msgspec.Struct, frozen=True):
    """How far one layer of a pull has come."""

    digest: str  # of the blob, as ``layer.wanted`` has it
    done_bytes: int
    total_bytes: int  # 0 where only the manifest knows it


class StoreUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What images and containers take of which file system."""

    at_ns: int
    image_path: str
    image_bytes: int
    image_inodes: int
    container_path: str
    container_bytes: int
    container_inodes: int


class HostFiles(Protocol):
    """Read-only looks at the host that building a specification needs."""

    def resolve_mount(self, host_path: str, *, create: bool) -> str:
        """Resolve symbolic links of a bind mount's source; make a missing one a directory when *create* is set.

        Raises:
            EffectFailed: it is missing, or cannot be made.
        """

    def devices(self, host_path: str, container_path: str, permissions: str) -> Sequence[DeviceNode]:
        """Return the device node at *host_path*, or all below it when it is a directory, as seen in the container."""

    def all_devices(self) -> Sequence[DeviceNode]:
        """Return every device node of the host's /dev, for privileged containers."""

    def read(self, path: str, limit: int) -> bytes:
        """Read at most *limit* bytes of a host file, such as a seccomp profile."""


class ImageFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What creating a container needs to know of its image."""

    image_id: ImageId
    reference: str  # repository@digest, or the image id
    manifest: Digest
    config: ImageConfig
    layers: tuple[ChainId, ...]  # base layer first
