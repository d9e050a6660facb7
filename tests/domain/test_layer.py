"""Every phase of a layer against every command."""

from __future__ import annotations

import functools

import pytest

from ocid.domain import layer
from ocid.domain.layer import Layer
from ocid.events import layer as events
from ocid.ids import ChainId, PullId, digest_of
from tests.fakes.grids import Grid

DIFF = digest_of(b"diff")
WANTED = events.Wanted(
    chain_id=ChainId(DIFF), diff_id=DIFF, blob=digest_of(b"blob"), media_type="tar", blob_bytes=5, pull_id=PullId("1")
)
READY = events.Ready(size_bytes=10, inodes=2)
FAILED = events.Failed(error="EffectFailed", message="no")
LOST = events.Lost(reason="gone")
LIVES: dict[str, tuple[events.LayerEvent, ...]] = {
    "unwanted": (),
    "making": (WANTED,),
    "failed": (WANTED, FAILED),
    "ready": (WANTED, READY),
    "lost": (WANTED, READY, LOST),
    "removing": (WANTED, READY, events.RemoveRequested()),
    "removed": (WANTED, READY, events.RemoveRequested(), events.Removed()),
}
COMMANDS: dict[str, layer.Command] = {
    "Want": layer.Want(wanted=WANTED),
    "NoteReady": layer.NoteReady(size_bytes=10, inodes=2),
    "NoteFailed": layer.NoteFailed(error="EffectFailed", message="no"),
    "NoteLost": layer.NoteLost(reason="gone"),
    "Remove": layer.Remove(),
    "NoteRemoved": layer.NoteRemoved(),
}
GRID = Grid(
    """
    phase     Want  NoteReady  NoteFailed  NoteLost  Remove  NoteRemoved
    unwanted  W     !          !           !         !       !
    making    .     R          F           .         .       .
    failed    W     .          .           .         .       .
    ready     .     .          .           L         Q       .
    lost      W     .          .           .         Q       .
    removing  .     .          F           .         .       D
    removed   W     .          .           .         .       .
    """,
    {"W": "Wanted", "R": "Ready", "F": "Failed", "L": "Lost", "Q": "RemoveRequested", "D": "Removed"},
)
PLANS: dict[str, layer.Effect | None] = {
    "unwanted": None,
    "making": layer.Make(by="1"),
    "failed": None,
    "ready": None,
    "lost": None,
    "removing": layer.Discard(failures=0),
    "removed": None,
}


def after(state: Layer, *commands: layer.Command) -> Layer:
    for command in commands:
        state = functools.reduce(layer.evolve, layer.decide(state, command), state)
    return state


def state_of(phase: str) -> Layer:
    return functools.reduce(layer.evolve, LIVES[phase], layer.INITIAL)


@pytest.mark.parametrize("phase", LIVES)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_phase_answers_every_command(phase: str, command: str) -> None:
    state = state_of(phase)
    assert GRID.outcome(layer.decide, state, COMMANDS[command]) == GRID.expected(phase, command)


@pytest.mark.parametrize("phase", LIVES)
def test_every_phase_has_its_name_and_its_one_debt(phase: str) -> None:
    state = state_of(phase)
    assert state.phase == phase
    assert layer.plan(state) == PLANS[phase]
    assert state.is_ready == (phase == "ready")
    assert layer.is_over(state) == (phase in ("failed", "lost", "removed"))


@pytest.mark.parametrize("phase", LIVES)
@pytest.mark.parametrize("present", [True, False])
def test_after_a_restart_a_layer_is_ready_exactly_when_it_is_there(phase: str, present: bool) -> None:
    state = state_of(phase)
    state = after(state, *layer.observe(state, layer.Found(present=present)))
    assert state.is_ready == (phase == "ready" and present)
    assert layer.plan(state) == (PLANS[phase] if phase == "removing" else None)


@pytest.mark.parametrize("phase", ["failed", "lost"])
def test_a_layer_wanted_again_is_made_again(phase: str) -> None:
    state = after(state_of(phase), COMMANDS["Want"])
    assert state.phase == "making"
    assert after(state, COMMANDS["NoteReady"]).is_ready


def test_discarding_is_tried_again_until_it_succeeds() -> None:
    state = state_of("removing")
    for failures in range(1, 4):
        state = after(state, COMMANDS["NoteFailed"])
        assert layer.plan(state) == layer.Discard(failures=failures)
    assert after(state, COMMANDS["NoteRemoved"]).removed


@pytest.mark.parametrize("phase", LIVES)
@pytest.mark.parametrize("event", [*LIVES["removed"], FAILED, LOST], ids=lambda one: one.TYPE)
def test_evolve_refuses_no_fact(phase: str, event: events.LayerEvent) -> None:
    layer.plan(layer.evolve(state_of(phase), event))
