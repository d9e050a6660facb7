"""The pod as a state machine: every phase answers every command, every state owes one effect or none."""

from __future__ import annotations

from functools import reduce
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, strategies as st

from ocid.domain import pod as domain
from ocid.domain.pod import Pod, decide, evolve, is_over, observe, plan
from ocid.errors import WrongState
from ocid.events import pod as events
from ocid.events.base import REGISTRY
from ocid.ids import digest_of
from tests.fakes.declared import EMPTY, pod_declared
from tests.fakes.grids import Grid

BRIDGE = pod_declared()
SHARED = pod_declared(shared_pid=True)
HOST = pod_declared(network="host", netns="", addresses=(), interface="")
TOLD = pod_declared(plugins=True)
P, R, S, X = events.Prepared(), events.Ready(), events.StopRequested(), events.RemoveRequested()
A = events.NetworkAttached(addresses=("10.88.0.2",), via="bridge")
Z = events.PauseStarted(pid=7, start_ticks=8)
F = events.Failed(step="Attach", error="EffectFailed", message="no")
Y = events.Announced()
C, N, T = events.ContainersStopped(), events.NetworkDetached(), events.Stopped()
U = events.GaveUp(reason="crashed")
REBOOT = events.Lost(reason="the node was rebooted", network_gone=True)

LETTERS = {
    "D": "Declared",
    "P": "Prepared",
    "A": "NetworkAttached",
    "V": "FurtherNetworkAttached",
    "Z": "PauseStarted",
    "Y": "Announced",
    "R": "Ready",
    "F": "Failed",
    "L": "Lost",
    "S": "StopRequested",
    "C": "ContainersStopped",
    "N": "NetworkDetached",
    "T": "Stopped",
    "X": "RemoveRequested",
    "G": "Removed",
    "E": "EffectFailed",
    "U": "GaveUp",
    "M": "ResourcesUpdated",
}

EXPECTED = Grid(
    """
    phase          Run Prepared Attach Paused Hear Failed Lost Stop Emptied Detached Released Remove Erased GaveUp Told
    undeclared     D   !        !      !      !    !      !    .    !       !        !        .      !      .      !
    declared       .   P        A      Z      Y    FSX    L    S    .       .        .        SX     .      U      M
    declared-host  .   PR       A      Z      Y    FSX    L    S    .       .        .        SX     .      U      M
    prepared       .   .        AR     Z      Y    FSX    L    S    .       .        .        SX     .      U      M
    attached       .   .        .      ZR     Y    FSX    L    S    .       .        .        SX     .      U      M
    told           .   .        .      Z      YR   FSX    L    S    .       .        .        SX     .      U      M
    ready          .   .        .      ZR     YR   E      L    S    .       .        .        SX     .      U      M
    ready-paused   .   .        .      .      YR   E      L    S    .       .        .        SX     .      U      M
    ready-host     .   .        AR     ZR     YR   E      L    S    .       .        .        SX     .      U      M
    lost           .   .        .      ZR     YR   E      .    S    .       .        .        SX     .      U      M
    rebooted       .   .        .      ZR     YR   E      .    S    .       N        .        SX     .      U      M
    rebooted-free  .   .        .      ZR     YR   E      .    S    .       .        .        SX     .      U      M
    given-up       .   .        .      ZR     YR   E      L    S    .       .        .        SX     .      .      M
    given-up-young .   .        AR     ZR     YR   FSX    L    S    .       .        .        SX     .      .      M
    stopping       .   .        .      .      .    E      .    .    C       N        T        X      .      U      M
    stopping-early .   .        .      .      .    E      .    .    C       N        T        X      .      U      M
    emptied        .   .        .      .      .    E      .    .    .       N        T        X      .      U      M
    detached       .   .        .      .      .    E      .    .    .       .        T        X      .      U      M
    stopped        .   .        .      .      .    E      .    .    .       .        .        X      .      U      M
    failed         .   .        .      .      .    E      .    .    .       N        T        .      .      U      M
    removing       .   .        .      .      .    E      .    .    .       .        .        .      G      U      M
    given-up-down  .   .        .      .      .    E      .    S    C       N        T        X      .      .      M
    removed        .   .        .      .      .    .      .    .    .       .        .        .      .      .      .
    """,
    LETTERS,
)


