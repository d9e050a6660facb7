"""All projections of the log in one: what the CRI facade reads, what recovery starts from, what replay shows."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

from ocid.domain import catalog, checkpoint, exec as execution, layer, pull, session
from ocid.domain.catalog import Catalog
from ocid.domain.checkpoint import Checkpoint
from ocid.domain.container import Container
from ocid.domain.exec import Exec
from ocid.domain.layer import Layer
from ocid.domain.pod import Pod
from ocid.domain.pull import Pull
from ocid.domain.session import Session
from ocid.events.base import Opaque
from ocid.events.envelope import Envelope
from ocid.ids import Digest
from ocid.projections.containers import Containers
from ocid.projections.fold import Fold, Row
from ocid.projections.node import Node
from ocid.projections.pods import Pods
from ocid.projections.sealing import Sealing


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A view as data. Always disposable: the log can make it anew."""

    seq: int
    pods: dict[str, Row[Pod]]
    containers: dict[str, Row[Container]]
    execs: dict[str, Row[Exec]]
    sessions: dict[str, Row[Session]]
    checkpoints: dict[str, Row[Checkpoint]]
    pulls: dict[str, Row[Pull]]
    layers: dict[str, Row[Layer]]
    catalog: dict[str, Row[Catalog]]
    node: Node
    node_version: int
    sealing: Sealing


@functools.cache
def schema_hash() -> str:
    """Fingerprint everything that a snapshot is made of; a snapshot of another schema is thrown away."""
    schema = msgspec.json.schema(Snapshot)
    return hashlib.sha256(msgspec.json.encode(schema, order="deterministic")).hexdigest()


class View:
    """The node as of one position in the log."""

    def __init__(self, document: Callable[[Digest], bytes]) -> None:
        """*document* returns a stored document by its digest."""
        self.seq = 0
        self.node = Node()
        self.node_version = 0
        self.sealing = Sealing()
        self.pods = Pods(document)
        self.containers = Containers(document)
        self.execs: Fold[Exec] = Fold(execution)
        self.sessions: Fold[Session] = Fold(session)
        self.checkpoints: Fold[Checkpoint] = Fold(checkpoint)
        self.pulls: Fold[Pull] = Fold(pull)
        self.layers: Fold[Layer] = Fold(layer)
        self.catalog: Fold[Catalog] = Fold(catalog)
        self.unknown = 0  # events of types that this build does not know: a newer daemon wrote them
        self._folds: dict[str, Fold[Any]] = {
            "pod": self.pods,
            "container": self.containers,
            "exec": self.execs,
            "session": self.sessions,
            "checkpoint": self.checkpoints,
            "pull": self.pulls,
            "layer": self.layers,
            "catalog": self.catalog,
        }

    def apply(self, envelope: Envelope) -> None:
        """Fold the next record of the log in."""
        self.seq = envelope.seq
        aggregate, _, name = envelope.stream.partition("/")
        if isinstance(envelope.event, Opaque):
            self.unknown += 1
        elif aggregate == "node":
            self.node.apply(envelope)
            self.node_version = envelope.version
        elif aggregate == "log":
            self.sealing.apply(envelope)
        elif (fold := self._folds.get(aggregate)) is not None:
            fold.apply(name, envelope)

    def fold(self, aggregate: str) -> Fold[Any] | None:
        """Return the fold of one aggregate's streams; None for an unknown aggregate, the node's and the log's own."""
        return self._folds.get(aggregate)

    @property
    def epoch(self) -> int:
        """The daemon's life that wrote the newest ``node.started``; 0 for none."""
        return 0 if self.node.started is None else self.node.started.epoch

    def living(self) -> list[tuple[str, Fold[Any]]]:
        """List the folds whose streams can outlive a damaged log, by aggregate."""
        return [
            (name, fold) for name, fold in self._folds.items() if name not in ("exec", "session", "checkpoint", "pull")
        ]

    def snapshot(self) -> bytes:
        """Write the view down."""
        return msgspec.msgpack.encode(
            Snapshot(
                seq=self.seq,
                pods=self.pods.rows,
                containers=self.containers.rows,
                execs=self.execs.rows,
                sessions=self.sessions.rows,
                checkpoints=self.checkpoints.rows,
                pulls=self.pulls.rows,
                layers=self.layers.rows,
                catalog=self.catalog.rows,
                node=self.node,
                node_version=self.node_version,
                sealing=self.sealing,
            )
        )

    def restore(self, snapshot: bytes) -> None:
        """Take a snapshot of this schema into an empty view.

        Raises:
            msgspec.MsgspecError: it is of another schema or damaged; the log must be folded from its beginning.
        """
        assert self.seq == 0, "a view that has seen events takes no snapshot"
        taken = msgspec.msgpack.decode(snapshot, type=Snapshot)
        for fold, rows in (
            (self.pods, taken.pods),
            (self.containers, taken.containers),
            (self.execs, taken.execs),
            (self.sessions, taken.sessions),
            (self.checkpoints, taken.checkpoints),
            (self.pulls, taken.pulls),
            (self.layers, taken.layers),
            (self.catalog, taken.catalog),
        ):
            fold.load(rows)  # type: ignore[arg-type]
        self.node, self.node_version, self.seq = taken.node, taken.node_version, taken.seq
        self.sealing = taken.sealing
