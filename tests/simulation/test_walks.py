"""Random walks: whatever clients, faults, crashes and reboots do together, the invariants hold."""

from __future__ import annotations

import logging

import pytest

from tests.fakes.node import Node, dice, simulate
from tests.simulation.walk import random_walk

SEEDS = range(200)
FAULT_RATE = 0.06


def walked(seed: int) -> Node:
    """Run one walk; every failure names its seed."""
    try:
        return simulate(random_walk, seed=seed, faults=dice(seed, FAULT_RATE))
    except BaseException as error:
        error.add_note(f"walk of seed {seed}")
        raise


@pytest.mark.parametrize("first", SEEDS[::20])
def test_a_random_walk_breaks_nothing(first: int, simulated: dict[str, int], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # bugs are injected, and logged
    for seed in range(first, first + 20):
        walked(seed)
        simulated["random walks"] = simulated.get("random walks", 0) + 1


def test_the_same_seed_gives_the_same_log(caplog: pytest.LogCaptureFixture) -> None:
    """Trio's own dice are seeded, too: see ``tests.fakes.node.simulate``."""
    caplog.set_level(logging.CRITICAL)
    first, again, other = walked(7), walked(7), walked(8)

    assert first.disk.records == again.disk.records
    assert first.steps == again.steps
    assert other.disk.records != first.disk.records
