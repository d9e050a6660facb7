"""What an append promises."""

from __future__ import annotations

import hashlib

import pytest
import trio
import trio.testing

from ocid.errors import NotFound, Unavailable
from ocid.events import codec
from ocid.events.envelope import DAEMON, Context, Envelope
from ocid.events.node import RequestRefused
from ocid.ids import Digest, StreamId
from ocid.journal.writer import Writer
from tests.journal.helpers import BOOT, CONTEXT, A, B, fact
from tests.journal.suite.conftest import Lives


async def test_events_come_back_in_their_envelopes(journal: Writer) -> None:
    origin = Context(who=3, correlation="c0ffee", cause=2, command_id="k")

    first, second = await journal.append(A, 0, [fact(1), fact(2)], origin)
    (third,) = await journal.append(B, 0, [fact(3)], DAEMON)

    assert [each.seq for each in (first, second, third)] == [1, 2, 3]
    assert [(each.stream, each.version) for each in (first, second, third)] == [(A, 1), (A, 2), (B, 1)]
    assert [each.event for each in (first, second, third)] == [fact(1), fact(2), fact(3)]
    assert (first.context, third.context) == (origin, DAEMON)
    assert (first.type, first.type_version) == ("node.orphan_found", 1)
    assert (first.boot_id, first.epoch) == (BOOT, 1)
    assert first.wall_ns == second.wall_ns < third.wall_ns


async def test_what_was_appended_can_be_read(journal: Writer) -> None:
    written = [*await journal.append(A, 0, [fact(1), fact(2)], CONTEXT), *await journal.append(B, 0, [fact(3)], DAEMON)]

    assert list(journal.replay(1)) == written
    assert list(journal.replay(3)) == written[2:]
    assert journal.read_stream(A) == written[:2]
    assert journal.read_stream(A, after_version=1) == written[1:2]
    assert journal.read_stream(StreamId("pod/none")) == []
    assert journal.last_seq == 3


async def test_streams_with_a_common_beginning_stay_apart(journal: Writer) -> None:
    await journal.append(StreamId("pod/a"), 0, [fact(1)], DAEMON)
    await journal.append(StreamId("pod/ab"), 0, [fact(2)], DAEMON)
    await journal.append(StreamId("pod/a"), 1, [fact(3)], DAEMON)

    assert [each.event for each in journal.read_stream(StreamId("pod/a"))] == [fact(1), fact(3)]
    assert [each.event for each in journal.read_stream(StreamId("pod/ab"))] == [fact(2)]


async def test_the_next_life_goes_on_where_the_last_ended(lives: Lives) -> None:
    async with lives() as journal:
        before = await journal.append(A, 0, [fact(1), fact(2)], CONTEXT)
    async with lives() as journal:
        assert journal.last_seq == 2
        (after,) = await journal.append(A, 2, [fact(3)], CONTEXT)

        assert (after.seq, after.version, after.epoch) == (3, 3, 2)
        assert list(journal.replay(1)) == [*before, after]


@pytest.mark.parametrize("expected", [0, 2])
async def test_another_version_is_a_bug_of_that_caller_alone(journal: Writer, expected: int) -> None:
    await journal.append(A, 0, [fact(1)], DAEMON)
    good: list[Envelope] = []

    async def other() -> None:
        good.extend(await journal.append(B, 0, [fact(2)], DAEMON))

    async def wrong() -> None:
        with pytest.raises(AssertionError, match=f"'pod/a' is at version 1, not {expected}"):
            await journal.append(A, expected, [fact(3)], DAEMON)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        nursery.start_soon(wrong)

    assert [each.event for each in journal.replay(1)] == [fact(1), fact(2)]
    assert [each.seq for each in good] == [2]


async def test_two_writers_of_one_stream_at_once_are_found(journal: Writer) -> None:
    refused = 0

    async def one(number: int) -> None:
        nonlocal refused
        try:
            await journal.append(A, 0, [fact(number)], DAEMON)
        except AssertionError:
            refused += 1

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(one, number)

    assert refused == 4
    assert journal.last_seq == 1


async def test_projections_have_applied_it_when_append_returns(journal: Writer) -> None:
    applied: list[tuple[str, int]] = []
    journal.subscribe(lambda envelope: applied.append(("first", envelope.seq)))
    journal.subscribe(lambda envelope: applied.append(("second", envelope.seq)))

    await journal.append(A, 0, [fact(1), fact(2)], DAEMON)

    assert applied == [("first", 1), ("second", 1), ("first", 2), ("second", 2)]


