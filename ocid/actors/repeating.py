"""A command that its client runs again and again: the run that it waits for, and the count of those before."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import trio

from ocid.domain import exec as domain
from ocid.errors import OcidError
from ocid.events import exec as events
from ocid.events.envelope import Context
from ocid.ids import ContainerId, ExecId
from ocid.ports import ExecResult

IDLE_S: Final = 600.0  # between two runs; after that, a command is a new one
FLUSH_S: Final = 60.0  # for which a count stays in memory at most


@dataclass
class Job:
    """What must not be in the log: the command as it was given, and its output."""

    argv: tuple[str, ...]
    timeout_s: float | None
    result: ExecResult | None = None
    unwanted: trio.Event = field(default_factory=trio.Event)  # set when the caller has gone: ends the command


class Ran(NamedTuple):
    """One run and its times."""

    result: ExecResult
    began_ns: int  # wall clock
    ended_ns: int
    took_ms: int


class Key(NamedTuple):
    """What makes two commands the same. Lives in memory only."""

    who: int  # seq of the record that describes the client: another process is another one
    container_id: ContainerId
    argv: bytes  # digest of the words as they came; it stays here, for what is secret could be guessed by it
    timeout_s: float | None


class Call:
    """A client's wish for one more run, and what came of it."""

    def __init__(self, job: Job, context: Context) -> None:
        self.job = job
        self.context = context
        self.settled = trio.Event()
        self.error: OcidError | None = None


class Probe:
    """One open stream: the client's call, if there is one, and the runs that no record tells of yet."""

    def __init__(self, key: Key, exec_id: ExecId) -> None:
        self.key = key
        self.exec_id = exec_id
        self.serving = False  # whether its actor is there for the next call, or will be at once
        self.ending = ""  # why there will be none
        self.woken = trio.Event()
        self.call: Call | None = None
        self.tally: events.Repeated | None = None
        self.flush_at = math.inf
        self.opened_at = self.last_at = trio.current_time()
        self.reports = 0

    @property
    def ready(self) -> bool:
        """Whether the next run can be had here."""
        return self.serving and self.call is None and not self.ending

    @property
    def due(self) -> float:
        """When there is something to be done about it."""
        return min(self.flush_at, self.last_at + IDLE_S if self.ready else math.inf)

    def ask(self, job: Job, context: Context) -> Call:
        """Have the command run once more."""
        self.call = Call(job, context)
        self.woken.set()
        return self.call

    def end(self, reason: str) -> None:
        """Let no further call in; the stream ends as soon as no run is under way."""
        self.ending = self.ending or reason
        self.woken.set()

    def settle(self) -> None:
        """Answer the call, whatever came of it."""
        if self.call is not None:
            self.call.settled.set()
            self.call = None
        self.woken = trio.Event()
        if self.ending:
            self.woken.set()
        self.last_at = trio.current_time()

    def count(self, ran: Ran) -> None:
        """Remember a run that ended like the one before."""
        result = ran.result
        run = events.Repeated(
            count=1,
            exit_code=result.exit_code,
            since_ns=ran.began_ns,
            until_ns=max(ran.began_ns, ran.ended_ns),
            took_ms_min=ran.took_ms,
            took_ms_max=ran.took_ms,
            took_ms_total=ran.took_ms,
            stdout_bytes=result.stdout_bytes,
            stderr_bytes=result.stderr_bytes,
        )
        if self.tally is None:
            self.flush_at = math.floor(trio.current_time()) + FLUSH_S  # whole seconds: many share one commit
        self.tally = domain.counted(self.tally, run)

    def take(self) -> events.Repeated | None:
        """Return what is to be written, and begin anew."""
        tally, self.tally, self.flush_at = self.tally, None, math.inf
        self.reports += tally is not None
        return tally
