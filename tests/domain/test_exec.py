"""An execution as a state machine: asked for, run once, ended once."""

from __future__ import annotations

from functools import reduce
from typing import Any

import pytest
from hypothesis import given, strategies as st

from ocid.domain import exec as domain
from ocid.domain.exec import Exec, decide, evolve, gave_up, is_over, observe, plan
from ocid.events import exec as events
from ocid.events.base import REGISTRY
from ocid.ids import ExecId
from tests.fakes.declared import exec_requested
from tests.fakes.grids import Grid

Q = exec_requested()
P = exec_requested("e2", repeats=ExecId("e1"))
F = events.Finished(exit_code=0, timed_out=False, took_ms=1, stdout_bytes=0, stderr_bytes=0)
X = events.Failed(error="EffectFailed", message="no")
A = events.Abandoned(reason="restart")
C = events.Changed(exit_code=1, timed_out=False, took_ms=2, stdout_bytes=0, stderr_bytes=0)
O = events.Ended(reason="idle")  # noqa: E741
LETTERS = {
    "Q": "Requested",
    "F": "Finished",
    "X": "Failed",
    "A": "Abandoned",
    "R": "Repeated",
    "C": "Changed",
    "O": "Ended",
}


def runs(count: int = 1, **fields: int) -> events.Repeated:
    """Return a count of runs."""
    return events.Repeated(
        **{
            "count": count,
            "exit_code": 0,
            "since_ns": 10,
            "until_ns": 20,
            "stdout_bytes": 3,
            "stderr_bytes": 1,
            "took_ms_min": 5,
            "took_ms_max": 5,
            "took_ms_total": 5 * count,
            **fields,
        }
    )


R = runs()
EXPECTED = Grid(
    """
    phase     Run Finished Repeated Changed ChangedAfter Ended EndedAfter Failed FailedAfter Abandoned
    unknown   Q   !        !        !       !            !     !          !      !           !
    requested .   F        !        !       !            !     !          X      RX          A
    first     .   F        !        !       !            !     !          X      RX          A
    repeating .   .        R        C       RC           O     RO         X      RX          A
    changed   .   .        R        C       RC           O     RO         X      RX          A
    finished  .   .        .        .       .            .     .          .      .           .
    failed    .   .        .        .       .            .     .          .      .           .
    abandoned .   .        .        .       .            .     .          .      .           .
    over      .   .        .        .       .            .     .          .      .           .
    broken    .   .        .        .       .            .     .          .      .           .
    """,
    LETTERS,
)
OVER = ("finished", "failed", "abandoned", "over", "broken")


def after(*facts: Any) -> Exec:
    """Return the state that *facts* lead to."""
    return reduce(evolve, facts, domain.INITIAL)


