"""``ocid drift`` on fakes: looks until differences last, and prints them for people and programs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ocid.cli import drift
from ocid.cli.drift_changes import remarks, rows
from ocid.cli.run import main
from ocid.domain.changes import ADDED, CHANGED, Change, Entry, Layers, Walk
from ocid.domain.drift import Asked, Difference, Sighting, Thing
from ocid.errors import Unsupported
from tests.fakes.lives import BOOT, write_log

STRAY = Thing("mount", "/run/ocid/x\x1b[2J")
Run = Callable[..., tuple[int, str, str]]


class FakeSurvey:
    """A host that is seen as one thing after the other; the last one for ever."""

    def __init__(self, *sightings: Sighting | Exception, walk: Walk | None = None) -> None:
        self.sightings = list(sightings)
        self.asked: list[Asked] = []
        self.walked: list[tuple[Layers, int]] = []
        self.walk = walk

    def look(self, asked: Asked) -> Sighting:
        self.asked.append(asked)
        seen = self.sightings.pop(0) if len(self.sightings) > 1 else self.sightings[0]
        if isinstance(seen, Exception):
            raise seen
        return seen

    def changes(self, layers: Layers, bytes_max: int) -> Walk:
        self.walked.append((layers, bytes_max))
        assert self.walk is not None
        return self.walk


class Deps:
    def __init__(self, survey: FakeSurvey) -> None:
        self.survey = survey


@pytest.fixture(autouse=True)
def naps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    taken: list[float] = []
    monkeypatch.setattr(time, "sleep", taken.append)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(drift, "BOOT_ID", tmp_path / "boot_id")
    (tmp_path / "boot_id").write_text(f"{BOOT}\n")
    return taken


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    write_log(tmp_path / "root" / "log")
    (tmp_path / "ocid.toml").write_text("")

    def run_it(survey: FakeSurvey, *words: str) -> tuple[int, str, str]:
        options = ["--root", str(tmp_path / "root"), "--config", str(tmp_path / "ocid.toml")]
        return main(Deps(survey), ["drift", *words, *options]), *capsys.readouterr()  # type: ignore[arg-type]

    return run_it


def host(run: Run, *strays: Thing) -> Sighting:
    """Return a host that has all that the log claims, and these."""
    found: dict[Thing, str] = {}
    while said := json.loads(run(FakeSurvey(Sighting(found=found)), "-o", "json")[1])["differences"]:
        found.update({Thing(one["kind"], one["subject"]): one["expected"] for one in said})
    return Sighting(found={**found, **dict.fromkeys(strays, "tmpfs")})


def test_nothing_is_said_of_a_host_that_is_as_the_log_says(run: Run, naps: list[float]) -> None:
    whole = host(run)
    naps.clear()
    code, out, err = run(FakeSurvey(whole))

    assert (code, err, naps) == (0, "", [])
    assert out == "no difference between the host and the log as of seq 48\n"


def test_a_difference_is_looked_at_twice(run: Run, naps: list[float]) -> None:
    whole, strange = host(run), host(run, STRAY)
    naps.clear()
    assert run(FakeSurvey(strange, whole))[0] == 0
    assert naps == [1.0]
    code, out, _ = run(FakeSurvey(strange, strange))

    assert code == 8
    heading, row = out.splitlines()
    assert heading.split("  ")[0] == "KIND"
    assert row.split() == ["mount", "/run/ocid/x\N{REPLACEMENT CHARACTER}[2J", "nothing", "tmpfs", "-"]


def test_what_comes_later_is_looked_at_again(run: Run, naps: list[float]) -> None:
    other = Thing("mount", "/run/ocid/y")
    first, second = host(run, STRAY), host(run, STRAY, other)
    naps.clear()
    code, out, _ = run(FakeSurvey(first, second, second), "-o", "jsonl")

    assert (code, len(naps)) == (8, 2)
    assert [json.loads(line)["subject"] for line in out.splitlines()] == [STRAY.name, other.name]


def test_a_host_that_never_rests_ends(run: Run, naps: list[float]) -> None:
    sightings = [host(run, Thing("mount", f"/run/ocid/{number}")) for number in range(9)]
    naps.clear()

    assert run(FakeSurvey(*sightings), "-o", "jsonl")[:2] == (0, "")
    assert len(naps) == 3


def test_programs_get_everything(run: Run) -> None:
    strange = host(run, STRAY)
    rule = Difference(kind="nftables", subject="table inet ocid_ocid0", expected="there", found="", seq=3)
    code, out, _ = run(FakeSurvey(Sighting(found=strange.found, rules=(rule,))), "-o", "json")

    assert code == 8
    assert json.loads(out) == {
        "seq": 48,
        "differences": [
            {"kind": "mount", "subject": STRAY.name, "expected": "", "found": "tmpfs", "seq": 0},
            {"kind": "nftables", "subject": "table inet ocid_ocid0", "expected": "there", "found": "", "seq": 3},
        ],
    }


def test_failures_are_one_line_and_another_exit_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = run(FakeSurvey(Unsupported("the daemon is elsewhere")))
    assert (code, out, err) == (1, "", "ocid: the daemon is elsewhere\n")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    survey = FakeSurvey(Sighting(found={}))
    code, _, err = run(survey)
    assert (code, "run this as root" in err, survey.asked) == (1, True, [])


def test_a_boot_since_is_mentioned(run: Run, tmp_path: Path) -> None:
    strange = host(run, STRAY)
    (tmp_path / "boot_id").write_text("another\n")

    assert "has booted since" in run(FakeSurvey(strange))[2]


def test_help_tells_the_exit_codes(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(FakeSurvey(Sighting(found={})), "--help")

    assert "0 no difference, 1 failure, 2 usage, 8 differences" in " ".join(capsys.readouterr().out.split())


# --- a container's changes --------------------------------------------------------------------------------------------


def entry(**fields: Any) -> Entry:
    return Entry(**{"kind": "file", "mode": 0o755, "uid": 0, "gid": 0, "size": 3, "sha256": "f" * 64, **fields})


def test_a_container_that_is_not_there(run: Run) -> None:
    code, _, err = run(FakeSurvey(Sighting(found={})), "nonesuch")

    assert (code, err) == (1, "ocid: container 'nonesuch' not found\n")


def test_changes_for_people() -> None:
    changed = Change(
        path="/bin/x\n",
        change=CHANGED,
        what=("mode", "content"),
        now=entry(mode=0o4755, mtime_ns=1_763_956_800_000_000_000, xattrs={"security.capability": "0x01"}),
        before=entry(sha256="e" * 64),
        layer="sha256:base",
        layer_number=1,
    )
    added = Change(path=r"/no\xff", path_hex="2f6e6fff", change=ADDED, now=entry(kind="symlink", target="/etc"))
    gone = Change(path="/gone", change="deleted", before=entry(), layer_number=2, note="a note")

    assert [*rows([changed, added, gone])] == [
        (
            "changed",
            r"/bin/x\n",
            "mode, content changed: file rwsr-xr-x 0:0 3 B security.capability=0x01, 2025-11-24T04:00:00.000Z",
            "file rwxr-xr-x 0:0 3 B, layer 1",
            f"{'f' * 64} was {'e' * 64}",
        ),
        ("added", r"/no\xff", "symlink rwxr-xr-x 0:0 → /etc, 1970-01-01T00:00:00.000Z", "", "f" * 64),
        ("deleted", "/gone", "(a note)", "file rwxr-xr-x 0:0 3 B, layer 2", f"was {'f' * 64}"),
    ]


def test_what_a_reader_of_the_table_is_told() -> None:
    empty = Walk(changes=(), bytes_read=0, not_hashed=0, complete=True)
    cut = Walk(changes=(Change(path="/", change=ADDED),), bytes_read=0, not_hashed=2, complete=False)

    assert [*remarks(empty, 0)] == ["the writable layer is empty"]
    assert [text.partition(" ")[0] for text in remarks(cut, 1)] == ["1", "2", "not"]
