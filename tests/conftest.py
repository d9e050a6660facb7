"""What all tests share: how hard Hypothesis tries, and the count of the daemon's deaths in simulations."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import settings

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=300, deadline=None, derandomize=True)
settings.register_profile("long", max_examples=3000, deadline=None)  # by hand, for one file
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

DEATHS = pytest.StashKey[dict[str, int]]()  # name of the simulation → how many runs it made

FUZZED = pytest.StashKey[Counter[tuple[str, str]]]()  # (RPC, status) → how many answers a long run got


@pytest.fixture
def simulated(request: pytest.FixtureRequest) -> dict[str, int]:
    """Count runs of simulations; the sums are told at the end of the session."""
    return request.config.stash.setdefault(DEATHS, {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for name, count in config.stash.get(DEATHS, {}).items():
        terminalreporter.write_line(f"simulated: {count} {name}")
    fuzzed = config.stash.get(FUZZED, Counter())
    for rpc in sorted({rpc for rpc, _ in fuzzed}):
        counts = {status: count for (name, status), count in sorted(fuzzed.items()) if name == rpc}
        shares = ", ".join(f"{status} {count}" for status, count in counts.items())
        terminalreporter.write_line(f"fuzzed: {sum(counts.values()):7} {rpc}: {shares}")
