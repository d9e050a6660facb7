"""The node's own stream has one writer, whoever asks it to write."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from ocid.actors.recorder import QUEUE_MAX, Recorder
from ocid.events.node import NODE, Stopped
from tests.fakes.toy import Ledger


async def test_events_are_appended_one_after_the_other(ledger: Ledger, autojump_clock: MockClock) -> None:
    recorder = Recorder(ledger, 0)
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(recorder.append, Stopped(reason=str(number)))

    assert [one.version for one in ledger.read_stream(NODE)] == [1, 2, 3, 4, 5]


async def test_what_is_recorded_is_appended_soon(ledger: Ledger, autojump_clock: MockClock) -> None:
    recorder = Recorder(ledger, 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run)
        recorder.record(Stopped(reason="x"))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()

    assert ledger.facts() == [Stopped(reason="x")]


async def test_a_caller_that_goes_away_leaves_the_version_right(ledger: Ledger, autojump_clock: MockClock) -> None:
    ledger.commit_s = 1.0
    recorder = Recorder(ledger, 0)
    with trio.move_on_after(0.5):
        await recorder.append(Stopped(reason="cut short, but durable"))
    with trio.move_on_after(0.0):
        await recorder.append(Stopped(reason="never began, or did"))
    envelope = await recorder.append(Stopped(reason="whole"))

    assert envelope.version == len(ledger.read_stream(NODE))


async def test_a_log_that_failed_does_not_keep_it_from_being_cancelled(
    ledger: Ledger, autojump_clock: MockClock
) -> None:
    ledger.broken = True
    with trio.fail_after(10), trio.move_on_after(1):
        await Recorder(ledger, 0).append(Stopped(reason="x"))


async def test_a_storm_is_dropped_and_counted(ledger: Ledger, autojump_clock: MockClock) -> None:
    recorder = Recorder(ledger, 0)
    for _ in range(QUEUE_MAX + 7):
        recorder.record(Stopped(reason="x"))

    assert recorder.dropped == 7
