"""Between actors and the node's plugins: what these are told of pods and containers, and what their answers do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from ocid.actors.devices import cdi_nodes
from ocid.actors.host import Host
from ocid.domain import cdi
from ocid.domain.confidential import Document
from ocid.domain.configs import ContainerConfig, LinuxResources, PodConfig
from ocid.domain.container import START_ERROR_CODE, Container
from ocid.domain.nri import (
    Adjusted as Made,
    Change,
    ContainerFacts,
    ContainerState,
    Event,
    Eviction,
    PodFacts,
    Resources,
    Update,
    Updated,
)
from ocid.domain.nri_cri import from_cri
from ocid.domain.nri_devices import check_known, with_cdi
from ocid.domain.nri_limits import WiderResources, spec_now
from ocid.domain.pod import Pod
from ocid.domain.spec.process import fitted
from ocid.domain.spec.recorded import recorded_spec
from ocid.errors import Exhausted, OcidError
from ocid.events.container import Adjusted, Declared
from ocid.events.node import PluginJoined, PluginLeft
from ocid.ids import ContainerId, Digest, PodId, digest_of
from ocid.ports.plugins import Inventory

if TYPE_CHECKING:
    from ocid.actors.core import Core

log = logging.getLogger("ocid")

PLUGINS_NAMED_MAX = 16  # in one event
SPEC_BYTES_MAX = 4 << 20  # of a specification that plugins changed, as JSON

PodOf = Callable[[PodId], Pod]


class Creation(msgspec.Struct, frozen=True):
    """A container's specification after plugins, and what the log shall know of that."""

    spec: Mapping[str, Any]
    adjusted: tuple[Adjusted, ...] = ()
    documents: tuple[Document, ...] = ()


