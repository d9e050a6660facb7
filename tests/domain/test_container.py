"""The container as a state machine: every phase answers every command, every state owes one effect or none."""

from __future__ import annotations

from functools import reduce
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, strategies as st

from ocid.domain import container as domain, container_restore as restores, container_update as updates
from ocid.domain.container import MS, Container, decide, evolve, is_over, observe, plan
from ocid.errors import WrongState
from ocid.events import container as events
from ocid.events.base import REGISTRY
from ocid.ids import Digest
from tests.fakes.declared import EMPTY, container_declared
from tests.fakes.grids import Grid

D = container_declared()
FROM_CHECKPOINT = container_declared(restores=events.Origin(digest=EMPTY, archive="/one.tar"))
P, C = events.Prepared(spec=EMPTY, uid=0, gid=0), events.Created(pid=7, start_ticks=8)
W, R = events.StartRequested(), events.Started(at_ns=5)
S = events.StopRequested(grace_ms=1000, kill_at_boot_ns=1000 * MS, signal="SIGTERM")
O = events.Exited(at_ns=9, exit_code=0, source="monitor")  # noqa: E741
V, X, U = events.Released(), events.RemoveRequested(), events.GaveUp(reason="crashed")
PREPARE_FAILED = events.PrepareFailed(error="EffectFailed", message="no")
Q = events.UpdateRequested(update_id="u1", change=EMPTY)
CREATE_FAILED = events.CreateFailed(at_ns=9, error="EffectFailed", message="no")
START_FAILED = events.StartFailed(at_ns=9, error="EffectFailed", message="no")

LETTERS = {
    "D": "Declared",
    "P": "Prepared",
    "a": "Adjusted",
    "p": "PrepareFailed",
    "C": "Created",
    "c": "CreateFailed",
    "W": "StartRequested",
    "R": "Started",
    "r": "StartFailed",
    "S": "StopRequested",
    "O": "Exited",
    "V": "Released",
    "X": "RemoveRequested",
    "G": "Removed",
    "E": "EffectFailed",
    "l": "LogReopened",
    "U": "GaveUp",
    "q": "UpdateRequested",
    "u": "Updated",
    "n": "UpdateRefused",
    "m": "UpdateAdjusted",
}

EXPECTED = Grid(
    """
    phase             Create Prep Made Start Ran Stop Later Exit Free Remove Gone NoPrep NoMake NoRun NoFree Log Quit
    undeclared        D      !    !    !     !   .    .     !    !    .      !    !      !      !     !      !   .
    declared          .      P    C    !     R   SpX  SpX   O    .    SpXX   .    pX     c      r     E      l   U
    prepare-failed    .      .    .    !     .   .    .     .    V    .      .    E      E      E     E      l   U
    prepared          .      .    C    W     R   S    S     O    .    SX     .    pX     c      r     E      l   U
    prepared-wanted   .      .    C    .     R   S    S     O    .    SX     .    pX     c      r     E      l   U
    prepared-stop     .      .    C    !     R   S    .     O    .    SX     .    pX     c      r     E      l   U
    create-failed     .      .    .    !     .   .    .     .    V    X      .    E      E      E     E      l   U
    created           .      .    .    W     R   S    S     O    .    SX     .    pX     c      r     E      l   U
    created-stop      .      .    .    !     R   S    .     O    .    SX     .    pX     c      r     E      l   U
    starting          .      .    .    .     R   S    S     O    .    SX     .    pX     c      r     E      l   U
    starting-stop     .      .    .    !     R   S    .     O    .    SX     .    pX     c      r     E      l   U
    start-failed      .      .    .    !     .   .    .     .    V    X      .    E      E      E     E      l   U
    running           .      .    .    .     .   S    S     O    .    SX     .    pX     c      r     E      l   U
    stopping          .      .    .    !     .   S    .     O    .    SX     .    pX     c      r     E      l   U
    given-up          .      .    .    .     .   S    S     O    .    SX     .    pX     c      r     E      l   .
    given-up-stop     .      .    .    !     .   S    S     O    .    SX     .    pX     c      r     E      l   .
    given-up-end      .      .    .    !     .   .    .     .    V    X      .    E      E      E     E      l   .
    exited            .      .    .    !     .   .    .     .    V    X      .    E      E      E     E      l   U
    released          .      .    .    !     .   .    .     .    .    X      .    E      E      E     E      l   U
    removing-live     .      .    .    !     .   S    .     O    .    .      .    p      c      r     E      l   U
    removing          .      .    .    !     .   .    .     .    V    .      .    E      E      E     E      l   U
    removing-released .      .    .    !     .   .    .     .    .    .      G    E      E      E     E      l   U
    removed           .      .    .    !     .   .    .     .    .    .      .    .      .      .     .      .   .
    changing-prepared .      .    C    W     R   S    S     O    .    SX     .    pX     c      r     E      l   U
    changing          .      .    .    .     .   S    S     O    .    SX     .    pX     c      r     E      l   U
    changing-stop     .      .    .    !     .   S    .     O    .    SX     .    pX     c      r     E      l   U
    """,
    LETTERS,
)

