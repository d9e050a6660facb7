"""A container checkpoint as a state machine."""

from __future__ import annotations

from functools import reduce
from typing import Any

import msgspec
import pytest

from ocid.domain import checkpoint as domain
from ocid.domain.checkpoint import Checkpoint, decide, evolve, is_over, observe, plan
from ocid.events import checkpoint as events
from ocid.events.base import REGISTRY
from ocid.ids import CheckpointId, ContainerId
from tests.fakes.grids import Grid

R = events.Requested(
    checkpoint_id=CheckpointId("k1"), container_id=ContainerId("c1"), location="/var/c.tar", timeout_s=9
)
M, F = events.Made(size_bytes=5, took_ms=7), events.Failed(error="EffectFailed", message="no")
LETTERS = {"R": "Requested", "M": "Made", "F": "Failed"}

EXPECTED = Grid(
    """
    phase     Make Made Failed GaveUp
    unknown   R    !    !      !
    requested .    M    F      F
    made      .    .    .      .
    failed    .    .    .      .
    """,
    LETTERS,
)


def after(*facts: Any) -> Checkpoint:
    return reduce(evolve, facts, domain.INITIAL)


PHASES = {"unknown": after(), "requested": after(R), "made": after(R, M), "failed": after(R, F)}
COMMANDS: dict[str, Any] = {
    "Make": domain.Make(requested=R),
    "Made": domain.NoteMade(size_bytes=5, took_ms=7),
    "Failed": domain.NoteFailed(error="EffectFailed", message="no"),
    "GaveUp": domain.gave_up("crashed"),
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_phase_answers_every_command(phase: str, command: str) -> None:
    assert EXPECTED.outcome(decide, PHASES[phase], COMMANDS[command]) == EXPECTED.expected(phase, command)


def test_the_table_is_complete() -> None:
    assert EXPECTED.phases == list(PHASES)
    assert EXPECTED.commands == list(COMMANDS)
    assert {type(one) for one in COMMANDS.values()} == set(domain.Command.__args__)
    assert set(LETTERS.values()) == {kind.__name__ for kind in REGISTRY.values() if kind.__module__ == events.__name__}


def test_it_is_made_once() -> None:
    assert [plan(state) for state in PHASES.values()] == [None, domain.MakeEffect(), None, None]
    assert [is_over(state) for state in PHASES.values()] == [False, False, True, True]


def test_what_a_crash_cut_short_has_failed() -> None:
    assert [observe(state) for name, state in PHASES.items() if name != "requested"] == [(), (), ()]
    (note,) = observe(PHASES["requested"])
    (fact,) = decide(PHASES["requested"], note)

    assert fact == events.Failed(error="Unavailable", message="the daemon ended while the checkpoint was made")


@pytest.mark.parametrize("phase", PHASES)
def test_a_state_survives_a_snapshot_and_any_fact(phase: str) -> None:
    state = PHASES[phase]

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=Checkpoint) == state
    for fact in (R, M, F):
        assert isinstance(evolve(state, fact), Checkpoint)
