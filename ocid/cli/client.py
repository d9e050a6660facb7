"""What the command line needs of a running daemon, as protocols; ``main`` supplies them over gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from ocid.config import Loaded
from ocid.ids import PodId
from ocid.ports import Credentials, LayerProgress
from ocid.ports.survey import Survey


class Client(Protocol):
    """A connection to the daemon's socket. Trio-flavoured."""

    async def pull_image(self, reference: str, credentials: Credentials | None) -> str:
        """CRI PullImage: return the image id. Cancelling ends the wait; the daemon pulls on.

        Raises:
            OcidError: what the daemon refused with, or ``Unavailable`` when the connection broke.
        """

    async def progress(self, reference: str) -> Sequence[LayerProgress]:
        """Return how far the layers of the pull of *reference* have come; nothing where that is not known."""


class Deps(Protocol):
    """What only ``main`` may wire."""

    @property
    def survey(self) -> Survey:
        """What looks at this host for ``ocid drift``."""

    def serve(self, loaded: Loaded) -> int:
        """Run the daemon until it is told to stop, and return its exit code."""

    def make_successor(self, loaded: Loaded) -> None:
        """Make the key that is to sign for the log after the one that does.

        Raises:
            WrongState: there is one already.
            EffectFailed: it cannot be written.
        """

    def wish_erasure(self, loaded: Loaded, pod_id: PodId, reason: str) -> Path:
        """Ask the daemon to erase a pod's confidential documents; the file is gone when it has granted or refused it.

        Raises:
            EffectFailed: it cannot be written.
        """

    def connect(self, loaded: Loaded) -> AbstractAsyncContextManager[Client]:
        """Open a connection to the daemon that serves ``loaded.config.socket``. Entered within a Trio run.

        Raises:
            OSError: nothing listens there, or this user may not connect; on entering.
        """
