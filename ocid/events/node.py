"""Facts about the daemon's own lives and about who uses its socket. Stream ``node/self``."""

from __future__ import annotations

from typing import ClassVar, Final

from ocid.classes import Public, Sensitive
from ocid.events.base import Event, enter
from ocid.ids import Digest, PodId, StreamId

NODE = StreamId("node/self")
UNSET: Final = 4294967295  # 2**32 - 1, as the kernel says that a process has no login uid, or no login session


class Started(Event, frozen=True, kw_only=True):
    """The daemon opened the log and began a new epoch."""

    TYPE: ClassVar[str] = "node.started"
    epoch: int
    ocid_version: Public
    pid: int
    kernel: Public  # uname release
    cgroup_mode: Public  # "v1", "hybrid" or "v2"
    cgroup_driver: Public  # "cgroupfs" or "systemd"
    config: Digest  # document: the configuration in force, as JSON
    after_clean_stop: bool
    rebooted: bool  # the boot id differs from that of the epoch before


class Recovered(Event, frozen=True, kw_only=True):
    """The daemon compared the log with the host and is about to serve."""

    TYPE: ClassVar[str] = "node.recovered"
    pods: int
    containers: int
    adopted: int  # containers found alive as the log has them
    lost: int  # containers and pods that ended while nobody watched
    took_ms: int


class Stopped(Event, frozen=True, kw_only=True):
    """The daemon stopped on purpose; containers go on."""

    TYPE: ClassVar[str] = "node.stopped"
    reason: Sensitive


class PeerSeen(Event, frozen=True, kw_only=True):
    """A process connected to the CRI socket. Its seq is the ``who`` of everything it asks for.

    What it runs is hashed later, see ``PeerMeasured``: its first call waits for no file to be read.

    Source: unix(7) SO_PEERCRED, checked against reuse of the pid by its start time; proc(5).
    """

    TYPE: ClassVar[str] = "node.peer_seen"
    pid: int
    start_ticks: int  # /proc/PID/stat field 22, clock ticks since boot; 0 if the process was gone
    uid: int
    gid: int
    exe: Public
    comm: Public
    cgroup: Public
    login_uid: int = UNSET  # /proc/PID/loginuid: who logged in, whatever sudo made of it
    session_id: int = UNSET  # /proc/PID/sessionid: of that login, as the kernel's audit log has it
    container_id: Public = ""  # 64 hex digits in its cgroup: it runs inside a container, ours or of another runtime


class PeerMeasured(Event, frozen=True, kw_only=True):
    """What a peer runs was read through /proc/PID/exe: that very file, also where it was deleted or replaced."""

    TYPE: ClassVar[str] = "node.peer_measured"
    peer: int  # seq of its ``node.peer_seen``
    exe_hash: Public  # sha256, 64 hex digits; "" when it could not be read
    size_bytes: int
    reason: Sensitive  # why there is no hash


class UsualPeerSet(Event, frozen=True, kw_only=True):
    """From here on, this is the usual peer: a change that anybody else asks for is a ``node.unusual_call``."""

    TYPE: ClassVar[str] = "node.usual_peer_set"
    exes: tuple[Public, ...]  # any of them; none: the configuration names nobody any more, what was learned holds again
    uid: int
    contained: bool  # whether it may run inside a container
    configured: bool = False  # else learned: the first that ran a pod, and no person with a login
    peer: int = 0  # seq of the ``node.peer_seen`` that it was learned from


class UnusualCall(Event, frozen=True, kw_only=True):
    """A change is asked for by somebody else than the usual peer. Durable before anything is done about it.

    The event's ``who`` says by whom; its ``correlation`` is that of all that the call led to.
    """

    TYPE: ClassVar[str] = "node.unusual_call"
    rpc: Public
    subject: Public  # stream of what is to be changed, "container/3f2c…" or "pod/71aa…"; "" where there is none yet
    named: Public  # what the caller calls it: namespace/name of a pod, name of a container, reference of an image
    reason: Sensitive  # why it is unusual


class RequestRefused(Event, frozen=True, kw_only=True):
    """A request that would have changed something was refused before any aggregate saw it."""

    TYPE: ClassVar[str] = "node.request_refused"
    rpc: Public
    error: Public  # class name from ocid.errors
    message: Sensitive


class ActorCrashed(Event, frozen=True, kw_only=True):
    """An actor failed in a way nobody foresaw; its supervisor rebuilds it from its stream."""

    TYPE: ClassVar[str] = "node.actor_crashed"
    stream: StreamId
    error: Sensitive
    crashes: int  # within the budget's window, this one included


class ActorGaveUp(Event, frozen=True, kw_only=True):
    """An actor crashed more often than its budget allows and is not restarted."""

    TYPE: ClassVar[str] = "node.actor_gave_up"
    stream: StreamId
    error: Sensitive


class PluginJoined(Event, frozen=True, kw_only=True):
    """A plugin connected, and learned what lives on the node; from now on it is asked."""

    TYPE: ClassVar[str] = "node.plugin_joined"
    plugin: Public  # index and name, "10-logger"
    pid: int  # 0 where the kernel does not tell
    events: int  # what it listens to: bit n - 1 for NRI's event n


class PluginLeft(Event, frozen=True, kw_only=True):
    """A plugin hung up, or was cut off for not answering."""

    TYPE: ClassVar[str] = "node.plugin_left"
    plugin: Public
    reason: Sensitive


class OrphanFound(Event, frozen=True, kw_only=True):
    """Something under our own prefixes that no stream names was found and dealt with."""

    TYPE: ClassVar[str] = "node.orphan_found"
    kind: Public  # "container", "mount", "netns", "cgroup", "directory", "link"
    name: Public
    action: Public  # "removed" or "left"


class NetworkFaulty(Event, frozen=True, kw_only=True):
    """A pod that outlived the daemon lacks something that its network plugins gave it. Nothing was done about it."""

    TYPE: ClassVar[str] = "node.network_faulty"
    pod_id: PodId
    message: Sensitive  # of the plugin


class LogQuarantined(Event, frozen=True, kw_only=True):
    """The log before this one was damaged. It was set aside, and this log begins anew from what was running."""

    TYPE: ClassVar[str] = "node.log_quarantined"
    path: Sensitive
    reason: Sensitive
    last_good_seq: int  # 0 when nothing could be read
    last_good_hash: Public  # hex


class RuntimeConfigured(Event, frozen=True, kw_only=True):
    """UpdateRuntimeConfig told the node's pod CIDR. The networks of this node are configured elsewhere."""

    TYPE: ClassVar[str] = "node.runtime_configured"
    pod_cidr: Public


class RedactionConfigured(Event, frozen=True, kw_only=True):
    """Other rules say what is a secret from here on, or another salt hides it, than those that the log knew last."""

    TYPE: ClassVar[str] = "node.redaction_configured"
    policy: Digest  # document: the rules, as JSON
    salt_id: Public  # 16 hex digits that name the node's salt; commitments of one salt can be compared


enter(
    Started, Recovered, Stopped, PeerSeen, RequestRefused, ActorCrashed, ActorGaveUp, PluginJoined, PluginLeft,
    PeerMeasured, UsualPeerSet, UnusualCall,
    OrphanFound, NetworkFaulty,
    LogQuarantined,
    RuntimeConfigured,
    RedactionConfigured,
)  # fmt: skip
