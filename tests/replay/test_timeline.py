"""The timeline: how long after the one before each record came, and its forms for programs."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from tests.fakes import lives
from tests.fakes.lives import Life
from tools.replay.__main__ import main
from tools.replay.timeline import elapsed

S = 10**9


@pytest.fixture
def life(tmp_path: Path) -> Life:
    life = Life(tmp_path / "log")
    lives.write_begin(life)
    lives.write_web(life)
    return life


@pytest.mark.parametrize(
    ("boot_ns", "wall_ns", "other_boot", "said"),
    [
        (0, -9 * S, False, "+0.000s"),  # the wall clock was set back meanwhile
        (12_345_678, 0, False, "+0.012s"),
        (59_999 * 10**6, 0, False, "+59.999s"),
        (200 * S, 0, False, "+3m20s"),
        (5 * 3600 * S + 59 * S, 0, False, "+5h00m"),
        (51 * 3600 * S, 0, False, "+2d03h"),
        (-S, S, False, "-1.000s"),
        (-500 * S, 7 * S, True, "~+7.000s"),
        (S, -90 * S, True, "~-1m30s"),
    ],
)
def test_what_time_went_by(life: Life, boot_ns: int, wall_ns: int, other_boot: bool, said: str) -> None:
    before = life.envelopes[0]
    boot_id = "11111111-2222-4333-8444-555555555555" if other_boot else before.boot_id
    after = msgspec.structs.replace(
        before, boot_ns=before.boot_ns + boot_ns, wall_ns=before.wall_ns + wall_ns, boot_id=boot_id
    )

    assert elapsed(before, after) == said


def test_a_document_and_lines_say_the_same(life: Life, capfd: pytest.CaptureFixture[str]) -> None:
    life.store.close()
    directory = str(life.store.directory)

    assert main(["timeline", "--log", directory, "-o", "json"], guard=lambda work: work()) == 0
    document = json.loads(capfd.readouterr().out)
    assert main(["timeline", "--log", directory, "-o", "jsonl"], guard=lambda work: work()) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]

    assert document == {"records": lines}
    assert [each["seq"] for each in lines] == list(range(1, len(life.envelopes) + 1))


def test_a_document_has_an_end(life: Life, capfd: pytest.CaptureFixture[str]) -> None:
    life.store.close()

    assert main(["timeline", "--log", str(life.store.directory), "-o", "json", "-f"], guard=lambda work: work()) == 1
    assert "use -o jsonl" in capfd.readouterr().err
