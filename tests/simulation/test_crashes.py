"""The daemon dies before and after every commit and at every step of every effect, and the end is the same.

Each run replays one scenario up to its moment, kills the daemon there, lets the next one recover on the same machine
and log, finishes the scenario, and asserts every invariant of ``tests.fakes.invariants``.
"""

from __future__ import annotations

import pytest

from tests.fakes.life import Moment
from tests.fakes.node import Node, simulate
from tests.simulation.scenarios import POWER_CUTS, SCENARIOS


def moments(whole: Node, kinds: tuple[str, ...] = ("before commit", "after commit", "step")) -> list[Moment]:
    """Return every moment of a run that went well, from where its scenario became interesting."""
    commits, steps = range(whole.interesting[0], whole.disk.commits), range(whole.interesting[1], len(whole.steps))
    counts = {"before commit": commits, "after commit": commits, "step": steps}
    return [Moment(kind, number + 1) for kind in kinds for number in counts[kind]]


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_end_is_the_same_wherever_the_daemon_dies(name: str, simulated: dict[str, int]) -> None:
    scenario = SCENARIOS[name]
    whole = simulate(scenario)

    for moment in moments(whole):
        died = simulate(scenario, moment=moment)
        assert died.lives >= 2, f"{name}: nobody died {moment}"
        simulated["crash points"] = simulated.get("crash points", 0) + 1


@pytest.mark.parametrize("name", POWER_CUTS)
def test_nothing_is_left_of_a_machine_that_lost_power_at_any_step(name: str, simulated: dict[str, int]) -> None:
    scenario = POWER_CUTS[name]
    whole = simulate(scenario)

    for moment in moments(whole, ("after commit", "step")):
        moment.reboot = True
        simulate(scenario, moment=moment)
        simulated["power cuts"] = simulated.get("power cuts", 0) + 1


@pytest.mark.parametrize(
    "name",
    [
        "pod_with_two_containers",
        "pulls_that_share_layers",
        "command_in_a_container",
        "probes_of_a_container",
        "clients_of_a_container",
        "image_volume",
    ],
)
def test_the_end_is_the_same_when_recovery_dies_too(name: str, simulated: dict[str, int]) -> None:
    scenario = SCENARIOS[name]
    whole = simulate(scenario)

    for number, moment in enumerate(moments(whole)[::2]):
        moment.again = 1 + number % 4
        died = simulate(scenario, moment=moment)
        if died.lives < 3:  # so near the end, the next life commits less often
            moment.again = 1
            died = simulate(scenario, moment=moment)
        assert died.lives >= 3, f"{name}: nobody died again {moment}"
        simulated["double crashes"] = simulated.get("double crashes", 0) + 1
