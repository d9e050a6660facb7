"""What an event says, in plain words: one pure function for each kind, and a plain one for kinds that have none.

The words end up in front of people who did not write ocid and have to rely on them. So they say what the fact says and
no more: an exit code that nobody knows is called unknown, and a signal whose sender nobody saw has no sender.
"""

from __future__ import annotations

from typing import Final

from ocid.events import container, exec as execution, image, node, pod
from ocid.events.base import Event, Opaque
from ocid.events.node import PeerSeen
from ocid.projections import words_checkpoints, words_images, words_log, words_peers, words_probes, words_sessions
from ocid.projections.fields import brief
from ocid.projections.phrases import claimed, duration, exit_words
from ocid.projections.text import short, short_reference, size
from ocid.projections.vocabulary import WORDS as _WORDS, always as _always, says as _says

COMPANIONS: Final = (
    words_checkpoints,
    words_images,
    words_log,
    words_peers,
    words_probes,
    words_sessions,
)  # imported for what they enter


def words(event: Event) -> str:
    """Return what *event* says."""
    if isinstance(event, Opaque):
        return f"(a kind of event that this build does not know) {brief(event)}".rstrip()
    say = _WORDS.get(type(event))
    return brief(event) if say is None else say(event)


def kinds() -> frozenset[type[Event]]:
    """Return the kinds of event that have words of their own."""
    return frozenset(_WORDS)


def who(peer: PeerSeen | None, seq: int) -> str:
    """Return who asked, in a word: "kubelet[812]"; the daemon itself for *seq* 0."""
    if seq == 0:
        return "ocid"
    if peer is None:
        return f"peer #{seq}"
    name = peer.exe.rpartition("/")[2] or peer.comm or "process"
    return f"{name}[{peer.pid}]"


def who_in_full(peer: PeerSeen | None, seq: int) -> str:
    """Return who asked, with all that identifies them."""
    if seq == 0:
        return "the daemon itself"
    if peer is None:
        return f"an unknown client (record {seq} does not say)"
    marks = words_peers.marks(peer)
    return f"{peer.exe or peer.comm or 'a process'} (pid {peer.pid}, uid {peer.uid}{marks}) [{seq}]"


# --- pods ------------------------------------------------------------------------------------------------------------


@_says(pod.Declared)
def _(event: pod.Declared) -> str:
    attempt = f", attempt {event.attempt}" if event.attempt else ""
    leased = f" with {', '.join(event.addresses)}" if event.addresses else ""
    handler = f", handler {event.handler}" if event.handler else ""
    handler += ", a user namespace of its own" if event.userns else ""
    further = f" and {', '.join(f'{one.name} ({one.interface})' for one in event.networks)}" if event.networks else ""
    return f"pod {event.namespace}/{event.name} asked for{attempt}: {event.network} network{leased}{further}{handler}"


@_says(pod.NetworkAttached)
def _(event: pod.NetworkAttached) -> str:
    return f"network attached via {event.via}: {', '.join(event.addresses) or 'no address'}"


@_says(pod.FurtherNetworkAttached)
def _(event: pod.FurtherNetworkAttached) -> str:
    return f"network {event.network!r} attached as {event.interface}: {', '.join(event.addresses) or 'no address'}"


@_says(pod.PauseStarted)
def _(event: pod.PauseStarted) -> str:
    return f"pause process runs as pid {event.pid}"


@_says(pod.Failed)
def _(event: pod.Failed) -> str:
    return f"making the pod failed at {event.step}: {event.error}: {event.message}"


@_says(pod.Lost)
def _(event: pod.Lost) -> str:
    return f"lost without our doing: {event.reason}"


@_says(pod.EffectFailed)
def _(event: pod.EffectFailed) -> str:
    return _failed_step(event.step, event.failures, event.error, event.message)


@_says(pod.GaveUp)
def _(event: pod.GaveUp) -> str:
    return f"given up after too many crashes, its containers go on: {event.reason}"


@_says(pod.ResourcesUpdated)
def _(event: pod.ResourcesUpdated) -> str:
    return f"the kubelet told the resources of the pod's cgroup: {event.brief or 'none'}"


