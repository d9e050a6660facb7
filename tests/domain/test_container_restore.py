"""A container that goes on from a checkpoint, as a state machine: it has no process before its start."""

from __future__ import annotations

from typing import Any

import pytest

from ocid.domain import container as domain, container_restore as restores, container_update as updates
from ocid.domain.container import decide, observe, plan
from ocid.errors import WrongState
from ocid.events import container as events
from tests.domain import test_container as table
from tests.domain.test_container import FROM_CHECKPOINT as D, LETTERS, C, O, P, R, S, U, V, W, X, after, failed, told
from tests.fakes.declared import EMPTY
from tests.fakes.grids import Grid

EXPECTED = Grid(
    """
    phase            Prep Back Start Stop Later Exit Free Remove NoPrep NoBack NoForgo Change Quit
    declared         P    CR   !     SpX  SpX   O    .    SpXX   pX     r      E       !      U
    prepared         .    CR   W     S    S     O    .    SX     pX     r      E       !      U
    wanted           .    CR   .     S    S     O    .    SX     pX     r      E       !      U
    stopped          .    CR   !     S    .     O    .    SX     pX     r      E       !      U
    wanted-stop      .    CR   !     S    .     O    .    SX     pX     r      E       !      U
    removing-early   .    CR   !     S    .     O    .    .      p      r      E       !      U
    running          .    .    .     S    S     O    .    SX     pX     r      E       q      U
    stopping         .    .    !     S    .     O    .    SX     pX     r      E       !      U
    failed           .    .    !     .    .     .    V    X      E      E      E       !      U
    forgone          .    .    !     .    .     .    V    X      E      E      E       !      U
    given-up         .    CR   .     S    S     O    .    SX     pX     r      E       !      .
    exited           .    .    !     .    .     .    V    X      E      E      E       !      U
    """,
    LETTERS,
)

FORGONE = events.Exited(at_ns=9, exit_code=137, source="unstarted")
PHASES = {
    "declared": after(D),
    "prepared": after(D, P),
    "wanted": after(D, P, W),
    "stopped": after(D, P, S),
    "wanted-stop": after(D, P, W, S),
    "removing-early": after(D, P, S, X),
    "running": after(D, P, W, C, R),
    "stopping": after(D, P, W, C, R, S),
    "failed": after(D, P, W, table.START_FAILED),
    "forgone": after(D, P, S, FORGONE),
    "given-up": after(D, P, W, U),
    "exited": after(D, P, W, C, R, O),
}
BACK = restores.NoteRestored(pid=7, start_ticks=8, at_ns=5)
COMMANDS: dict[str, Any] = {
    **{name: table.COMMANDS[name] for name in ("Prep", "Start", "Stop", "Later", "Exit", "Free", "Remove", "Quit")},
    "Back": BACK,
    "NoPrep": failed("Prepare"),
    "NoBack": failed("Restore"),
    "NoForgo": failed("Forgo"),
    "Change": updates.Update(update_id="u1", change=EMPTY),
}
RESTORE, FORGO = restores.RestoreEffect(), restores.Forgo(failures=0)
OWED = {
    "declared": domain.PrepareEffect(),
    "prepared": None,  # CreateContainer is answered, and nothing runs
    "wanted": RESTORE,
    "stopped": FORGO,
    "wanted-stop": RESTORE,  # what is half made is finished, then killed: nothing is left unnamed
    "removing-early": FORGO,
    "running": table.WATCH,
    "stopping": table.terminate(1000),
    "failed": table.RELEASE,
    "forgone": table.RELEASE,
    "given-up": None,
    "exited": table.RELEASE,
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_phase_answers_every_command(phase: str, command: str) -> None:
    assert EXPECTED.outcome(decide, PHASES[phase], COMMANDS[command]) == EXPECTED.expected(phase, command)


def test_the_table_is_complete() -> None:
    assert EXPECTED.phases == list(PHASES)
    assert sorted(EXPECTED.commands) == sorted(COMMANDS)
    assert OWED.keys() == PHASES.keys()


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_owes_the_first_debt_of_the_ladder(phase: str) -> None:
    assert plan(PHASES[phase]) == OWED[phase]


def test_a_restore_that_is_noted_twice_says_nothing_new() -> None:
    once = told(PHASES["wanted"], BACK)

    assert decide(once, BACK) == ()
    assert (once.created, once.started_at_ns) == (C, 5)
    assert plan(once) == table.WATCH


def test_a_restore_after_half_of_its_note_says_the_other_half() -> None:
    assert decide(after(D, P, W, C), BACK) == (R,)


def test_a_container_that_was_stopped_unstarted_ends_as_one_that_was_killed() -> None:
    state = told(PHASES["stopped"], domain.NoteExited(at_ns=9, exit_code=137, oom_killed=False, source="unstarted"))

    assert state.exited == FORGONE
    assert plan(state) == table.RELEASE


def test_a_container_that_begins_anew_is_noted_restored_by_nobody() -> None:
    assert decide(table.PHASES["undeclared"], domain.Stop(grace_ms=0, now_boot_ns=0)) == ()
    with pytest.raises(WrongState):
        decide(table.PHASES["undeclared"], BACK)


def test_limits_wait_for_the_restore() -> None:
    with pytest.raises(WrongState, match="is not restored yet, not created or running"):
        decide(PHASES["prepared"], COMMANDS["Change"])


@pytest.mark.parametrize("phase", PHASES)
def test_after_a_reboot_nothing_is_restored(phase: str) -> None:
    state = PHASES[phase]
    for command in observe(state, domain.Found(rebooted=True, now_ns=77)):
        state = told(state, command)

    assert state.ended
    assert not isinstance(plan(state), restores.RestoreEffect)


@pytest.mark.parametrize("phase", PHASES)
def test_within_one_boot_the_plan_finds_out_by_itself(phase: str) -> None:
    assert observe(PHASES[phase], domain.Found(rebooted=False, now_ns=77)) == ()


def test_released_is_the_end_of_one_that_never_ran() -> None:
    assert plan(told(PHASES["forgone"], domain.NoteReleased())) is None
    assert told(PHASES["forgone"], domain.NoteReleased()) == after(D, P, S, FORGONE, V)
