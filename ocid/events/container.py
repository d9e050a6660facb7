"""Facts about containers. Stream ``container/<id>``."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from ocid.classes import Public, Sensitive
from ocid.events.base import Event, enter
from ocid.ids import ContainerId, Digest, ImageId, PodId


class Origin(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The container checkpoint that a container goes on from."""

    digest: Digest  # of the archive's bytes; of an image, its manifest (document)
    archive: Public = ""  # absolute path; "" where it is an image
    name: Public = ""  # of the container that was checkpointed, as the checkpoint says


class Declared(Event, frozen=True, kw_only=True):
    """A container was asked for. Everything that making it will create on the host is named here."""

    TYPE: ClassVar[str] = "container.declared"
    container_id: ContainerId
    pod_id: PodId
    name: Public
    attempt: int
    created_at_ns: int
    config: Digest  # confidential document: ContainerConfig as JSON, secrets replaced, images of mounts by id
    secrets: int  # how many values were replaced
    image_id: ImageId
    image_ref: Public  # repository@digest, or the image id where no repository is known
    image_manifest: Digest  # document
    handler: Public
    log_path: Public  # absolute; "" for none
    bundle: Public  # directory of config.json, the mounted root file system, and images/N of the mounts of images
    writable: Public  # directory of the writable layer
    cgroup: Public  # OCI linux.cgroupsPath
    stop_signal: Public = ""  # by name; "" is SIGTERM
    restores: Origin | None = None  # None: it begins anew


class Prepared(Event, frozen=True, kw_only=True):
    """The root file system is mounted and the OCI runtime spec is written."""

    TYPE: ClassVar[str] = "container.prepared"
    spec: Digest  # confidential document: the OCI runtime spec, secrets replaced
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


class Adjusted(Event, frozen=True, kw_only=True):
    """Plugins changed what the container will be; the preparation that follows cites the specification after that."""

    TYPE: ClassVar[str] = "container.adjusted"
    plugins: tuple[Public, ...]  # who, in the order in which they were asked; at most 16
    count: int  # how many things they changed
    changes: Digest  # document: which plugin set or removed what, as JSON; values are in the specification
    before: Digest  # confidential document: the OCI runtime spec as it would be without them, secrets replaced


class Created(Event, frozen=True, kw_only=True):
    """The OCI runtime has made the container; its init waits for the start."""

    TYPE: ClassVar[str] = "container.created"
    pid: int
    start_ticks: int


class PrepareFailed(Event, frozen=True, kw_only=True):
    """The container could not be prepared; CreateContainer failed, and what was made is being taken down again."""

    TYPE: ClassVar[str] = "container.prepare_failed"
    error: Public  # class name from ocid.errors
    message: Sensitive


class CreateFailed(Event, frozen=True, kw_only=True):
    """The OCI runtime refused to make the container. It counts as exited with 128."""

    TYPE: ClassVar[str] = "container.create_failed"
    at_ns: int
    error: Public
    message: Sensitive


class StartRequested(Event, frozen=True, kw_only=True):
    """StartContainer was called."""

    TYPE: ClassVar[str] = "container.start_requested"


class Started(Event, frozen=True, kw_only=True):
    """The container's own program runs."""

    TYPE: ClassVar[str] = "container.started"
    at_ns: int


class StartFailed(Event, frozen=True, kw_only=True):
    """The container's program could not be started. The container counts as exited with 128."""

    TYPE: ClassVar[str] = "container.start_failed"
    at_ns: int
    error: Public
    message: Sensitive


class StopRequested(Event, frozen=True, kw_only=True):
    """StopContainer was called, or the pod stops, or removal implies it."""

    TYPE: ClassVar[str] = "container.stop_requested"
    grace_ms: int  # CRI StopContainerRequest.timeout; 0 kills at once
    kill_at_boot_ns: int  # CLOCK_BOOTTIME after which SIGKILL is due
    signal: Public
    plugin: Public = ""  # who evicts it, "10-name"; "" where no plugin does
    reason: Sensitive = ""  # of the eviction, in the plugin's words