EXPECTED_OF_CHANGES = Grid(
    """
    phase             Change Changed Unchanged
    undeclared        !      !       !
    declared          !      .       .
    prepare-failed    !      .       .
    prepared          q      .       .
    prepared-wanted   q      .       .
    prepared-stop     !      .       .
    create-failed     !      .       .
    created           q      .       .
    created-stop      !      .       .
    starting          q      .       .
    starting-stop     !      .       .
    start-failed      !      .       .
    running           q      .       .
    stopping          !      .       .
    given-up          !      .       .
    given-up-stop     !      .       .
    given-up-end      !      .       .
    exited            !      .       .
    released          !      .       .
    removing-live     !      .       .
    removing          !      .       .
    removing-released !      .       .
    removed           !      .       .
    changing-prepared .      u       n
    changing          .      u       n
    changing-stop     .      u       n
    """,
    LETTERS,
)


def after(*facts: Any) -> Container:
    """Return the state that *facts* lead to."""
    return reduce(evolve, facts, domain.INITIAL)


PHASES = {
    "undeclared": after(),
    "declared": after(D),
    "prepare-failed": after(D, PREPARE_FAILED, X),
    "prepared": after(D, P),
    "prepared-wanted": after(D, P, W),
    "prepared-stop": after(D, P, S),
    "create-failed": after(D, P, CREATE_FAILED),
    "created": after(D, P, C),
    "created-stop": after(D, P, C, S),
    "starting": after(D, P, C, W),
    "starting-stop": after(D, P, C, W, S),
    "start-failed": after(D, P, C, W, START_FAILED),
    "running": after(D, P, C, W, R),
    "stopping": after(D, P, C, W, R, S),
    "given-up": after(D, P, C, W, R, U),
    "given-up-stop": after(D, P, C, W, R, S, U),
    "given-up-end": after(D, P, C, W, R, O, X, U),
    "exited": after(D, P, C, W, R, O),
    "released": after(D, P, C, W, R, O, V),
    "removing-live": after(D, P, C, W, R, S, X),
    "removing": after(D, P, C, W, R, O, X),
    "removing-released": after(D, P, C, W, R, O, V, X),
    "removed": after(D, P, C, W, R, O, V, X, events.Removed()),
    "changing-prepared": after(D, P, Q),
    "changing": after(D, P, C, W, R, Q),
    "changing-stop": after(D, P, C, W, R, Q, S),
}


def failed(step: str) -> domain.NoteFailed:
    return domain.NoteFailed(step=step, error="EffectFailed", message="no", at_ns=9)