def after(*facts: Any) -> Pod:
    """Return the state that *facts* lead to."""
    return reduce(evolve, facts, domain.INITIAL)


PHASES = {
    "undeclared": after(),
    "declared": after(BRIDGE),
    "declared-host": after(HOST),
    "prepared": after(BRIDGE, P),
    "attached": after(SHARED, P, A),
    "told": after(TOLD, P, A),
    "ready": after(BRIDGE, P, A, R),
    "ready-paused": after(SHARED, P, A, Z, R),
    "ready-host": after(HOST, P, R),
    "lost": after(BRIDGE, P, A, R, events.Lost(reason="pause")),
    "rebooted": after(BRIDGE, P, A, R, REBOOT),
    "rebooted-free": after(BRIDGE, P, A, R, REBOOT, N),
    "given-up": after(BRIDGE, P, A, R, U),
    "given-up-young": after(BRIDGE, P, U),
    "stopping": after(BRIDGE, P, A, R, S),
    "stopping-early": after(BRIDGE, S),
    "emptied": after(BRIDGE, P, A, R, S, C),
    "detached": after(BRIDGE, P, A, R, S, C, N),
    "stopped": after(BRIDGE, P, A, R, S, C, N, T),
    "failed": after(BRIDGE, P, F, S, X),
    "removing": after(BRIDGE, P, A, R, S, C, N, T, X),
    "given-up-down": after(BRIDGE, P, A, R, S, X, U),
    "removed": after(BRIDGE, P, A, R, S, C, N, T, X, events.Removed()),
}

COMMANDS = {
    "Run": domain.Run(declared=BRIDGE),
    "Prepared": domain.NotePrepared(),
    "Attach": domain.NoteAttached(addresses=("10.88.0.2",), via="bridge"),
    "Paused": domain.NotePaused(pid=7, start_ticks=8),
    "Hear": domain.NoteAnnounced(),
    "Failed": domain.NoteFailed(step="Attach", error="EffectFailed", message="no"),
    "Lost": domain.NoteLost(reason="gone"),
    "Stop": domain.Stop(),
    "Emptied": domain.NoteContainersStopped(),
    "Detached": domain.NoteDetached(),
    "Released": domain.NoteReleased(),
    "Remove": domain.Remove(),
    "Erased": domain.NoteErased(),
    "GaveUp": domain.NoteGaveUp(reason="crashed"),
    "Told": domain.NoteResources(overhead=None, resources=EMPTY),
}

