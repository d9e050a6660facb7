"""``ocid-replay verify`` and ``prove`` on logs that are signed, and the script that checks proofs elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ocid_replay.__main__ import main

from ocid.domain.note import Key
from tests.fakes.author import ORIGIN, Author
from tests.fakes.signers import FakeSigner

CHECKER = Path(__file__).parents[2] / "docs" / "check_proof.py"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def author(tmp_path: Path) -> Author:
    return Author(tmp_path / "log").found().write(300).seal().write(20).seal().write(2)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], author: Author) -> Run:
    def run_it(*arguments: object, log: Author = author) -> tuple[int, str, str]:
        log.store.close()
        command, *rest = map(str, arguments)
        code = main([command, "--log", str(log.store.directory), *rest], guard=lambda work: work())
        return code, *capsys.readouterr()

    return run_it


def kept(tmp_path: Path, *notes: str) -> Path:
    path = tmp_path / "witness.txt"
    path.write_text("".join(notes))
    return path


def test_a_signed_log(run: Run, author: Author, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(author.key.text() + "\n")
    for given in (author.key.text(), key):
        code, out, _ = run("verify", "--key", given, "--witness", kept(tmp_path, *author.notes))
        assert code == 0
        assert f"2 checkpoints of {ORIGIN} are right" in out
        assert "covers 322 records" in out
        assert "after it, 3 records are not signed for yet" in out
        assert "a witness saw the first 322 records as they are" in out
        assert "give --" not in out
    code, out, _ = run("verify")
    assert code == 0
    assert "nobody but the log says that this is its key: give --key" in out
    assert "no witness was asked" in out
    seals = json.loads(run("verify", "-o", "json")[1])["seals"]
    assert (seals["checkpoints"], seals["signed_records"], seals["key_trusted"]) == (2, 322, False)


def test_what_contradicts_a_signed_log(run: Run, author: Author, tmp_path: Path) -> None:
    other = Key(ORIGIN, FakeSigner(9).public)
    code, out, _ = run("verify", "--key", other.text())
    assert code == 3
    assert out.startswith("NOT THE LOG THAT WAS SIGNED FOR")
    assert "signed nothing here" in out
    forged = Author(tmp_path / "forged").found().write(3, first=7).write(400).seal()
    code, out, _ = run("verify", "--witness", kept(tmp_path, author.notes[0]), log=forged)
    assert code == 3
    assert "the first 301 records are not those that it saw" in out
    assert run("verify", "--witness", kept(tmp_path))[0] == 3, "a witness that knows nothing is no witness"
    code, _, err = run("verify", "--witness", tmp_path / "absent")
    assert (code, "cannot be read" in err) == (1, True)
    code, _, err = run("verify", "--key", "no-key+at+all")
    assert (code, "is no key" in err) == (1, True)


def test_a_log_that_nobody_signed(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("verify", log=Author(tmp_path / "bare").write(3))
    assert code == 6
    assert out.startswith("NOT SIGNED")


def checked(proof: Any, key: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "proof.json"
    path.write_text(json.dumps(proof))
    words = [sys.executable, "-I", "-S", str(CHECKER), str(path), key]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("seq", [1, 2, 256, 257, 301, 302, 322])
def test_a_proof_is_checked_with_nothing_but_the_standard_library(
    run: Run, author: Author, tmp_path: Path, seq: int
) -> None:
    code, out, _ = run("prove", seq)
    assert code == 0
    done = checked(json.loads(out), author.key.text(), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"record {seq} is one of the {301 if seq < 302 else 322} that {ORIGIN} signed for")


def test_a_forged_proof_is_none(run: Run, author: Author, tmp_path: Path) -> None:
    proof, key = json.loads(run("prove", 42)[1]), author.key.text()
    other = json.loads(run("prove", 43)[1])
    forgeries = [
        {**proof, "seq": 41},
        {**proof, "seq": 0},
        {**proof, "record": other["record"]},
        {**proof, "proof": proof["proof"][:-1]},
        {**proof, "proof": [*proof["proof"], "00" * 32]},
        {**proof, "checkpoint": proof["checkpoint"].replace("\n301\n", "\n300\n")},
        {**proof, "checkpoint": proof["checkpoint"].replace(ORIGIN, ORIGIN[:-1] + "c")},
    ]
    for forged in forgeries:
        done = checked(forged, key, tmp_path)
        assert done.returncode == 1, forged
        assert "NOT PROVEN" in done.stderr
    done = checked(proof, Key(ORIGIN, FakeSigner(9).public).text(), tmp_path)
    assert (done.returncode, "this key did not sign" in done.stderr) == (1, True)


def test_what_cannot_be_proven_yet_or_ever(run: Run, tmp_path: Path) -> None:
    code, _, err = run("prove", 323)
    assert (code, "not signed for yet" in err) == (1, True)
    code, _, err = run("prove", 999)
    assert (code, "'999' not found" in err) == (1, True)
    code, _, err = run("prove", 1, log=Author(tmp_path / "bare").write(3))
    assert (code, "proves nothing" in err) == (1, True)


def test_the_script_is_short_enough_to_be_read() -> None:
    assert len(CHECKER.read_text().splitlines()) <= 70