PHASES = {
    "unknown": after(),
    "requested": after(Q),
    "first": after(P),
    "repeating": after(P, F, R),
    "changed": after(P, F, C),
    "finished": after(Q, F),
    "failed": after(Q, X),
    "abandoned": after(Q, A),
    "over": after(P, F, O),
    "broken": after(P, F, R, X),
}
COMMANDS = {
    "Run": domain.Run(requested=Q),
    "Finished": domain.NoteFinished(finished=F),
    "Repeated": domain.NoteRepeated(repeated=R),
    "Changed": domain.NoteChanged(repeated=None, changed=C),
    "ChangedAfter": domain.NoteChanged(repeated=R, changed=C),
    "Ended": domain.NoteEnded(repeated=None, reason="idle"),
    "EndedAfter": domain.NoteEnded(repeated=R, reason="idle"),
    "Failed": domain.NoteFailed(error="EffectFailed", message="no"),
    "FailedAfter": domain.NoteFailed(error="EffectFailed", message="no", repeated=R),
    "Abandoned": domain.NoteAbandoned(reason="restart"),
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_phase_answers_every_command(phase: str, command: str) -> None:
    assert EXPECTED.outcome(decide, PHASES[phase], COMMANDS[command]) == EXPECTED.expected(phase, command)


def test_the_table_is_complete() -> None:
    assert EXPECTED.phases == list(PHASES)
    assert EXPECTED.commands == list(COMMANDS)
    assert {type(one) for one in COMMANDS.values()} == set(domain.Command.__args__)
    kinds = {kind.__name__ for kind in REGISTRY.values() if kind.__module__ == events.__name__}
    assert set(LETTERS.values()) == kinds


@pytest.mark.parametrize("phase", PHASES)
def test_the_run_is_owed_once_and_then_the_next_one_waited_for(phase: str) -> None:
    owed = {"requested": domain.RunEffect(), "first": domain.RunEffect()}
    waits = {"repeating": domain.Repeat(), "changed": domain.Repeat()}
    assert plan(PHASES[phase]) == {**owed, **waits}.get(phase)
    assert is_over(PHASES[phase]) == (phase in OVER)
    assert PHASES[phase].answered == (phase in (*OVER, *waits))
    assert PHASES[phase].repeating == (phase in waits)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("fact", [Q, F, X, A, R, C, O])
def test_evolve_refuses_no_fact_in_any_phase(phase: str, fact: Any) -> None:
    assert isinstance(evolve(PHASES[phase], fact), Exec)


@pytest.mark.parametrize("phase", PHASES)
def test_after_a_restart_a_run_is_never_repeated(phase: str) -> None:
    state = PHASES[phase]
    for command in observe(state, 7):
        state = reduce(evolve, decide(state, command), state)

    assert plan(state) is None
    assert state.requested is None or state.ended


@pytest.mark.parametrize(("phase", "since"), [("requested", 0), ("first", 0), ("repeating", 7), ("changed", 7)])
def test_a_restart_says_since_when_runs_are_not_known(phase: str, since: int) -> None:
    (command,) = observe(PHASES[phase], 7)

    assert isinstance(command, domain.NoteAbandoned)
    assert command.since_seq == since


def test_the_last_outcome_in_the_log_is_what_the_next_is_compared_with() -> None:
    killed = events.Changed(exit_code=137, timed_out=True, took_ms=2, stdout_bytes=0, stderr_bytes=0)

    assert after(P, F, R).outcome == (0, False)
    assert after(P, F, C, R).outcome == (1, False)
    assert after(P, F, C, killed).outcome == (137, True)


def test_counting() -> None:
    one, slow = runs(), runs(since_ns=30, until_ns=45, took_ms_min=9, took_ms_max=9, took_ms_total=9)
    back = runs(since_ns=2, until_ns=12, took_ms_min=1, took_ms_max=1, took_ms_total=1)

    assert domain.counted(None, one) == one
    assert reduce(domain.counted, (one, slow, back)) == runs(
        3, until_ns=45, took_ms_min=1, took_ms_max=9, took_ms_total=15, stdout_bytes=9, stderr_bytes=3
    )


@pytest.mark.parametrize("phase", ["requested", "first", "repeating"])
def test_a_run_whose_actor_is_given_up_has_failed(phase: str) -> None:
    state = reduce(evolve, decide(PHASES[phase], gave_up("crashed")), PHASES[phase])

    assert state.failed == events.Failed(error="EffectFailed", message="crashed")
    assert state.ended


@given(st.lists(st.sampled_from(["Finished", "Failed", "Abandoned"]), max_size=8))
def test_an_execution_ends_once(names: list[str]) -> None:
    state, facts = after(Q), []
    for name in names:
        facts += decide(state, COMMANDS[name])
        state = reduce(evolve, decide(state, COMMANDS[name]), state)

    assert len(facts) <= 1
    assert (plan(state) is None) == state.ended


@given(st.lists(st.sampled_from(sorted(COMMANDS)), max_size=12))
def test_what_repeats_ends_once_and_nothing_follows(names: list[str]) -> None:
    state, facts = after(P, F), []
    for name in names:
        facts += decide(state, COMMANDS[name])
        state = reduce(evolve, decide(state, COMMANDS[name]), state)

    ends = [
        number for number, fact in enumerate(facts) if isinstance(fact, events.Ended | events.Failed | events.Abandoned)
    ]
    assert ends in ([], [len(facts) - 1])
    assert (plan(state) is None) == state.ended == bool(ends)