async def test_many_at_once_get_contiguous_numbers(journal: Writer) -> None:
    async def actor(number: int) -> None:
        for version in range(5):
            (envelope,) = await journal.append(StreamId(f"pod/{number}"), version, [fact(version)], DAEMON)
            assert envelope.version == version + 1

    applied: list[int] = []
    journal.subscribe(lambda envelope: applied.append(envelope.seq))
    async with trio.open_nursery() as nursery:
        for number in range(300):
            nursery.start_soon(actor, number)

    assert applied == list(range(1, 1501))
    assert [each.seq for each in journal.replay(1)] == applied


async def test_a_cancelled_append_becomes_durable_and_is_applied(journal: Writer) -> None:
    applied: list[int] = []
    journal.subscribe(lambda envelope: applied.append(envelope.seq))

    async def caller(scope: trio.CancelScope, begun: trio.Event) -> None:
        with scope:
            begun.set()
            await journal.append(A, 0, [fact(1)], DAEMON)
            raise AssertionError("it was not cancelled")

    scope, begun = trio.CancelScope(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller, scope, begun)
        await begun.wait()
        scope.cancel()

    await journal.drained()

    assert applied == [1]
    assert len(journal.read_stream(A)) == 1


async def test_a_caller_that_is_cancelled_already_appends_nothing(journal: Writer) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await journal.append(A, 0, [fact(1)], DAEMON)
    await journal.drained()

    assert scope.cancelled_caught
    assert journal.last_seq == 0


async def test_after_the_writer_ended_appending_is_refused(lives: Lives) -> None:
    async with lives() as journal:
        pass

    with pytest.raises(Unavailable, match="the daemon is stopping"):
        await journal.append(A, 0, [fact(1)], DAEMON)


async def test_a_projection_that_fails_ends_the_daemon(lives: Lives) -> None:
    def fail(_: Envelope) -> None:
        raise ValueError("a bug")

    with pytest.RaisesGroup(ValueError, flatten_subgroups=True):
        async with lives() as journal:
            journal.subscribe(fail)
            await journal.append(A, 0, [fact(1)], DAEMON)


async def test_documents_are_kept_under_their_digest(journal: Writer) -> None:
    digest = Digest("sha256:" + hashlib.sha256(b"{}").hexdigest())
    with pytest.raises(NotFound, match="document 'sha256:44136"):
        journal.document(digest)

    await journal.append(A, 0, [fact(1)], DAEMON, [b"{}", b"other"])
    await journal.append(A, 1, [fact(2)], DAEMON, [b"{}"])

    assert journal.document(digest) == b"{}"


async def test_free_text_is_cut_to_fit(journal: Writer) -> None:
    (envelope,) = await journal.append(A, 0, [RequestRefused(rpc="r", error="e", message="x" * 9000 + "end")], DAEMON)

    assert isinstance(envelope.event, RequestRefused)
    assert envelope.event.message.endswith("xend")
    assert journal.read_stream(A) == [envelope]
    assert len(codec.encode(envelope)) <= codec.RECORD_BYTES_MAX


async def test_nothing_to_append_is_a_bug(journal: Writer) -> None:
    with pytest.raises(AssertionError, match="0 events in one append"):
        await journal.append(A, 0, [], DAEMON)


async def test_snapshots_count_only_for_their_schema(journal: Writer) -> None:
    await journal.append(A, 0, [fact(version) for version in range(9)], DAEMON)
    assert journal.snapshot("pods", b"v1") is None

    await journal.put_snapshot("pods", b"v1", 3, b"three")
    await journal.put_snapshot("pods", b"v2", 5, b"five")
    await journal.put_snapshot("pod", b"v1", 6, b"of another projection")

    one, two = journal.snapshot("pods", b"v1"), journal.snapshot("pods", b"v2")
    assert one is not None
    assert two is not None
    assert (one.seq, one.state, two.seq, two.state) == (3, b"three", 5, b"five")
    assert journal.snapshot("pods", b"v3") is None


async def test_the_two_newest_snapshots_are_kept(lives: Lives) -> None:
    async with lives() as journal:
        await journal.append(A, 0, [fact(version) for version in range(9)], DAEMON)
        for seq, schema in ((2, b"v1"), (4, b"v2"), (6, b"v3")):
            await journal.put_snapshot("pods", schema, seq, bytes(100_000))
    async with lives() as journal:
        assert journal.snapshot("pods", b"v1") is None
        assert journal.snapshot("pods", b"v2") is not None
        assert journal.snapshot("pods", b"v3") is not None
