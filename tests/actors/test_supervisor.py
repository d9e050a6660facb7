"""Supervision: a crash is rebuilt from the stream, a budget is a budget, and a request to take down revives."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ocid.actors.directory import Kind
from ocid.actors.supervisor import CRASHES_MAX, Supervisor, describe
from ocid.errors import NotFound, Unavailable
from ocid.events import node
from tests.actors.conftest import Dimmer
from tests.fakes import toy
from tests.fakes.toy import Burn, GaveUp, Hang, Hung, Lamp, Ledger, Reached, Want, Wanted


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


class Lamps:
    """A kind of actor with its supervisor."""

    def __init__(self, kind: Kind[Lamp], recorded: list[Any]) -> None:
        self.kind = kind
        self.recorded = recorded


@asynccontextmanager
async def lamps(dimmer: Dimmer, ledger: Ledger) -> AsyncIterator[Lamps]:
    async with trio.open_nursery() as nursery:
        recorded: list[Any] = []
        supervisor = Supervisor(ledger, nursery, recorded.append)
        kind: Kind[Lamp] = Kind("lamp", toy, ledger, supervisor, lambda state: "key" if not state.burnt else None)
        kind.performed_by(dimmer.perform)
        yield Lamps(kind, recorded)
        nursery.cancel_scope.cancel()


async def test_an_actor_that_crashes_is_rebuilt_from_its_stream(
    dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
) -> None:
    async with lamps(dimmer, ledger) as made:
        actor = made.kind.create("1")
        dimmer.bugs = 2
        await actor.ask(Hang())
        await actor.ask(Want(3))
        actor.state = Lamp(hung=True, wanted=3, level=99)  # what a bug did to it in memory
        state = await actor.until(lambda lamp: lamp.level == 3)

    assert state == Lamp(hung=True, wanted=3, level=3)
    assert [type(one) for one in made.recorded] == [node.ActorCrashed] * 2
    assert [one.crashes for one in made.recorded] == [1, 2]
    assert "injected bug" in made.recorded[0].error
    assert ledger.facts() == [Hung(), Wanted(level=3), Reached(level=3)]


async def test_commands_wait_while_an_actor_is_restarted(
    dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
) -> None:
    async with lamps(dimmer, ledger) as made:
        actor = made.kind.create("1")
        dimmer.bugs = 1
        await actor.ask(Hang())
        await actor.ask(Want(3))
        await trio.sleep(dimmer.takes_s + 0.05)
        assert (await actor.ask(Want(4))).wanted == 4


async def test_over_budget_it_is_given_up_with_the_reason(
    dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
) -> None:
    async with lamps(dimmer, ledger) as made:
        actor, sibling = made.kind.create("1"), made.kind.create("2")
        dimmer.bugs = CRASHES_MAX + 1
        await actor.ask(Hang())
        await actor.ask(Want(3))
        with pytest.raises(Unavailable, match="injected bug"):
            await actor.until(lambda lamp: lamp.level == 3)
        with pytest.raises(Unavailable, match="injected bug"):
            await actor.ask(Want(4))
        await sibling.ask(Hang())
        await sibling.ask(Want(5))
        await sibling.until(lambda lamp: lamp.level == 5)

    assert isinstance(made.recorded[-1], node.ActorGaveUp)
    facts = [one.event for one in ledger.envelopes if one.stream == "lamp/1"]
    assert facts[:2] == [Hung(), Wanted(level=3)]
    assert isinstance(facts[2], GaveUp)


async def test_crashes_that_are_far_apart_are_forgiven(
    dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
) -> None:
    async with lamps(dimmer, ledger) as made:
        actor = made.kind.create("1")
        await actor.ask(Hang())
        for level in range(1, 3 * CRASHES_MAX):
            dimmer.bugs = 1
            await actor.ask(Want(level))
            await actor.until(lambda lamp, level=level: lamp.level == level)  # type: ignore[misc]
            await trio.sleep(20)

        assert actor.unfit is None


async def test_a_request_to_take_down_revives(dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock) -> None:
    async with lamps(dimmer, ledger) as made:
        actor = made.kind.create("1")
        dimmer.bugs = CRASHES_MAX + 1
        await actor.ask(Hang())
        await actor.ask(Want(3))
        await actor.over.wait()

        revived = made.kind.revived("1")
        assert revived is actor
        await revived.ask(Want(3))
        assert (await revived.until(lambda lamp: lamp.level == 3)).gave_up is None


async def test_a_crash_of_the_loop_answers_the_command_it_crashed_on(
    dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
) -> None:
    async with lamps(dimmer, ledger) as made:
        actor = made.kind.create("1")
        await actor.ask(Hang())
        with pytest.raises(Unavailable, match="crashed"):
            await actor.ask("no command at all")
        await actor.ask(Hang())

    assert ledger.facts() == [Hung()]


async def test_an_actor_that_crashes_before_its_first_fact_is_gone(
    dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing came of what it was made for; whoever waits for more is told, and its key is free."""

    async def broken(*arguments: Any) -> None:
        raise AssertionError("a bug of ours")

    monkeypatch.setattr(ledger, "append", broken)
    async with lamps(dimmer, ledger) as made:
        actor = made.kind.create("1", "key")
        late = [actor.tell(Hang()), actor.tell(Hang())]
        with trio.fail_after(60), pytest.raises(Unavailable, match="is gone"):
            await actor.until(lambda lamp: lamp.hung)

        assert all(isinstance(ask.error, Unavailable) for ask in late)
        await trio.testing.wait_all_tasks_blocked()
        assert made.kind.joined("key") is None
        assert made.kind.find("1") is None
    assert ledger.facts() == []


