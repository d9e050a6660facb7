"""Looking at the host without changing anything: what ``ocid drift`` compares the log with."""

from __future__ import annotations

from typing import Protocol

from ocid.domain.changes import Layers, Walk
from ocid.domain.drift import Asked, Sighting


class Survey(Protocol):
    """Reads /proc, mounts, cgroups, links, nftables, and the daemon's own directories. Blocks while it does."""

    def look(self, asked: Asked) -> Sighting:
        """Return what is there of all that is *asked*, and what else is below the daemon's own prefixes.

        Raises:
            EffectFailed: the kernel or nft refused to tell; the message says what.
            Unsupported: this process does not see what the daemon sees.
        """

    def changes(self, layers: Layers, bytes_max: int) -> Walk:
        """Return what a container's writable layer holds, compared with the layers below it.

        Args:
            bytes_max: file content that is read for hashes, of both sides together.
        Raises:
            NotFound: there is no such writable layer.
            EffectFailed: it cannot be read.
        """
