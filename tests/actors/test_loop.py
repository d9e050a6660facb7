"""The one actor loop: durable before true, one effect at a time, work that its callers do not own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ocid.actors.actor import INBOX_MAX, Actor, Note
from ocid.errors import Exhausted, Unavailable, WrongState
from ocid.events.envelope import Context
from ocid.ids import StreamId
from tests.actors.conftest import Dimmer
from tests.fakes import toy
from tests.fakes.toy import Burn, Burnt, Hang, Hung, Lamp, Ledger, Reached, Want, Wanted

LAMP = StreamId("lamp/1")


def make(dimmer: Dimmer, ledger: Ledger) -> Actor[Lamp]:
    return Actor(LAMP, toy, dimmer.perform, ledger)


@asynccontextmanager
async def running(actor: Actor[Any]) -> AsyncIterator[Actor[Any]]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(actor.run)
        yield actor
        nursery.cancel_scope.cancel()


class TestCommands:
    """What callers see."""

    async def test_an_answer_comes_after_the_commit(
        self, dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
    ) -> None:
        async with running(make(dimmer, ledger)) as lamp:
            state = await lamp.ask(Hang())

        assert state == lamp.state == Lamp(hung=True)
        assert ledger.facts() == [Hung()]
        assert trio.current_time() == pytest.approx(ledger.commit_s, abs=1e-6)

    async def test_state_does_not_change_before_the_commit(
        self, dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
    ) -> None:
        ledger.commit_s = 1.0
        async with running(make(dimmer, ledger)) as lamp:
            lamp.tell(Hang())
            await trio.sleep(0.5)
            before = lamp.state
            await lamp.until(lambda state: state.hung)

        assert not before.hung
        assert trio.current_time() == pytest.approx(1.0)

    async def test_a_refusal_is_the_callers_and_the_actor_lives_on(
        self, dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
    ) -> None:
        async with running(make(dimmer, ledger)) as lamp:
            await lamp.ask(Hang())
            await lamp.ask(Want(0))
            lamp.state = Lamp()
            with pytest.raises(WrongState):
                await lamp.ask(Want(3))
            lamp.state = Lamp(hung=True)
            assert (await lamp.ask(Want(3))).wanted == 3

    async def test_what_is_so_already_writes_nothing(
        self, dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
    ) -> None:
        async with running(make(dimmer, ledger)) as lamp:
            await lamp.ask(Hang())
            await lamp.ask(Hang())

        assert ledger.facts() == [Hung()]

    async def test_a_full_inbox_refuses_at_once(
        self, dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
    ) -> None:
        lamp = make(dimmer, ledger)
        for _ in range(INBOX_MAX):
            lamp.tell(Hang())
        with pytest.raises(Exhausted, match=f"{INBOX_MAX} requests"):
            await lamp.ask(Hang())

        async with running(lamp):
            await lamp.until(lambda state: state.hung)
            await trio.sleep(1)
            await lamp.ask(Hang())

    async def test_a_caller_that_goes_away_takes_nothing_with_it(
        self, dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
    ) -> None:
        ledger.commit_s = 1.0
        async with running(make(dimmer, ledger)) as lamp:
            with trio.move_on_after(0.5) as patience:
                await lamp.ask(Hang())
            assert patience.cancelled_caught
            await lamp.until(lambda state: state.hung)

        assert ledger.facts() == [Hung()]

    async def test_facts_carry_who_asked_and_what_follows_cites_them(
        self, dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
    ) -> None:
        alice = Context(who=7, correlation="call-1", command_id="Want/1")
        async with running(make(dimmer, ledger)) as lamp:
            await lamp.ask(Hang())
            await lamp.ask(Want(3), alice)
            await lamp.until(lambda state: state.level == 3)

        wanted, reached = ledger.envelopes[1:]
        assert wanted.context == alice
        assert (reached.context.correlation, reached.context.cause) == ("call-1", wanted.seq)
        assert reached.context.who == 0, "nobody asked for it"


class TestEffects:
    """What the loop does to the world."""

    async def test_the_effect_that_is_due_runs_and_its_note_becomes_a_fact(
        self, dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
    ) -> None:
        async with running(make(dimmer, ledger)) as lamp:
            await lamp.ask(Hang())
            await lamp.ask(Want(3))
            await lamp.until(lambda state: state.level == 3)

        assert dimmer.turns == [(3, "begins"), (3, "ends")]
        assert ledger.facts() == [Hung(), Wanted(level=3), Reached(level=3)]

    async def test_a_superseded_effect_is_cancelled_and_waited_for(
        self, dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
    ) -> None:
        async with running(make(dimmer, ledger)) as lamp:
            await lamp.ask(Hang())
            await lamp.ask(Want(3))
            await trio.sleep(0.5)
            await lamp.ask(Want(5))
            await lamp.until(lambda state: state.level == 5)

        assert dimmer.turns == [(3, "begins"), (3, "cancelled"), (5, "begins"), (5, "ends")]

    async def test_one_superseded_before_it_began_never_begins(
        self, dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
    ) -> None:
        """A note of it would be about a state that is past: found by random walks, as layers never collected."""
        async with running(make(dimmer, ledger)) as lamp:
            await lamp.ask(Hang())
            for level in (3, 4, 5):
                await lamp.ask(Want(level))
            await lamp.until(lambda state: state.level == 5)

        assert (4, "begins") not in dimmer.turns

    async def test_an_effect_no_longer_due_is_cancelled(
        self, dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
    ) -> None:
        async with running(make(dimmer, ledger)) as lamp:
            await lamp.ask(Hang())
            await lamp.ask(Want(3))
            await trio.sleep(0.5)
            await lamp.ask(Want(0))
            await trio.sleep(5)

        assert dimmer.turns == [(3, "begins"), (3, "cancelled")]

    async def test_a_note_that_leaves_the_effect_due_is_a_bug(
        self, dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
    ) -> None:
        dimmer.note = lambda effect: Note(toy.NoteNothing())
        with pytest.RaisesGroup(pytest.RaisesGroup(pytest.RaisesExc(AssertionError, match="stalls"))):
            async with running(make(dimmer, ledger)) as lamp:
                lamp.tell(Hang())
                lamp.tell(Want(3))
                await trio.sleep(5)

    async def test_a_restored_actor_goes_on_with_what_it_owes(
        self, dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
    ) -> None:
        lamp = make(dimmer, ledger)
        lamp.restore(Lamp(hung=True, wanted=4), 0)
        async with running(lamp):
            await lamp.until(lambda state: state.level == 4)

        assert dimmer.turns == [(4, "begins"), (4, "ends")]

    async def test_what_is_absorbed_is_decided_before_any_effect(
        self, dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
    ) -> None:
        lamp = make(dimmer, ledger)
        lamp.restore(Lamp(hung=True, wanted=4), 0)
        await lamp.absorb([Want(6)])
        async with running(lamp):
            await lamp.until(lambda state: state.level == 6)

        assert dimmer.turns == [(6, "begins"), (6, "ends")]


class TestEnd:
    """What happens when an aggregate is over."""

    async def test_the_loop_ends_and_takes_its_effect_with_it(
        self, dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
    ) -> None:
        lamp = make(dimmer, ledger)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lamp.run)
            await lamp.ask(Hang())
            await lamp.ask(Want(3))
            await trio.sleep(0.5)
            await lamp.ask(Burn())

        assert dimmer.turns == [(3, "begins"), (3, "cancelled")]
        assert lamp.over.is_set()

    async def test_a_command_in_the_inbox_at_the_end_is_answered(
        self, dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
    ) -> None:
        """To remove what has just been removed is no failure; to want something of it is."""
        lamp = make(dimmer, ledger)
        for command in (Hang(), Burn()):
            lamp.tell(command)
        again, late = lamp.tell(Burn()), lamp.tell(Want(9))
        await lamp.run()

        assert again.answered.is_set()
        assert again.error is None
        assert isinstance(late.error, Unavailable)
        assert (await lamp.ask(Burn())).burnt
        with pytest.raises(Unavailable, match="gone"):
            await lamp.ask(Want(9))
        assert ledger.facts() == [Hung(), Burnt()]

    async def test_who_waits_for_what_never_comes_is_told(
        self, dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
    ) -> None:
        lamp = make(dimmer, ledger)
        with pytest.RaisesGroup(pytest.RaisesExc(Unavailable, match="gone")):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lamp.run)
                await lamp.ask(Hang())
                nursery.start_soon(lamp.until, lambda state: state.level == 9)
                await trio.sleep(1)
                await lamp.ask(Burn())

    async def test_a_log_that_failed_does_not_keep_the_actor_from_being_cancelled(
        self, dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
    ) -> None:
        """A commit that fails ends the daemon: nothing may hang on for an answer that never comes."""
        ledger.broken = True
        with trio.fail_after(10):
            async with running(make(dimmer, ledger)) as lamp:
                lamp.tell(Hang())
                await trio.sleep(1)

        assert not lamp.state.hung


async def test_a_first_command_that_the_log_refuses_leaves_no_actor(
    dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
) -> None:
    """Found by reading: a retry would join an actor that nothing ever happens to, and wait for ever."""
    ledger.refuses = Exhausted("a document for 'lamp/1' is too large")
    lamp = make(dimmer, ledger)
    ask = lamp.tell(Hang())
    with trio.fail_after(10):
        await lamp.run()

    assert isinstance(ask.error, Exhausted)
    assert lamp.over.is_set()