class Hooks:
    """What the effects of pods and containers call. Where no plugin can be, each call returns at once."""

    def __init__(self, host: Host, pod_of: PodOf | None = None) -> None:
        self._host = host
        self._pod_of = pod_of

    async def announce(self, pod: Pod) -> None:
        """Tell plugins that a pod is about to be ready.

        Raises:
            EffectFailed: one refuses it.
        """
        if self._host.plugins.enabled:
            await self._host.plugins.tell(Event.RUN_POD_SANDBOX, pod_facts(self._host, pod))

    async def updating_pod(self, pod: Pod, overhead: Resources | None, resources: Resources | None) -> None:
        """Tell plugins what a pod's own resources are about to be.

        Raises:
            EffectFailed: one refuses it.
        """
        plugins = self._host.plugins
        if plugins.wants(Event.UPDATE_POD_SANDBOX):
            facts = msgspec.structs.replace(pod_facts(self._host, pod), overhead=overhead, resources=resources)
            await plugins.tell(Event.UPDATE_POD_SANDBOX, facts)

    async def mention_pod(self, event: Event, pod: Pod) -> None:
        """Tell plugins of a pod; what they answer changes nothing."""
        if self._host.plugins.wants(event):
            await _quietly(event, self._host.plugins.tell, pod_facts(self._host, pod))

    async def creating(self, state: Container, pod: Pod, spec: Mapping[str, Any]) -> Creation:
        """Ask plugins what is to be different about a container that is about to be made.

        Raises:
            OcidError: one refuses it, or what they want cannot be.
        """
        host = self._host
        if not host.plugins.enabled:
            return Creation(spec)
        assert state.declared is not None, "an undeclared container owes nothing"
        made = await host.plugins.adjust(pod_facts(host, pod), container_facts(host, state, spec))
        if not made.changes:
            return Creation(made.spec)
        made = msgspec.structs.replace(made, spec=self._completed(spec, made, state.declared))
        salt = host.settings.salt + state.declared.container_id.encode()
        fits = {**made.spec, "process": fitted(made.spec["process"], host.runtime.host_facts())}
        if (size := len(msgspec.json.encode(fits))) > SPEC_BYTES_MAX:
            raise Exhausted(f"plugins make a specification of {size} bytes; at most {SPEC_BYTES_MAX} are allowed")
        recorded = msgspec.json.encode(recorded_spec(spec, host.settings.redaction, salt))
        before = host.confide(state.declared.pod_id, recorded)
        changes = msgspec.json.encode(made.changes)
        adjusted = Adjusted(
            plugins=plugins_of(made.changes),
            count=len(made.changes),
            changes=digest_of(changes),
            before=before.digest,
        )
        return Creation(fits, (adjusted,), (changes, before))

    def _completed(self, before: Mapping[str, Any], made: Made, declared: Declared) -> Mapping[str, Any]:
        """Return the specification with the CDI devices that plugins add, if runtime and host know it all."""
        host, spec = self._host, made.spec
        if made.cdi_devices:
            if len(made.cdi_devices) > cdi.DEVICES_MAX:
                raise Exhausted(f"plugins add {len(made.cdi_devices)} CDI devices; the limit is {cdi.DEVICES_MAX}")
            edits = cdi.edits_of(cdi.registry(host.files.cdi_specs()), made.cdi_devices)
            spec = with_cdi(spec, edits, cdi_nodes(host.files, edits), declared.container_id)
        features = host.runtime.handlers().get(declared.handler)
        knows = () if features is None else features.oci
        check_known(before, spec, declared.handler, knows, host.runtime.host_facts())
        return spec

    async def tell(self, event: Event, state: Container, *, limits: WiderResources | None = None, **newer: int) -> None:
        """Tell plugins of a container; *limits*, and *newer* fields of the facts, are not in its state yet.

        Raises:
            EffectFailed: one answers with an error.
        """
        plugins = self._host.plugins
        if plugins.wants(event):
            assert state.declared is not None, "an undeclared container owes nothing"
            assert self._pod_of is not None, "this is for containers"
            pod = self._pod_of(state.declared.pod_id)
            facts = container_facts(self._host, state)
            if limits is not None:
                spec = spec_now(facts.spec, limits, self._host.runtime.host_facts())
                facts = msgspec.structs.replace(facts, spec=spec)
            if "started_at_ns" in newer:
                facts = msgspec.structs.replace(facts, state=ContainerState.RUNNING)
            await plugins.tell(event, pod_facts(self._host, pod), msgspec.structs.replace(facts, **newer))

    async def mention(
        self, event: Event, state: Container, *, limits: WiderResources | None = None, **newer: int
    ) -> None:
        """Tell plugins of a container; what they answer changes nothing."""
        try:
            await self.tell(event, state, limits=limits, **newer)
        except OcidError as error:
            log.warning("%s: %s", event.name, error.message)

    async def updating(self, state: Container, wanted: Resources) -> Updated:
        """Ask plugins what a container's resources shall be instead of *wanted*.

        Raises:
            OcidError: one refuses it, or what they want cannot be.
        """
        plugins = self._host.plugins
        if not plugins.wants(Event.UPDATE_CONTAINER):
            return Updated(resources=wanted)
        assert state.declared is not None, "an undeclared container owes nothing"
        assert self._pod_of is not None, "this is for containers"
        pod = self._pod_of(state.declared.pod_id)
        return await plugins.update(pod_facts(self._host, pod), container_facts(self._host, state), wanted)


