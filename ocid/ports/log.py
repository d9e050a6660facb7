"""Time, the log, and what must not reach it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ocid.events.base import Event
from ocid.events.envelope import Context, Envelope
from ocid.ids import Digest, StreamId


class Clock(Protocol):
    """Reads the host's clocks."""

    def wall_ns(self) -> int:
        """CLOCK_REALTIME in nanoseconds since the Unix epoch."""

    def boot_ns(self) -> int:
        """CLOCK_BOOTTIME in nanoseconds: monotone within one boot, suspend included."""


class Journal(Protocol):
    """The log, as the actors use it."""

    async def append(
        self,
        stream: StreamId,
        expected_version: int,
        events: Sequence[Event],
        context: Context,
        documents: Sequence[bytes] = (),
    ) -> tuple[Envelope, ...]:
        """Make *events* durable as the next of *stream* and return them in their envelopes.

        Projections have applied them when this returns. *documents* are stored with them, each under its sha256
        digest; one that is there already costs nothing. ``expected_version`` is the stream's last version, 0 for none;
        another one is a bug (``AssertionError``). A cancelled append may still become durable.
        """

    async def drained(self) -> None:
        """Return when every append that was asked for before is durable and applied, or refused."""

    def read_stream(self, stream: StreamId) -> Sequence[Envelope]:
        """Return all durable events of *stream*, the first one first."""

    def document(self, digest: Digest) -> bytes:
        """Return a stored document.

        Raises:
            NotFound: no event ever brought it.
        """


class Secrets(Protocol):
    """Holds what must not reach the log, in memory, for as long as making a container needs it."""

    def keep(self, owner: str, secrets: Mapping[int, bytes]) -> None:
        """Remember the secret values of *owner*'s configuration by their index."""

    def take(self, owner: str) -> Mapping[int, bytes] | None:
        """Return what is kept for *owner*, or None when nothing is: the daemon was restarted in between."""

    def drop(self, owner: str) -> None:
        """Forget *owner*'s secrets."""