async def test_an_actor_cut_short_in_an_append_knows_its_version_again(
    dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
) -> None:
    """Its effect crashes while a commit is under way; the fact is durable, and the rebuilt actor has it."""
    async with lamps(dimmer, ledger) as made:
        actor = made.kind.create("1")
        await actor.ask(Hang())
        dimmer.bugs, ledger.commit_s = 1, 0.6
        await actor.ask(Want(3))
        await trio.sleep(dimmer.takes_s - 0.3)
        with pytest.raises(Unavailable, match="crashed"):
            await actor.ask(Want(4))
        state = await actor.until(lambda lamp: lamp.level == 4)

    assert state.wanted == 4
    assert [one.version for one in ledger.envelopes] == list(range(1, len(ledger.envelopes) + 1))


# --- the directory ---------------------------------------------------------------------------------------------------


async def test_a_key_is_taken_at_once_and_let_go_at_the_end(
    dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
) -> None:
    async with lamps(dimmer, ledger) as made:
        kind = made.kind
        actor = kind.create("1", "key")
        assert kind.joined("key") is actor, "before anything is durable"
        assert kind.unborn() == [("key", actor)]
        await actor.ask(Hang())
        assert kind.joined("key") is actor
        assert kind.joined("other") is None
        assert kind.unborn() == []
        await actor.ask(Burn())
        assert kind.joined("key") is None, "its state has another key now"
        await trio.sleep(1)
        assert kind.find("1") is None
        assert len(kind) == 0
        with pytest.raises(NotFound, match="lamp '1'"):
            kind.get("1")


async def test_a_key_can_be_let_go_before_the_end(dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock) -> None:
    async with lamps(dimmer, ledger) as made:
        first = made.kind.create("1", "key")
        made.kind.release_key(first)
        second = made.kind.create("2", "key")

        assert made.kind.joined("key") is second
        assert [actor.stream for actor in made.kind] == ["lamp/1", "lamp/2"]


async def test_one_name_lives_once(dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock) -> None:
    async with lamps(dimmer, ledger) as made:
        made.kind.create("1")
        with pytest.raises(AssertionError, match="lives already"):
            made.kind.create("1")


async def test_a_restored_actor_waits_until_all_are_restored(
    dimmer: Dimmer, ledger: Ledger, autojump_clock: MockClock
) -> None:
    await ledger.append("lamp/1", 0, [Hung(), Wanted(level=3)], None)  # type: ignore[arg-type]
    async with lamps(dimmer, ledger) as made:
        actor = await made.kind.restore("1", Lamp(hung=True, wanted=3), 2, [Want(4)])
        await trio.sleep(5)
        assert dimmer.turns == []
        assert made.kind.joined("key") is actor
        made.kind.start_restored()
        await actor.until(lambda lamp: lamp.level == 4)


def test_a_crash_is_described_by_its_innermost_cause() -> None:
    crash = ExceptionGroup("outer", [ExceptionGroup("inner", [KeyError("c1")])])

    assert describe(crash) == "KeyError: 'c1'"
    assert len(describe(ValueError("x" * 9999))) == 500
