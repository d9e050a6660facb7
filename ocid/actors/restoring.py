"""What the effects of a container that goes on from a checkpoint do to the host."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ocid.actors.actor import Note
from ocid.actors.host import Host, back_off
from ocid.actors.image import Images
from ocid.actors.plugins import Hooks
from ocid.actors.pod import sandbox_order
from ocid.domain.checkpoint_facts import CheckpointFacts, missing_binds
from ocid.domain.container import Container, NoteExited
from ocid.domain.container_restore import UNSTARTED_CODE, Effect, Forgo, NoteRestored
from ocid.domain.nri import Event
from ocid.domain.pod import Pod
from ocid.errors import InvalidRequest
from ocid.events.container import Declared, Origin
from ocid.ports import ContainerOrder, ImageFacts, ImageView
from ocid.ports.archives import ArchiveSource


def source_of(origin: Origin, images: Images) -> ArchiveSource:
    """Say where a container's checkpoint is."""
    if origin.archive:
        return ArchiveSource(archive=origin.archive, digest=origin.digest)
    return image_source(images.facts(origin.digest))


def image_source(facts: ImageFacts) -> ArchiveSource:
    """Say where the checkpoint in an image is.

    Raises:
        InvalidRequest: the image is not one of a checkpoint.
    """
    if len(facts.layers) != 1:
        raise InvalidRequest(f"image of a container checkpoint has {len(facts.layers)} layers, wanted one")
    return ArchiveSource(layer=facts.layers[0])


async def mount_root(
    host: Host, images: Images, order: ContainerOrder, declared: Declared, view: ImageView
) -> tuple[Path, CheckpointFacts | None]:
    """Mount a container's root file system, with what its checkpoint changed there; return what that says."""
    facts = images.facts(declared.image_manifest)
    if declared.restores is None:
        return await host.layers.mount(order, facts.layers, view), None
    host.archives.require()
    await host.runtime.require_restore(order)
    await host.layers.unmount(order)
    await host.layers.remove_writable(order)  # of an earlier try: its layer is half filled
    await host.layers.mount(order, facts.layers, view)  # which makes the writable layer as the image wants it
    await host.layers.unmount(order)
    found = await host.archives.unpack(order, facts.layers, source_of(declared.restores, images))
    rootfs = await host.layers.mount(order, facts.layers, view)
    await host.archives.delete_files(order)
    return rootfs, found


def compare(checkpoint: CheckpointFacts | None, spec: Mapping[str, Any]) -> None:
    """Check that the new container has a bind mount wherever the old one had: its memory refers to them.

    Raises:
        InvalidRequest: some are missing; they are named.
    """
    missing = [] if checkpoint is None else missing_binds(checkpoint.binds, spec)
    if missing:
        named = ", ".join(repr(one[:200]) for one in missing[:8])
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        raise InvalidRequest(f"the checkpointed container had mounts that this one lacks: add mounts at {named}{more}")


async def perform(host: Host, hooks: Hooks, effect: Effect, order: ContainerOrder, state: Container, pod: Pod) -> Note:
    """Run one effect that only such a container owes."""
    if isinstance(effect, Forgo):
        await back_off(effect.failures)
        now_ns = host.clock.wall_ns()
        return Note(NoteExited(at_ns=now_ns, exit_code=UNSTARTED_CODE, oom_killed=False, source="unstarted"))
    host.archives.require()
    host.secrets.drop(order.container_id)  # the bundle has them now
    host.plugins.settled(order.container_id)
    await hooks.tell(Event.START_CONTAINER, state)
    at_ns = host.clock.wall_ns()  # before: a short program has ended when the restore returns
    process = await host.runtime.restore(order)
    assert pod.declared is not None, "a container's pod is declared before it"
    await host.sandboxes.furnish_again(sandbox_order(host, pod.declared))
    await hooks.mention(Event.POST_CREATE_CONTAINER, state, pid=process.pid)
    await hooks.mention(Event.POST_START_CONTAINER, state, pid=process.pid, started_at_ns=at_ns)
    return Note(NoteRestored(pid=process.pid, start_ticks=process.start_ticks, at_ns=at_ns))
