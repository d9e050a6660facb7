"""Whatever a client sends, the daemon answers with a status that says whose fault it was, and serves on.

No answer may be UNKNOWN or INTERNAL, but that of PullImage where a registry is at fault; no actor may crash; what the
requests made must be removable. ``OCID_FUZZ_SECONDS=600`` runs for so long, with another seed each time from
``OCID_FUZZ_SEED`` on, and tells what each request type was answered; without it a fixed handful is tried.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings, strategies as st

from tests.conftest import FUZZED
from tests.cri import fuzzing
from tests.cri.played import Answers, kind_of, play

SECONDS = float(os.environ.get("OCID_FUZZ_SECONDS", "0"))
SEED = int(os.environ.get("OCID_FUZZ_SEED", "0"))
LENGTH = 40 if SECONDS else 20  # requests of one daemon, at most
EXAMPLES = 20  # daemons of a run in the suite
SWEPT = 60  # requests of one daemon
VALUES = 1000 if SECONDS else 1  # tried of each field when all are swept


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Logs of refusals are no news here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def answers(request: pytest.FixtureRequest) -> Iterator[Answers]:
    """Counts of answers by RPC and status; told at the end of the session when the run is a long one."""
    counts: Answers = Counter()
    yield counts
    if SECONDS:
        request.config.stash.setdefault(FUZZED, Counter()).update(counts)


@pytest.mark.timeout(max(60.0, SECONDS + 300.0))
def test_no_sequence_of_requests_is_answered_as_a_bug(tmp_path: Path, answers: Answers) -> None:
    found: dict[str, str] = {}
    began = time.monotonic()

    def attempt(sent: list[list[fuzzing.Request]], restart: bool) -> None:
        if SECONDS and time.monotonic() - began > SECONDS:
            return
        faults = play(tmp_path, sent, restart=restart, answers=answers)
        if SECONDS:  # goes on, to find others
            found.update({kind_of(fault): fault for fault in faults if kind_of(fault) not in found})
        else:
            assert faults == []

    budget = settings(
        max_examples=300 if SECONDS else EXAMPLES,
        deadline=None,
        database=None,
        phases=(Phase.generate,) if SECONDS else (Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        derandomize=not SECONDS,
    )
    test = budget(given(fuzzing.sequences(LENGTH), st.booleans())(attempt))
    if not SECONDS:
        test()
    for number in itertools.count(SEED):
        if time.monotonic() - began >= SECONDS:
            break
        seed(number)(test)()

    assert not found, "\n".join(found.values())


@pytest.mark.timeout(600 if SECONDS else 60)
def test_no_value_of_any_field_is_answered_as_a_bug(tmp_path: Path, answers: Answers) -> None:
    """Each field of each request once spoilt by each value; in the suite by one of them."""
    sent = [one for method in fuzzing.METHODS for one in fuzzing.sweep(method, VALUES)]
    found: dict[str, str] = {}
    for first in range(0, len(sent), SWEPT):
        faults = play(tmp_path, ([one] for one in sent[first : first + SWEPT]), restart=False, answers=answers)
        found.update({kind_of(fault): fault for fault in faults})

    assert not found, "\n".join(found.values())
    tried = {name for name, _ in answers if name.isalpha()}
    assert tried == {one.name for one in fuzzing.METHODS}, "some RPC was never tried"
    assert tried == {name for name, status in answers if status == "OK" and name.isalpha()}, "one never succeeded"
