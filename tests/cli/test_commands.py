"""``ocid``'s commands that read: tables and JSON of ps, images, events and config, and failures in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from ocid.cli import events as events_command
from ocid.cli.client import Client
from ocid.cli.log import SNAPSHOT, current_view
from ocid.cli.run import COMMANDS, main
from ocid.config import Loaded
from ocid.errors import EffectFailed
from ocid.ids import PodId
from ocid.journal.looking import envelopes, look
from ocid.journal.store import Store
from ocid.projections.selection import Selection
from ocid.projections.view import schema_hash
from tests.fakes.author import Author
from tests.fakes.lives import APP, BOOT, HOG, IMAGE, JOB, LATE, Life, write_begin, write_job, write_log, write_web

ROOT = Path(__file__).parents[2]


class FakeDeps:
    """A daemon that only notes that it was started."""

    def __init__(self) -> None:
        self.served: list[str] = []
        self.successors = 0

    def serve(self, loaded: Loaded) -> int:
        self.served.append(loaded.config.root)
        return 0

    def make_successor(self, loaded: Loaded) -> None:
        self.successors += 1

    def wish_erasure(self, loaded: Loaded, pod_id: PodId, reason: str) -> Path:
        raise AssertionError("nothing is erased here")

    def connect(self, loaded: Loaded) -> AbstractAsyncContextManager[Client]:
        raise AssertionError("no command here needs a daemon")


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_log(tmp_path / "root" / "log")
    return tmp_path / "root"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], root: Path, tmp_path: Path) -> Run:
    """Return what runs a command line: exit code, output, errors."""
    (tmp_path / "ocid.toml").write_text("")

    def run_it(*arguments: object, deps: FakeDeps | None = None) -> tuple[int, str, str]:
        command = [*map(str, arguments), "--config", str(tmp_path / "ocid.toml")]
        if "--root" not in command:
            command += ["--root", str(root)]
        return main(deps or FakeDeps(), command), *capsys.readouterr()

    return run_it


# --- ps, images ------------------------------------------------------------------------------------------------------


def test_ps_shows_what_has_not_ended(run: Run) -> None:
    code, out, err = run("ps")
    heading, pod, late = (line.split() for line in out.splitlines())
    assert (code, err) == (0, "")
    assert heading == ["ID", "NAME", "STATE", "AGE", "DETAIL"]
    assert (pod[0], pod[1], pod[2], pod[4]) == (JOB[:12], "prod/job", "ready", "10.85.0.3")
    assert (late[0], late[2], late[3]) == (LATE[:12], "late", "running")
    assert late[5] == "docker.io/library/busybox:1.36"


def test_ps_all_shows_what_has_ended_and_why(run: Run) -> None:
    _, out, _ = run("ps", "-a")
    hog = next(line for line in out.splitlines() if HOG[:12] in line)
    assert "exited (137)" in hog
    assert "OOMKilled" in hog


def test_ps_for_programs(run: Run) -> None:
    answer = json.loads(run("ps", "-o", "json")[1])
    assert answer["seq"] == 48
    assert [pod["id"] for pod in answer["pods"]] == [JOB]
    assert [each["id"] for each in answer["pods"][0]["containers"]] == [LATE]
    assert answer["pods"][0]["containers"][0]["image_id"] == IMAGE
    everything = json.loads(run("ps", "-a", "-o", "json")[1])
    assert [each["id"] for each in everything["pods"][0]["containers"]] == [HOG, LATE]


def test_images(run: Run) -> None:
    _, out, _ = run("images")
    assert [line.split() for line in out.splitlines()] == [
        ["IMAGE", "ID", "SIZE", "NAME"],
        ["111111111111", "1.9", "MiB", "docker.io/library/busybox:1.36"],
    ]
    assert json.loads(run("images", "-o", "json")[1])["images"][0]["size_bytes"] == 2_000_000


def test_a_snapshot_shortens_the_fold_and_changes_nothing(root: Path) -> None:
    with look(root / "log") as reader:
        plain = current_view(reader)
    store = Store(root / "log", boot_id=BOOT)
    store.put_snapshot(SNAPSHOT, bytes.fromhex(schema_hash()), 48, plain.snapshot())
    store.put_snapshot(SNAPSHOT, bytes(32), 48, b"of another schema")
    store.close()
    with look(root / "log") as reader:
        assert current_view(reader).snapshot() == plain.snapshot()


def test_a_snapshot_that_cannot_be_read_is_left_aside(root: Path) -> None:
    with look(root / "log") as reader:
        plain = current_view(reader).snapshot()
    store = Store(root / "log", boot_id=BOOT)
    store.put_snapshot(SNAPSHOT, bytes.fromhex(schema_hash()), 48, b"\xc1")
    store.close()
    with look(root / "log") as reader:
        assert current_view(reader).snapshot() == plain


def test_commands_read_while_the_daemon_writes(run: Run, tmp_path: Path) -> None:
    life = Life(tmp_path / "live" / "log")
    write_begin(life)
    write_web(life)
    write_job(life)
    script = (
        f"from ocid.cli.run import main; raise SystemExit(main(None, ['ps', '--root', {str(tmp_path / 'live')!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=30
    )
    life.store.close()
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"prod/job" in done.stdout


# --- events ----------------------------------------------------------------------------------------------------------


def test_events_are_filtered_and_in_words(run: Run) -> None:
    _, out, _ = run("events", "--container", "app", "--type", "container.e*", "--since", "2025-11-24T04:00:00Z")
    lines = out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["23"]
    assert lines[0].endswith("exited with exit code 137 (SIGKILL), as its monitor saw")
    assert run("events", "--pod", "job", "--until", "2025-11-24T04:00:22Z")[1].count("\n") == 1


def test_events_for_programs(run: Run) -> None:
    _, out, _ = run("events", "-o", "json", "--container", APP)
    assert {json.loads(line)["type"].partition(".")[0] for line in out.splitlines()} == {"container", "exec"}


def test_events_follow_what_is_written_later(monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path) -> None:
    life = Life(tmp_path / "log")
    write_begin(life)
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 1:
            write_web(life)
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", nap)
    found = []
    with pytest.raises(KeyboardInterrupt):
        found.extend(events_command.selected(life.store, Selection(types=("pod.removed",)), follow=True))
    life.store.close()
    assert len(naps) == 2


def test_followed_events_come_as_they_are_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    life = Life(tmp_path / "log")
    monkeypatch.setattr(time, "sleep", lambda _: write_web(life))
    followed = envelopes(life.store, follow=True)
    seqs = [next(followed).seq for _ in range(3)]
    life.store.close()
    assert seqs == [1, 2, 3]


# --- config, serve ---------------------------------------------------------------------------------------------------


def test_config_shows_each_value_and_where_it_came_from(run: Run, root: Path, tmp_path: Path) -> None:
    _, out, _ = run("config")
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in out.splitlines()}
    assert rows["root"].split() == ["command", "line", f'"{root}"']
    assert rows["network.bridge"].split() == ["default", '"ocid0"']
    answer = json.loads(run("config", "-o", "json")[1])
    assert answer["config"]["network"]["bridge"] == "ocid0"
    assert answer["sources"]["root"] == "command line"
    assert answer["files"] == [str(tmp_path / "ocid.toml")]


def test_serve_gets_the_configuration(run: Run, root: Path) -> None:
    deps = FakeDeps()
    assert run("serve", deps=deps)[0] == 0
    assert deps.served == [str(root)]


def test_options_are_understood_before_the_command_too(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    assert main(FakeDeps(), ["--root", str(root), "ps"]) == 0
    assert "prod/job" in capsys.readouterr().out


def test_every_command_of_the_grammar_has_a_function() -> None:
    commands = {"serve", "ps", "images", "pull", "events", "drift", "config", "key", "erase", "spec"}
    assert set(COMMANDS) == commands


# --- failures --------------------------------------------------------------------------------------------------------


def test_without_a_log_the_message_says_what_to_do(run: Run, tmp_path: Path) -> None:
    code, out, err = run("ps", "--root", tmp_path / "none")
    assert (code, out) == (1, "")
    assert err.startswith(f"ocid: there is no log in '{tmp_path / 'none' / 'log'}'")
    assert err.count("\n") == 1


def test_a_damaged_log_is_said_to_be(run: Run, root: Path) -> None:
    data = root / "log" / "data.mdb"
    os.truncate(data, data.stat().st_size // 2)
    code, _, err = run("ps")
    assert code == 1
    assert "the log is damaged" in err
    assert "ocid-replay verify" in err


def test_a_bad_configuration_is_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "ocid.toml").write_text("rooot = 1")
    assert run("ps") == (1, "", f"ocid: {tmp_path / 'ocid.toml'}: rooot: no such key, did you mean root?\n")


def test_a_bad_time_is_refused(run: Run) -> None:
    code, _, err = run("events", "--since", "soon")
    assert code == 1
    assert "wanted RFC 3339" in err


def test_usage_is_exit_code_2(run: Run) -> None:
    for arguments in ((), ("bogus",), ("ps", "--nonsense"), ("pull",)):
        with pytest.raises(SystemExit) as left:
            main(FakeDeps(), list(arguments))
        assert left.value.code == 2


def test_an_interruption_is_quiet(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("ocid.cli.run.COMMANDS", {"ps": interrupted})
    assert run("ps") == (130, "", "")


def test_a_refusal_of_the_daemon_is_one_line_whatever_it_holds(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    def refuses(*_: object) -> int:
        raise EffectFailed("line one\nline two\x1b[2J")

    monkeypatch.setattr("ocid.cli.run.COMMANDS", {"ps": refuses})
    code, _, err = run("ps")
    assert code == 1
    assert err.rstrip("\n").isprintable()


# --- key -------------------------------------------------------------------------------------------------------------


def test_key_shows_who_signs(run: Run, tmp_path: Path) -> None:
    (tmp_path / "signed").mkdir()
    author = Author(tmp_path / "signed" / "log").found().write(3).seal()
    author.store.close()
    deps = FakeDeps()
    assert run("key", "--root", tmp_path / "signed", deps=deps) == (0, f"{author.key.text()}\n", "")
    facts = json.loads(run("key", "-o", "json", "--root", tmp_path / "signed", deps=deps)[1])
    assert facts == {"origin": author.origin, "key": author.key.text(), "signed_records": 4, "next": False}
    assert deps.successors == 0
    code, out, _ = run("key", "--rotate", "--root", tmp_path / "signed", deps=deps)
    assert (code, deps.successors) == (0, 1)
    assert "another key was made" in out


def test_a_log_without_a_key_says_so(run: Run) -> None:
    code, out, err = run("key")
    assert (code, out) == (1, "")
    assert "has no key" in err
