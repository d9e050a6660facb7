"""Facts about container checkpoints: the memory and files of a running container, written to an archive.

Stream ``checkpoint/<id>``. A container checkpoint is no checkpoint of the log.
"""

from __future__ import annotations

from typing import ClassVar

from ocid.classes import Public, Sensitive
from ocid.events.base import Event, enter
from ocid.ids import CheckpointId, ContainerId


class Requested(Event, frozen=True, kw_only=True):
    """CheckpointContainer was called. The archive, and what is half written beside it, are named here."""

    TYPE: ClassVar[str] = "checkpoint.requested"
    checkpoint_id: CheckpointId
    container_id: ContainerId
    location: Sensitive  # absolute path of the archive
    timeout_s: int


class Made(Event, frozen=True, kw_only=True):
    """The archive is whole at its location, and the container goes on."""

    TYPE: ClassVar[str] = "checkpoint.made"
    size_bytes: int
    took_ms: int


class Failed(Event, frozen=True, kw_only=True):
    """There is no archive; the container goes on."""

    TYPE: ClassVar[str] = "checkpoint.failed"
    error: Public  # class name from ocid.errors
    message: Sensitive


CheckpointEvent = Requested | Made | Failed

enter(Requested, Made, Failed)
