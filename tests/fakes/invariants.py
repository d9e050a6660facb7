"""What must be true at the end of every simulation, however often the daemon died on the way."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import msgspec
import trio

from ocid.domain import catalog, checkpoint, container, exec as execution, layer, pod, pull, session
from ocid.domain.spec.inputs import HostFacts
from ocid.domain.spec.resources import oci_resources
from ocid.events import exec as execution_events
from ocid.events.base import Event
from ocid.events.envelope import Envelope
from ocid.journal.memory import MemoryLog
from ocid.projections.view import Snapshot, View
from tests.fakes.images import STAGING
from tests.fakes.kubelet import Kubelet
from tests.fakes.life import HANG_S
from tests.fakes.node import Node
from tests.fakes.runtime import limits_of
from tests.fakes.world import ROOT, RUN

AGGREGATES: dict[str, Any] = {
    "pod": pod,
    "container": container,
    "exec": execution,
    "session": session,
    "checkpoint": checkpoint,
    "pull": pull,
    "layer": layer,
    "catalog": catalog,
}
WATCHING = (container.Watch, pod.WatchPause, execution.Repeat)  # an effect that waits for the world owes it nothing
CALM_S = 1000.0  # of virtual time: enough for every back-off
ENDS = ("container.exited", "container.create_failed", "container.start_failed", "container.prepare_failed")


def log_of(node: Node) -> list[Envelope]:
    """Return the whole log."""
    log = MemoryLog(node.disk)
    node.disk.epoch -= 1
    return log.read(1, len(node.disk.records))


async def calm(node: Node) -> None:
    """Let nothing fail any more, and wait until no actor owes anything."""
    node.faults.rate = 0.0
    node.faults.scripted.clear()
    with trio.move_on_after(CALM_S) as patience:
        await trio.sleep(HANG_S + 20.0 if node.faults.seen else 1.0)  # a watcher may be slow to see an end
        while not _rests(node):  # noqa: ASYNC110 (no event tells that nothing is owed)
            await trio.sleep(1.0)
    if patience.cancelled_caught:
        node.world.violate(f"not at rest after {CALM_S:g} s: {_owed(node)}")


async def check(node: Node, kubelet: Kubelet) -> None:
    """Assert every invariant."""
    await calm(node)
    problems = [*node.world.violations, *_log_problems(log_of(node)), *_lost(node, kubelet), *_leaks(node)]
    problems += _view_problems(node)
    assert not problems, "\n".join([f"seed {node.seed}, {node.moment}, faults {node.faults.seen}:", *problems])


def _rests(node: Node) -> bool:
    return node.serves and not _owed(node)


def _owed(node: Node) -> list[str]:
    return [
        f"{aggregate}/{name} owes {due}"
        for aggregate, module in AGGREGATES.items()
        for name, row in node.view()._folds[aggregate].rows.items()
        if (due := module.plan(row.state)) is not None and not isinstance(due, WATCHING)
    ]


# --- the log ---------------------------------------------------------------------------------------------------------


def _log_problems(log: list[Envelope]) -> list[str]:
    """No gap, contiguous versions, one end for each container, nothing after the end."""
    problems = []
    versions: Counter[str] = Counter()
    types: dict[str, list[str]] = {}
    for seq, envelope in enumerate(log, start=1):
        versions[envelope.stream] += 1
        if (envelope.seq, envelope.version) != (seq, versions[envelope.stream]):
            problems.append(f"seq {envelope.seq} version {envelope.version} of {envelope.stream} at place {seq}")
        types.setdefault(envelope.stream, []).append(envelope.type)
    for stream, kinds in types.items():
        aggregate = stream.partition("/")[0]
        if aggregate == "container" and sum(kind in ENDS for kind in kinds) > 1:
            problems.append(f"{stream} ends more than once: {kinds}")
        last = f"{aggregate}.removed"
        if aggregate in ("container", "pod") and last in kinds[:-1]:
            problems.append(f"{stream} goes on after its removal: {kinds}")
        onces = (f"{aggregate}.declared", "container.started", "pod.ready", "pull.completed")
        problems += [f"{stream} has {once} more than once: {kinds}" for once in onces if kinds.count(once) > 1]
    return problems


def _lost(node: Node, kubelet: Kubelet) -> list[str]:
    """What was acknowledged is in the log, what the log says of exits is true, and nothing was started twice."""
    problems = []
    facts: dict[str, list[Event]] = {}
    images = set()
    for envelope in log_of(node):
        facts.setdefault(envelope.stream.partition("/")[2], []).append(envelope.event)
        images.update([envelope.event.image_id] if envelope.type == "image.added" else [])
    for said, name in kubelet.acks:
        kinds = [fact.TYPE for fact in facts.get(name, ())]
        wanted = ENDS if said == "container ended" else (said,)
        if said == "image.added":
            problems += [] if name in images else [f"image {name} was acknowledged, but is not in the log"]
        elif not any(kind in wanted for kind in kinds) and not (said == "pod.stopped" and "pod.removed" in kinds):
            problems.append(f"{said} of {name} was acknowledged, but the log has {kinds}")
    for name, told in facts.items():
        times = {fact.TYPE: fact.at_ns for fact in told if fact.TYPE in ("container.started", "container.exited")}
        if times.get("container.started", 0) > times.get("container.exited", sys.maxsize):
            problems.append(f"container {name} ended before it started: {times}")
        for fact in told:
            if fact.TYPE == "container.exited" and fact.source == "monitor":
                truth = node.world.truth.get(name)
                if truth != (fact.exit_code, fact.oom_killed):
                    problems.append(f"container {name} exited with {truth}, but the log says {fact}")
            elif fact.TYPE == "container.exited" and fact.source == "unknown":
                problems.append(f"nobody knows how container {name} exited")
    repeated = {name for name, told in facts.items() if any(getattr(fact, "repeats", "") for fact in told)}
    starts = node.world.starts
    problems += [f"{n} was started {count} times" for n, count in starts.items() if count > 1 and n not in repeated]
    return problems + [problem for name in repeated for problem in _miscounted(name, facts[name], starts[name])]


def _miscounted(name: str, told: list[Event], starts: int) -> list[str]:
    """Compare what the log says of a command's runs with how often it ran. What is open may have more in memory."""
    kinds = [fact.TYPE for fact in told]
    known = kinds.count("exec.finished") + kinds.count("exec.changed")
    known += sum(fact.count for fact in told if isinstance(fact, execution_events.Repeated))
    unknown = starts - known
    if unknown < 0:
        return [f"command {name} ran {starts} times, but the log knows of {known} runs"]
    if "exec.ended" in kinds and unknown:
        return [f"command {name} ran {starts} times, and the log, which says no more, knows of {known}"]
    if "exec.failed" in kinds and unknown > 1:
        return [f"command {name} ran {starts} times, failed once, and the log knows of {known}"]
    ends = [number for number, kind in enumerate(kinds) if kind in ("exec.ended", "exec.failed", "exec.abandoned")]
    return [f"command {name} goes on after its end: {kinds}"] if ends not in ([], [len(kinds) - 1]) else []


