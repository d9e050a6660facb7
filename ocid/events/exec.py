"""Facts about commands run inside containers. Stream ``exec/<id>``.

A command that its client runs again and again, as probes are, has one more stream than a command that runs once: the
second run names the first one's, and all further runs belong to the second one's, counted and not written one by one.
"""

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
    repeats: ExecId = ExecId("")  # the same command, by the same client; "" for none. Further runs are counted here


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
    since_seq: int = 0  # of a command that was repeated: the record after which its runs are not known; 0 for one run


class Repeated(Event, frozen=True, kw_only=True):
    """The command ran again, each time with the exit code it had before: once a minute, and before what differs.

    Such a run is not in the log before it begins: its stream, which is, has the id that the run goes by.
    """

    TYPE: ClassVar[str] = "exec.repeated"
    count: int  # runs since the last record of this stream
    exit_code: int  # of each; none was killed because its time was up
    since_ns: int  # wall clock at the beginning of the first of them
    until_ns: int  # wall clock at the end of the last of them
    took_ms_min: int
    took_ms_max: int
    took_ms_total: int
    stdout_bytes: int  # of all together, as produced, before the cap
    stderr_bytes: int


class Changed(Event, frozen=True, kw_only=True):
    """The command ran again, and ended in another way than before, or its time was up. Durable before the answer."""

    TYPE: ClassVar[str] = "exec.changed"
    exit_code: int
    timed_out: bool
    took_ms: int
    stdout_bytes: int
    stderr_bytes: int


class Ended(Event, frozen=True, kw_only=True):
    """No further runs are counted in this stream."""

    TYPE: ClassVar[str] = "exec.ended"
    # "idle": none came for a while; "container": it ended; "stop": the daemon's; "renewed": it is long enough
    reason: Sensitive


ExecEvent = Requested | Finished | Failed | Abandoned | Repeated | Changed | Ended

enter(Requested, Finished, Failed, Abandoned, Repeated, Changed, Ended)
