"""The log's only writer: gathers what actors append into one commit after the other.

While one commit runs, more requests gather; the next commit takes them all. No timer adds a delay: one append alone is
committed at once, a hundred at once share one flush of the disk. After a commit, in the Trio thread and without a
checkpoint in between: projections apply the events, the callers are woken, the feed is told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

import outcome
import trio

from ocid.domain.confidential import Beside
from ocid.domain.merkle import Frontier
from ocid.errors import Exhausted, Unavailable
from ocid.events.base import Event
from ocid.events.envelope import Context, Envelope
from ocid.ids import Digest, PodId, StreamId
from ocid.journal import trim
from ocid.journal.feed import Feed
from ocid.journal.pending import Log, Pending, Snapshot, VersionConflict, prepare
from ocid.journal.store import Store
from ocid.journal.worker import Runner, Worker
from ocid.ports import Clock

BATCH_MAX: Final = 256  # requests in one commit
TRIMMED_AT_ONCE: Final = 64  # records in one transaction, so that nobody's append waits long
QUEUE_MAX: Final = 1024  # requests waiting; more callers wait before they are queued

REPLAY_CHUNK: Final = 2048
_STOPPING: Final = "the log is closed: the daemon is stopping"

Apply = Callable[[Envelope], None]
Scrub = Callable[[Event], Event]


def _as_it_is(event: Event) -> Event:
    return event


class Writer:
    """Implements the port ``Journal`` over a ``Log``. Exactly one task runs ``run``."""

    def __init__(
        self,
        log: Log,
        clock: Clock,
        *,
        runner: Callable[[], Runner] = Worker,
        strict: bool = False,
        scrub: Scrub = _as_it_is,
    ) -> None:
        """Write *log*, which nobody else writes.

        Args:
            log: on disk or in memory.
            clock: read once for each commit.
            runner: says where the log's blocking calls run.
            scrub: takes what must not be written down out of an event, whoever says it.
            strict: makes an event that is too large an ``AssertionError``, for simulations.
        """
        self._log = log
        self._clock = clock
        self._strict = strict
        self._scrub = scrub
        self._applies: list[Apply] = []
        self._queue: deque[_Ask] = deque()
        self._room = trio.lowlevel.ParkingLot()
        self._idle: trio.lowlevel.Task | None = None  # the writer's task, while it waits for something to do
        self._ended = False
        self._failed = False
        self._make_runner = runner
        self._runner: Runner | None = None
        self.feed = Feed(self._read_chunk, log.last()[0])

    @property
    def last_seq(self) -> int:
        """The newest committed and applied seq; 0 for an empty log."""
        return self.feed.last_seq

    def head(self) -> Frontier:
        """See ``ocid.ports.TreeJournal.head``."""
        return self._log.head()

    def subscribe(self, apply: Apply) -> None:
        """Call *apply* with each committed envelope, before its ``append`` returns, after those subscribed earlier.

        It is a projection: it must not fail, and if it does the daemon ends.
        """
        self._applies.append(apply)

    async def append(
        self,
        stream: StreamId,
        expected_version: int,
        events: Sequence[Event],
        context: Context,
        documents: Sequence[Beside] = (),
    ) -> tuple[Envelope, ...]:
        """See ``ocid.ports.Journal.append``.

        Raises:
            Exhausted: an event or a document is too large.
            Unavailable: the writer has ended.
            AssertionError: *expected_version* is not the stream's version; nothing was written.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            pending = prepare(stream, expected_version, [self._scrub(one) for one in events], context, documents)
        except Exhausted as error:
            if self._strict:
                raise AssertionError(str(error)) from error
            raise
        while len(self._queue) >= QUEUE_MAX:
            await self._room.park()
        return await self._ask(pending)

    async def drained(self) -> None:
        """Return when all that was appended before is committed and applied, or refused.

        An actor that was cancelled in ``append`` is restarted from its stream only after this.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._ask(None)

    def document(self, digest: Digest) -> bytes:
        """See ``ocid.ports.Journal.document``."""
        return self._log.document(digest)

    async def confidences(self, pod_id: PodId) -> int:
        """See ``ocid.ports.log.ErasingJournal.confidences``."""
        return await self._running().read(self._log.confidences, pod_id)

    async def sweep_erased(self, limit: int) -> int:
        """See ``ocid.ports.log.ErasingJournal.sweep_erased``."""
        return await self._running().write(self._log.sweep_erased, limit)

    async def used(self) -> tuple[int, int]:
        """See ``ocid.ports.retention.TrimJournal.used``."""
        store = self._trimmable()
        return await self._running().read(lambda: (store.used_bytes(), store.trimmed()[0]))

    async def last_block(self, before_ns: int, count: int) -> int:
        """See ``ocid.ports.retention.TrimJournal.last_block``."""
        return await self._running().read(trim.last_block, self._trimmable(), before_ns, count)

    def steps(self, through: int, kept: Collection[int]) -> Iterator[int]:
        """See ``ocid.ports.retention.TrimJournal.steps``."""
        return trim.steps(self._trimmable(), through, kept, TRIMMED_AT_ONCE)

    async def step(self, steps: Iterator[int]) -> bool:
        """See ``ocid.ports.retention.TrimJournal.step``."""
        return await self._running().write(next, steps, None) is not None

    async def watch_documents(self, *, watch: bool) -> None:
        """See ``ocid.ports.retention.TrimJournal.watch_documents``."""
        await self._running().write(self._trimmable().watch_documents, watch=watch)

    async def drop(self, documents: Sequence[bytes], pods: Sequence[PodId]) -> None:
        """See ``ocid.ports.retention.TrimJournal.drop``."""
        for start in range(0, len(documents), TRIMMED_AT_ONCE):
            await self._running().write(self._trimmable().drop_documents, documents[start : start + TRIMMED_AT_ONCE])
        for pod_id in pods:
            await self._running().write(self._trimmable().drop_confidences, (pod_id,))

    def _trimmable(self) -> Store:
        assert isinstance(self._log, Store), "a log in memory is not trimmed"
        return self._log

    def read_stream(self, stream: StreamId, after_version: int = 0) -> list[Envelope]:
        """Return the committed events of *stream* after *after_version*."""
        return self._log.read_stream(stream, after_version)

    def replay(self, from_seq: int = 1) -> Iterator[Envelope]:
        """Iterate over what is committed now, from *from_seq* on, without Trio: for the daemon's start.

        Raises:
            Damaged: a record is not what was written; see ``ocid.journal.opening.Opened.suspect``.
        """
        while chunk := self._log.read(from_seq, REPLAY_CHUNK):
            yield from chunk
            from_seq = chunk[-1].seq + 1

    async def put_snapshot(self, name: str, schema_hash: bytes, seq: int, state: bytes) -> None:
        """Keep the state of projection *name* as of *seq*; the newest two are kept."""
        await self._running().write(self._log.put_snapshot, name, schema_hash, seq, state)

    def snapshot(self, name: str, schema_hash: bytes) -> Snapshot | None:
        """Return the newest snapshot of projection *name* that was made with this schema."""
        return self._log.snapshot(name, schema_hash)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit what is appended, until cancelled; a commit under way is finished, applied and acknowledged first.

        A commit or a projection that fails ends this with its error, and nobody is answered any more, until the nursery
        that holds this and them cancels them. The daemon must end then, for what is durable is unknown.
        """
        assert self._runner is None, "the journal's writer runs already"
        runner = self._runner = self._make_runner()
        try:
            task_status.started()
            while True:
                if not self._queue:
                    await self._wait_for_work()
                await trio.lowlevel.checkpoint_if_cancelled()
                await self._commit_batch(runner)
        except trio.Cancelled:
            for ask in self._queue:  # none of these reached the log
                ask.settle(outcome.Error(Unavailable(_STOPPING)))
            raise
        except BaseException:
            self._failed = True
            raise
        finally:
            self._ended = True
            self._queue.clear()
            self._room.unpark_all()
            runner.close()

    # --- inside ---

    async def _ask(self, pending: Pending | None) -> tuple[Envelope, ...]:
        if self._failed:
            await trio.sleep_forever()
        if self._ended:
            raise Unavailable(_STOPPING)
        ask = _Ask(pending)
        self._queue.append(ask)
        if self._idle is not None:
            trio.lowlevel.reschedule(self._idle)
            self._idle = None
        return await ask.wait()

    async def _wait_for_work(self) -> None:
        self._idle = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._idle = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def _commit_batch(self, runner: Runner) -> None:
        """Commit what is queued, apply it, wake those who wait for it."""
        asks = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_MAX))]
        self._room.unpark(count=len(asks))
        written: list[tuple[Envelope, ...]] = []
        while batch := [ask.pending for ask in asks if ask.pending is not None]:
            try:
                with trio.CancelScope(shield=True):
                    written = await runner.write(
                        self._log.append_batch, batch, self._clock.wall_ns(), self._clock.boot_ns()
                    )
                break
            except VersionConflict as conflict:  # the bug of one caller; nothing was written for anybody yet
                refused = next(ask for ask in asks if ask.pending is batch[conflict.index])
                asks.remove(refused)
                refused.settle(outcome.Error(conflict))
        committed = [envelope for envelopes in written for envelope in envelopes]
        for envelope in committed:
            for apply in self._applies:
                apply(envelope)
        results = iter(written)
        for ask in asks:
            ask.settle(outcome.Value(() if ask.pending is None else next(results)))
        self.feed.publish(committed)

    async def _read_chunk(self, from_seq: int, limit: int) -> list[Envelope]:
        return await self._running().read(self._log.read, from_seq, limit)

    def _running(self) -> Runner:
        if self._runner is None or self._ended:
            raise Unavailable("the log's writer does not run")
        return self._runner


class _Ask:
    """One caller's request, and the caller's task while it waits. Without events, it only waits for its turn."""

    __slots__ = ("_task", "pending")

    def __init__(self, pending: Pending | None) -> None:
        self.pending = pending
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> tuple[Envelope, ...]:
        """Return the envelopes. A caller that is cancelled stops waiting; the request stays."""
        self._task = trio.lowlevel.current_task()
        result: tuple[Envelope, ...] = await trio.lowlevel.wait_task_rescheduled(self._abandon)
        return result

    def settle(self, result: outcome.Outcome[tuple[Envelope, ...]]) -> None:
        """Wake the caller with *result*, if it still waits."""
        if self._task is not None:
            trio.lowlevel.reschedule(self._task, result)
            self._task = None

    def _abandon(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED
