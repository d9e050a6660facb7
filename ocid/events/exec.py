"""Facts about commands run inside containers. Stream ``exec/<id>``."""

from __future__ import annotations

from typing import ClassVar

from ocid.classes import Public, Sensitive
from ocid.events.base import Event, enter
from ocid.ids import ContainerId, Digest, ExecId


class Requested(Event, frozen=True, kw_only=True):
    """ExecSync was called. Durable before anything runs."""

    TYPE: ClassVar[str] = "exec.requested"
    exec_id: ExecId
    container_id: ContainerId
    argv: Digest  # confidential document: the command after redaction, a JSON list of strings
    argv_brief: Sensitive  # the same as one line, cut to 200 characters
    timeout_s: int  # 0 for none
    audit_hints: tuple[Sensitive, ...] = ()  # "NAME=value" of the command; a client's claim of its request, no proof


class Finished(Event, frozen=True, kw_only=True):
    """The command ended, or was killed because its time was up."""

    TYPE: ClassVar[str] = "exec.finished"
    exit_code: int  # 128 + signal number when killed by a signal
    timed_out: bool
    took_ms: int
    stdout_bytes: int  # as produced, before the cap
    stderr_bytes: int


class Failed(Event, frozen=True, kw_only=True):
    """The command could not be run."""

    TYPE: ClassVar[str] = "exec.failed"
    error: Public
    message: Sensitive


class Abandoned(Event, frozen=True, kw_only=True):
    """The daemon ended while the command ran; how it ended is not known. It was killed if it was still there."""

    TYPE: ClassVar[str] = "exec.abandoned"
    reason: Sensitive


ExecEvent = Requested | Finished | Failed | Abandoned

enter(Requested, Finished, Failed, Abandoned)
