"""Commands that their clients run again and again, as the kubelet runs probes: one stream for all of them, and a count.

The first run of a command is written as any other. The second of the same client, container, words and time limit has
a stream that stays open, and all further ones run in it, one at a time: they are counted here, and the count is written
once a minute, before an outcome that differs, and at the end. So a probe that says nothing new costs no commit. What is
not written yet when the daemon dies is lost, a minute's counts at most, and the next life says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from ocid.actors.actor import Note
from ocid.actors.directory import Kind
from ocid.actors.host import Host
from ocid.actors.repeating import FLUSH_S, IDLE_S, Call, Job, Key, Probe, Ran
from ocid.domain import exec as domain
from ocid.domain.confidential import Document
from ocid.domain.container import Container
from ocid.domain.exec import Exec
from ocid.errors import OcidError, Unavailable, revive
from ocid.events import exec as events
from ocid.events.envelope import Context
from ocid.ids import ContainerId, ExecId
from ocid.ports import ExecResult

PER_CONTAINER_MAX: Final = 64  # commands that are counted at once; what is more is written run by run
PER_NODE_MAX: Final = 4096
SEEN_MAX: Final = 4096  # commands remembered that ran once, newest first
RENEW_S: Final = 86_400.0  # age of a stream after which the next one begins, so that none grows forever
REPORTS_MAX: Final = 1440  # records in one stream, with the same consequence
STOP_S: Final = 2.0  # for the counts to be written when the daemon stops

log = logging.getLogger(__name__)


Run = Callable[[events.Requested, Job], Awaitable[Ran]]
Describe = Callable[[ExecId, ExecId], tuple[events.Requested, Document]]  # (id, id of what it repeats)


class Probes:
    """All commands that repeat, and those that ran once and may."""

    def __init__(
        self,
        host: Host,
        execs: Kind[Exec],
        containers: Kind[Container],
        jobs: dict[ExecId, Job],
        nursery: trio.Nursery,
    ) -> None:
        """*jobs* are those of first runs, for who runs them; what watches and writes counts runs in *nursery*."""
        self._host = host
        self._execs = execs
        self._containers = containers
        self._jobs = jobs
        self._seen: OrderedDict[Key, tuple[ExecId, float]] = OrderedDict()  # how it was called, when it ended
        self._open: dict[ExecId, Probe] = {}
        self._by_key: dict[Key, Probe] = {}
        self._of: Counter[ContainerId] = Counter()
        self._watched: set[ContainerId] = set()
        self._nursery = nursery
        self._some = trio.Event()  # set while any is open
        nursery.start_soon(self._keep)

    # --- for the facade ----------------------------------------------------------------------------------------------

    async def run(self, container_id: ContainerId, job: Job, describe: Describe, context: Context) -> ExecResult:
        """Run a command and return what came of it. Cancelled, the command is killed.

        Args:
            container_id: of a running one.
            job: the command.
            describe: makes the event, and the document that it cites, of a run that is written.
            context: of the call.
        Raises:
            OcidError: it could not be run, or nobody knows how it ended.
        """
        key = _key(context.who, container_id, job) if self._host.settings.coalesce_probes else None
        probe = None if key is None else self._by_key.get(key)
        try:
            if probe is not None and probe.ready:
                return await self._again(probe, job, context)
            return await self._anew(key, container_id, job, describe, context)
        except trio.Cancelled:
            job.unwanted.set()
            raise

    async def _again(self, probe: Probe, job: Job, context: Context) -> ExecResult:
        call, actor = probe.ask(job, context), self._execs.get(probe.exec_id)
        await call.settled.wait()
        if call.error is not None:
            await actor.until(lambda one: one.ended)
            raise call.error
        if job.result is None:
            raise Unavailable("the command was lost")
        return job.result

    async def _anew(
        self, key: Key | None, container_id: ContainerId, job: Job, describe: Describe, context: Context
    ) -> ExecResult:
        exec_id, repeats = ExecId(self._host.new_id(32)), self._before(key)
        requested, document = describe(exec_id, repeats)
        probe = Probe(key, exec_id) if key is not None and repeats else None
        if probe is not None:
            self._enter(probe)
        self._jobs[exec_id] = job
        actor = self._execs.create(exec_id)
        try:
            await actor.ask(domain.Run(requested=requested), context, (document,))
            end = await actor.until(lambda one: one.answered)
        finally:
            if actor.state.answered:
                self._jobs.pop(exec_id, None)
        if end.finished is not None and job.result is not None:
            if probe is not None:
                probe.serving = True  # its actor is about to be
            elif key is not None:
                self._remember(key, exec_id)
            return job.result
        if end.failed is not None:
            raise revive(end.failed.error, end.failed.message)
        raise Unavailable(end.abandoned.reason if end.abandoned is not None else "the command was lost")

    def _before(self, key: Key | None) -> ExecId:
        """Return what the command repeats, if there is room to count it."""
        seen = None if key is None else self._seen.get(key)
        if key is None or seen is None or key in self._by_key:
            return ExecId("")
        fresh = trio.current_time() - seen[1] < IDLE_S
        room = len(self._open) < PER_NODE_MAX and self._of[key.container_id] < PER_CONTAINER_MAX
        return seen[0] if fresh and room else ExecId("")

    def _remember(self, key: Key, exec_id: ExecId) -> None:
        self._seen[key] = (exec_id, trio.current_time())
        self._seen.move_to_end(key)
        if len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)

    # --- for the actors ----------------------------------------------------------------------------------------------

    async def serve(self, requested: events.Requested, run: Run) -> Note:
        """Run the command whenever its client asks for it, until there is something that ends the stream."""
        probe = self._open.get(requested.exec_id)
        if probe is None:
            return Note(domain.NoteAbandoned(reason="the command was known to an earlier life of the daemon only"))
        probe.serving, probe.last_at = True, trio.current_time()
        try:
            while True:
                await probe.woken.wait()
                if probe.call is not None and (failed := await self._serve(probe, probe.call, requested, run)):
                    return failed
                probe.settle()
                if probe.ending:
                    return Note(domain.NoteEnded(repeated=probe.take(), reason=probe.ending))
        finally:
            probe.serving = False
            probe.settle()

    async def _serve(self, probe: Probe, call: Call, requested: events.Requested, run: Run) -> Note | None:
        actor = self._execs.get(probe.exec_id)
        try:
            ran = await run(requested, call.job)
        except OcidError as error:
            call.error = error
            return Note(domain.NoteFailed(error=type(error).__name__, message=error.message, repeated=probe.take()))
        result = ran.result
        if (result.exit_code, result.timed_out) == actor.state.outcome and not result.timed_out:
            probe.count(ran)
        else:
            changed = events.Changed(
                exit_code=result.exit_code,
                timed_out=result.timed_out,
                took_ms=ran.took_ms,
                stdout_bytes=result.stdout_bytes,
                stderr_bytes=result.stderr_bytes,
            )
            probe.reports += 1
            await actor.ask(domain.NoteChanged(repeated=probe.take(), changed=changed), call.context)
        call.job.result = result  # what is told is durable, or adds to a count
        return None

    def forget(self, exec_id: ExecId) -> None:
        """Let go of a stream that is over, or given up."""
        probe = self._open.pop(exec_id, None)
        if probe is None:
            return
        self._close(probe)
        probe.settle()
        container_id = probe.key.container_id
        self._of[container_id] -= 1
        if not self._of[container_id]:
            del self._of[container_id]
        if not self._open:
            self._some = trio.Event()

    def _enter(self, probe: Probe) -> None:
        container_id = probe.key.container_id
        self._open[probe.exec_id] = self._by_key[probe.key] = probe
        self._seen.pop(probe.key, None)
        self._of[container_id] += 1
        self._some.set()
        if container_id not in self._watched:
            self._watched.add(container_id)
            self._nursery.start_soon(self._watch, container_id)

    def _close(self, probe: Probe) -> None:
        if self._by_key.get(probe.key) is probe:
            del self._by_key[probe.key]

    # --- in the course of time ---------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Write counts down once a minute, and end what nobody runs any more, until cancelled."""
        while True:
            await self._some.wait()
            soonest = trio.current_time() + FLUSH_S - 1  # that what comes meanwhile can be due
            await trio.sleep_until(min([soonest, *(one.due for one in self._open.values())]))
            await self._look()

    async def _look(self) -> None:
        now = trio.current_time()
        async with trio.open_nursery() as nursery:  # all at once: they share commits
            for probe in list(self._open.values()):
                if probe.ready and probe.last_at + IDLE_S <= now:
                    self._end(probe, "idle")
                elif not probe.ending and (probe.reports >= REPORTS_MAX or probe.opened_at + RENEW_S <= now):
                    self._end(probe, "renewed")
                    self._remember(probe.key, probe.exec_id)
                elif probe.flush_at <= now:
                    nursery.start_soon(self._flush, probe)

    def _end(self, probe: Probe, reason: str) -> None:
        self._close(probe)
        probe.end(reason)

    async def _flush(self, probe: Probe) -> None:
        tally, actor = probe.take(), self._execs.find(probe.exec_id)
        if tally is None or actor is None:
            return
        try:
            await actor.ask(domain.NoteRepeated(repeated=tally), actor.follows)
        except OcidError as error:
            log.warning("%d runs of command %s are not in the log: %s", tally.count, probe.exec_id, error)

    async def _watch(self, container_id: ContainerId) -> None:
        """End the counting of what ran in a container as soon as it has ended itself."""
        actor = self._containers.find(container_id)
        if actor is not None:
            with contextlib.suppress(OcidError):  # given up: it may go on, but nobody will say when it ends
                await actor.until(lambda one: one.ended)
        self._watched.discard(container_id)
        for probe in [one for one in self._open.values() if one.key.container_id == container_id]:
            self._end(probe, "container")

    async def stop(self) -> None:
        """Write all counts down before the daemon stops. A run under way is left to the next life to end."""
        with trio.move_on_after(STOP_S):
            async with trio.open_nursery() as nursery:
                for probe in list(self._open.values()):
                    if probe.ready:
                        self._end(probe, "stop")
                        nursery.start_soon(self._until_over, probe.exec_id)
                    else:
                        nursery.start_soon(self._flush, probe)

    async def _until_over(self, exec_id: ExecId) -> None:
        actor = self._execs.find(exec_id)
        if actor is not None:
            try:
                await actor.until(lambda one: one.ended)
            except OcidError as error:
                log.warning("what command %s did lately is not in the log: %s", exec_id, error)


def _key(who: int, container_id: ContainerId, job: Job) -> Key:
    words = "\0".join(job.argv)  # no word has a zero: CRI requests that have are refused
    return Key(who, container_id, hashlib.sha256(words.encode()).digest(), job.timeout_s)
