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
from tests.fakes.declared import exec_requested
from tests.fakes.grids import Grid

Q = exec_requested()
F = events.Finished(exit_code=0, timed_out=False, took_ms=1, stdout_bytes=0, stderr_bytes=0)
X = events.Failed(error="EffectFailed", message="no")
A = events.Abandoned(reason="restart")
LETTERS = {"Q": "Requested", "F": "Finished", "X": "Failed", "A": "Abandoned"}

EXPECTED = Grid(
    """
    phase     Run Finished Failed Abandoned
    unknown   Q   !        !      !
    requested .   F        X      A
    finished  .   .        .      .
    failed    .   .        .      .
    abandoned .   .        .      .
    """,
    LETTERS,
)


def after(*facts: Any) -> Exec:
    """Return the state that *facts* lead to."""
    return reduce(evolve, facts, domain.INITIAL)


PHASES = {
    "unknown": after(),
    "requested": after(Q),
    "finished": after(Q, F),
    "failed": after(Q, X),
    "abandoned": after(Q, A),
}
COMMANDS = {
    "Run": domain.Run(requested=Q),
    "Finished": domain.NoteFinished(finished=F),
    "Failed": domain.NoteFailed(error="EffectFailed", message="no"),
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
def test_the_run_is_owed_once(phase: str) -> None:
    assert plan(PHASES[phase]) == (domain.RunEffect() if phase == "requested" else None)
    assert is_over(PHASES[phase]) == (phase in ("finished", "failed", "abandoned"))


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("fact", [Q, F, X, A])
def test_evolve_refuses_no_fact_in_any_phase(phase: str, fact: Any) -> None:
    assert isinstance(evolve(PHASES[phase], fact), Exec)


@pytest.mark.parametrize("phase", PHASES)
def test_after_a_restart_a_run_is_never_repeated(phase: str) -> None:
    state = PHASES[phase]
    for command in observe(state):
        state = reduce(evolve, decide(state, command), state)

    assert plan(state) is None


def test_a_run_whose_actor_is_given_up_has_failed() -> None:
    state = reduce(evolve, decide(PHASES["requested"], gave_up("crashed")), PHASES["requested"])

    assert state.failed == events.Failed(error="EffectFailed", message="crashed")


@given(st.lists(st.sampled_from(sorted(COMMANDS)), max_size=8))
def test_an_execution_ends_once(names: list[str]) -> None:
    state, facts = after(Q), []
    for name in names:
        facts += decide(state, COMMANDS[name])
        state = reduce(evolve, decide(state, COMMANDS[name]), state)

    assert len(facts) <= 1
    assert (plan(state) is None) == state.ended
