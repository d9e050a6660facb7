"""Pod actors: what the effects of ``ocid.domain.pod`` do to the host."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import assert_never

import msgspec
import trio

from ocid.actors.actor import Actor, Note
from ocid.actors.host import Host, back_off
from ocid.actors.plugins import Hooks
from ocid.domain import container as containers, networks, pod as domain
from ocid.domain.configs import PodConfig
from ocid.domain.container import Container
from ocid.domain.nri import Event
from ocid.domain.pod import Pod
from ocid.domain.selinux import Labels, pod_labels
from ocid.errors import OcidError, Unavailable
from ocid.events.pod import Declared, FurtherNetworkAttached
from ocid.ids import PodId, digest_of
from ocid.ports import Attachment, NetworkOrder, Process, SandboxOrder

ContainersOf = Callable[[PodId], Iterable[Actor[Container]]]


class PodEffects:
    """Runs the effects of every pod."""

    def __init__(self, host: Host, containers_of: ContainersOf) -> None:
        self._host = host
        self._containers_of = containers_of
        self._hooks = Hooks(host)

    async def perform(self, effect: domain.Effect, state: Pod) -> Note:
        """Run one effect and say what came of it. Foreseen failures are notes, too."""
        assert state.declared is not None, "an undeclared pod owes nothing"
        try:
            return await self._perform(effect, state, state.declared)
        except OcidError as error:
            step = type(effect).__name__
            return Note(domain.NoteFailed(step=step, error=type(error).__name__, message=error.message))

    async def _perform(self, effect: domain.Effect, state: Pod, declared: Declared) -> Note:
        host = self._host
        match effect:
            case domain.Prepare():
                await host.sandboxes.prepare(sandbox_order(host, declared))
                return Note(domain.NotePrepared())
            case domain.Attach():
                attachment = await host.network.attach(network_order(host, declared))
                await host.sandboxes.tune(sandbox_order(host, declared))
                return _attached(attachment)
            case domain.StartPause():
                process = await host.sandboxes.start_pause(sandbox_order(host, declared))
                return Note(domain.NotePaused(pid=process.pid, start_ticks=process.start_ticks))
            case domain.Announce():
                await self._hooks.announce(state)
                return Note(domain.NoteAnnounced())
            case domain.WatchPause(pid=pid, start_ticks=ticks, failures=failures):
                await back_off(failures)
                await host.sandboxes.wait_pause(Process(pid=pid, start_ticks=ticks))
                return Note(domain.NoteLost(reason=f"the pause process {pid} ended"))
            case domain.StopContainers(failures=failures):
                await back_off(failures)
                await self._stop_containers(declared.pod_id)
                host.plugins.settled(declared.pod_id)
                await self._hooks.mention_pod(Event.STOP_POD_SANDBOX, state)
                return Note(domain.NoteContainersStopped())
            case domain.Detach(failures=failures):
                await back_off(failures)
                cited = None if state.attached is None else state.attached.result
                result = None if cited is None else host.journal.document(cited)
                further = {one.interface: host.journal.document(one.result) for one in state.further if one.result}
                await host.network.detach(network_order(host, declared), result, further)
                return Note(domain.NoteDetached())
            case domain.Release(failures=failures):
                await back_off(failures)
                await host.sandboxes.release(sandbox_order(host, declared))
                return Note(domain.NoteReleased())
            case domain.Erase(failures=failures):
                await back_off(failures)
                await self._remove_containers(declared.pod_id)
                host.plugins.settled(declared.pod_id)
                if state.ready or (state.failed is not None and state.failed.step == domain.Announce.__name__):
                    await self._hooks.mention_pod(Event.REMOVE_POD_SANDBOX, state)
                return Note(domain.NoteErased())
            case _:
                assert_never(effect)

    async def _stop_containers(self, pod_id: PodId) -> None:
        """Kill every container of the pod; CRI StopPodSandbox gives no grace.

        Raises:
            Unavailable: one that could not be made or started may still have an init, which cannot be ended now.
        """
        command = containers.Stop(grace_ms=0, now_boot_ns=self._host.clock.boot_ns())
        await self._all(pod_id, command, _has_stopped if self._host.plugins.enabled else _has_ended)
        for actor in self._containers_of(pod_id):
            if not _is_empty(actor.state):
                raise Unavailable(f"{actor.stream} may still have processes: {actor.state.last_error}")

    async def _remove_containers(self, pod_id: PodId) -> None:
        command = containers.Remove(now_boot_ns=self._host.clock.boot_ns())
        await self._all(pod_id, command, lambda container: container.removed)

    async def _all(self, pod_id: PodId, command: object, done: Callable[[Container], bool]) -> None:
        failures: list[OcidError] = []
        async with trio.open_nursery() as nursery:
            for actor in self._containers_of(pod_id):
                nursery.start_soon(_carry_out, actor, command, done, failures)
        if failures:
            raise failures[0]


def _is_empty(container: Container) -> bool:
    """Say whether no process of the container lives in the pod's namespaces.

    What failed to be made or started may have been made all the same: its init lives until it is released.
    """
    over = container.released or container.removed
    return over or container.exited is not None or container.prepare_failed is not None


def _attached(attachment: Attachment) -> Note:
    """Say what attaching gave the pod, with the plugins' results as documents."""
    result = attachment.result
    note = domain.NoteAttached(
        addresses=attachment.addresses,
        via=attachment.via,
        result=None if result is None else digest_of(result),
        further=tuple(
            FurtherNetworkAttached(
                network=one.network, interface=one.interface, addresses=one.addresses, result=digest_of(one.result)
            )
            for one in attachment.further
        ),
    )
    return Note(note, (*(() if result is None else (result,)), *(one.result for one in attachment.further)))


