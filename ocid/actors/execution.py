"""Exec actors: run one command in a container, once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import assert_never

import trio

from ocid.actors.actor import Note
from ocid.actors.container import ContainerEffects, ContainerOf
from ocid.actors.host import Host
from ocid.domain import exec as domain
from ocid.domain.exec import Exec
from ocid.errors import OcidError, WrongState
from ocid.events import exec as events
from ocid.ids import ContainerId, ExecId
from ocid.ports import ExecProcess, ExecResult


@dataclass
class Job:
    """What must not be in the log: the command as it was given, and its output."""

    argv: tuple[str, ...]
    timeout_s: float | None
    result: ExecResult | None = None
    unwanted: trio.Event = field(default_factory=trio.Event)  # set when the caller has gone: ends the command


class ExecEffects:
    """Runs the effect of every execution. A job lives in memory only: after a crash it is abandoned, never repeated."""

    def __init__(self, host: Host, containers: ContainerEffects, container_of: ContainerOf) -> None:
        self._host = host
        self._containers = containers
        self._container_of = container_of
        self.jobs: dict[ExecId, Job] = {}

    async def perform(self, effect: domain.Effect, state: Exec) -> Note:
        """Run one effect and say what came of it. Foreseen failures are notes, too."""
        assert state.requested is not None, "an execution that nobody requested owes nothing"
        match effect:
            case domain.RunEffect():
                try:
                    return await self._run(state.requested)
                except OcidError as error:
                    return Note(domain.NoteFailed(error=type(error).__name__, message=error.message))
                finally:
                    job = self.jobs.get(state.requested.exec_id)
                    if job is not None and job.unwanted.is_set():
                        del self.jobs[state.requested.exec_id]  # nobody comes for its output
            case _:
                assert_never(effect)

    async def _run(self, requested: events.Requested) -> Note:
        job = self.jobs.get(requested.exec_id)
        if job is None:
            return Note(domain.NoteAbandoned(reason="the command was known to an earlier life of the daemon only"))
        container = self._container_of(requested.container_id)
        if container.declared is None or not container.running:
            raise WrongState("container", requested.container_id, wants="running", is_now=container.phase)
        order = self._containers.order(container.declared)
        process = dict(self._host.runtime.read_bundle(order)["process"])
        process["args"] = list(job.argv)
        process["terminal"] = False
        began_ns = self._host.clock.boot_ns()
        result = job.result = await self._host.runtime.exec_sync(
            order, requested.exec_id, ExecProcess(spec=process), job.timeout_s, job.unwanted
        )
        return Note(
            domain.NoteFinished(
                finished=events.Finished(
                    exit_code=result.exit_code,
                    timed_out=result.timed_out,
                    took_ms=(self._host.clock.boot_ns() - began_ns) // 1_000_000,
                    stdout_bytes=result.stdout_bytes,
                    stderr_bytes=result.stderr_bytes,
                )
            )
        )

    async def sweep(self, requested: events.Requested) -> None:
        """End what an earlier life of the daemon left running of this command."""
        container = self._container_of(ContainerId(requested.container_id))
        if container.declared is not None:
            await self._host.runtime.abandon_exec(self._containers.order(container.declared), requested.exec_id)
