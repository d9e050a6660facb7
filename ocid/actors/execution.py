"""Exec actors: run one command in a container, once, or as often as its client asks for it."""

from __future__ import annotations

from typing import assert_never

import trio

from ocid.actors.actor import Note
from ocid.actors.container import ContainerEffects
from ocid.actors.directory import Kind
from ocid.actors.host import Host
from ocid.actors.probes import Probes
from ocid.actors.repeating import Job as Job, Ran  # the job is part of this module to all who use it
from ocid.domain import exec as domain
from ocid.domain.container import Container
from ocid.domain.exec import Exec
from ocid.errors import OcidError, WrongState
from ocid.events import exec as events
from ocid.ids import ContainerId, ExecId
from ocid.ports import ExecProcess


class ExecEffects:
    """Runs the effect of every execution. A job lives in memory only: after a crash it is abandoned, never repeated."""

    def __init__(
        self,
        host: Host,
        effects: ContainerEffects,
        execs: Kind[Exec],
        containers: Kind[Container],
        nursery: trio.Nursery,
    ) -> None:
        self._host = host
        self._effects = effects
        self._containers = containers
        self.jobs: dict[ExecId, Job] = {}
        self.probes = Probes(host, execs, containers, self.jobs, nursery)

    async def perform(self, effect: domain.Effect, state: Exec) -> Note:
        """Run one effect and say what came of it. Foreseen failures are notes, too."""
        assert state.requested is not None, "an execution that nobody requested owes nothing"
        match effect:
            case domain.RunEffect():
                try:
                    return await self._first(state.requested)
                except OcidError as error:
                    return Note(domain.NoteFailed(error=type(error).__name__, message=error.message))
                finally:
                    job = self.jobs.get(state.requested.exec_id)
                    if job is not None and job.unwanted.is_set():
                        del self.jobs[state.requested.exec_id]  # nobody comes for its output
            case domain.Repeat():
                return await self.probes.serve(state.requested, self._run)
            case _:
                assert_never(effect)

    async def _first(self, requested: events.Requested) -> Note:
        job = self.jobs.get(requested.exec_id)
        if job is None:
            return Note(domain.NoteAbandoned(reason="the command was known to an earlier life of the daemon only"))
        ran = await self._run(requested, job)
        result = job.result = ran.result
        return Note(
            domain.NoteFinished(
                finished=events.Finished(
                    exit_code=result.exit_code,
                    timed_out=result.timed_out,
                    took_ms=ran.took_ms,
                    stdout_bytes=result.stdout_bytes,
                    stderr_bytes=result.stderr_bytes,
                )
            )
        )

    async def _run(self, requested: events.Requested, job: Job) -> Ran:
        container = self._containers.get(requested.container_id).state
        if container.declared is None or not container.running:
            raise WrongState("container", requested.container_id, wants="running", is_now=container.phase)
        order = self._effects.order(container.declared)
        process = dict(self._host.runtime.read_bundle(order)["process"])
        process["args"] = list(job.argv)
        process["terminal"] = False
        clock = self._host.clock
        began_ns, began_boot_ns = clock.wall_ns(), clock.boot_ns()
        result = await self._host.runtime.exec_sync(
            order, requested.exec_id, ExecProcess(spec=process), job.timeout_s, job.unwanted
        )
        took_ms = (clock.boot_ns() - began_boot_ns) // 1_000_000
        return Ran(result, began_ns=began_ns, ended_ns=clock.wall_ns(), took_ms=took_ms)

    async def sweep(self, requested: events.Requested) -> None:
        """End what an earlier life of the daemon left running of this command."""
        container = self._containers.find(ContainerId(requested.container_id))
        if container is not None and container.state.declared is not None:  # of one that is removed, nothing runs
            await self._host.runtime.abandon_exec(self._effects.order(container.state.declared), requested.exec_id)
