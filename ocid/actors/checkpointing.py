"""Checkpoint actors: write one running container to an archive, once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, assert_never

from ocid.actors.actor import Note
from ocid.actors.container import ContainerEffects, ContainerOf, decode_container_config
from ocid.actors.host import Host
from ocid.domain import checkpoint as domain
from ocid.domain.checkpoint import Checkpoint
from ocid.errors import NotFound, OcidError, WrongState
from ocid.events import checkpoint as events
from ocid.events.container import Declared
from ocid.ports import CheckpointOrder

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class CheckpointEffects:
    """Runs the effect of every checkpoint."""

    def __init__(self, host: Host, containers: ContainerEffects, container_of: ContainerOf) -> None:
        self._host = host
        self._containers = containers
        self._container_of = container_of

    async def perform(self, effect: domain.Effect, state: Checkpoint) -> Note:
        """Run one effect and say what came of it. Foreseen failures are notes, too."""
        assert state.requested is not None, "a checkpoint that nobody requested owes nothing"
        match effect:
            case domain.MakeEffect():
                try:
                    return await self._make(state.requested)
                except OcidError as error:
                    return Note(domain.NoteFailed(error=type(error).__name__, message=error.message))
            case _:
                assert_never(effect)

    async def _make(self, requested: events.Requested) -> Note:
        container, clock = self._container_of(requested.container_id), self._host.clock
        if container.declared is None or not container.running:
            raise WrongState("container", requested.container_id, wants="running", is_now=container.phase)
        began_ns = clock.boot_ns()
        order = self._containers.order(container.declared)
        size_bytes = await self._host.runtime.checkpoint(order, self._order(requested, container.declared))
        took_ms = (clock.boot_ns() - began_ns) // 1_000_000
        return Note(domain.NoteMade(size_bytes=size_bytes, took_ms=took_ms))

    def _order(self, requested: events.Requested, declared: Declared) -> CheckpointOrder:
        return CheckpointOrder(
            checkpoint_id=requested.checkpoint_id,
            location=requested.location,
            timeout_s=requested.timeout_s,
            config=self._config_dump(declared),
            status=self._status_dump(declared),
        )

    def _status_dump(self, declared: Declared) -> dict[str, Any]:
        """Say what the container is called, in the words of CRI. What of it is secret is replaced already."""
        config = decode_container_config(self._host.journal.document(declared.config))
        return {
            "id": declared.container_id,
            "metadata": {"name": declared.name, "attempt": declared.attempt},
            "image": {"image": config.image.image, "user_specified_image": config.image.user_specified_image},
            "image_ref": declared.image_ref,
            "labels": config.labels,
            "annotations": config.annotations,
        }

    def _config_dump(self, declared: Declared) -> dict[str, Any]:
        """Describe the container as tools for such archives read it. checkpointctl's metadata, "config.dump"."""
        image = decode_container_config(self._host.journal.document(declared.config)).image
        return {
            "id": declared.container_id,
            "name": declared.name,
            "rootfsImage": image.user_specified_image or image.image,
            "rootfsImageRef": declared.image_id,
            "rootfsImageName": declared.image_ref,
            "runtime": declared.handler or self._host.settings.default_handler,
            "createdTime": _rfc3339(declared.created_at_ns),
            "checkpointedTime": _rfc3339(self._host.clock.wall_ns()),
            "restored": declared.restores is not None,
        }

    async def sweep(self, requested: events.Requested) -> None:
        """Clear away what an earlier life of the daemon left of this checkpoint, and let the container go on."""
        try:
            declared = self._container_of(requested.container_id).declared
        except NotFound:
            declared = None
        order = None if declared is None else self._containers.order(declared)
        await self._host.runtime.abandon_checkpoint(order, requested.checkpoint_id, requested.location)


def _rfc3339(at_ns: int) -> str:
    return (_EPOCH + timedelta(microseconds=at_ns // 1000)).isoformat()
