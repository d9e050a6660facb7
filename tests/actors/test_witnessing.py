"""Who is sent checkpoints, in what order, how often again, and what the log is told of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
from trio.testing import MockClock

from ocid.actors import witnessing
from ocid.actors.witnessing import Witnessing
from ocid.events.base import Event
from ocid.events.log import WitnessFailing, WitnessRecovered
from ocid.journal.memory import Disk
from tests.actors.test_sealing import TrioClock, life
from tests.fakes.signers import FakeSigners
from tests.fakes.witnesses import FakeWitness, checkpoint


class Running:
    """Witnesses that are served, and what the log was told."""

    def __init__(self, *witnesses: FakeWitness, jitter: Callable[[], float] = lambda: 1.0) -> None:
        self.told: list[Event] = []
        self.all = Witnessing(witnesses, TrioClock(), self.told.append, jitter)

    def publish(self, *sizes: int) -> None:
        for size in sizes:
            self.all.publish(checkpoint(size))


@asynccontextmanager
async def running(*witnesses: FakeWitness, jitter: Callable[[], float] = lambda: 1.0) -> AsyncIterator[Running]:
    one = Running(*witnesses, jitter=jitter)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.all.run)
        yield one
        nursery.cancel_scope.cancel()


async def test_every_witness_gets_every_checkpoint_while_it_keeps_up(autojump_clock: MockClock) -> None:
    newest, every = FakeWitness("a"), FakeWitness("b", keeps_all=True)
    async with running(newest, every) as one:
        for size in (1, 2, 3):
            one.publish(size)
            await trio.sleep(60)
        assert newest.kept == every.kept == [checkpoint(1), checkpoint(2), checkpoint(3)]
        assert [each.confirmed_size for each in one.all.standings()] == [3, 3]
        assert [each.waiting for each in one.all.standings()] == [0, 0]
        assert one.told == []


async def test_a_newer_checkpoint_takes_the_place_of_older_ones(autojump_clock: MockClock) -> None:
    newest, every = FakeWitness("a"), FakeWitness("b", keeps_all=True)
    newest.takes_s = every.takes_s = 5
    async with running(newest, every) as one:
        one.publish(1)
        await trio.sleep(1)
        one.publish(2, 3, 4)
        await trio.sleep(60)
        assert newest.kept == [checkpoint(1), checkpoint(4)]
        assert every.kept == [checkpoint(size) for size in (1, 2, 3, 4)]
        assert one.all.standings()[0].passed_over == 3  # the first was confirmed after it had given way


async def test_a_queue_has_a_limit(autojump_clock: MockClock) -> None:
    every = FakeWitness(keeps_all=True)
    every.fails()
    async with running(every) as one:
        one.publish(*range(1, witnessing.QUEUE_MAX + 11))
        await trio.sleep(1)
        standing = one.all.standings()[0]
        assert (standing.waiting, standing.passed_over) == (witnessing.QUEUE_MAX, 10)
        every.refuses = None
        await trio.sleep(120)
        assert every.kept == [checkpoint(size) for size in range(11, witnessing.QUEUE_MAX + 11)]


async def test_pauses_double_up_to_a_minute_and_are_jittered_in_full(autojump_clock: MockClock) -> None:
    for jitter, bounds in ((1.0, [1, 2, 4, 8, 16, 32, 60, 60, 60]), (0.5, [0.5, 1, 2, 4, 8, 16, 30, 30, 30])):
        witness = FakeWitness()
        witness.fails()
        async with running(witness, jitter=lambda jitter=jitter: jitter) as one:
            one.publish(1)
            await trio.sleep(400)
        pauses = [round(later - sooner, 6) for sooner, later in zip(witness.tried, witness.tried[1:], strict=False)]
        assert pauses[: len(bounds)] == bounds


async def test_success_begins_pauses_anew(autojump_clock: MockClock) -> None:
    witness = FakeWitness()
    witness.fails()
    async with running(witness) as one:
        one.publish(1)
        await trio.sleep(100)
        witness.refuses = None
        await trio.sleep(100)
        witness.fails()
        witness.tried.clear()
        one.publish(2)
        await trio.sleep(2)
        assert witness.tried[1] - witness.tried[0] == 1.0


async def test_a_witness_that_hangs_is_given_up_and_disturbs_no_other(autojump_clock: MockClock) -> None:
    hangs, works = FakeWitness("hangs"), FakeWitness("works")
    hangs.takes_s = 1e9
    async with running(hangs, works) as one:
        for size in range(1, 11):
            one.publish(size)
            await trio.sleep(60)
        assert len(works.kept) == 10
        assert hangs.kept == []
        standing = one.all.standings()[0]
        assert "does not confirm within 15 s" in standing.error
        assert standing.waiting == 1


async def test_the_log_is_told_after_ten_minutes_once_and_when_it_is_over(autojump_clock: MockClock) -> None:
    witness = FakeWitness()
    async with running(witness) as one:
        one.publish(5)
        await trio.sleep(1)
        witness.fails("nobody\nthere \x1b[31m")
        one.publish(9)
        await trio.sleep(witnessing.FAILING_S - 2)
        assert one.told == []
        await trio.sleep(3600)
        assert one.told == [WitnessFailing(sink="one", error="nobody?there ?[31m", unconfirmed_since_size=5)]
        witness.refuses = None
        await trio.sleep(61)
        assert one.told[1:] == [WitnessRecovered(sink="one", confirmed_size=9)]
        assert one.all.standings()[0].failures == 0


async def test_a_short_failure_is_nothing_for_the_log(autojump_clock: MockClock) -> None:
    witness = FakeWitness()
    async with running(witness) as one:
        for size in range(1, 40):  # fails half of the time, for hours
            witness.fails()
            one.publish(size)
            await trio.sleep(300)
            witness.refuses = None
            await trio.sleep(300)
        assert one.told == []


async def test_a_fault_of_our_own_is_a_failure_and_its_words_stay_here(autojump_clock: MockClock) -> None:
    witness = FakeWitness()
    witness.refuses = ValueError("s3cret")
    async with running(witness) as one:
        one.publish(1)
        await trio.sleep(1000)
        assert [type(each) for each in one.told] == [WitnessFailing]
        assert "s3cret" not in repr(one.told) + repr(one.all.standings())
        assert "ValueError" in one.all.standings()[0].error


async def test_the_stop_waits_for_three_seconds_at_most(autojump_clock: MockClock) -> None:
    works, fails, hangs = FakeWitness("works", keeps_all=True), FakeWitness("fails"), FakeWitness("hangs")
    fails.fails()
    hangs.takes_s = 1e9
    one = Running(works, fails, hangs)
    one.publish(1, 2)
    began = trio.current_time()
    await one.all.finish()
    assert trio.current_time() - began == witnessing.LAST_S
    assert works.kept == [checkpoint(2), checkpoint(1)], "the newest first"
    assert len(fails.tried) == 1, "one last try"
    began = trio.current_time()
    await Running(works).all.finish()
    assert trio.current_time() == began, "nothing to send, nothing to wait for"


async def test_nobody_waits_for_a_witness(autojump_clock: MockClock) -> None:
    hangs = FakeWitness()
    hangs.takes_s = 1e9
    async with running(hangs) as one, life(Disk(), FakeSigners()) as daemon:
        daemon.sealer.published.append(one.all.publish)
        for _ in range(5):
            await daemon.write()
            began = trio.current_time()
            await daemon.sealer.seal("time")
            assert trio.current_time() == began
        assert one.all.standings()[0].waiting == 1


async def test_what_a_crash_kept_from_a_witness_it_gets_after_the_start(autojump_clock: MockClock) -> None:
    disk, signers, witness = Disk(), FakeSigners(), FakeWitness()
    async with life(disk, signers) as daemon:
        await daemon.write(7)
        await daemon.sealer.seal("time")  # and it dies before anybody is sent this
        unsent = daemon.handed_on[-1]
    one = Running(witness)
    async with life(disk, signers, publish=one.all.publish) as daemon, trio.open_nursery() as nursery:
        nursery.start_soon(one.all.run)
        await trio.sleep(1)
        assert len(witness.kept) == 1
        assert size(witness.kept[0]) > size(unsent)
        nursery.cancel_scope.cancel()


def size(note: str) -> int:
    return int(note.split("\n")[1])
