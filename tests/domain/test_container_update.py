"""Changes of a container's limits: one after the other, each of them whole or not at all."""

from __future__ import annotations

from functools import reduce

import msgspec
import pytest
from hypothesis import given, strategies as st

from ocid.domain import container_update as domain
from ocid.domain.configs import HugepageLimit, LinuxResources
from ocid.domain.container_update import BRIEF_CHARS_MAX, SETTLED_MAX, WAITING_MAX, ApplyUpdate, Limits, Settled, brief
from ocid.errors import EffectFailed, Exhausted, WrongState
from ocid.events import container as events
from ocid.ids import digest_of

A = "a change"
Command = domain.Update | domain.NoteUpdated | domain.NoteUpdateRefused


def told(limits: Limits, *commands: Command) -> Limits:
    for command in commands:
        limits = reduce(domain.evolve, domain.decide(limits, command, "c1", ""), limits)
    return limits


def want(name: str, change: str = A) -> domain.Update:
    return domain.Update(update_id=name, change=digest_of(change.encode()))


def applied(name: str, limits: str = "after") -> domain.NoteUpdated:
    return domain.NoteUpdated(update_id=name, limits=digest_of(limits.encode()))


def refused(name: str) -> domain.NoteUpdateRefused:
    return domain.NoteUpdateRefused(update_id=name, error="EffectFailed", message="busy")


def test_changes_are_applied_in_the_order_asked_each_on_what_the_one_before_left() -> None:
    limits = told(Limits(), want("1"), want("2"))
    assert domain.plan(limits) == ApplyUpdate(update_id="1", change=digest_of(A.encode()), in_force=None)

    limits = told(limits, applied("1", "x"))
    due = domain.plan(limits)
    assert due is not None
    assert (due.update_id, due.in_force) == ("2", digest_of(b"x"))

    limits = told(limits, refused("2"))
    assert domain.plan(limits) is None
    assert limits.in_force == digest_of(b"x")
    assert limits.outcome("1") == Settled(update_id="1")
    assert limits.outcome("2") == Settled(update_id="2", error="EffectFailed", message="busy")


@pytest.mark.parametrize("note", [applied("1"), refused("1")])
def test_what_plugins_made_of_a_change_is_said_before_what_became_of_it(note: domain.NoteUpdated) -> None:
    digest = digest_of(b"x")
    adjusted = events.UpdateAdjusted(update_id="1", plugins=("10-a",), count=1, changes=digest, change=digest)
    limits, note = told(Limits(), want("1")), msgspec.structs.replace(note, adjusted=(adjusted,))

    first, second = domain.decide(limits, note, "c1", "")
    assert first == adjusted
    assert domain.evolve(limits, first) == limits
    assert domain.evolve(limits, second).outcome("1") is not None
    assert domain.decide(told(limits, applied("1")), note, "c1", "") == ()


def test_a_change_that_plugins_want_is_theirs_until_it_is_applied() -> None:
    asked = msgspec.structs.replace(want("1"), plugins=("10-a", "20-b"))
    due = domain.plan(told(Limits(), asked))
    assert due is not None
    assert due.plugins == ("10-a", "20-b")


def test_why_a_change_is_not_in_force() -> None:
    limits = told(Limits(), want("1"), want("2"), want("3"), applied("1"), refused("2"))

    assert domain.refusal(limits, "1", "c1", "") is None
    assert isinstance(one := domain.refusal(limits, "2", "c1", ""), EffectFailed)
    assert one.message == "limits of container 'c1': busy"
    assert isinstance(domain.refusal(limits, "3", "c1", "stopping"), WrongState)


def test_a_note_about_what_is_not_due_says_nothing() -> None:
    limits = told(Limits(), want("1"), want("2"))

    assert told(limits, applied("2"), refused("2"), applied("9")) == limits


def test_a_change_asked_for_twice_is_one() -> None:
    waiting = told(Limits(), want("1"))
    assert told(waiting, want("1")) == waiting
    settled = told(waiting, applied("1"))
    assert domain.decide(settled, want("1"), "c1", "exited") == ()


def test_only_so_many_wait() -> None:
    limits = told(Limits(), *(want(str(number)) for number in range(WAITING_MAX)))
    with pytest.raises(Exhausted, match=r"'c1' has 8 changes of its limits waiting"):
        domain.decide(limits, want("more"), "c1", "")
    told(limits, applied("0"), want("more"))


def test_what_takes_no_change_says_why() -> None:
    with pytest.raises(WrongState, match="'c1' is stopping, not created or running"):
        domain.decide(Limits(), want("1"), "c1", "stopping")


def test_what_was_due_is_settled_even_when_the_container_takes_no_more() -> None:
    limits = told(Limits(), want("1"))
    (fact,) = domain.decide(limits, applied("1", "x"), "c1", "stopping")

    assert domain.evolve(limits, fact).in_force == digest_of(b"x")


@given(st.lists(st.tuples(st.sampled_from("wwar"), st.integers(0, 40)), max_size=80))
def test_nothing_grows_and_what_is_in_force_was_applied_last(moves: list[tuple[str, int]]) -> None:
    limits, last = Limits(), None
    for move, number in moves:
        due = domain.plan(limits)
        if move == "w" and (len(limits.wanted) < WAITING_MAX or limits.knows(str(number))):
            limits = told(limits, want(str(number)))
        elif due is not None and move != "w":
            limits = told(limits, applied(due.update_id, str(number)) if move == "a" else refused(due.update_id))
            last = digest_of(str(number).encode()) if move == "a" else last
            assert domain.plan(limits) != due

    assert limits.in_force == last
    assert len(limits.wanted) <= WAITING_MAX
    assert len(limits.settled) <= SETTLED_MAX
    assert not {one.update_id for one in limits.wanted} & {one.update_id for one in limits.settled}


@pytest.mark.parametrize(
    ("resources", "text"),
    [
        (LinuxResources(), ""),
        (LinuxResources(cpu_quota=-1, cpuset_cpus="0-3"), "cpu_quota=-1 cpuset_cpus=0-3"),
        (LinuxResources(unified={"memory.high": "9", "cpu.idle": "1"}), "unified=memory.high:9,cpu.idle:1"),
        (LinuxResources(hugepage_limits=(HugepageLimit(page_size="2MB", limit=4),)), "hugepage_limits=2MB,4"),
    ],
)
def test_a_change_in_brief(resources: LinuxResources, text: str) -> None:
    assert brief(resources) == text


def test_a_long_change_is_cut_short() -> None:
    text = brief(LinuxResources(cpuset_cpus=",".join(map(str, range(0, 1024, 2)))))

    assert len(text) == BRIEF_CHARS_MAX
    assert text.endswith("…")
