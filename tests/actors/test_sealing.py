"""Who signs for the log, when, and what a rotated or a lost key leaves in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
from trio.testing import MockClock

from ocid.actors import sealing
from ocid.actors.sealing import Sealer
from ocid.domain import merkle, note
from ocid.domain.note import Key
from ocid.events import codec
from ocid.events.envelope import DAEMON
from ocid.events.log import LOG, Founded, KeyReplaced, KeyRotated, Sealed
from ocid.events.node import NODE, Stopped
from ocid.journal.memory import Disk, MemoryLog, memory_journal
from ocid.journal.signatures import verifies
from ocid.journal.writer import Writer
from ocid.projections.view import View
from tests.fakes.signers import FakeSigner, FakeSigners

ORIGIN = "ocid/node/0123456789ab"


class TrioClock:
    """Implements ``Clock`` on Trio's."""

    def wall_ns(self) -> int:
        return int(trio.current_time() * 1e9)

    def boot_ns(self) -> int:
        return self.wall_ns()


class Life:
    """One life of the daemon, as far as its log is concerned."""

    def __init__(self, journal: Writer, sealer: Sealer) -> None:
        self.journal, self.sealer = journal, sealer
        self.handed_on: list[str] = []
        sealer.published.append(self.handed_on.append)

    async def write(self, count: int = 1) -> None:
        known = len(self.journal.read_stream(NODE))
        for number in range(known, known + count):
            await self.journal.append(NODE, number, (Stopped(reason="x"),), DAEMON)

    def told(self) -> list[object]:
        return [one.event for one in self.journal.read_stream(LOG)]


@asynccontextmanager
async def life(
    disk: Disk,
    signers: FakeSigners,
    *,
    runs: bool = True,
    commit_s: float = 0.0,
    publish: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[Life]:
    journal = memory_journal(MemoryLog(disk), TrioClock(), commit_s=commit_s)
    view = View(journal.document)
    for envelope in journal.replay():
        view.apply(envelope)
    journal.subscribe(view.apply)
    sealer = Sealer(journal, view.sealing, signers, origin=ORIGIN)
    journal.subscribe(sealer.apply)
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        one = Life(journal, sealer)
        sealer.published.append(publish)
        await sealer.begin()
        if runs:
            nursery.start_soon(sealer.run)
        yield one
        nursery.cancel_scope.cancel()


def check(one: Life, sealed: Sealed, signer: FakeSigner) -> None:
    parsed = note.parse(one.journal.document(sealed.note).decode())
    assert parsed.signed_by(Key(ORIGIN, signer.public), verifies)
    head = note.checkpoint_of(parsed.text)
    assert (head.origin, head.size, head.root.hex()) == (ORIGIN, sealed.size, sealed.root)


async def test_a_log_is_founded_once(autojump_clock: MockClock) -> None:
    disk, signers = Disk(), FakeSigners()
    async with life(disk, signers) as one:
        founded, sealed = one.told()
        assert founded == Founded(origin=ORIGIN, key=Key(ORIGIN, FakeSigner(1).public).text())
        assert isinstance(sealed, Sealed)
        assert (sealed.size, sealed.occasion) == (1, "start")
        check(one, sealed, FakeSigner(1))
    async with life(disk, signers) as two:
        assert [type(each) for each in two.told()] == [Founded, Sealed, Sealed]


async def test_every_minute_as_long_as_something_happens(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with life(disk, FakeSigners()) as one:
        await trio.sleep(600)
        assert len(one.told()) == 2, "a checkpoint alone is no reason for another one"
        await one.write(3)
        await trio.sleep(61)
        last = one.told()[-1]
        assert isinstance(last, Sealed)
        assert (last.size, last.occasion) == (5, "time")
        leaves = [codec.hash_of(record) for record in disk.records[:5]]
        assert last.root == merkle.root_of(leaves).hex()
        check(one, last, FakeSigner(1))
        assert one.handed_on[-1] == one.journal.document(last.note).decode()
        await trio.sleep(600)
        assert one.told()[-1] == last


async def test_many_events_do_not_wait(autojump_clock: MockClock) -> None:
    async with life(Disk(), FakeSigners()) as one:
        await one.write(sealing.EVENTS_MAX)
        await trio.sleep(1)
        last = one.told()[-1]
        assert isinstance(last, Sealed)
        assert last.occasion == "events"
        assert last.size >= sealing.EVENTS_MAX


async def test_a_successor_is_vouched_for(autojump_clock: MockClock) -> None:
    disk, signers = Disk(), FakeSigners()
    async with life(disk, signers) as one:
        signers.keys.append(FakeSigner(2))
        await trio.sleep(61)
        rotated, sealed = one.told()[-2:]
        assert isinstance(rotated, KeyRotated)
        assert isinstance(sealed, Sealed)
        key = Key(ORIGIN, FakeSigner(2).public)
        assert rotated.key == key.text()
        vouched = note.parse(one.journal.document(rotated.note).decode())
        assert vouched.text == f"{key.text()}\n"
        assert vouched.signed_by(Key(ORIGIN, FakeSigner(1).public), verifies)
        assert sealed.occasion == "rotation"
        check(one, sealed, FakeSigner(2))
    assert len(signers.keys) == 1
    async with life(disk, signers) as two:
        assert isinstance(two.told()[-1], Sealed)
        assert not any(isinstance(each, KeyReplaced) for each in two.told())


async def test_a_rotation_that_a_crash_cut_in_two_is_finished(autojump_clock: MockClock) -> None:
    disk, signers = Disk(), FakeSigners()
    async with life(disk, signers) as one:
        signers.keys.append(FakeSigner(2))
        signers.advance = lambda: None  # type: ignore[method-assign]  # it dies before
        await trio.sleep(61)
        assert any(isinstance(each, KeyRotated) for each in one.told())
    del signers.advance  # type: ignore[method-assign]
    async with life(disk, signers) as two:
        assert len(signers.keys) == 1
        assert not any(isinstance(each, KeyReplaced) for each in two.told())
        last = two.told()[-1]
        assert isinstance(last, Sealed)
        check(two, last, FakeSigner(2))


async def test_a_lost_key_is_replaced_and_nobody_vouches_for_it(autojump_clock: MockClock) -> None:
    disk, signers = Disk(), FakeSigners()
    async with life(disk, signers):
        pass
    signers.keys = [FakeSigner(3)]
    async with life(disk, signers) as two:
        replaced = two.told()[-2]
        assert isinstance(replaced, KeyReplaced)
        assert replaced.key == Key(ORIGIN, FakeSigner(3).public).text()


async def test_a_seal_that_was_cut_short_does_not_stand_in_the_way_of_the_last(autojump_clock: MockClock) -> None:
    async with life(Disk(), FakeSigners(), runs=False, commit_s=1.0) as one:
        with trio.move_on_after(0.5):
            await one.sealer.seal("time")
        await one.sealer.seal("stop")
        sealed = [each for each in one.told() if isinstance(each, Sealed)]
        assert [each.occasion for each in sealed] == ["start", "time", "stop"]
        check(one, sealed[-1], FakeSigner(1))