# --- the world -------------------------------------------------------------------------------------------------------


def _leaks(node: Node) -> list[str]:
    """Everything in the world belongs to a living stream that still needs it."""
    world, view = node.world, node.view()
    up = {name: row.state for name, row in view.pods.rows.items() if not row.state.stopped}
    kept = {name: row.state for name, row in view.containers.rows.items()}
    held = {name: state for name, state in kept.items() if not state.released}
    attached = {
        address
        for state in up.values()
        if state.declared is not None and not state.detached
        for address in state.declared.addresses
    }
    roots = [f"{RUN}/pods/{name}" for name in up] + [f"{RUN}/containers/{name}" for name in held]
    roots_of_files = roots + [f"{base}/containers/{name}" for name in kept for base in (RUN, ROOT)]
    problems = [f"mount {one} leaked" for one in world.mounts if not _within(one, roots)]
    problems += [f"{one} leaked" for one in files_of(node) if not _within(one, roots_of_files)]
    problems += [f"container {one} stands still" for one in world.frozen]
    problems += [f"container {one} leaked" for one in world.contained if one not in held]
    problems += [f"address {one} leaked" for one in world.addresses if one not in attached]
    problems += [f"lease {one} leaked" for one in view.pods.leases if one not in attached]
    problems += [f"link {one} of {name} leaked" for one, name in world.links.items() if name not in up]
    problems += [f"CNI attachment of {name} leaked" for name in world.plugins if name.partition("@")[0] not in up]
    problems += [f"process {one} leaked" for one in world.tasks.values() if one.owner not in held.keys() | up.keys()]
    cgroups = [f"/ocid/{name}" for name in view.pods.rows]
    problems += [f"cgroup {one} leaked" for one in world.cgroups if one.count("/") > 2 and not _within(one, cgroups)]
    ready = {name for name, row in view.layers.rows.items() if row.state.is_ready}
    problems += [f"layer {one} leaked" for one in world.layers if one not in ready]
    problems += [f"layer {one} is not there" for one in ready if one not in world.layers]
    running = {name for name, state in kept.items() if state.running}
    live = {one.owner for one in world.tasks.values() if one.running and one.owner in kept}
    problems += [f"container {name} runs, says the log, but does not" for name in running - live]
    problems += [f"container {name} runs, but the log does not say so" for name in live - running]
    return problems + _limit_problems(node, live)


