"""Time, the log, and what must not reach it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ocid.domain.confidential import Beside
from ocid.domain.merkle import Frontier
from ocid.events.base import Event
from ocid.events.envelope import Context, Envelope
from ocid.ids import Digest, PodId, StreamId


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
        documents: Sequence[Beside] = (),
    ) -> tuple[Envelope, ...]:
        """Make *events* durable as the next of *stream* and return them in their envelopes.

        Projections have applied them when this returns. *documents* are stored with them, each under its sha256
        digest, a pod's confidential ones under their commitments; one that is there already costs nothing.
        ``expected_version`` is the stream's last version, 0 for none; another one is a bug (``AssertionError``). A
        cancelled append may still become durable.
        """

    async def drained(self) -> None:
        """Return when every append that was asked for before is durable and applied, or refused."""

    def read_stream(self, stream: StreamId) -> Sequence[Envelope]:
        """Return all durable events of *stream*, the first one first."""

    def document(self, digest: Digest) -> bytes:
        """Return a stored document.

        Raises:
            NotFound: no event ever brought it.
            Erased: it was confidential, and was erased with its pod's other ones.
        """


class ErasingJournal(Journal, Protocol):
    """The log as its eraser uses it."""

    async def confidences(self, pod_id: PodId) -> int:
        """Return how many confidential texts of a pod there are."""

    async def sweep_erased(self, limit: int) -> int:
        """Delete up to *limit* encrypted texts of pods whose texts were erased; return how many that were."""


class TreeJournal(Journal, Protocol):
    """The log as its sealer uses it."""

    @property
    def last_seq(self) -> int:
        """The newest durable seq; 0 for an empty log."""

    def head(self) -> Frontier:
        """Return the Merkle tree over all that is durable."""


class Signer(Protocol):
    """One Ed25519 key. RFC 8032."""

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""

    def sign(self, message: bytes) -> bytes:
        """Return the signature, 64 bytes."""


class Signers(Protocol):
    """The node's own key, and the one that is to follow it."""

    def current(self) -> Signer:
        """Return the key that signs."""

    def successor(self) -> Signer | None:
        """Return the key that was made to follow it, if there is one."""

    def advance(self) -> None:
        """Put the successor in the place of the current key, which is gone then."""


class Secrets(Protocol):
    """Holds what must not reach the log, in memory, for as long as making a container needs it."""

    def keep(self, owner: str, secrets: Mapping[int, bytes]) -> None:
        """Remember the secret values of *owner*'s configuration by their index."""

    def take(self, owner: str) -> Mapping[int, bytes] | None:
        """Return what is kept for *owner*, or None when nothing is: the daemon was restarted in between."""

    def drop(self, owner: str) -> None:
        """Forget *owner*'s secrets."""
