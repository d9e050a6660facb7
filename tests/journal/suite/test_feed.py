"""Following the log: catch up, then live, never skipping and never holding up the writer."""

from __future__ import annotations

import trio
import trio.testing

from ocid.events.envelope import DAEMON, Envelope
from ocid.journal.feed import CHUNK
from ocid.journal.writer import Writer
from tests.journal.helpers import A, fact
from tests.journal.suite.conftest import Lives


async def fill(journal: Writer, count: int) -> None:
    start = len(journal.read_stream(A))
    for version in range(start, start + count, 100):
        events = [fact(number) for number in range(version, min(version + 100, start + count))]
        await journal.append(A, version, events, DAEMON)


async def take(journal: Writer, from_seq: int, count: int) -> list[Envelope]:
    taken = []
    if count:
        async for envelope in journal.feed.follow(from_seq):
            taken.append(envelope)
            if len(taken) == count:
                break
    return taken


async def test_a_follower_catches_up_and_goes_on_live(lives: Lives) -> None:
    async with lives() as journal:
        await fill(journal, CHUNK + 100)
    async with lives() as journal:
        seqs: list[int] = []

        async def follow() -> None:
            seqs.extend([each.seq for each in await take(journal, 1, CHUNK + 400)])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await fill(journal, 300)

        assert seqs == list(range(1, CHUNK + 401))


async def test_a_follower_may_begin_anywhere(journal: Writer) -> None:
    await fill(journal, 50)

    assert [each.seq for each in await take(journal, 40, 11)] == list(range(40, 51))
    assert [each.seq for each in await take(journal, -3, 2)] == [1, 2]


async def test_a_follower_of_the_future_waits_for_it(journal: Writer) -> None:
    seqs: list[int] = []

    async def follow() -> None:
        seqs.extend([each.seq for each in await take(journal, 12, 2)])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await fill(journal, 11)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert seqs == []
        await journal.append(A, 11, [fact(11), fact(12)], DAEMON)

    assert seqs == [12, 13]


async def test_a_slow_follower_falls_back_to_the_store_and_loses_nothing(journal: Writer) -> None:
    follower = journal.feed.follow(1)
    await fill(journal, 10)
    first = await anext(follower)

    await fill(journal, 9000)  # more than the feed keeps in memory
    rest = [await anext(follower) for _ in range(9009)]

    assert [each.seq for each in (first, *rest)] == list(range(1, 9011))


async def test_cancelling_a_follower_loses_nothing(journal: Writer) -> None:
    follower = journal.feed.follow(1)
    with trio.move_on_after(0.01) as scope:
        await anext(follower)
    assert scope.cancelled_caught

    await fill(journal, 3)

    assert [(await anext(follower)).seq for _ in range(3)] == [1, 2, 3]
    assert follower.next_seq == 4


async def test_what_is_handed_out_has_been_applied(journal: Writer) -> None:
    applied = [0]

    def apply(envelope: Envelope) -> None:
        applied[0] = envelope.seq

    journal.subscribe(apply)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fill, journal, 500)
        async for envelope in journal.feed.follow(1):
            assert envelope.seq <= applied[0]
            if envelope.seq == 500:
                break


async def test_waiting_for_a_seq(journal: Writer) -> None:
    await fill(journal, 2)
    with trio.fail_after(5):
        await journal.feed.wait_beyond(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.feed.wait_beyond, 2)
            await fill(journal, 1)
