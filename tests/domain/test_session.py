"""A streaming session as a state machine: asked for, opened by one client, ended once."""

from __future__ import annotations

from functools import reduce
from typing import Any

import pytest
from hypothesis import given, strategies as st

from ocid.domain import session as domain
from ocid.domain.session import Session, decide, evolve, gave_up, is_over, observe, plan
from ocid.errors import WrongState
from ocid.events import session as events
from ocid.events.base import REGISTRY
from tests.fakes.declared import session_requested
from tests.fakes.grids import Grid

Q = session_requested()
O = events.Opened(remote="127.0.0.1:1")  # noqa: E741
C = events.Closed(took_ms=1, exit_code=0)
X = events.Failed(error="EffectFailed", message="no")
E = events.Expired(reason="late")
A = events.Abandoned(reason="restart")
LETTERS = {"Q": "Requested", "O": "Opened", "C": "Closed", "X": "Failed", "E": "Expired", "A": "Abandoned"}

EXPECTED = Grid(
    """
    phase     Request Open Closed Failed Expired Abandoned
    unknown   Q       !    !      !      !       !
    requested .       O    !      X      E       A
    opened    .       !    C      X      .       A
    closed    .       !    .      .      .       .
    failed    .       !    .      .      .       .
    expired   .       !    .      .      .       .
    abandoned .       !    .      .      .       .
    """,
    LETTERS,
)


def after(*facts: Any) -> Session:
    """Return the state that *facts* lead to."""
    return reduce(evolve, facts, domain.INITIAL)


PHASES = {
    "unknown": after(),
    "requested": after(Q),
    "opened": after(Q, O),
    "closed": after(Q, O, C),
    "failed": after(Q, O, X),
    "expired": after(Q, E),
    "abandoned": after(Q, O, A),
}
COMMANDS = {
    "Request": domain.Request(requested=Q),
    "Open": domain.Open(remote="127.0.0.1:1"),
    "Closed": domain.NoteClosed(closed=C),
    "Failed": domain.NoteFailed(error="EffectFailed", message="no"),
    "Expired": domain.NoteExpired(reason="late"),
    "Abandoned": domain.NoteAbandoned(reason="restart"),
}
OWED = {"requested": domain.AwaitClient(), "opened": domain.Serve()}


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
def test_the_client_is_awaited_and_then_served(phase: str) -> None:
    assert plan(PHASES[phase]) == OWED.get(phase)
    assert is_over(PHASES[phase]) == (phase in ("closed", "failed", "expired", "abandoned"))
    assert PHASES[phase].phase == phase


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("fact", [Q, O, C, X, E, A])
def test_evolve_refuses_no_fact_in_any_phase(phase: str, fact: Any) -> None:
    assert isinstance(evolve(PHASES[phase], fact), Session)


@pytest.mark.parametrize("phase", PHASES)
def test_after_a_restart_no_client_is_awaited_or_served_again(phase: str) -> None:
    state = PHASES[phase]
    for command in observe(state):
        state = reduce(evolve, decide(state, command), state)

    assert plan(state) is None
    if phase in OWED:
        assert state.abandoned is not None
        assert ("while it was open" in state.abandoned.reason) == (phase == "opened")


def test_a_session_whose_actor_is_given_up_has_failed() -> None:
    state = reduce(evolve, decide(PHASES["opened"], gave_up("crashed")), PHASES["opened"])

    assert state.failed == events.Failed(error="EffectFailed", message="crashed")


@given(st.lists(st.sampled_from(sorted(COMMANDS)), max_size=10))
def test_a_session_opens_once_at_most_and_ends_once(names: list[str]) -> None:
    state, facts = after(Q), []
    for name in names:
        try:
            made = decide(state, COMMANDS[name])
        except WrongState:
            continue
        facts += made
        state = reduce(evolve, made, state)

    assert [type(fact) for fact in facts].count(events.Opened) <= 1
    assert len(facts) <= 2
    assert (plan(state) is None) == state.ended
