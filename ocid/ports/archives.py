"""Container checkpoints that containers go on from: archives, and images that hold the same files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from ocid.domain.checkpoint_facts import CheckpointFacts
from ocid.errors import Unsupported
from ocid.ids import ChainId, Digest
from ocid.ports.containers import ContainerOrder


class ArchiveSource(msgspec.Struct, frozen=True, kw_only=True):
    """Where a checkpoint is: one of the two."""

    archive: str = ""  # absolute path
    digest: Digest | None = None  # sha256 of the archive, as it was when it was looked at
    layer: ChainId | None = None  # the one layer of a checkpoint's image


class Archives(Protocol):
    """Reads and unpacks container checkpoints. Nothing in them is believed."""

    def require(self) -> None:
        """Return when containers may go on from checkpoints on this node.

        Raises:
            Unsupported: they may not.
        """

    async def read(self, source: ArchiveSource) -> tuple[Digest | None, CheckpointFacts]:
        """Look at a checkpoint; return the digest of an archive, and what it says of its container.

        Raises:
            NotFound: it is not there.
            InvalidRequest: it is none, or one that is refused.
            Exhausted: it passes a limit.
            Unsupported: containers do not go on from checkpoints on this node.
        """

    async def unpack(self, order: ContainerOrder, layers: Sequence[ChainId], source: ArchiveSource) -> CheckpointFacts:
        """Put a checkpoint's images beside the writable layer, and its changed files into it; it must not be mounted.

        *layers* are those of the root's image, base layer first: directories that no entry describes are as there.

        Raises:
            EffectFailed: it is another one than it was, or refused.
        """

    async def delete_files(self, order: ContainerOrder) -> None:
        """Delete from the mounted root what the container had deleted from its image."""


class NoArchives:
    """A node whose containers never go on from checkpoints."""

    def require(self) -> None:
        raise Unsupported(
            "restoring container checkpoints is switched off on this node: it runs whatever their author wrote into "
            "them, with rights of their choice; to trust all who can name one, set restore = true in [checkpoint]"
        )

    async def read(self, source: ArchiveSource) -> tuple[Digest | None, CheckpointFacts]:
        self.require()
        raise AssertionError("never allowed")

    async def unpack(self, order: ContainerOrder, layers: Sequence[ChainId], source: ArchiveSource) -> CheckpointFacts:
        self.require()
        raise AssertionError("never allowed")

    async def delete_files(self, order: ContainerOrder) -> None:
        self.require()
