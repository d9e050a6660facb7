"""Which records of a log that is to be trimmed must stay: what living things need, and what the log needs to know.

A stream that is over goes as a whole, one that lives stays as a whole. Of the streams that never end only what still
counts stays. What stays folds to the same state as everything did; where that is in doubt for the catalog, all of it
stays. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ocid.domain import catalog
from ocid.events import log, node
from ocid.events.base import Event, Opaque
from ocid.events.envelope import Envelope
from ocid.events.image import CATALOG, ImageAdded, ImageNamed
from ocid.events.log import LOG
from ocid.events.node import NODE
from ocid.projections.view import View

DIGEST: Final = re.compile(rb"sha256:([0-9a-f]{64})")  # as records and documents cite documents
PASSING: Final = (
    log.Sealed.TYPE, log.Archived.TYPE, log.ArchiveRemoved.TYPE, log.WitnessFailing.TYPE, log.WitnessRecovered.TYPE,
    node.Recovered.TYPE, node.Stopped.TYPE, node.RequestRefused.TYPE, node.ActorCrashed.TYPE,
    node.OrphanFound.TYPE, node.NetworkFaulty.TYPE, node.PluginJoined.TYPE, node.PluginLeft.TYPE, node.UnusualCall.TYPE,
)  # fmt: skip  # events of the node's and the log's own streams that count only until something follows them


class Retention:
    """Sees all records of a log, in order, and tells which ones up to some place stay."""

    def __init__(self, view: View, through: int) -> None:
        """*view* is the node as of the end of the log; *through* is where the log is to be trimmed to."""
        self._view = view
        self._through = through
        self._kept: set[int] = set()
        self._askers: set[int] = set()  # peers that something which stays was asked by
        self._peers: dict[int, int] = {}  # seq of what is known of a peer → seq of the peer itself
        self._last: dict[str, int] = {}  # type → newest event of it, for those of which only that one counts
        self._catalog: list[Envelope] = []

    def see(self, envelope: Envelope) -> None:
        """Take the next record in."""
        stays = envelope.seq > self._through
        if not stays and envelope.stream == CATALOG:
            stays = self._is_of_living_image(envelope.event)
        elif not stays and envelope.stream in (NODE, LOG):
            self._own(envelope)
        elif not stays:
            stays = self._lives(envelope.stream)
        if envelope.stream == CATALOG:
            self._catalog.append(envelope)
        if stays:
            self._keep(envelope)

    def kept(self) -> frozenset[int]:
        """Return the records that stay, of those up to where the log is to be trimmed."""
        self._kept.update(self._last.values())
        if self._folded(self._kept) != self._view_catalog():
            for envelope in self._catalog:
                self._keep(envelope)
        for seq, peer in self._peers.items():
            if peer in self._askers or seq in self._askers:
                self._kept.update((seq, peer))
        return frozenset(seq for seq in self._kept if seq <= self._through)

    # --- inside ---

    def _keep(self, envelope: Envelope) -> None:
        self._kept.add(envelope.seq)
        self._askers.add(envelope.context.who)

    def _lives(self, stream: str) -> bool:
        aggregate, _, name = stream.partition("/")
        fold = self._view.fold(aggregate)
        return fold is None or name in fold.rows  # what this build does not know stays

    def _own(self, envelope: Envelope) -> None:
        """Judge a record of the node's or the log's own stream."""
        match envelope.event:
            case node.PeerSeen():
                self._peers[envelope.seq] = envelope.seq
                if envelope.seq in self._view.node.peers and envelope.epoch == self._view.epoch:
                    self._keep(envelope)  # it may still be connected
            case node.PeerMeasured(peer=peer):
                self._peers[envelope.seq] = peer
            case node.Started() | node.RuntimeConfigured() | node.RedactionConfigured() | log.Trimmed():
                self._last[envelope.type] = envelope.seq
            case _ if envelope.type not in PASSING:
                self._keep(envelope)

    def _is_of_living_image(self, event: Event) -> bool:
        return isinstance(event, ImageAdded | ImageNamed) and event.image_id in self._view_catalog().images

    def _view_catalog(self) -> catalog.Catalog:
        row = self._view.catalog.rows.get(CATALOG.partition("/")[2])
        return catalog.INITIAL if row is None else row.state

    def _folded(self, kept: set[int]) -> catalog.Catalog:
        state = catalog.INITIAL
        for envelope in self._catalog:
            if (envelope.seq in kept or envelope.seq > self._through) and not isinstance(envelope.event, Opaque):
                state = catalog.evolve(state, envelope.event)  # type: ignore[arg-type]
        return state


def cited(texts: Iterable[bytes]) -> set[bytes]:
    """Return the digests, 32 bytes each, that records or documents cite."""
    return {bytes.fromhex(found.decode()) for text in texts for found in DIGEST.findall(text)}
