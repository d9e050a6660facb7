"""Every phase of a pull against every command."""

from __future__ import annotations

import functools

import pytest

from ocid.domain import pull
from ocid.domain.pull import Pull
from ocid.events import image as events
from ocid.ids import ImageId, PullId, digest_of
from tests.fakes.grids import Grid

MANIFEST = digest_of(b"manifest")
IMAGE = ImageId(digest_of(b"config"))
REQUESTED = events.PullRequested(pull_id=PullId("1"), reference="reg/app:1", with_credentials=True)
RESOLVED = events.PullResolved(
    endpoint="https://reg", manifest=MANIFEST, index=None, image_id=IMAGE, layers=2, total_bytes=9
)
WALK = (REQUESTED, RESOLVED, events.PullLayersReady(), events.PullCompleted(image_id=IMAGE))
LIVES = {
    "unrequested": (),
    "resolving": WALK[:1],
    "fetching": WALK[:2],
    "registering": WALK[:3],
    "completed": WALK,
    "failed": (*WALK[:2], events.PullFailed(error="Unavailable", message="no answer")),
    "abandoned": (*WALK[:1], events.PullAbandoned(reason="restart")),
}
COMMANDS: dict[str, pull.Command] = {
    "Request": pull.Request(requested=REQUESTED),
    "NoteResolved": pull.NoteResolved(resolved=RESOLVED),
    "NoteLayersReady": pull.NoteLayersReady(),
    "NoteRegistered": pull.NoteRegistered(image_id=IMAGE),
    "NoteFailed": pull.NoteFailed(error="Unavailable", message="no answer"),
    "NoteAbandoned": pull.NoteAbandoned(reason="restart"),
}
GRID = Grid(
    """
    phase        Request  NoteResolved  NoteLayersReady  NoteRegistered  NoteFailed  NoteAbandoned
    unrequested  Q        !             !                !               !           !
    resolving    .        R             .                C               F           A
    fetching     .        .             L                C               F           A
    registering  .        .             .                C               F           A
    completed    .        .             .                .               .           .
    failed       .        .             .                .               .           .
    abandoned    .        .             .                .               .           .
    """,
    {
        "Q": "PullRequested",
        "R": "PullResolved",
        "L": "PullLayersReady",
        "C": "PullCompleted",
        "F": "PullFailed",
        "A": "PullAbandoned",
    },
)
PLANS = {
    "unrequested": None,
    "resolving": pull.Resolve(),
    "fetching": pull.EnsureLayers(),
    "registering": pull.Register(),
    "completed": None,
    "failed": None,
    "abandoned": None,
}


def state_of(phase: str) -> Pull:
    return functools.reduce(pull.evolve, LIVES[phase], pull.INITIAL)


@pytest.mark.parametrize("phase", LIVES)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_phase_answers_every_command(phase: str, command: str) -> None:
    state = state_of(phase)
    assert GRID.outcome(pull.decide, state, COMMANDS[command]) == GRID.expected(phase, command)


@pytest.mark.parametrize("phase", LIVES)
def test_every_phase_has_its_name_and_its_one_debt(phase: str) -> None:
    state = state_of(phase)
    assert state.phase == phase
    assert pull.plan(state) == PLANS[phase]
    assert pull.is_over(state) == (phase in ("completed", "failed", "abandoned"))


@pytest.mark.parametrize("phase", LIVES)
def test_no_pull_outlives_the_daemon_that_has_its_credentials(phase: str) -> None:
    state = state_of(phase)
    for command in pull.observe(state):
        state = functools.reduce(pull.evolve, pull.decide(state, command), state)
    assert pull.plan(state) is None
    assert (state.abandoned is not None) == (phase in ("resolving", "fetching", "registering", "abandoned"))


@pytest.mark.parametrize("phase", ["resolving", "fetching", "registering"])
def test_every_note_of_an_effect_changes_what_is_owed(phase: str) -> None:
    notes = {"resolving": "NoteResolved", "fetching": "NoteLayersReady", "registering": "NoteRegistered"}
    state = state_of(phase)
    for name in (notes[phase], "NoteFailed"):
        after = functools.reduce(pull.evolve, pull.decide(state, COMMANDS[name]), state)
        assert pull.plan(after) != pull.plan(state)


@pytest.mark.parametrize("phase", LIVES)
@pytest.mark.parametrize("event", [*WALK, *LIVES["failed"][-1:], *LIVES["abandoned"][-1:]], ids=lambda one: one.TYPE)
def test_evolve_refuses_no_fact(phase: str, event: events.PullEvent) -> None:
    pull.plan(pull.evolve(state_of(phase), event))


def test_giving_up_ends_a_pull() -> None:
    state = state_of("fetching")
    state = functools.reduce(pull.evolve, pull.decide(state, pull.gave_up("crashed thrice")), state)
    assert state.failed is not None
    assert "crashed thrice" in state.failed.message
