"""A kubelet: what it asks of the daemon, as the facade asks the core, and that it asks again when the daemon died."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import trio

from ocid.actors.core import Core
from ocid.actors.execution import Job
from ocid.domain import catalog, checkpoint, container, container_update, networks, pod
from ocid.domain.confidential import Confidential
from ocid.domain.configs import (
    ContainerConfig,
    ContainerMetadata,
    ContainerSecurityContext,
    IdMapping,
    LinuxContainerConfig,
    LinuxPodConfig,
    LinuxResources,
    Metadata,
    NamespaceMode,
    NamespaceOptions,
    PodConfig,
    PodSecurityContext,
    UserNamespace,
)
from ocid.domain.redaction import DEFAULT_RULES, redact
from ocid.errors import NotFound, OcidError, Unavailable, WrongState, revive
from ocid.events import (
    checkpoint as checkpoint_events,
    container as container_events,
    exec as exec_events,
    pod as pod_events,
)
from ocid.events.envelope import Context
from ocid.ids import CheckpointId, ContainerId, ExecId, ImageId, PodId, digest_of
from ocid.ports import Credentials, ExecResult
from ocid.ports.archives import ArchiveSource
from ocid.projections.containers import ContainerKey
from ocid.projections.pods import PodKey
from tests.fakes.life import Killed
from tests.fakes.node import Node

T = TypeVar("T")
KUBELET = Context(who=0, correlation="kubelet")
TRIES_MAX = 60
SALT = b"salt of the simulation"


def pod_config(
    name: str = "web",
    *,
    attempt: int = 0,
    shared_pid: bool = False,
    host: bool = False,
    users: bool = False,
    further: str = "",
) -> PodConfig:
    """A pod as a kubelet asks for it."""
    mapping = (IdMapping(host_id=1 << 20, length=65_536),)
    options = NamespaceOptions(
        network=NamespaceMode.NODE if host else NamespaceMode.POD,
        pid=NamespaceMode.POD if shared_pid else NamespaceMode.CONTAINER,
        userns_options=UserNamespace(uids=mapping, gids=mapping) if users else None,
    )
    return PodConfig(
        metadata=Metadata(name=name, uid=f"uid-{name}", namespace="prod", attempt=attempt),
        linux=LinuxPodConfig(security_context=PodSecurityContext(namespace_options=options)),
        annotations={networks.ANNOTATION: further} if further else {},
    )


def container_config(name: str, image: str, *args: str, attempt: int = 0, **fields: Any) -> ContainerConfig:
    """A container whose program is spelled in *args*, see ``tests.fakes.world.Program``."""
    options = NamespaceOptions(pid=NamespaceMode.POD)
    return ContainerConfig(
        **{
            "metadata": ContainerMetadata(name=name, attempt=attempt),
            "command": args or ("run",),
            "working_dir": image,
            "linux": LinuxContainerConfig(security_context=ContainerSecurityContext(namespace_options=options)),
            **fields,
        }
    )


class Kubelet:
    """Asks, and remembers what was acknowledged."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.acks: list[tuple[str, str]] = []  # (what was said to be so, of what)

    # --- requests ----------------------------------------------------------------------------------------------------

    async def run_pod(self, config: PodConfig) -> PodId:
        pod_id = await self._ask(_run_pod, config)
        self.acks.append(("pod.ready", pod_id))
        return pod_id

    async def create(self, pod_id: PodId, config: ContainerConfig) -> ContainerId:
        """*config*'s working_dir names the image."""
        container_id = await self._ask(_create, pod_id, config)
        self.acks.append(("container.prepared", container_id))
        return container_id

    async def start(self, container_id: ContainerId) -> None:
        """A retry after a crash may find that it runs already."""
        await self._ask(_start, container_id)
        self.acks.append(("container.started", container_id))

    async def update(self, container_id: ContainerId, change: LinuxResources) -> None:
        await self._ask(_update, container_id, change)
        self.acks.append(("container.updated", container_id))

    async def checkpoint(self, container_id: ContainerId, location: str) -> None:
        """Not retried: the daemon's death ends it."""
        await self._ask(_checkpoint, container_id, location, retry=False)

    async def stop(self, container_id: ContainerId, grace_s: float = 30) -> None:
        await self._ask(_stop, container_id, grace_s)
        self.acks.append(("container ended", container_id))

    async def remove(self, container_id: ContainerId) -> None:
        await self._ask(_remove, container_id)
        self.acks.append(("container.removed", container_id))

    async def stop_pod(self, pod_id: PodId) -> None:
        await self._ask(_stop_pod, pod_id)
        self.acks.append(("pod.stopped", pod_id))

    async def remove_pod(self, pod_id: PodId) -> None:
        await self._ask(_remove_pod, pod_id)
        self.acks.append(("pod.removed", pod_id))

    async def pull(self, reference: str, credentials: Credentials | None = None) -> str:
        image_id: str = await self._ask(_pull, reference, credentials)
        self.acks.append(("image.added", image_id))
        return image_id

    async def remove_image(self, image_id: str) -> None:
        await self._ask(_remove_image, image_id)

    async def exec_sync(self, container_id: ContainerId, *argv: str, timeout_s: int = 0) -> ExecResult:
        """Not retried: the daemon's death ends the command."""
        return await self._ask(_exec_sync, container_id, argv, timeout_s, retry=False)

    async def wait_exited(self, container_id: ContainerId) -> container.Container:
        """Poll until a container has ended, as the PLEG does."""
        while True:
            _, core = await self.node.serving()
            row = core.view.containers.rows.get(container_id)
            if row is None:
                raise NotFound("container", container_id)
            if row.state.ended:
                return row.state
            await trio.sleep(0.25)

    async def eventually(self, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Ask until it works, as a kubelet's sync loop does."""
        for attempt in range(TRIES_MAX):
            try:
                return await call(*args)
            except OcidError:
                if attempt == TRIES_MAX - 1:
                    raise
                await trio.sleep(1.0)
        raise AssertionError

    # --- inside ------------------------------------------------------------------------------------------------------

    async def _ask(self, rpc: Callable[..., Awaitable[T]], *args: Any, retry: bool = True) -> T:
        while True:
            life, core = await self.node.serving()
            with trio.CancelScope() as scope:
                life.callers.add(scope)
                try:
                    return await rpc(core, *args)
                except OcidError:
                    if not life.dead:
                        raise
                except Killed:
                    pass  # in a look of the call's own, which is no actor's
                finally:
                    life.callers.discard(scope)
            await life.over.wait()
            if not retry:
                raise Unavailable("the daemon died")


# --- as the facade does it -------------------------------------------------------------------------------------------


async def _run_pod(core: Core, config: PodConfig) -> PodId:
    meta, options = config.metadata, config.linux.security_context.namespace_options
    key = PodKey(meta.namespace, meta.name, meta.uid, meta.attempt)
    actor = core.pods.joined(key)
    if actor is None:
        pod_id = PodId(core.host.new_id(64))
        run_dir = core.host.settings.run / "pods" / pod_id
        document = core.host.confide(pod_id, msgspec.json.encode(config))
        network = "host" if config.host_network else core.host.network.kind("")
        further = networks.wishes(config.annotations)
        if further:
            core.host.network.admit("", network, [wish.network for wish in further])
        declared = pod_events.Declared(
            pod_id=pod_id,
            name=meta.name,
            namespace=meta.namespace,
            uid=meta.uid,
            attempt=meta.attempt,
            created_at_ns=core.host.clock.wall_ns(),
            config=document.digest,
            handler="",
            network=network,
            addresses=core.leasing.choose(pod_id, core.host.network.subnets()) if network == "bridge" else (),
            interface=f"ocid{pod_id[:11]}" if network == "bridge" else "",
            netns="" if network == "host" else str(run_dir / "ns" / "net"),
            run_dir=str(run_dir),
            cgroup_parent=f"/ocid/{pod_id}",
            shared_pid=options.pid is NamespaceMode.POD,
            userns="" if options.user_namespace is None else str(run_dir / "ns" / "user"),
            plugins=core.host.plugins.enabled,
            networks=networks.named(further),
        )
        actor = core.pods.create(pod_id, key)
        await actor.ask(pod.Run(declared=declared), KUBELET, (document,))
    state = await actor.until(lambda one: one.ready or one.failed is not None or one.stop_wanted)
    if state.failed is not None:
        core.pods.release_key(actor)
        raise revive(state.failed.error, state.failed.message)
    assert state.declared is not None
    return state.declared.pod_id


async def _create(core: Core, pod_id: PodId, config: ContainerConfig) -> ContainerId:
    row = core.view.pods.rows.get(pod_id)
    if row is None:
        raise NotFound("pod", pod_id)
    if not row.state.is_ready or row.state.declared is None:
        raise WrongState("pod", pod_id, wants="ready", is_now=row.state.phase)
    key = ContainerKey(pod_id, config.metadata.name, config.metadata.attempt)
    actor = core.containers.joined(key)
    if actor is None and config.image.image.startswith("/"):
        config, origin = await _restore(core, config)
        actor = core.containers.joined(key)
    else:
        origin = None
    if actor is None:
        declared, document, secrets = _declare(core, row.state.declared, config, origin)
        core.host.secrets.keep(declared.container_id, secrets)
        actor = core.containers.create(declared.container_id, key)
        await actor.ask(container.Create(declared=declared), KUBELET, (document,))
    state = await actor.until(lambda one: one.prepared is not None or one.ended)
    if state.prepare_failed is not None:
        core.containers.release_key(actor)
        raise revive(state.prepare_failed.error, state.prepare_failed.message)
    assert state.declared is not None
    return state.declared.container_id


async def _restore(core: Core, config: ContainerConfig) -> tuple[ContainerConfig, container_events.Origin]:
    archive = config.image.image
    digest, facts = await core.host.archives.read(ArchiveSource(archive=archive))
    assert digest is not None
    origin = container_events.Origin(digest=digest, archive=archive, name=facts.name)
    return msgspec.structs.replace(config, working_dir=facts.image_refs[0]), origin


def _declare(
    core: Core,
    declared: pod_events.Declared,
    config: ContainerConfig,
    origin: container_events.Origin | None,
) -> tuple[container_events.Declared, Confidential, dict[int, bytes]]:
    images = _catalog(core)
    image_id = catalog.find(images, config.working_dir)
    if image_id is None:
        raise NotFound("image", config.working_dir)
    image = images.images[image_id]
    container_id = ContainerId(core.host.new_id(64))
    config = config.with_images_found(lambda mount: _image_of(images, "" if mount.image is None else mount.image.image))
    redacted, secrets = redact(msgspec.structs.replace(config, working_dir="/"), DEFAULT_RULES, SALT)
    document = core.host.confide(declared.pod_id, msgspec.json.encode(redacted))
    settings = core.host.settings
    made = container_events.Declared(
        container_id=container_id,
        pod_id=declared.pod_id,
        name=config.metadata.name,
        attempt=config.metadata.attempt,
        created_at_ns=core.host.clock.wall_ns(),
        config=document.digest,
        secrets=len(secrets),
        image_id=image_id,
        image_ref=image.names[-1] if image.names else image_id,
        image_manifest=image.manifest,
        handler="",
        log_path="",
        bundle=str(settings.run / "containers" / container_id),
        writable=str(settings.root / "containers" / container_id),
        cgroup=f"{declared.cgroup_parent}/{container_id}",
        stop_signal=config.stop_signal,
        restores=origin,
    )
    return made, document, secrets


def _image_of(images: catalog.Catalog, name: str) -> ImageId:
    image_id = catalog.find(images, name)
    if image_id is None:
        raise NotFound("image", name)
    return image_id


async def _start(core: Core, container_id: ContainerId) -> None:
    actor = core.containers.get(container_id)
    if not actor.state.ended and not actor.state.start_wanted:
        await actor.ask(container.Start(), KUBELET)
    state = await actor.until(lambda one: bool(one.started_at_ns) or one.ended)
    failed = state.create_failed or state.start_failed
    if failed is not None:
        raise revive(failed.error, failed.message)
    if not state.started_at_ns:
        raise WrongState("container", container_id, wants="created", is_now=state.phase)


async def _update(core: Core, container_id: ContainerId, change: LinuxResources) -> None:
    update_id, document = core.host.new_id(16), msgspec.json.encode(change)
    actor = core.containers.get(container_id)
    command = container_update.Update(update_id=update_id, change=digest_of(document))
    await actor.ask(command, KUBELET, (document,))
    state = await actor.until(
        lambda one: one.limits.outcome(update_id) is not None or one.ended or one.stop is not None
    )
    outcome = state.limits.outcome(update_id)
    if outcome is None:
        raise WrongState("container", container_id, wants="running", is_now=state.phase)
    if outcome.error:
        raise revive(outcome.error, outcome.message)


async def _checkpoint(core: Core, container_id: ContainerId, location: str) -> None:
    if not core.container_of(container_id).running:
        raise NotFound("running container", container_id)
    requested = checkpoint_events.Requested(
        checkpoint_id=CheckpointId(core.host.new_id(32)), container_id=container_id, location=location, timeout_s=60
    )
    actor = core.checkpoints.create(requested.checkpoint_id)
    await actor.ask(checkpoint.Make(requested=requested), KUBELET)
    state = await actor.until(lambda one: one.ended)
    if state.failed is not None:
        raise revive(state.failed.error, state.failed.message)


async def _stop(core: Core, container_id: ContainerId, grace_s: float) -> None:
    if core.containers.find(container_id) is None:
        return
    actor = core.containers.revived(container_id)
    stop = container.Stop(grace_ms=int(grace_s * 1000), now_boot_ns=core.host.clock.boot_ns())
    await actor.ask(stop, KUBELET)
    state = await actor.until(lambda one: one.ended or one.failures > 0)
    if not state.ended:
        raise Unavailable(f"stopping: {state.last_error}")


async def _remove(core: Core, container_id: ContainerId) -> None:
    if core.containers.find(container_id) is None:
        return
    actor = core.containers.revived(container_id)
    await actor.ask(container.Remove(now_boot_ns=core.host.clock.boot_ns()), KUBELET)
    state = await actor.until(lambda one: one.removed or one.failures > 0)
    if not state.removed:
        raise Unavailable(f"removing: {state.last_error}")


async def _stop_pod(core: Core, pod_id: PodId) -> None:
    if core.pods.find(pod_id) is None:
        return
    actor = core.pods.revived(pod_id)
    await actor.ask(pod.Stop(), KUBELET)
    state = await actor.until(lambda one: one.stopped or one.removed or one.failures > 0)
    if not (state.stopped or state.removed):
        raise Unavailable(f"stopping: {state.last_error}")


async def _remove_pod(core: Core, pod_id: PodId) -> None:
    if core.pods.find(pod_id) is None:
        return
    actor = core.pods.revived(pod_id)
    await actor.ask(pod.Remove(), KUBELET)
    state = await actor.until(lambda one: one.removed or one.failures > 0)
    if not state.removed:
        raise Unavailable(f"removing: {state.last_error}")


async def _pull(core: Core, reference: str, credentials: Credentials | None) -> str:
    actor = await core.pull_effects.begin(reference, credentials, KUBELET)
    state = await actor.until(lambda one: one.ended)
    if state.failed is not None:
        raise revive(state.failed.error, state.failed.message)
    if state.completed is None:
        raise Unavailable("the pull was abandoned")
    return state.completed.image_id


async def _remove_image(core: Core, image_id: str) -> None:
    found = catalog.find(_catalog(core), image_id)
    if found is not None:
        await core.catalog.get("images").ask(catalog.Remove(image_id=found), KUBELET)


def _catalog(core: Core) -> catalog.Catalog:
    row = core.view.catalog.rows.get("images")
    return catalog.INITIAL if row is None else row.state


async def _exec_sync(core: Core, container_id: ContainerId, argv: tuple[str, ...], timeout_s: int) -> ExecResult:
    state = core.container_of(container_id)
    if not state.running or state.declared is None:
        raise NotFound("running container", container_id)
    pod_id = state.declared.pod_id
    job = Job(argv=argv, timeout_s=float(timeout_s) if timeout_s else None)

    def describe(exec_id: ExecId, repeats: ExecId) -> tuple[exec_events.Requested, Confidential]:
        document = core.host.confide(pod_id, msgspec.json.encode(argv))
        requested = exec_events.Requested(
            exec_id=exec_id,
            container_id=container_id,
            argv=document.digest,
            argv_brief=" ".join(argv),
            timeout_s=timeout_s,
            repeats=repeats,
        )
        return requested, document

    return await core.exec_effects.probes.run(container_id, job, describe, KUBELET)
