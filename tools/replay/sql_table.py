"""The table ``events`` of ``ocid-replay sql``: its columns, and a record as one row of it. Pure."""

from __future__ import annotations

from typing import Any, Final

from ocid.events import checkpoint, container, exec as execution, session
from ocid.events.envelope import Envelope
from ocid.projections.fields import fields
from ocid.projections.words import words

from .attribution import Peer
from .lookup import Lookup

# Name and type in the order of the table; ``time`` is made from ``wall_ns``, and is NULL where no calendar has it.
COLUMNS: Final = (
    ("seq", "BIGINT"), ("time", "TIMESTAMP_NS"), ("wall_ns", "BIGINT"), ("boot_ns", "BIGINT"), ("boot_id", "VARCHAR"),
    ("stream", "VARCHAR"), ("aggregate", "VARCHAR"), ("name", "VARCHAR"), ("type", "VARCHAR"),
    ("type_version", "BIGINT"), ("version", "BIGINT"), ("epoch", "BIGINT"), ("who", "BIGINT"),
    ("peer_pid", "BIGINT"), ("peer_exe", "VARCHAR"), ("peer_comm", "VARCHAR"), ("peer_uid", "BIGINT"),
    ("peer_login_uid", "BIGINT"), ("command_id", "VARCHAR"), ("correlation", "VARCHAR"), ("cause", "BIGINT"),
    ("pod_id", "VARCHAR"), ("container_id", "VARCHAR"), ("payload", "JSON"), ("words", "VARCHAR"),
)  # fmt: skip
FAMILIES_KEPT: Final = 65_536
_NO_LOGIN: Final = 4294967295
_INT64_MAX: Final = (1 << 63) - 1


class Families:
    """Which pod and container a stream belongs to, from the stream's first event."""

    def __init__(self, log: Lookup) -> None:
        self._log = log
        self._known: dict[str, tuple[str | None, str | None]] = {}

    def of(self, stream: str) -> tuple[str | None, str | None]:
        """Return the ids of pod and container; None for neither."""
        found = self._known.get(stream)
        if found is None:
            if len(self._known) >= FAMILIES_KEPT:
                self._known.clear()
            found = self._known[stream] = self._find(stream)
        return found

    def _find(self, stream: str) -> tuple[str | None, str | None]:
        aggregate, _, name = stream.partition("/")
        if aggregate == "pod":
            return name, None
        if aggregate not in ("container", "exec", "session", "checkpoint"):
            return None, None
        first = self._log.first(stream)
        match None if first is None else first.event:
            case container.Declared(pod_id=pod_id):
                return pod_id, name
            case execution.Requested(container_id=container_id) | checkpoint.Requested(container_id=container_id):
                return self.of(f"container/{container_id}")[0], container_id
            case session.Requested(pod_id=pod_id, container_id=container_id):
                return pod_id, container_id or None
            case _:
                return None, name if aggregate == "container" else None


def row(envelope: Envelope, families: Families, peer: Peer) -> dict[str, Any]:
    """Return a record as the table has it. Pure but for what reads the log."""
    context = envelope.context
    aggregate, _, name = envelope.stream.partition("/")
    seen = peer(context.who) if context.who else None
    pod_id, container_id = families.of(envelope.stream)
    return {
        "seq": envelope.seq,
        "wall_ns": _fitting(envelope.wall_ns),
        "boot_ns": _fitting(envelope.boot_ns),
        "boot_id": envelope.boot_id,
        "stream": envelope.stream,
        "aggregate": aggregate,
        "name": name,
        "type": envelope.type,
        "type_version": _fitting(envelope.type_version),
        "version": envelope.version,
        "epoch": envelope.epoch,
        "who": context.who or None,
        "peer_pid": None if seen is None else seen.pid,
        "peer_exe": None if seen is None else seen.exe,
        "peer_comm": None if seen is None else seen.comm,
        "peer_uid": None if seen is None else seen.uid,
        "peer_login_uid": None if seen is None or seen.login_uid == _NO_LOGIN else seen.login_uid,
        "command_id": context.command_id or None,
        "correlation": context.correlation or None,
        "cause": context.cause or None,
        "pod_id": pod_id,
        "container_id": container_id,
        "payload": fields(envelope.event),
        "words": words(envelope.event),
    }


def _fitting(number: int) -> int | None:
    return number if -_INT64_MAX <= number <= _INT64_MAX else None