_always(pod.Prepared, "namespaces pinned, shared memory mounted, files written")
_always(pod.Announced, "plugins were told of it")
_always(pod.Ready, "ready for containers")
_always(pod.StopRequested, "stop asked for")
_always(pod.ContainersStopped, "no container runs any more")
_always(pod.NetworkDetached, "network detached, addresses free")
_always(pod.Stopped, "stopped: namespaces and mounts are gone")
_always(pod.RemoveRequested, "removal asked for")
_always(pod.Removed, "removed: nothing is left on the host")

# --- containers ------------------------------------------------------------------------------------------------------


@_says(container.Declared)
def _(event: container.Declared) -> str:
    attempt = f", attempt {event.attempt}" if event.attempt else ""
    secrets = f", {event.secrets} secrets withheld from the log" if event.secrets else ""
    restores = "" if event.restores is None else words_checkpoints.origin(event.restores)
    return f"container {event.name} asked for{attempt}, from {short_reference(event.image_ref)}{restores}{secrets}"


@_says(container.Prepared)
def _(event: container.Prepared) -> str:
    return f"root file system mounted, to run as uid {event.uid} gid {event.gid}, spec {short(event.spec)}"


@_says(container.Adjusted)
def _(event: container.Adjusted) -> str:
    return f"{event.count} changes by plugins {', '.join(event.plugins)}, listed in {short(event.changes)}"


@_says(container.PrepareFailed)
def _(event: container.PrepareFailed) -> str:
    return f"could not be prepared: {event.error}: {event.message}"


@_says(container.Created)
def _(event: container.Created) -> str:
    return f"created by the OCI runtime, init is pid {event.pid}"


@_says(container.CreateFailed)
def _(event: container.CreateFailed) -> str:
    return f"the OCI runtime refused to create it: {event.error}: {event.message}"


@_says(container.StartFailed)
def _(event: container.StartFailed) -> str:
    return f"its program could not be started: {event.error}: {event.message}"


@_says(container.StopRequested)
def _(event: container.StopRequested) -> str:
    if event.plugin:
        return f"evicted by plugin {event.plugin}: {event.reason or 'no reason given'}"
    if event.grace_ms == 0:
        return "kill asked for, without grace"
    return f"stop asked for: {event.signal}, then SIGKILL after {duration(event.grace_ms)}"


@_says(container.Exited)
def _(event: container.Exited) -> str:
    if event.source == "reboot":
        return "ended when the node was rebooted, exit code unknown"
    if event.source == "unstarted":
        return f"stopped before anything of it ran, which counts as exit code {event.exit_code}"
    if event.source == "unknown":
        return "ended while nobody watched, exit code unknown"
    memory = ", out of memory" if event.oom_killed else ""
    return f"exited with {exit_words(event.exit_code)}{memory}, as its {event.source} saw"


@_says(container.EffectFailed)
def _(event: container.EffectFailed) -> str:
    return _failed_step(event.step, event.failures, event.error, event.message)


@_says(container.GaveUp)
def _(event: container.GaveUp) -> str:
    return f"given up after too many crashes, its processes go on unwatched: {event.reason}"


@_says(container.UpdateRequested)
def _(event: container.UpdateRequested) -> str:
    by = f" by plugins {', '.join(event.plugins)}" if event.plugins else ""
    return f"change of its limits asked for{by}: {event.brief or 'none'}"


@_says(container.UpdateAdjusted)
def _(event: container.UpdateAdjusted) -> str:
    return f"{event.count} changes of that by plugins {', '.join(event.plugins)}: {event.brief or 'none'}"


@_says(container.UpdateRefused)
def _(event: container.UpdateRefused) -> str:
    return f"change of its limits refused, all stay as they were: {event.error}: {event.message}"


_always(container.Updated, "change of its limits is in force")
_always(image.LayersLeft, "layers found at the start that nothing refers to")
_always(container.StartRequested, "start asked for")
_always(container.Started, "its program runs")
_always(container.Released, "runtime state, mounts and cgroup are gone")
_always(container.RemoveRequested, "removal asked for")
_always(container.Removed, "removed: nothing but its log is left")
_always(container.LogReopened, "log file opened anew")

