"""Recovery: what the log says, compared with what is there, becomes ordinary commands. Then every actor goes on.

There is no repair code here. An effect that was cut short is still owed by its state, and the same ``plan`` asks for it
again; what changed while nobody looked is *observed*. Only when that is calm, what no stream names is collected.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import trio

from ocid.actors.actor import working_for
from ocid.actors.core import Core
from ocid.actors.directory import Kind
from ocid.actors.pod import network_order, sandbox_order
from ocid.domain import catalog, checkpoint, container, exec as execution, layer, pod, pull, session
from ocid.errors import NotFound, OcidError
from ocid.events import node
from ocid.events.envelope import Context
from ocid.ports import NetworkOrder
from ocid.projections.fold import Fold, Row

log = logging.getLogger(__name__)


async def recover(core: Core, *, rebooted: bool) -> node.Recovered:
    """Start an actor for every stream that is not over, and say what was found.

    *rebooted* tells that the machine has booted since the log was last written.
    """
    host, view = core.host, core.view
    began_ns = host.clock.boot_ns()
    lost = [0]
    run = Context(correlation=host.new_id(16))
    before = working_for.set(run)  # what is observed now carries the run's correlation

    def of_container(row: Row[container.Container]) -> Iterable[object]:
        found = container.Found(rebooted=rebooted, now_ns=host.clock.wall_ns())
        commands = container.observe(row.state, found)
        lost[0] += bool(commands)
        return commands

    def of_pod(row: Row[pod.Pod]) -> Iterable[object]:
        if row.state.declared is None:
            return ()
        present = host.sandboxes.present(sandbox_order(host, row.state.declared))
        commands = pod.observe(row.state, pod.Found(rebooted=rebooted, namespaces_present=present))
        lost[0] += bool(commands)
        return commands

    def of_layer(row: Row[layer.Layer]) -> Iterable[object]:
        wanted = row.state.wanted
        present = wanted is not None and host.layers.has(wanted.chain_id)
        return layer.observe(row.state, layer.Found(present=present))

    running = sum(row.state.running for row in view.containers.rows.values())
    await _or_go_on("clean the staging directory", host.layers.clean_staging)
    await _restore(core.layers, view.layers, of_layer)
    left = catalog.Found(unreferenced=_unreferenced(core))
    await _restore(core.catalog, view.catalog, lambda row: catalog.observe(row.state, left))
    await _restore(core.pods, view.pods, of_pod)
    await _restore(core.containers, view.containers, of_container)
    await _sweep_execs(core)
    await _sweep_checkpoints(core)
    await _or_go_on("bring the pod network in order", functools.partial(_reconcile_network, core))
    await _restore(core.pulls, view.pulls, lambda row: pull.observe(row.state))
    await _restore(core.execs, view.execs, lambda row: execution.observe(row.state, row.seq))
    await _restore(core.sessions, view.sessions, lambda row: session.observe(row.state))
    await _restore(core.checkpoints, view.checkpoints, lambda row: checkpoint.observe(row.state))
    asked = (core.pulls, core.execs, core.sessions, core.checkpoints)
    for kind in (core.layers, core.catalog, core.pods, core.containers, *asked):
        kind.start_restored()
    if core.catalog.find("images") is None:
        core.catalog.create("images")
    recovered = node.Recovered(
        pods=len(view.pods.rows),
        containers=len(view.containers.rows),
        adopted=0 if rebooted else running,
        lost=lost[0],
        took_ms=(host.clock.boot_ns() - began_ns) // 1_000_000,
    )
    await core.recorder.append(recovered, run)
    working_for.reset(before)
    return recovered


def _unreferenced(core: Core) -> int:
    """Count whole layers that nothing refers to. Pulls that the death cut short still count: they are tried again."""
    ready = {chain_id for chain_id, row in core.view.layers.rows.items() if row.state.is_ready}
    try:
        return len(ready - core.catalog_effects.referred()) if ready else 0
    except OcidError as error:
        log.warning("cannot say which layers are left over: %s", error)
        return 0


async def _reconcile_network(core: Core) -> None:
    """Make host ports those of attached pods, and free what the network holds for pods that no stream names."""
    host = core.host
    live: list[NetworkOrder] = []
    others: list[NetworkOrder] = []
    for actor in core.pods:
        state, declared = actor.state, actor.state.declared
        if declared is None or declared.network == "host" or state.detached or state.removed:
            continue
        if state.attached is None or state.network_gone:
            others += [network_order(host, declared)] if declared.network == "cni" else []
        else:
            live.append(network_order(host, declared))
    for pod_id in await host.network.reconcile(live, others):
        core.recorder.record(node.OrphanFound(kind="network attachment", name=pod_id, action="removed"))


async def check_networks(core: Core) -> None:
    """Ask, one pod after the other, whether attached pods still have their network; say so of those that have not.

    Nothing is undone: the pod may serve on, and whoever reads of it knows better than a plugin.
    """
    host = core.host
    for actor in list(core.pods):
        declared = actor.state.declared
        if declared is None or actor.state.attached is None or not actor.state.is_ready:
            continue
        try:
            await host.network.check(network_order(host, declared))
        except OcidError as error:
            log.warning("pod %s: %s", declared.pod_id[:13], error)
            core.recorder.record(node.NetworkFaulty(pod_id=declared.pod_id, message=error.message))


async def _restore(kind: Kind[Any], fold: Fold[Any], observe: Callable[[Row[Any]], Iterable[object]]) -> None:
    """Restore all of one kind at once: their observations share commits."""
    async with trio.open_nursery() as nursery:
        for name, row in list(fold.rows.items()):
            nursery.start_soon(kind.restore, name, row.state, row.version, observe(row))


async def _sweep_execs(core: Core) -> None:
    """End commands that an earlier life of the daemon left running."""
    for row in list(core.view.execs.rows.values()):
        if row.state.requested is not None:
            try:
                await core.exec_effects.sweep(row.state.requested)
            except OcidError as error:
                log.warning("cannot end command %s: %s", row.state.requested.exec_id, error)
    for name, session_row in list(core.view.sessions.rows.items()):
        await _or_go_on(f"end session {name}", functools.partial(core.session_effects.sweep, session_row.state))


async def _sweep_checkpoints(core: Core) -> None:
    """Clear away what an earlier life of the daemon left of container checkpoints; frozen containers go on."""
    for row in list(core.view.checkpoints.rows.values()):
        if row.state.requested is not None:
            sweep = functools.partial(core.checkpoint_effects.sweep, row.state.requested)
            await _or_go_on(f"clear away checkpoint {row.state.requested.checkpoint_id}", sweep)


async def _or_go_on(doing: str, work: Callable[[], Awaitable[object]]) -> None:
    """Do what a start can do without: a node whose daemon does not start is worse than one with something left over."""
    try:
        await work()
    except OcidError as error:
        log.warning("cannot %s: %s", doing, error)


async def collect_orphans(core: Core) -> None:
    """Remove what lies under our own prefixes and no stream names. Runs after recovery and before anybody may pull."""
    host, view = core.host, core.view
    for chain_id in host.layers.chain_ids():
        if chain_id not in view.layers.rows and core.layers.find(chain_id) is None:
            await _collect(core, "layer", chain_id, functools.partial(host.layers.remove, chain_id))
    await _or_go_on("list the runtime's containers", functools.partial(_report_strangers, core))


async def _report_strangers(core: Core) -> None:
    """Containers of the runtime that no stream names are somebody else's doing: reported, never touched."""
    host, view = core.host, core.view
    known = view.containers.rows.keys() | view.pods.rows.keys()
    for container_id in await host.runtime.container_ids():
        if container_id not in known and core.containers.find(container_id) is None:
            log.warning("container %s is in the runtime's state directory, but in no stream; left alone", container_id)
            core.recorder.record(node.OrphanFound(kind="container", name=container_id, action="left"))


async def _collect(core: Core, kind: str, name: str, remove: Callable[[], Any]) -> None:
    try:
        await remove()
    except (OcidError, NotFound) as error:
        log.warning("cannot remove orphaned %s %s: %s", kind, name, error)
        return
    core.recorder.record(node.OrphanFound(kind=kind, name=name, action="removed"))
