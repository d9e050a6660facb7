"""What the writer does when commits fail, when the daemon stops, and how batches form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lmdb
import pytest
import trio
import trio.testing

from ocid.events.envelope import DAEMON, Envelope
from ocid.ids import StreamId
from ocid.journal.memory import Crash, Disk, MemoryLog, memory_journal
from ocid.journal.pending import Pending
from ocid.journal.store import Store
from ocid.journal.writer import BATCH_MAX, QUEUE_MAX, Writer
from tests.journal.helpers import BOOT, A, FakeClock, fact


async def test_a_failed_commit_answers_nobody_and_ends_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path, boot_id=BOOT, map_bytes=64 << 20)
    journal = Writer(store, FakeClock())
    applied: list[Envelope] = []
    journal.subscribe(applied.append)
    answered = []

    async def caller(number: int) -> None:
        await journal.append(StreamId(f"pod/{number}"), 0, [fact(number)], DAEMON)
        answered.append(number)

    def fail(*_: object) -> None:
        raise lmdb.DiskError("Input/output error")

    monkeypatch.setattr(store, "_put", fail)
    with pytest.RaisesGroup(lmdb.DiskError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller, 1)
            nursery.start_soon(caller, 2)
            await nursery.start(journal.run)

    assert (answered, applied) == ([], [])
    monkeypatch.undo()
    with pytest.raises(AssertionError, match="nothing is known of the log's pages"):
        store.append_batch([], 1, 1)
    store.close()


async def test_a_commit_under_way_is_finished_when_the_daemon_stops(tmp_path: Path) -> None:
    store = Store(tmp_path, boot_id=BOOT, map_bytes=64 << 20)
    journal = Writer(store, FakeClock())
    applied: list[int] = []
    journal.subscribe(lambda envelope: applied.append(envelope.seq))
    begun = trio.Event()

    async def caller() -> None:
        begun.set()
        await journal.append(A, 0, [fact(1)], DAEMON)

    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        nursery.start_soon(caller)
        await begun.wait()
        await trio.lowlevel.checkpoint()  # now the writer has taken it
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()

    assert applied == [each.seq for each in store.read(1)] == [1]
    store.close()


async def test_batches_form_while_a_commit_runs(autojump_clock: trio.testing.MockClock) -> None:
    sizes: list[int] = []

    class Counting(MemoryLog):
        def append_batch(self, batch: Sequence[Pending], wall_ns: int, boot_ns: int) -> list[tuple[Envelope, ...]]:
            sizes.append(len(batch))
            return super().append_batch(batch, wall_ns, boot_ns)

    journal = memory_journal(Counting(), FakeClock(), commit_s=1.0)
    total = QUEUE_MAX + 2 * BATCH_MAX

    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        async with trio.open_nursery() as callers:
            for number in range(total):
                callers.start_soon(journal.append, StreamId(f"pod/{number}"), 0, [fact(number)], DAEMON)
        nursery.cancel_scope.cancel()

    assert sum(sizes) == total
    assert max(sizes) == BATCH_MAX
    assert trio.current_time() == pytest.approx(len(sizes))
    assert len(sizes) <= total // BATCH_MAX + 2


async def test_the_queue_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    journal = memory_journal(MemoryLog(), FakeClock(), commit_s=1.0)
    longest = 0

    async def watch() -> None:
        nonlocal longest
        while True:
            longest = max(longest, len(journal._queue))
            await trio.sleep(0.25)

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as callers:
            for number in range(3 * QUEUE_MAX):
                callers.start_soon(journal.append, StreamId(f"pod/{number}"), 0, [fact(number)], DAEMON)
            await trio.testing.wait_all_tasks_blocked()
            assert len(journal._queue) == QUEUE_MAX
            nursery.start_soon(watch)
            await nursery.start(journal.run)
        nursery.cancel_scope.cancel()

    assert longest <= QUEUE_MAX
    assert journal.last_seq == 3 * QUEUE_MAX


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("commit", [1, 2, 3])
async def test_a_crash_around_a_commit(autojump_clock: trio.testing.MockClock, when: str, commit: int) -> None:
    def crash(number: int) -> None:
        if number == commit:
            raise Crash

    disk = Disk()
    before, after = (crash, None) if when == "before" else (None, crash)
    journal = memory_journal(MemoryLog(disk, before_commit=before, after_commit=after), FakeClock())
    applied: list[int] = []
    acknowledged: list[int] = []
    journal.subscribe(lambda envelope: applied.append(envelope.seq))

    async def actor() -> None:
        for version in range(5):
            acknowledged.extend([each.seq for each in await journal.append(A, version, [fact(version)], DAEMON)])

    with pytest.RaisesGroup(Crash, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run)
            nursery.start_soon(actor)

    assert acknowledged == applied == list(range(1, commit))
    again = MemoryLog(disk)
    assert again.last()[0] == commit - (when == "before")
    assert again.epoch == 2


async def test_a_disk_that_fails_in_memory(autojump_clock: trio.testing.MockClock) -> None:
    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    log = MemoryLog(before_commit=fail)
    journal = memory_journal(log, FakeClock())

    with pytest.RaisesGroup(OSError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run)
            nursery.start_soon(journal.append, A, 0, [fact(1)], DAEMON)

    assert log.last()[0] == 0


async def test_in_memory_an_event_that_is_too_large_is_a_bug() -> None:
    journal = memory_journal(MemoryLog(), FakeClock())

    with pytest.raises(AssertionError, match="move long fields to a document"):
        await journal.append(A, 0, [fact("x" * 3000)], DAEMON)