class Exited(Event, frozen=True, kw_only=True):
    """The container's init ended. CRI ContainerStatus.finished_at, exit_code, reason."""

    TYPE: ClassVar[str] = "container.exited"
    at_ns: int
    exit_code: int  # 0-255; 128 + signal number when killed by a signal; 255 when nobody knows it
    oom_killed: bool = False
    source: Public  # "monitor" (its exit file), "kernel" (the monitor was lost), "reboot", "unstarted", or "unknown"


class Released(Event, frozen=True, kw_only=True):
    """The runtime's state, the mounts and the cgroup of the ended container are gone; the writable layer stays."""

    TYPE: ClassVar[str] = "container.released"


class RemoveRequested(Event, frozen=True, kw_only=True):
    """RemoveContainer was called, or the pod is removed, or the container could not be made."""

    TYPE: ClassVar[str] = "container.remove_requested"


class Removed(Event, frozen=True, kw_only=True):
    """Nothing of the container is left on the host but its log. The last event of its stream."""

    TYPE: ClassVar[str] = "container.removed"


class EffectFailed(Event, frozen=True, kw_only=True):
    """Signalling the container or taking it down failed; it is tried again, ever more rarely."""

    TYPE: ClassVar[str] = "container.effect_failed"
    step: Public
    error: Public
    message: Sensitive
    failures: int


class LogReopened(Event, frozen=True, kw_only=True):
    """ReopenContainerLog made the monitor open the log file anew."""

    TYPE: ClassVar[str] = "container.log_reopened"


class UpdateRequested(Event, frozen=True, kw_only=True):
    """UpdateContainerResources was called, or plugins want it. What the change leaves at zero stays as it is."""

    TYPE: ClassVar[str] = "container.update_requested"
    update_id: Public
    change: Digest  # document: LinuxResources as JSON
    brief: Public = ""  # of the change, for reading
    plugins: tuple[Public, ...] = ()  # who wants it, at most 16; none where the kubelet does


class UpdateAdjusted(Event, frozen=True, kw_only=True):
    """Plugins made another change of the one asked for; what follows tells what became of it."""

    TYPE: ClassVar[str] = "container.update_adjusted"
    update_id: Public
    plugins: tuple[Public, ...]  # who, in the order in which they were asked; at most 16
    count: int  # how many things they changed
    changes: Digest  # document: which plugin set what, as JSON
    change: Digest  # document: the change as they want it, LinuxResources as JSON
    brief: Public = ""  # of the change as they want it, for reading


class Updated(Event, frozen=True, kw_only=True):
    """The change is in force."""

    TYPE: ClassVar[str] = "container.updated"
    update_id: Public
    limits: Digest  # document: LinuxResources as JSON, all that is in force from now on


class UpdateRefused(Event, frozen=True, kw_only=True):
    """The change could not be applied; the limits are what they were before it."""

    TYPE: ClassVar[str] = "container.update_refused"
    update_id: Public
    error: Public  # class name from ocid.errors
    message: Sensitive


class GaveUp(Event, frozen=True, kw_only=True):
    """The container's actor crashed more often than its budget allows. Its processes go on, unwatched."""

    TYPE: ClassVar[str] = "container.gave_up"
    reason: Sensitive


ContainerEvent = (
    Declared | Adjusted | Prepared | PrepareFailed | Created | CreateFailed | StartRequested | Started | StartFailed
    | StopRequested | Exited | Released | RemoveRequested | Removed | EffectFailed | LogReopened | GaveUp
    | UpdateRequested | UpdateAdjusted | Updated | UpdateRefused
)  # fmt: skip

enter(
    Declared, Adjusted, Prepared, PrepareFailed, Created, CreateFailed, StartRequested, Started, StartFailed,
    StopRequested, Exited, Released, RemoveRequested, Removed, EffectFailed, LogReopened, GaveUp,
    UpdateRequested, UpdateAdjusted, Updated, UpdateRefused,
)  # fmt: skip
