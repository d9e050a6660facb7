"""The core assembled: every kind of actor with its effects, under one supervisor, on one log. No socket, no asyncio."""

from __future__ import annotations

import contextlib

import trio

from ocid.actors import wishes
from ocid.actors.actor import Actor
from ocid.actors.checkpointing import CheckpointEffects
from ocid.actors.container import ContainerEffects, decode_container_config
from ocid.actors.directory import Kind
from ocid.actors.execution import ExecEffects
from ocid.actors.host import Host
from ocid.actors.image import CatalogEffects, Images, LayerEffects, PullEffects
from ocid.actors.leasing import Leasing
from ocid.actors.pod import PodEffects
from ocid.actors.recorder import Recorder
from ocid.actors.session import SessionEffects
from ocid.actors.supervisor import Supervisor
from ocid.domain import catalog, checkpoint, container, exec as execution, layer, pod, pull, session
from ocid.domain.catalog import Catalog
from ocid.domain.checkpoint import Checkpoint
from ocid.domain.container import Container
from ocid.domain.exec import Exec
from ocid.domain.layer import Layer
from ocid.domain.nri import Resources
from ocid.domain.pod import Pod
from ocid.domain.pull import Pull
from ocid.domain.session import Session
from ocid.errors import Exhausted
from ocid.ids import ContainerId, PodId
from ocid.projections import containers, pods
from ocid.projections.view import View


class Core:
    """All living actors, and what they share."""

    def __init__(self, host: Host, view: View, nursery: trio.Nursery) -> None:
        """*view* is folded from the log already and follows it; actors run in *nursery*."""
        self.host = host
        self.view = view
        self.recorder = Recorder(host.journal, view.node_version)
        self.supervisor = Supervisor(host.journal, nursery, self.recorder.record)
        journal, supervisor = host.journal, self.supervisor
        self.pods: Kind[Pod] = Kind("pod", pod, journal, supervisor, _pod_key)
        self.containers: Kind[Container] = Kind(
            "container", container, journal, supervisor, _container_key, self._container_given_up, self._container_over
        )
        self.execs: Kind[Exec] = Kind("exec", execution, journal, supervisor)
        self.sessions: Kind[Session] = Kind("session", session, journal, supervisor)
        self.checkpoints: Kind[Checkpoint] = Kind("checkpoint", checkpoint, journal, supervisor)
        self.pulls: Kind[Pull] = Kind("pull", pull, journal, supervisor, self._pull_key)
        self.layers: Kind[Layer] = Kind("layer", layer, journal, supervisor)
        self.catalog: Kind[Catalog] = Kind("catalog", catalog, journal, supervisor)
        self.images = Images(host.journal)
        self.leasing = Leasing(
            view.pods.leases, lambda: view.pods.last_leased, lambda pod_id: self.pods.find(pod_id) is not None
        )
        self.container_effects = ContainerEffects(host, self.pod_of, self.container_of, self.images)
        self.exec_effects = ExecEffects(host, self.container_effects, self.container_of)
        self.session_effects = SessionEffects(host, self.container_effects, self.container_of, self.pod_of)
        self.checkpoint_effects = CheckpointEffects(host, self.container_effects, self.container_of)
        self.pull_effects = PullEffects(host, self)
        self.pods.performed_by(PodEffects(host, self.containers_of).perform)
        self.containers.performed_by(self.container_effects.perform)
        self.execs.performed_by(self.exec_effects.perform)
        self.sessions.performed_by(self.session_effects.perform)
        self.checkpoints.performed_by(self.checkpoint_effects.perform)
        self.pulls.performed_by(self.pull_effects.perform)
        self.layers.performed_by(LayerEffects(host, self.pull_effects).perform)
        self.catalog_effects = CatalogEffects(host, self)
        self.catalog.performed_by(self.catalog_effects.perform)

    async def update_resources(
        self, container_id: ContainerId, wanted: Resources, plugins: tuple[str, ...], *, wait: bool
    ) -> None:
        """Change a container's resources because *plugins* want it.

        Raises:
            NotFound: there is no such container.
            OcidError: see ``ocid.actors.wishes``.
        """
        await wishes.update(self.host, self.containers.get(container_id), wanted, plugins, wait=wait)

    async def evict(self, container_id: ContainerId, plugin: str, reason: str, *, wait: bool) -> None:
        """End a container because *plugin* wants it; one that is not there has ended.

        Raises:
            OcidError: see ``ocid.actors.wishes``.
        """
        if (actor := self.containers.find(container_id)) is not None:
            await wishes.evict(self.host, actor, plugin, reason, wait=wait)

    def _container_given_up(self, actor: Actor[Container], reason: str) -> None:
        """A container that nobody watches makes its pod NotReady: the kubelet then replaces the pod."""
        declared = actor.state.declared
        owner = None if declared is None else self.pods.find(declared.pod_id)
        if declared is not None and owner is not None:
            with contextlib.suppress(Exhausted):  # a pod whose inbox is full has worse troubles
                owner.tell(pod.NoteGaveUp(reason=f"container {declared.name}: {reason}"))

    def _container_over(self, actor: Actor[Container]) -> None:
        """The last container of an image that had left the catalog lets its layers go."""
        declared, images = actor.state.declared, self.catalog.find("images")
        if declared is None or images is None:
            return
        config = decode_container_config(self.host.journal.document(declared.config))
        left = {declared.image_id, *config.mounted_images} - images.state.images.keys()
        for name, row in self.view.containers.rows.items() if left else ():
            if row.state.declared is not None:
                left -= {row.state.declared.image_id, *self.view.containers.config(name).mounted_images}
        for image_id in sorted(left):
            with contextlib.suppress(Exhausted):  # the next removal of an image collects them, too
                images.tell(catalog.Release(image_id=image_id))

    def pod_of(self, pod_id: PodId) -> Pod:
        """Return a pod's state as its actor has it.

        Raises:
            NotFound: it is removed.
        """
        return self.pods.get(pod_id).state

    def container_of(self, container_id: ContainerId) -> Container:
        """Return a container's state as its actor has it.

        Raises:
            NotFound: it is removed.
        """
        return self.containers.get(container_id).state

    def containers_of(self, pod_id: PodId) -> list[Actor[Container]]:
        """Return the actors of the pod's containers, to take them down: awake, and also those not in the log yet."""
        names = self.view.containers.by_pod.get(pod_id, ())
        known = [self.containers.revived(one) for one in names if self.containers.find(one) is not None]
        young = [
            actor
            for key, actor in self.containers.unborn()
            if isinstance(key, containers.ContainerKey) and key.pod_id == pod_id
        ]
        return [actor for actor in known if actor not in young] + young

    def _pull_key(self, state: Pull) -> object:
        """Credentials are part of it, which no event has: only a pull of this life of the daemon can be joined."""
        session = None if state.requested is None else self.pull_effects.sessions.get(state.requested.pull_id)
        return None if session is None or state.ended else (session.reference, session.credentials)


def _pod_key(state: Pod) -> object:
    if state.declared is None or state.remove_wanted or state.failed is not None or state.gave_up is not None:
        return None
    return pods.key_of(state.declared)


def _container_key(state: Container) -> object:
    if state.declared is None or state.remove_wanted:
        return None
    return containers.key_of(state.declared)