COMMANDS: dict[str, Any] = {
    "Create": domain.Create(declared=D),
    "Prep": domain.NotePrepared(spec=EMPTY, uid=0, gid=0),
    "Made": domain.NoteCreated(pid=7, start_ticks=8),
    "Start": domain.Start(),
    "Ran": domain.NoteStarted(at_ns=5),
    "Stop": domain.Stop(grace_ms=500, now_boot_ns=0),  # would kill sooner than the stop that PHASES have
    "Later": domain.Stop(grace_ms=1000, now_boot_ns=1),  # would kill later
    "Exit": domain.NoteExited(at_ns=9, exit_code=0, oom_killed=False, source="monitor"),
    "Free": domain.NoteReleased(),
    "Remove": domain.Remove(now_boot_ns=0),
    "Gone": domain.NoteErased(),
    "NoPrep": failed("Prepare"),
    "NoMake": failed("Create"),
    "NoRun": failed("Start"),
    "NoFree": failed("Release"),
    "Log": domain.NoteLogReopened(),
    "Quit": domain.NoteGaveUp(reason="crashed"),
}

CHANGES = {
    "Change": updates.Update(update_id="u1", change=EMPTY),
    "Changed": updates.NoteUpdated(update_id="u1", limits=EMPTY),
    "Unchanged": updates.NoteUpdateRefused(update_id="u1", error="EffectFailed", message="no"),
}
COMMANDS |= CHANGES


def terminate(kill_at_ms: int) -> domain.Terminate:
    return domain.Terminate(pid=7, start_ticks=8, signal="SIGTERM", kill_at_boot_ns=kill_at_ms * MS, failures=0)


WATCH = domain.Watch(pid=7, start_ticks=8, failures=0)
RELEASE, ERASE = domain.Release(failures=0), domain.Erase(failures=0)