class NodeOfPlugins:
    """What plugins may ask of the daemon. ``ocid.ports.plugins.Node``."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def inventory(self) -> Inventory:
        view, host = self._core.view, self._core.host
        pods = (row.state for row in view.pods.rows.values())
        containers = (row.state for row in view.containers.rows.values())
        return Inventory(
            pods=tuple(pod_facts(host, pod) for pod in pods if pod.is_ready),
            containers=tuple(
                container_facts(host, one) for one in containers if one.prepared is not None and not one.ended
            ),
        )

    async def update(self, update: Update, *, wait: bool) -> None:
        plugins = update.plugins[:PLUGINS_NAMED_MAX]
        await self._core.update_resources(ContainerId(update.container_id), update.resources, plugins, wait=wait)

    async def evict(self, eviction: Eviction, *, wait: bool) -> None:
        await self._core.evict(ContainerId(eviction.container_id), eviction.plugin, eviction.reason, wait=wait)

    async def joined(self, plugin: str, pid: int, events: int) -> None:
        await self._core.recorder.append(PluginJoined(plugin=plugin, pid=pid, events=events))

    async def left(self, plugin: str, reason: str) -> None:
        await self._core.recorder.append(PluginLeft(plugin=plugin, reason=reason))


def pod_facts(host: Host, state: Pod) -> PodFacts:
    """Say what plugins are told of a pod."""
    declared = state.declared
    assert declared is not None, "plugins hear of declared pods only"
    config = msgspec.json.decode(host.journal.document(declared.config), type=PodConfig)
    namespaces = (("network", declared.netns),) if declared.netns else ()
    return PodFacts(
        pod_id=declared.pod_id,
        name=declared.name,
        uid=declared.uid,
        namespace=declared.namespace,
        labels=config.labels,
        annotations=config.annotations,
        handler=declared.handler,
        cgroup_parent=declared.cgroup_parent,
        ips=() if state.attached is None or state.detached else state.attached.addresses,
        pid=0 if state.pause is None else state.pause.pid,
        namespaces=namespaces,
        overhead=_told_last(host, state.overhead, config.linux.overhead),
        resources=_told_last(host, state.resources, config.linux.resources),
    )


def _told_last(host: Host, told: Digest | None, declared: LinuxResources | None) -> Resources | None:
    if told is not None:
        declared = msgspec.json.decode(host.journal.document(told), type=LinuxResources)
    return None if declared is None else from_cri(declared)


def container_facts(host: Host, state: Container, spec: Mapping[str, Any] | None = None) -> ContainerFacts:
    """Say what plugins are told of a container: its *spec*, or the one in the log, where secrets are replaced."""
    declared = state.declared
    assert declared is not None, "plugins hear of declared containers only"
    config = msgspec.json.decode(host.journal.document(declared.config), type=ContainerConfig)
    if spec is None and state.prepared is not None:
        recorded: dict[str, Any] = msgspec.json.decode(host.journal.document(state.prepared.spec))
        spec = recorded if state.limits.in_force is None else _limited(host, recorded, state.limits.in_force)
    failed = state.start_failed or state.create_failed
    finished, code = (0, 0) if failed is None else (failed.at_ns, START_ERROR_CODE)
    if state.exited is not None:
        finished, code = state.exited.at_ns, state.exited.exit_code
    return ContainerFacts(
        container_id=declared.container_id,
        pod_id=declared.pod_id,
        name=declared.name,
        state=_nri_state(state),
        labels=config.labels,
        annotations=config.annotations,
        spec=spec or {},
        pid=0 if state.created is None or state.ended else state.created.pid,
        created_at_ns=declared.created_at_ns,
        started_at_ns=state.started_at_ns,
        finished_at_ns=finished,
        exit_code=code,
        reason="OOMKilled" if state.exited is not None and state.exited.oom_killed else "",
    )


def _limited(host: Host, spec: Mapping[str, Any], limits: Digest) -> dict[str, Any]:
    in_force = msgspec.json.decode(host.journal.document(limits), type=WiderResources)
    return spec_now(spec, in_force, host.runtime.host_facts())


def plugins_of(changes: tuple[Change, ...]) -> tuple[str, ...]:
    """Name who made *changes*, as far as one event has room for it."""
    return tuple(dict.fromkeys(one.plugin for one in changes))[:PLUGINS_NAMED_MAX]


def _nri_state(state: Container) -> ContainerState:
    if state.ended:
        return ContainerState.STOPPED
    if state.started_at_ns:
        return ContainerState.RUNNING
    return ContainerState.CREATED if state.prepared is not None else ContainerState.UNKNOWN


async def _quietly(event: Event, tell: Callable[..., Any], *facts: object) -> None:
    try:
        await tell(event, *facts)
    except OcidError as error:
        log.warning("%s: %s", event.name, error.message)