OWED = {
    "undeclared": None,
    "declared": domain.Prepare(),
    "declared-host": domain.Prepare(),
    "prepared": domain.Attach(),
    "attached": domain.StartPause(),
    "told": domain.Announce(),
    "ready": None,
    "ready-paused": domain.WatchPause(pid=7, start_ticks=8, failures=0),
    "ready-host": None,
    "lost": None,
    "rebooted": domain.Detach(failures=0),
    "rebooted-free": None,
    "given-up": None,
    "given-up-young": None,
    "stopping": domain.StopContainers(failures=0),
    "stopping-early": domain.StopContainers(failures=0),
    "emptied": domain.Detach(failures=0),
    "detached": domain.Release(failures=0),
    "stopped": None,
    "failed": domain.Detach(failures=0),
    "removing": domain.Erase(failures=0),
    "given-up-down": None,
    "removed": None,
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
def test_every_phase_owes_the_first_debt_of_the_ladder(phase: str) -> None:
    assert plan(PHASES[phase]) == OWED[phase]


@pytest.mark.parametrize("phase", PHASES)
def test_evolve_refuses_no_fact_in_any_phase(phase: str) -> None:
    lost, failing = events.Lost(reason="x"), events.EffectFailed(step="Detach", error="E", message="m", failures=3)
    for fact in (BRIDGE, P, A, Z, R, F, lost, S, C, N, T, X, events.Removed(), failing, U):
        assert isinstance(evolve(PHASES[phase], fact), Pod)


@pytest.mark.parametrize(
    ("phase", "word"),
    [
        ("undeclared", "undeclared"),
        ("declared", "starting"),
        ("ready", "ready"),
        ("lost", "lost"),
        ("rebooted", "lost"),
        ("given-up", "given up"),
        ("stopping", "stopping"),
        ("stopped", "stopped"),
        ("failed", "removing"),
        ("removed", "removed"),
    ],
)
def test_a_phase_has_a_word(phase: str, word: str) -> None:
    assert PHASES[phase].phase == word


def test_only_a_ready_pod_takes_containers() -> None:
    ready = {name for name, state in PHASES.items() if state.is_ready}

    assert ready == {"ready", "ready-paused", "ready-host"}


def test_a_step_of_taking_down_that_fails_counts_and_the_next_one_begins_anew() -> None:
    failed = reduce(evolve, decide(PHASES["emptied"], COMMANDS["Failed"]), PHASES["emptied"])
    twice = reduce(evolve, decide(failed, COMMANDS["Failed"]), failed)
    done = reduce(evolve, decide(twice, domain.NoteDetached()), twice)

    assert plan(failed) == domain.Detach(failures=1)
    assert plan(twice) == domain.Detach(failures=2)
    assert twice.last_error == "Attach: no"
    assert plan(done) == domain.Release(failures=0)


@pytest.mark.parametrize("rebooted", [False, True])
@pytest.mark.parametrize("present", [False, True])
@pytest.mark.parametrize("phase", PHASES)
def test_recovery_observes_only_what_a_ready_pod_lost(phase: str, present: bool, rebooted: bool) -> None:
    state = PHASES[phase]
    found = domain.Found(rebooted=rebooted, namespaces_present=present)

    noticed = phase in ("ready", "ready-paused", "ready-host", "given-up") and (rebooted or not present)
    assert bool(observe(state, found)) == noticed
    for command in observe(state, found):
        assert not reduce(evolve, decide(state, command), state).is_ready


def test_a_reboot_frees_what_the_network_holds_and_nothing_else_does() -> None:
    (lost,) = observe(PHASES["ready"], domain.Found(rebooted=True, namespaces_present=False))
    assert decide(PHASES["ready"], lost) == (REBOOT,)
    assert plan(after(HOST, P, R, REBOOT)) is None
    failed = reduce(evolve, decide(PHASES["rebooted"], COMMANDS["Failed"]), PHASES["rebooted"])
    assert plan(failed) == domain.Detach(failures=1)
    (lost,) = observe(PHASES["ready"], domain.Found(rebooted=False, namespaces_present=False))
    assert plan(reduce(evolve, decide(PHASES["ready"], lost), PHASES["ready"])) is None


# --- any sequence of commands ----------------------------------------------------------------------------------------


def note_of(effect: Any) -> Any:
    """Return what a successful *effect* says."""
    match effect:
        case domain.Prepare():
            return COMMANDS["Prepared"]
        case domain.Attach():
            return COMMANDS["Attach"]
        case domain.StartPause():
            return COMMANDS["Paused"]
        case domain.Announce():
            return COMMANDS["Hear"]
        case domain.WatchPause():
            return COMMANDS["Lost"]
        case domain.StopContainers():
            return COMMANDS["Emptied"]
        case domain.Detach():
            return COMMANDS["Detached"]
        case domain.Release():
            return COMMANDS["Released"]
        case domain.Erase():
            return COMMANDS["Erased"]
    raise AssertionError(effect)


def failure_of(effect: Any) -> Any:
    return domain.NoteFailed(step=type(effect).__name__, error="EffectFailed", message="no")


def told(state: Pod, command: Any) -> Pod:
    """Return the state after *command*; a refusal changes nothing."""
    try:
        return reduce(evolve, decide(state, command), state)
    except WrongState:
        return state


declarations = st.sampled_from([BRIDGE, SHARED, HOST, pod_declared(network="cni", addresses=(), shared_pid=True)])
moves = st.sampled_from(["note", "note", "note", "fail", *COMMANDS])


@st.composite
def reached(draw: st.DrawFn) -> Pod:
    """Any state that commands and notes lead to."""
    state = told(domain.INITIAL, domain.Run(declared=draw(declarations)))
    for move in draw(st.lists(moves, max_size=14)):
        effect = plan(state)
        if move in ("note", "fail"):
            if effect is not None:
                state = told(state, note_of(effect) if move == "note" else failure_of(effect))
        else:
            state = told(state, COMMANDS[move])
    return state


@given(reached(), st.booleans())
@example(PHASES["ready-paused"], False)
def test_a_note_of_the_effect_in_flight_always_moves_the_plan(state: Pod, succeeds: bool) -> None:
    effect = plan(state)
    if effect is not None:
        note = note_of(effect) if succeeds else failure_of(effect)

        assert plan(told(state, note)) != effect


@given(reached())
def test_a_removed_pod_goes_away_when_its_effects_succeed(state: Pod) -> None:
    state = told(state, domain.Remove())
    for _ in range(5):
        effect = plan(state)
        if effect is not None:
            state = told(state, note_of(effect))

    assert state.removed
    assert plan(state) is None


@given(reached())
def test_a_stopped_pod_rests_when_its_effects_succeed(state: Pod) -> None:
    state = told(state, domain.Stop())
    for _ in range(6):
        effect = plan(state)
        if effect is not None:
            state = told(state, note_of(effect))

    assert state.stopped
    assert plan(state) is None
    assert not state.is_ready


@given(reached(), st.sampled_from(sorted(COMMANDS)))
def test_deciding_twice_says_nothing_new(state: Pod, name: str) -> None:
    if name == "Failed":
        return  # each failure counts
    once = told(state, COMMANDS[name])

    assert told(once, COMMANDS[name]) == once


@given(st.lists(st.sampled_from(sorted(COMMANDS)), max_size=10))
def test_a_removed_pod_absorbs_everything(names: list[str]) -> None:
    state = PHASES["removed"]
    for name in names:
        state = told(state, COMMANDS[name])

    assert state == PHASES["removed"]
    assert is_over(state)


@given(reached())
def test_a_state_survives_a_snapshot(state: Pod) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=Pod) == state


def test_resources_are_those_told_last_and_what_is_not_told_stays() -> None:
    first = decide(PHASES["ready"], domain.NoteResources(overhead=EMPTY, resources=None))
    state = reduce(evolve, first, PHASES["ready"])
    other = digest_of(b"other")
    state = reduce(evolve, decide(state, domain.NoteResources(overhead=None, resources=other)), state)

    assert (state.overhead, state.resources) == (EMPTY, other)
    assert decide(state, domain.NoteResources(overhead=EMPTY, resources=other)) == ()
    assert plan(state) == plan(PHASES["ready"])


def test_further_networks_are_facts_of_their_own_beside_the_first():
    one = events.FurtherNetworkAttached(network="storage", interface="net1", addresses=("10.9.0.2",))
    two = events.FurtherNetworkAttached(network="backup", interface="net2", addresses=())
    note = domain.NoteAttached(addresses=("10.88.0.2",), via="cni:first", further=(one, two))
    attached, *others = domain.decide(after(BRIDGE, P), note)
    assert others == [one, two, R]
    state = after(BRIDGE, P, attached, *others)
    assert state.further == (one, two)
    assert state.attached is not None
    assert state.attached.addresses == ("10.88.0.2",)
    assert domain.decide(state, note) == ()