OWED = {
    "undeclared": None,
    "declared": domain.PrepareEffect(),
    "prepare-failed": RELEASE,
    "prepared": domain.CreateEffect(),
    "prepared-wanted": domain.CreateEffect(),
    "prepared-stop": domain.CreateEffect(),  # what is half made is finished, then killed: nothing is left unnamed
    "create-failed": RELEASE,
    "created": WATCH,
    "created-stop": terminate(0),
    "starting": domain.StartEffect(),
    "starting-stop": terminate(0),
    "start-failed": RELEASE,
    "running": WATCH,
    "stopping": terminate(1000),
    "given-up": None,
    "given-up-stop": None,
    "given-up-end": None,
    "exited": RELEASE,
    "released": None,
    "removing-live": terminate(1000),
    "removing": RELEASE,
    "removing-released": ERASE,
    "removed": None,
    "changing-prepared": domain.CreateEffect(),  # the change follows
    "changing": updates.ApplyUpdate(update_id="u1", change=EMPTY, in_force=None),
    "changing-stop": terminate(1000),  # no change holds up a stop
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_phase_answers_every_command(phase: str, command: str) -> None:
    table = EXPECTED_OF_CHANGES if command in CHANGES else EXPECTED
    assert table.outcome(decide, PHASES[phase], COMMANDS[command]) == table.expected(phase, command)


def test_what_plugins_changed_is_told_before_the_preparation_that_holds_it() -> None:
    adjusted = events.Adjusted(plugins=("10-a",), count=1, changes=Digest("sha256:c"), before=Digest("sha256:b"))
    note = domain.NotePrepared(spec=Digest("sha256:s"), uid=0, gid=0, adjusted=(adjusted,))

    facts = decide(PHASES["declared"], note)

    assert [type(fact) for fact in facts] == [events.Adjusted, events.Prepared]
    assert reduce(evolve, facts, PHASES["declared"]).prepared == facts[1]
    assert decide(PHASES["prepared"], note) == ()


def test_the_table_is_complete() -> None:
    assert EXPECTED.phases == EXPECTED_OF_CHANGES.phases == list(PHASES)
    assert EXPECTED.commands + EXPECTED_OF_CHANGES.commands == list(COMMANDS)
    elsewhere = {restores.NoteRestored}  # in test_container_restore
    assert {type(one) for one in COMMANDS.values()} | elsewhere == set(domain.Command.__args__)
    kinds = {kind.__name__ for kind in REGISTRY.values() if kind.__module__ == events.__name__}
    assert set(LETTERS.values()) == kinds


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_owes_the_first_debt_of_the_ladder(phase: str) -> None:
    assert plan(PHASES[phase]) == OWED[phase]


@pytest.mark.parametrize("phase", PHASES)
def test_evolve_refuses_no_fact_in_any_phase(phase: str) -> None:
    failing = events.EffectFailed(step="Release", error="E", message="m", failures=3)
    ends = (PREPARE_FAILED, CREATE_FAILED, START_FAILED, O, V, X, events.Removed())
    made = events.Updated(update_id="u1", limits=EMPTY)
    refused = events.UpdateRefused(update_id="u1", error="E", message="m")
    digests = {"changes": EMPTY, "change": EMPTY}
    adjusted = events.UpdateAdjusted(update_id="u1", plugins=("10-a",), count=1, **digests)
    for fact in (D, P, C, W, R, S, Q, adjusted, made, refused, *ends, failing, events.LogReopened(), U):
        assert isinstance(evolve(PHASES[phase], fact), Container)


@pytest.mark.parametrize(
    ("phase", "word"),
    [
        ("undeclared", "undeclared"),
        ("declared", "preparing"),
        ("prepared", "created"),
        ("created", "created"),
        ("starting", "starting"),
        ("running", "running"),
        ("exited", "exited"),
        ("create-failed", "exited"),
        ("prepare-failed", "removing"),
        ("removed", "removed"),
    ],
)
def test_a_phase_has_a_word(phase: str, word: str) -> None:
    assert PHASES[phase].phase == word


def test_running_is_what_has_started_and_not_ended() -> None:
    running = {name for name, state in PHASES.items() if state.running}

    assert running == {"running", "stopping", "given-up", "given-up-stop", "removing-live", "changing", "changing-stop"}


def test_a_second_stop_wins_when_it_would_kill_sooner() -> None:
    state = told(PHASES["running"], domain.Stop(grace_ms=30_000, now_boot_ns=0))
    sooner = told(state, domain.Stop(grace_ms=2_000, now_boot_ns=1_000 * MS))
    later = told(sooner, domain.Stop(grace_ms=30_000, now_boot_ns=1_001 * MS))

    assert plan(state) == terminate(30_000)
    assert plan(sooner) == terminate(3_000)
    assert later == sooner


def test_the_stop_signal_is_the_declared_one() -> None:
    quits = after(container_declared(stop_signal="SIGQUIT"), P, C, W, R)

    assert decide(quits, COMMANDS["Stop"]) == (
        events.StopRequested(grace_ms=500, kill_at_boot_ns=500 * MS, signal="SIGQUIT"),
    )


@pytest.mark.parametrize("phase", PHASES)
def test_after_a_reboot_nothing_runs(phase: str) -> None:
    state = PHASES[phase]
    commands = observe(state, domain.Found(rebooted=True, now_ns=77))

    for command in commands:
        state = told(state, command)
    assert state.declared is None or state.ended
    if phase in ("running", "created", "stopping"):
        assert state.exited == events.Exited(at_ns=77, exit_code=255, source="reboot")


@pytest.mark.parametrize("phase", PHASES)
def test_within_one_boot_the_plan_finds_out_by_itself(phase: str) -> None:
    assert observe(PHASES[phase], domain.Found(rebooted=False, now_ns=77)) == ()


# --- any sequence of commands ----------------------------------------------------------------------------------------


def note_of(effect: Any) -> Any:
    """Return what a successful *effect* says."""
    match effect:
        case domain.PrepareEffect():
            return COMMANDS["Prep"]
        case domain.CreateEffect():
            return COMMANDS["Made"]
        case domain.StartEffect():
            return COMMANDS["Ran"]
        case updates.ApplyUpdate(update_id=update_id):
            return updates.NoteUpdated(update_id=update_id, limits=EMPTY)
        case restores.RestoreEffect():
            return restores.NoteRestored(pid=7, start_ticks=8, at_ns=5)
        case domain.Watch() | domain.Terminate() | restores.Forgo():
            return COMMANDS["Exit"]
        case domain.Release():
            return COMMANDS["Free"]
        case domain.Erase():
            return COMMANDS["Gone"]
    raise AssertionError(effect)


def failure_of(effect: Any) -> Any:
    if isinstance(effect, updates.ApplyUpdate):
        return updates.NoteUpdateRefused(update_id=effect.update_id, error="EffectFailed", message="no")
    return failed(type(effect).__name__.removesuffix("Effect"))


def told(state: Container, command: Any) -> Container:
    """Return the state after *command*; a refusal changes nothing."""
    try:
        return reduce(evolve, decide(state, command), state)
    except WrongState:
        return state


stops = st.builds(domain.Stop, grace_ms=st.integers(0, 3), now_boot_ns=st.integers(0, 3).map(lambda ms: ms * MS))
changes = st.integers(0, 99).map(lambda number: updates.Update(update_id=str(number), change=EMPTY))
moves = st.sampled_from(["note", "note", "note", "fail", *COMMANDS]) | stops | changes


@st.composite
def reached(draw: st.DrawFn) -> Container:
    """Any state that commands and notes lead to."""
    state = told(domain.INITIAL, domain.Create(declared=draw(st.sampled_from([D, FROM_CHECKPOINT]))))
    for move in draw(st.lists(moves, max_size=14)):
        effect = plan(state)
        if move in ("note", "fail"):
            if effect is not None:
                state = told(state, note_of(effect) if move == "note" else failure_of(effect))
        else:
            state = told(state, COMMANDS[move] if isinstance(move, str) else move)
    return state


@given(reached(), st.booleans())
@example(PHASES["running"], False)
def test_a_note_of_the_effect_in_flight_always_moves_the_plan(state: Container, succeeds: bool) -> None:
    effect = plan(state)
    if effect is not None:
        note = note_of(effect) if succeeds else failure_of(effect)

        assert plan(told(state, note)) != effect


@given(reached())
def test_a_removed_container_goes_away_when_its_effects_succeed(state: Container) -> None:
    state = told(state, COMMANDS["Remove"])
    for _ in range(5):
        effect = plan(state)
        if effect is not None:
            state = told(state, note_of(effect))

    assert state.removed
    assert plan(state) is None


@given(reached())
def test_a_stopped_container_ends_when_its_effects_succeed(state: Container) -> None:
    state = told(state, COMMANDS["Stop"])
    for _ in range(5):
        effect = plan(state)
        if effect is not None:
            state = told(state, note_of(effect))

    assert state.ended
    assert not state.running


@given(reached(), st.lists(stops, min_size=1, max_size=4))
def test_of_all_stops_the_soonest_holds(state: Container, wanted: list[domain.Stop]) -> None:
    if state.ended or state.gave_up is not None or state.prepared is None:
        return
    times = [stop.now_boot_ns + stop.grace_ms * MS for stop in wanted]
    times += [state.stop.kill_at_boot_ns] if state.stop is not None else []
    for stop in wanted:
        state = told(state, stop)

    assert state.stop is not None
    assert state.stop.kill_at_boot_ns == min(times)


@given(reached(), st.sampled_from(sorted(COMMANDS)))
def test_deciding_twice_says_nothing_new(state: Container, name: str) -> None:
    if name.startswith("No"):
        return  # each failure counts
    once = told(state, COMMANDS[name])

    assert told(once, COMMANDS[name]) == once


@given(reached(), st.lists(st.sampled_from(sorted(COMMANDS)), max_size=8))
def test_how_a_container_ended_never_changes(state: Container, names: list[str]) -> None:
    if not state.ended:
        return
    end = (state.exited, state.start_failed, state.create_failed, state.prepare_failed)
    for name in names:
        state = told(state, COMMANDS[name])

    assert (state.exited, state.start_failed, state.create_failed, state.prepare_failed) == end


@given(st.lists(st.sampled_from(sorted(COMMANDS)), max_size=10))
def test_a_removed_container_absorbs_everything(names: list[str]) -> None:
    state = PHASES["removed"]
    for name in names:
        state = told(state, COMMANDS[name])

    assert state == PHASES["removed"]
    assert is_over(state)


@given(reached())
def test_a_state_survives_a_snapshot(state: Container) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=Container) == state