# --- execs -----------------------------------------------------------------------------------------------------------


@_says(execution.Requested)
def _(event: execution.Requested) -> str:
    limit = f", limit {event.timeout_s} s" if event.timeout_s else ""
    again = f", the same as exec {short(event.repeats)}, counted from here on" if event.repeats else ""
    words = f"command in container {short(event.container_id)}: {event.argv_brief}{limit}{again}"
    return f"{words}{claimed(event.audit_hints)}"


@_says(execution.Finished)
def _(event: execution.Finished) -> str:
    ended = "killed because its time was up" if event.timed_out else f"ended with {exit_words(event.exit_code)}"
    output = f"{size(event.stdout_bytes)} out, {size(event.stderr_bytes)} err"
    return f"{ended} after {duration(event.took_ms)}; {output}"


@_says(execution.Failed)
def _(event: execution.Failed) -> str:
    return f"could not be run: {event.error}: {event.message}"


@_says(execution.Abandoned)
def _(event: execution.Abandoned) -> str:
    if event.since_seq:
        return f"how often it ran after record {event.since_seq}, and how it ended, is not known: {event.reason}"
    return f"how it ended is not known: {event.reason}"


# --- the node --------------------------------------------------------------------------------------------------------


@_says(node.Started)
def _(event: node.Started) -> str:
    before = "after a clean stop" if event.after_clean_stop else "after a stop that was not clean"
    return (
        f"ocid {event.ocid_version} started as pid {event.pid}, epoch {event.epoch}, {before}"
        f"{', node rebooted' if event.rebooted else ''}; kernel {event.kernel}, "
        f"cgroup {event.cgroup_mode} through {event.cgroup_driver}"
    )


@_says(node.Recovered)
def _(event: node.Recovered) -> str:
    return (
        f"log compared with the host in {duration(event.took_ms)}: {event.pods} pods, {event.containers} containers, "
        f"{event.adopted} found alive, {event.lost} ended unwatched"
    )


@_says(node.Stopped)
def _(event: node.Stopped) -> str:
    return f"ocid stopped, containers go on: {event.reason}"


@_says(node.RequestRefused)
def _(event: node.RequestRefused) -> str:
    return f"{event.rpc} refused: {event.error}: {event.message}"


@_says(node.ActorCrashed)
def _(event: node.ActorCrashed) -> str:
    return f"actor of {event.stream} crashed ({event.crashes} times lately): {event.error}"


@_says(node.ActorGaveUp)
def _(event: node.ActorGaveUp) -> str:
    return f"actor of {event.stream} given up: {event.error}"


@_says(node.PluginJoined)
def _(event: node.PluginJoined) -> str:
    return f"plugin {event.plugin} connected, pid {event.pid or 'unknown'}"


@_says(node.PluginLeft)
def _(event: node.PluginLeft) -> str:
    return f"plugin {event.plugin} is gone: {event.reason}"


@_says(node.OrphanFound)
def _(event: node.OrphanFound) -> str:
    return f"{event.kind} {event.name} belongs to nothing in the log: {event.action}"


_WORDS[node.RedactionConfigured] = lambda event: (
    f"secrets are told by policy {short(event.policy)} from here on, and hidden with salt {event.salt_id}"
)
_WORDS[node.RuntimeConfigured] = lambda event: f"the kubelet told the node's pod CIDR: {event.pod_cidr}"


@_says(node.NetworkFaulty)
def _(event: node.NetworkFaulty) -> str:
    return f"the network of pod {event.pod_id[:13]} is not as it was made: {event.message}"


@_says(node.LogQuarantined)
def _(event: node.LogQuarantined) -> str:
    return (
        f"the log before this one was damaged and set aside at {event.path}: {event.reason}; "
        f"its last good record is {event.last_good_seq}"
    )


def _failed_step(step: str, failures: int, error: str, message: str) -> str:
    again = f" for the {failures}. time" if failures > 1 else ""
    return f"{step} failed{again}, is tried again: {error}: {message}"