def _has_ended(container: Container) -> bool:
    """Wait for one that has ended, but is not empty, only until the first try to release it has failed."""
    return _is_empty(container) or (container.ended and container.failures > 0)


def _has_stopped(container: Container) -> bool:
    """Plugins hear of a container's end before they hear of its pod's; the first try to release it tells them."""
    return container.released or container.removed or (container.ended and container.failures > 0)


async def _carry_out(
    actor: Actor[Container], command: object, done: Callable[[Container], bool], failures: list[OcidError]
) -> None:
    """Have one container do it; one that vanishes meanwhile has."""
    try:
        await actor.ask(command)
        await actor.until(done)
    except OcidError as error:
        failures.append(error)


@functools.lru_cache(maxsize=256)
def decode_pod_config(document: bytes) -> PodConfig:
    """Decode a pod's configuration document."""
    return msgspec.json.decode(document, type=PodConfig)


def sandbox_order(host: Host, declared: Declared) -> SandboxOrder:
    """Say everything about a pod that its namespaces, mounts and files need."""
    config = decode_pod_config(host.journal.document(declared.config))
    return SandboxOrder(
        pod_id=declared.pod_id,
        run_dir=declared.run_dir,
        netns=declared.netns,
        hostname="" if config.host_network else config.effective_hostname(declared.pod_id, ""),
        dns=config.dns_config,
        log_directory=config.log_directory,
        cgroup_parent=declared.cgroup_parent,
        host_ipc=declared.host_ipc,
        shared_pid=declared.shared_pid,
        handler=declared.handler,
        sysctls=config.linux.sysctls,
        userns=declared.userns,
        users=config.linux.security_context.namespace_options.user_namespace,
        selinux=_labels(host, config, declared),
    )


def _labels(host: Host, config: PodConfig, declared: Declared) -> Labels:
    enabled = host.runtime.host_facts().selinux_enabled
    return pod_labels(config.linux.security_context, declared.selinux_level) if enabled else Labels()


def network_order(host: Host, declared: Declared) -> NetworkOrder:
    """Say everything about a pod that its network needs."""
    config = decode_pod_config(host.journal.document(declared.config))
    return NetworkOrder(
        pod_id=declared.pod_id,
        name=declared.name,
        namespace=declared.namespace,
        uid=declared.uid,
        network=declared.network,
        netns=declared.netns,
        interface=declared.interface,
        addresses=declared.addresses,
        hostname=config.hostname,
        port_mappings=config.port_mappings,
        annotations=config.annotations,
        handler=declared.handler,
        dns=config.dns_config,
        networks=networks.declared(config.annotations, declared.networks),
    )
