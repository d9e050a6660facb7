"""Questions to a log that was trimmed, and to an archive: what they no longer know, they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ocid_replay.__main__ import main

from ocid.events.log import LOG, Trimmed
from ocid.journal import archive
from ocid.journal.blocks import BLOCK
from tests.fakes.trimming import begun, churn, seal, trim_log

THROUGH = 2 * BLOCK


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log that was trimmed, and the archive of the last block that was trimmed beside it."""
    directory = tmp_path_factory.mktemp("trimmed")
    life = begun(directory / "log")
    seal(life)
    assert life.store.last_seq() > THROUGH + BLOCK
    archive.write(life.store, THROUGH - BLOCK + 1, THROUGH, directory / "two.ocid-archive")
    archive.write(life.store, 1, THROUGH, directory / "one.ocid-archive")
    trim_log(life, THROUGH)
    churn(life, 2, 10)
    seal(life)
    life.store.close()
    return directory


def run(capfd: pytest.CaptureFixture[str], log: Path, *words: object) -> tuple[int, str, str]:
    code = main([str(words[0]), "--log", str(log), *map(str, words[1:])], guard=lambda work: work())
    return code, *capfd.readouterr()


@pytest.fixture
def told_at(directory: Path, capfd: pytest.CaptureFixture[str]) -> int:
    """The record that says that the log is trimmed."""
    _, out, _ = run(capfd, directory / "log", "timeline", "--type", Trimmed.TYPE, "-o", "jsonl")
    (record,) = map(json.loads, out.splitlines())
    assert record["stream"] == LOG
    return int(record["seq"])


def test_the_state_of_then_is_refused(directory: Path, told_at: int, capfd: pytest.CaptureFixture[str]) -> None:
    for words in (
        ("state-at", 1), ("state-at", THROUGH), ("state-at", told_at - 1), ("state", "--seq", told_at - 1),
        ("state-at", "2001-01-01"), ("diff", THROUGH, "now"),
    ):  # fmt: skip
        code, out, err = run(capfd, directory / "log", *words)
        assert (code, out) == (1, ""), words
        assert f"the log was trimmed up to record {THROUGH}, so it says what was there from record {told_at} on" in err


def test_the_state_since_is_whole(directory: Path, told_at: int, capfd: pytest.CaptureFixture[str]) -> None:
    for words in (("state-at", told_at), ("state-at", "now"), ("state",), ("diff", told_at, "now")):
        code, out, err = run(capfd, directory / "log", *words)
        assert (code, err) == (0, ""), words
        assert out


def test_an_archive_says_what_was_there_if_it_begins_with_the_first_record(
    directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(capfd, directory / "one.ocid-archive", "state-at", THROUGH)[0] == 0
    code, out, err = run(capfd, directory / "two.ocid-archive", "state")
    assert (code, out) == (1, "")
    assert f"this archive begins with record {THROUGH - BLOCK + 1}" in err


@pytest.mark.parametrize(
    "words",
    [("timeline",), ("timeline", "--pod", "p3"), ("timeline", "--to-seq", 9), ("who-did", "pod.*"), ("execs",),
     ("orphans",), ("recovery",), ("peers",), ("stats",), ("export",)],
    ids=str,
)  # fmt: skip
def test_what_may_lack_records_says_so(
    directory: Path, words: tuple[object, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capfd, directory / "log", *words)
    assert (code, err.count("\n")) == (0, 1)
    assert f"note: records up to {THROUGH} were trimmed" in err
    err = run(capfd, directory / "two.ocid-archive", *words)[2]
    assert f"note: this archive has the records from {THROUGH - BLOCK + 1} on" in err
    assert "note" not in run(capfd, directory / "one.ocid-archive", *words)[2]


def test_what_lacks_none_says_nothing(directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for command in ("timeline", "execs", "export"):
        code, out, err = run(capfd, directory / "log", command, "--from-seq", THROUGH + 1)
        assert (code, err) == (0, "")
        assert out
