"""The runtime's side of NRI: takes plugins in, and asks them one after the other, in the order of their indexes.

One request, or the welcome of one plugin, is in hand at a time. So a plugin that comes learns of every pod and every
container exactly once before anything happens to it: either they are in what it is synchronized with, or it is asked.

Source: github.com/containerd/nri, pkg/adaptation, for what a time-out, an error and a lost plugin mean.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import msgspec
import trio
from google.protobuf.message import Message

from ocid import __version__
from ocid.config import Nri
from ocid.domain.nri import (
    Adjusted,
    Adjustment,
    ContainerFacts,
    Event,
    Eviction,
    PodFacts,
    Resources,
    Update,
    Updated,
    combined,
    overlaid,
)
from ocid.domain.nri_apply import adjust
from ocid.domain.nri_owners import Owners
from ocid.domain.nri_updates import Updates
from ocid.errors import EffectFailed, Exhausted, InvalidRequest, OcidError, WrongState
from ocid.nri import told, ttrpc, wanted
from ocid.nri.connection import Connection, Lost, Unserved
from ocid.nri.plugin import Plugin
from ocid.nri.settings import NriSettings, read_config
from ocid.nri.stubs import nri_pb2 as pb
from ocid.ports.plugins import Inventory, Node, NoPlugins, Plugins

log = logging.getLogger("ocid.nri")

RUNTIME_SERVICE = "nri.pkg.api.v1alpha1.Runtime"
REQUESTED_MAX = 4096  # updates and evictions in one call of a plugin
SHUTDOWN_S = 2.0  # for all plugins together to take leave
_METHODS: dict[Event, tuple[str, Callable[..., Message], Callable[[], Message]]] = {
    Event.RUN_POD_SANDBOX: ("RunPodSandbox", pb.RunPodSandboxRequest, pb.RunPodSandboxResponse),
    Event.STOP_POD_SANDBOX: ("StopPodSandbox", pb.StopPodSandboxRequest, pb.StopPodSandboxResponse),
    Event.REMOVE_POD_SANDBOX: ("RemovePodSandbox", pb.RemovePodSandboxRequest, pb.RemovePodSandboxResponse),
    Event.UPDATE_POD_SANDBOX: ("UpdatePodSandbox", pb.UpdatePodSandboxRequest, pb.UpdatePodSandboxResponse),
    Event.POST_UPDATE_POD_SANDBOX: (
        "PostUpdatePodSandbox",
        pb.PostUpdatePodSandboxRequest,
        pb.PostUpdatePodSandboxResponse,
    ),
    Event.POST_CREATE_CONTAINER: ("PostCreateContainer", pb.PostCreateContainerRequest, pb.PostCreateContainerResponse),
    Event.START_CONTAINER: ("StartContainer", pb.StartContainerRequest, pb.StartContainerResponse),
    Event.POST_START_CONTAINER: ("PostStartContainer", pb.PostStartContainerRequest, pb.PostStartContainerResponse),
    Event.POST_UPDATE_CONTAINER: ("PostUpdateContainer", pb.PostUpdateContainerRequest, pb.PostUpdateContainerResponse),
    Event.REMOVE_CONTAINER: ("RemoveContainer", pb.RemoveContainerRequest, pb.RemoveContainerResponse),
}


class NriPlugins:
    """All plugins that are connected. ``ocid.ports.plugins.Plugins``."""

    enabled = True

    def __init__(self, settings: NriSettings) -> None:
        self.settings = settings
        self._plugins: list[Plugin] = []  # in the order in which they are asked
        self._relay = trio.Lock()  # held while plugins are asked, or one is welcomed
        self._young_pods: dict[str, PodFacts] = {}  # told of, and not in the log yet
        self._young: dict[str, ContainerFacts] = {}  # asked about, and not in the log yet
        self._node: Node | None = None
        self._opened = trio.Event()  # the plugins that the daemon starts are there

    def opened(self) -> None:
        """Let pods and containers be made: whoever is to be asked from the beginning on is there."""
        self._opened.set()

    # --- for actors --------------------------------------------------------------------------------------------------

    def wants(self, event: Event) -> bool:
        return any(plugin.wants(event) for plugin in self._plugins)

    async def tell(self, event: Event, pod: PodFacts, container: ContainerFacts | None = None) -> None:
        if event is Event.STOP_CONTAINER:
            assert container is not None, "a container's event"
            await self._stopped(pod, container)
            return
        method, make_request, make_answer = _METHODS[event]
        request = make_request(pod=told.pod(pod))
        if container is not None:
            request = make_request(pod=told.pod(pod), container=told.container(container))
        elif event is Event.UPDATE_POD_SANDBOX:
            request = pb.UpdatePodSandboxRequest(
                pod=told.pod(pod),
                overhead_linux_resources=None if pod.overhead is None else told.resources(pod.overhead),
                linux_resources=None if pod.resources is None else told.resources(pod.resources),
            )
        if event is Event.RUN_POD_SANDBOX:
            await self._opened.wait()
        async with self._relay:
            if event is Event.RUN_POD_SANDBOX:
                self._young_pods[pod.pod_id] = pod
            for plugin in self._listening(event):
                await plugin.tell(event, method, request, make_answer)

    async def adjust(self, pod: PodFacts, container: ContainerFacts) -> Adjusted:
        owners, updates, together = Owners(container.container_id), Updates(), Adjustment()
        evictions: list[Eviction] = []
        spec, pristine = container.spec, container
        await self._opened.wait()
        async with self._relay:
            self._young[container.container_id] = container
            asked = self._listening(Event.CREATE_CONTAINER)
            for plugin in asked:
                request = pb.CreateContainerRequest(pod=told.pod(pod), container=told.container(container))
                answer = await plugin.ask("CreateContainer", request, pb.CreateContainerResponse)
                if answer is None:
                    continue
                one = wanted.adjustment(answer.adjust)
                spec = adjust(spec, one, plugin.name, owners)
                named = [*(one.container_id for one in answer.update), *(one.container_id for one in answer.evict)]
                if container.container_id in named:
                    raise InvalidRequest(
                        f"plugin {plugin.name} wants to update or evict the container that is being made"
                    )
                updates.take(wanted.updates(answer.update), plugin.name)
                evictions.extend(wanted.evictions(answer.evict, plugin.name))
                together = combined(together, one)
                container = msgspec.structs.replace(container, spec=spec)
            made = Adjusted(spec=spec, changes=owners.changes(), cdi_devices=together.cdi_devices)
            await self._validate(pod, pristine, together, made, updates, asked)
            self._young[container.container_id] = container
        await self._evict(evictions, wait=True)  # what lives never waits for what is being made: no circle
        await self._carry_out(updates.all(), wait=True)
        return made

    async def update(self, pod: PodFacts, container: ContainerFacts, wanted_resources: Resources) -> Updated:
        updates, evictions, name = Updates(), list[Eviction](), container.container_id
        request = pb.UpdateContainerRequest(pod=told.pod(pod), container=told.container(container))
        request.linux_resources.CopyFrom(told.resources(wanted_resources))
        async with self._relay:
            for plugin in self._listening(Event.UPDATE_CONTAINER):
                answer = await plugin.ask("UpdateContainer", request, pb.UpdateContainerResponse)
                if answer is not None:
                    updates.take(wanted.updates(answer.update), plugin.name)
                    evictions.extend(wanted.evictions(answer.evict, plugin.name))
        await self._evict(evictions, wait=False)  # two that live must not wait for each other
        await self._carry_out((one for one in updates.all() if one.container_id != name), wait=False)
        resources = overlaid(wanted_resources, updates.of(name))
        assert resources is not None, "the first is there"
        return Updated(resources=resources, changes=updates.changes(name))

    def settled(self, name: str) -> bool:
        pod, container = self._young_pods.pop(name, None), self._young.pop(name, None)
        return pod is not None or container is not None

    async def _stopped(self, pod: PodFacts, container: ContainerFacts) -> None:
        request = pb.StopContainerRequest(pod=told.pod(pod), container=told.container(container))
        updates = Updates()
        async with self._relay:
            for plugin in self._listening(Event.STOP_CONTAINER):
                answer = await plugin.ask("StopContainer", request, pb.StopContainerResponse)
                if answer is not None:
                    updates.take(wanted.updates(answer.update), plugin.name)
        await self._carry_out(updates.all(), wait=False)

    async def _validate(
        self,
        pod: PodFacts,
        container: ContainerFacts,
        together: Adjustment,
        made: Adjusted,
        updates: Updates,
        asked: Iterable[Plugin],
    ) -> None:
        judges = self._listening(Event.VALIDATE_CONTAINER_ADJUSTMENT)
        if not judges:
            return
        request = pb.ValidateContainerAdjustmentRequest(
            pod=told.pod(pod),
            container=told.container(container),
            adjust=told.adjustment(together),
            update=[_update(one) for one in updates.all()],
            plugins=[pb.PluginInstance(name=one.base, index=one.index) for one in asked],
        )
        request.owners.owners[container.container_id].CopyFrom(told.owners(made.changes))
        for one in updates.all():
            request.owners.owners[one.container_id].CopyFrom(told.owners(updates.changes(one.container_id)))
        for judge in judges:
            verdict = await judge.ask("ValidateContainerAdjustment", request, pb.ValidateContainerAdjustmentResponse)
            if verdict is not None and verdict.reject:
                raise EffectFailed(
                    f"plugin {judge.name} rejects what plugins want of container {container.container_id}: "
                    f"{verdict.reason[:512]}"
                )

    def _listening(self, event: Event) -> list[Plugin]:
        return [plugin for plugin in self._plugins if plugin.wants(event)]

    async def _carry_out(self, updates: Iterable[Update], *, wait: bool) -> list[str]:
        """Change other containers as plugins want; return those where it failed and should not have.

        Without *wait* only what is refused at once counts; what fails later is in the log.
        """
        failed: list[str] = []
        for update in updates:
            try:
                assert self._node is not None, "plugins are connected"
                await self._node.update(update, wait=wait)
            except OcidError as error:
                log.warning("an update of container %s that a plugin wants: %s", update.container_id, error.message)
                if not update.ignore_failure:
                    failed.append(update.container_id)
        return failed

    async def _evict(self, evictions: Iterable[Eviction], *, wait: bool) -> None:
        """End containers as plugins want. What fails is said in the daemon's log: NRI has no answer for it."""
        for eviction in evictions:
            try:
                assert self._node is not None, "plugins are connected"
                await self._node.evict(eviction, wait=wait)
            except OcidError as error:
                log.warning("an eviction that plugin %s wants: %s", eviction.plugin, error.message)

    # --- for plugins -------------------------------------------------------------------------------------------------

    async def welcome(
        self,
        stream: trio.abc.Stream,
        node: Node,
        *,
        pid: int = 0,
        name: tuple[str, str] | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Take in the plugin at the other end of *stream*, and stay until it is gone. *name* is of one we started.

        It has *started* when it is taken in, or never will be.
        """
        self._node = node

        async def serve(service: str, method: str, payload: bytes) -> Message:
            return await self._serve(plugin, service, method, payload)

        connection = Connection(stream, serve)
        plugin = Plugin(connection, self.settings.request_s, pid=pid)
        if name is not None:
            plugin.index, plugin.base = name
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run)
            try:
                await self._take_in(plugin, node)
            except (Lost, OcidError) as error:
                log.warning("plugin %s cannot be taken in: %s", plugin.name, error)
                connection.close(str(error))
            task_status.started()
            await connection.closed.wait()
        if plugin in self._plugins:
            self._plugins.remove(plugin)
            log.warning("plugin %s is gone: %s", plugin.name, connection.why)
            await node.left(plugin.name, connection.why)

    async def _take_in(self, plugin: Plugin, node: Node) -> None:
        """Register, configure, synchronize; from then on it is asked."""
        with trio.move_on_after(self.settings.registration_s) as limit:
            await _either(plugin.registered.wait, plugin.connection.closed.wait)
        if limit.cancelled_caught or not plugin.registered.is_set():
            raise Lost(plugin.connection.why or f"it did not register in {self.settings.registration_s:g} s")
        config = read_config(self.settings.config_dir, plugin.index, plugin.base)
        await plugin.configure(config, __version__, self.settings.registration_s)
        async with self._relay:
            with trio.move_on_after(self.settings.registration_s) as limit:  # everybody else waits meanwhile
                updates = await plugin.synchronize(self._inventory(node))
            if limit.cancelled_caught:
                raise Lost(f"it did not take what lives in {self.settings.registration_s:g} s")
            self._plugins.append(plugin)
            self._plugins.sort(key=lambda one: one.index)  # stable: of equals, the first to come is asked first
        log.info("plugin %s (NRI %s) listens", plugin.name, plugin.version or "of unknown version")
        await node.joined(plugin.name, plugin.pid, plugin.events)
        await self._carry_out(updates, wait=False)

    def _inventory(self, node: Node) -> Inventory:
        known = node.inventory()
        for pod in known.pods:
            self._young_pods.pop(pod.pod_id, None)
        for container in known.containers:
            self._young.pop(container.container_id, None)
        return Inventory(
            pods=(*known.pods, *self._young_pods.values()), containers=(*known.containers, *self._young.values())
        )

    async def _serve(self, plugin: Plugin, service: str, method: str, payload: bytes) -> Message:
        """Answer a plugin's call."""
        if service != RUNTIME_SERVICE:
            raise Unserved(service)
        if method == "RegisterPlugin":
            plugin.register(ttrpc.parse(pb.RegisterPluginRequest, payload))
            return pb.Empty()
        if method == "UpdateContainers":
            request = ttrpc.parse(pb.UpdateContainersRequest, payload)
            if len(request.update) + len(request.evict) > REQUESTED_MAX:
                raise Exhausted(f"plugin {plugin.name} asks for more than {REQUESTED_MAX} changes at once")
            if plugin not in self._plugins:
                raise WrongState("plugin", plugin.name, wants="synchronized", is_now="new")
            await self._evict(wanted.evictions(request.evict, plugin.name), wait=True)
            updates = (msgspec.structs.replace(one, plugins=(plugin.name,)) for one in wanted.updates(request.update))
            failed = await self._carry_out(updates, wait=True)
            return pb.UpdateContainersResponse(failed=[one for one in request.update if one.container_id in failed])
        raise Unserved(method)

    async def take_leave(self) -> None:
        """Tell all plugins that the daemon goes."""
        with trio.move_on_after(SHUTDOWN_S, shield=True):
            async with trio.open_nursery() as nursery:
                for plugin in self._plugins:
                    nursery.start_soon(plugin.shut_down)


def plugins_of(config: Nri) -> Plugins:
    """Return what the configuration asks for: nobody, or whoever connects."""
    if not config.enabled:
        return NoPlugins()
    settings = NriSettings(
        socket=Path(config.socket),
        plugin_dir=Path(config.plugin_dir),
        config_dir=Path(config.config_dir),
        registration_s=config.registration_timeout_s,
        request_s=config.request_timeout_s,
        disable_external=config.disable_external,
    )
    return NriPlugins(settings)


async def _either(first: Callable[[], Awaitable[None]], second: Callable[[], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:

        async def wait(what: Callable[[], Awaitable[None]]) -> None:
            await what()
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait, first)
        nursery.start_soon(wait, second)


def _update(update: Update) -> pb.ContainerUpdate:
    linux = pb.LinuxContainerUpdate(resources=told.resources(update.resources))
    return pb.ContainerUpdate(container_id=update.container_id, linux=linux, ignore_failure=update.ignore_failure)
