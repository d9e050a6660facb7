"""The OCI runtime and the monitor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from ocid.domain.spec.inputs import HostFacts
from ocid.ids import CheckpointId, ContainerId, ExecId, PodId
from ocid.ports.pods import Exit, Process


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


class LimitsOrder(msgspec.Struct, frozen=True, kw_only=True):
    """The limits that a container shall have, complete: also those that do not change."""

    update_id: str  # the same for every try of one change
    resources: Mapping[str, Any]  # OCI linux.resources without devices and pids
    oom_score_adj: int | None = None  # for its processes, already within what we may set; None leaves it


class CheckpointOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how to write a running container down."""

    checkpoint_id: CheckpointId
    location: str  # absolute path of the archive; what is half written is beside it, named by the id
    timeout_s: int
    config: Mapping[str, Any]  # for "config.dump": what the container is, and of what image
    status: Mapping[str, Any] = {}  # for "status.dump": its CRI ContainerStatus, as far as a restore asks it


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

    async def require_restore(self, order: ContainerOrder) -> None:
        """Return when the container's OCI runtime on this host can restore.

        Raises:
            Unsupported: it cannot; the reason is in the message.
        """

    async def restore(self, order: ContainerOrder) -> Process:
        """Bring back the processes of the checkpoint that ``Archives.unpack`` has unpacked; they run at once.

        Never done twice: one that was done is found, also when its init has ended since; one that was cut short is
        cleared away.

        Raises:
            EffectFailed: the runtime refused; its own words are in the message.
            Unavailable: it was cut short, or did not end in time; nothing of it runs.
        """

    async def start(self, order: ContainerOrder) -> None:
        """Let the container's program run. Success when it runs already or ran.

        Raises:
            EffectFailed: the program could not be executed.
        """

    async def update(self, order: ContainerOrder, limits: LimitsOrder) -> None:
        """Put limits into force, and into the bundle's specification: all of them, or none.

        A try that the daemon's death cut short is finished by the next one of the same ``update_id``.

        Raises:
            WrongState: the container has no init any more, or uses more memory than its limit is to be.
            InvalidRequest: the kernel says that a value cannot be.
            EffectFailed: the kernel or the OCI runtime refused for another reason. After each of them, and cancelled,
                the limits are again what they were before.
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

    async def checkpoint(self, order: ContainerOrder, what: CheckpointOrder) -> int:
        """Write memory and changed files of a running container to an archive, and return the archive's bytes.

        The container stands still meanwhile, and goes on afterwards, whatever came of it. The archive appears whole,
        mode 0600, or not at all; no symbolic link on the way to it is followed.

        Raises:
            Unsupported: the OCI runtime or this host cannot do it; the reason is in the message.
            TimedOut: it took longer than the order allows.
            InvalidRequest: the archive cannot be where it is to be.
            EffectFailed: the runtime refused, or the archive could not be written.
        """

    async def abandon_checkpoint(
        self, order: ContainerOrder | None, checkpoint_id: CheckpointId, location: str
    ) -> None:
        """Clear away what a daemon that died left of this checkpoint, and let the container, if there is one, go on."""

    async def container_ids(self) -> frozenset[ContainerId]:
        """List what the runtime's state directories hold, for finding orphans."""


class HandlerFeatures(msgspec.Struct, frozen=True, kw_only=True):
    """From ``<runtime> features`` where it has that command. OCI runtime-spec features.md."""

    path: str
    version: str
    recursive_read_only_mounts: bool = False
    user_namespaces: bool = False
    lacks_for_users: str = ""  # what is missing for user namespaces, and what would do
    oci: tuple[int, ...] = ()  # newest version of the OCI runtime specification that it knows: (1, 2); (): not said


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