def _limit_problems(node: Node, live: set[str]) -> list[str]:
    """What runs has the limits that the log says are in force, in its cgroup and in its specification."""
    problems = []
    for name in live:
        says = oci_resources(node.view().containers.config(name).linux.resources, HostFacts())
        bundle = limits_of(msgspec.json.decode(node.world.paths[f"{RUN}/containers/{name}/config.json"]))
        if not says == node.world.limits[name] == bundle:
            problems.append(f"container {name} has limits {node.world.limits[name]}, bundle {bundle}, log {says}")
    return problems


def files_of(node: Node) -> list[str]:
    """List files and directories, without whole blobs: they wait for the next try of their pull, or for a restart."""
    blobs = f"{STAGING}/blob-"
    return [path for path, text in node.world.paths.items() if not (path.startswith(blobs) and text == b"whole")]


def _within(path: str, roots: list[str]) -> bool:
    return any(path == root or path.startswith(root + "/") for root in roots)


# --- the projections -------------------------------------------------------------------------------------------------


def _view_problems(node: Node) -> list[str]:
    """The view that followed the log equals a fold of the whole log, a snapshot round trip, and the actors' states."""
    core, writer = node.core, node.writer
    assert core is not None
    assert writer is not None
    folded, taken = View(writer.document), View(writer.document)
    for envelope in log_of(node):
        folded.apply(envelope)
    taken.restore(core.view.snapshot())
    problems = []
    for name, other in (("a fold of the whole log", folded), ("its own snapshot", taken)):
        if _plain(other) != _plain(core.view):
            problems.append(f"the view differs from {name}: {_plain(other)} != {_plain(core.view)}")
    asked = (core.pulls, core.execs, core.sessions, core.checkpoints)
    kinds = (core.pods, core.containers, core.layers, *asked, core.catalog)
    for kind, fold in zip(kinds, (core.view._folds[one._aggregate] for one in kinds), strict=True):
        for name, row in fold.rows.items():
            actor = kind.find(name)
            if actor is None or (actor.state, actor.version) != (row.state, row.version):
                problems.append(f"the actor of {name} has {actor and actor.state}, the view {row.state}")
        for actor in kind:
            name = actor.stream.partition("/")[2]
            if actor.version and name not in fold.rows:
                problems.append(f"{actor.stream} has an actor, but no row")
    return problems


def _plain(view: View) -> tuple[Any, ...]:
    rows = msgspec.msgpack.decode(view.snapshot(), type=Snapshot)
    indexes = (view.pods.by_key, view.pods.leases, view.containers.by_key, view.containers.by_pod)
    return (rows, *indexes)
