"""Fake of container checkpoints to go on from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ocid.domain.checkpoint_facts import CheckpointFacts
from ocid.errors import EffectFailed, NotFound
from ocid.ids import ChainId, Digest, digest_of
from ocid.ports import ContainerOrder
from ocid.ports.archives import ArchiveSource
from tests.fakes.life import Life


class FakeArchives:
    """Port ``Archives``. The checkpoints are by path of an archive, or by chain id of an image's layer."""

    def __init__(self, life: Life, checkpoints: Mapping[str, CheckpointFacts]) -> None:
        self._life = life
        self._world = life.world
        self._checkpoints = checkpoints

    def require(self) -> None:
        """They may be restored."""

    async def read(self, source: ArchiveSource) -> tuple[Digest | None, CheckpointFacts]:
        async with self._life.effect("archives.read", f"read {self._life.new_name()}"):
            facts = self._found(source)
        return (digest_of(source.archive.encode()) if source.archive else None), facts

    async def unpack(self, order: ContainerOrder, layers: Sequence[ChainId], source: ArchiveSource) -> CheckpointFacts:
        world, place = self._world, f"{order.writable}/restore"
        async with self._life.effect("archives.unpack", order.container_id):
            if order.writable not in world.paths:
                raise EffectFailed(f"{order.writable} is not there")
            if f"{order.bundle}/rootfs" in world.mounts:
                world.violate(f"the layer of {order.container_id} is filled while it is mounted")
            if world.paths.get(place) is not None:
                world.violate(f"the layer of {order.container_id} is filled twice")
            world.paths[place] = b"half"
            await self._life.step("archives.unpack half")
            world.paths[place] = b"whole"
            facts = self._found(source)
        return facts

    async def delete_files(self, order: ContainerOrder) -> None:
        async with self._life.effect("archives.delete_files", order.container_id):
            if f"{order.bundle}/rootfs" not in self._world.mounts:
                raise EffectFailed("the root is not mounted")

    def _found(self, source: ArchiveSource) -> CheckpointFacts:
        name = source.archive or source.layer or ""
        if name not in self._checkpoints:
            raise NotFound("checkpoint archive", name)
        return self._checkpoints[name]
