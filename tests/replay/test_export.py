"""``ocid-replay export``: from where, to where, and what is left when it is killed, refused or slow."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import pytest
from ocid_replay import cursor as cursors, export as exporting, outputs, scan
from ocid_replay.__main__ import main
from ocid_replay.naming import Log
from ocid_replay.reading import selected

from ocid.errors import EffectFailed
from ocid.events import container, log as log_events
from ocid.events.base import REGISTRY
from ocid.events.envelope import Context
from ocid.journal.looking import look
from ocid.journal.reader import U64
from ocid.projections.selection import Selection
from tests.fakes.lives import APP, Life, write_begin, write_job, write_log, write_web

ORIGIN = "ocid/n17/00112233aabb"
GOLDEN = Path(__file__).parent / "golden"
TOOLS = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "BATCH_RECORDS", 5)
    monkeypatch.setattr(exporting, "SYNC_S", 0.0)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    write_log(path)
    return path


def founded(directory: Path, origin: str = ORIGIN) -> Life:
    life = Life(directory)
    found(life, origin)
    return life


def found(life: Life, origin: str = ORIGIN) -> None:
    life.write("log/self", log_events.Founded(origin=origin, key=f"{origin}+00112233+AAAA"), context=Context())


def run(log: Path, *arguments: object) -> int:
    return main(["export", "--log", str(log), *map(str, arguments)], guard=lambda work: work())


def seqs(path: Path) -> list[int]:
    return [json.loads(line)["seq"] for line in path.read_text().splitlines()]


def kept(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


# --- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["jsonl", "cloudevents", "ocsf"])
def test_golden_exports(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``OCID_REGENERATE_GOLDEN=1`` writes them anew; what changes there changes for whoever reads exports."""
    monkeypatch.setattr(exporting, "__version__", "0.0.0")
    life = Life(tmp_path / "log")
    write_begin(life)
    found(life)
    write_web(life)
    write_job(life)
    life.store.close(stopped_at_ns=life.now_ns)
    golden, made = GOLDEN / f"export.{format}", tmp_path / "made"

    assert run(tmp_path / "log", "--format", format, "-w", made) == 0

    if os.environ.get("OCID_REGENERATE_GOLDEN") == "1":
        GOLDEN.mkdir(exist_ok=True)
        golden.write_bytes(made.read_bytes())
    assert made.read_text().splitlines() == golden.read_text().splitlines()


def test_a_batch_is_one_array_or_with_a_cursor_an_array_a_line(log: Path, tmp_path: Path) -> None:
    whole, lines, none = tmp_path / "whole", tmp_path / "lines", tmp_path / "none"
    assert run(log, "--format", "cloudevents-batch", "-w", whole) == 0
    ids = [event["id"] for event in json.loads(whole.read_bytes())]
    assert ids == [str(seq) for seq in range(1, 49)]

    assert run(log, "--format", "cloudevents-batch", "-w", lines, "--cursor", tmp_path / "c") == 0
    batches = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [len(batch) for batch in batches] == [5] * 9 + [3]
    assert [event for batch in batches for event in batch] == json.loads(whole.read_bytes())

    assert run(log, "--format", "cloudevents-batch", "-w", none, "--type", "nothing.*") == 0
    assert json.loads(none.read_bytes()) == []


def test_no_two_logs_have_the_same_source(tmp_path: Path) -> None:
    life = founded(tmp_path / "named")
    life.store.close()
    write_log(tmp_path / "nameless")
    write_log(tmp_path / "another")
    with look(tmp_path / "named") as reader:
        assert exporting.log_of(reader) == Log(ORIGIN, "n17", exporting.__version__)
    with look(tmp_path / "nameless") as reader:
        assert exporting.log_of(reader).origin.startswith(f"ocid/{os.uname().nodename}/")


@pytest.mark.parametrize(
    "filters",
    [
        {}, {"pod": "web"}, {"container": "app"}, {"types": ("*.exited",)}, {"from_seq": 7, "to_seq": 40},
        {"pod": "job", "from_seq": 30}, {"to_seq": 3}, {"from_seq": 48}, {"from_seq": 49}, {"stream": "node"},
    ],
)  # fmt: skip
def test_an_export_has_what_a_log_shows(log: Path, filters: dict[str, Any]) -> None:
    selection = Selection(**filters)
    with look(log) as reader:
        shown = list(selected(reader, selection))
        found = [each for batch in scan.Scan(reader, selection).batches(follow=False) for each in batch.wanted]
    assert found == shown


# --- cursors ---------------------------------------------------------------------------------------------------------


def test_a_cursor_goes_on_where_the_last_export_ended(tmp_path: Path) -> None:
    life = founded(tmp_path / "log")
    write_begin(life)
    out, cursor = tmp_path / "out", tmp_path / "cursor"
    for _ in range(3):  # the second and third find nothing new
        with closed(life):
            assert run(tmp_path / "log", "--cursor", cursor, "-w", out) == 0
        assert seqs(out) == list(range(1, len(life.envelopes) + 1))
    assert kept(cursor)["origin"] == ORIGIN
    assert kept(cursor)["next_seq"] == len(life.envelopes) + 1
    write_web(life)
    with closed(life):
        assert run(tmp_path / "log", "--cursor", cursor, "-w", out) == 0
    assert seqs(out) == list(range(1, len(life.envelopes) + 1))
    assert (cursor.stat().st_mode | out.stat().st_mode) & 0o777 == 0o600


@contextmanager
def closed(life: Life) -> Iterator[None]:
    """Let this process open the log for reading: it may be open once only."""
    directory = life.store.directory
    life.store.close()
    yield
    life.store = type(life.store)(directory, boot_id="8d2f6c1e-0b7a-4c55-9a3e-5f10c2d4e6b8")


def test_what_is_caught_up_with_is_synced_once_a_second(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[int] = []
    real = cursors.CursorFile.store

    def store(self: cursors.CursorFile, cursor: cursors.Cursor) -> None:
        stored.append(cursor.next_seq)
        real(self, cursor)

    monkeypatch.setattr(cursors.CursorFile, "store", store)
    monkeypatch.setattr(exporting, "SYNC_S", 3600.0)
    assert run(log, "--cursor", tmp_path / "c", "-w", tmp_path / "out") == 0
    assert stored == [49]
    monkeypatch.setattr(exporting, "SYNC_S", 0.0)
    assert run(log, "--cursor", tmp_path / "c2", "-w", tmp_path / "out2") == 0
    assert stored[1:] == [*range(6, 49, 5), 49]


def test_a_cursor_passes_over_what_the_filters_leave_out(log: Path, tmp_path: Path) -> None:
    cursor, out = tmp_path / "cursor", tmp_path / "out"
    assert run(log, "--cursor", cursor, "--pod", "web", "-w", out) == 0
    assert kept(cursor)["next_seq"] == 49
    before = seqs(out)
    whole = tmp_path / "whole"
    assert run(log, "--pod", "web", "-w", whole) == 0
    assert before == seqs(whole)


def test_a_cursor_in_the_middle_knows_what_belongs_to_whom(log: Path, tmp_path: Path) -> None:
    cursor, out, whole = tmp_path / "cursor", tmp_path / "out", tmp_path / "whole"
    run(log, "--pod", "web", "-w", whole)
    assert run(log, "--cursor", cursor, "--pod", "web", "--to-seq", 21, "-w", out) == 0
    assert kept(cursor)["next_seq"] == 22
    assert run(log, "--cursor", cursor, "--pod", "web", "-w", out) == 0
    assert seqs(out) == seqs(whole)


def test_a_time_limit_and_a_cursor_exclude_each_other(log: Path, tmp_path: Path, capfd: Any) -> None:
    assert run(log, "--cursor", tmp_path / "c", "--until", "1h") == 1
    assert "would then never be exported" in capfd.readouterr().err


GOOD = {"format": "ocid-cursor/1", "origin": "", "genesis": "00" * 32, "next_seq": 1, "last_hash": "00" * 32}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{}", b"null", b"[]", b"\0" * 300, b"\xff\xfe", b"[" * 3000, b"{" * 5000, b"x" * 5000,
        *(json.dumps({**GOOD, **bad}).encode() for bad in (
            {"format": "ocid-cursor/2"}, {"next_seq": 0}, {"next_seq": -1}, {"next_seq": 2**63}, {"next_seq": 1e300},
            {"next_seq": "1"}, {"next_seq": True}, {"next_seq": None}, {"last_hash": "00"}, {"last_hash": "zz" * 32},
            {"last_hash": "00" * 32 + "\n"}, {"genesis": ""}, {"origin": "x" * 600}, {"origin": None}, {"more": 1},
        )),
        json.dumps({key: value for key, value in GOOD.items() if key != "last_hash"}).encode(),
    ],
)  # fmt: skip
def test_a_file_that_is_no_cursor_exports_nothing(log: Path, tmp_path: Path, content: bytes, capfd: Any) -> None:
    cursor, out = tmp_path / "cursor", tmp_path / "out"
    cursor.write_bytes(content)
    assert run(log, "--cursor", cursor, "-w", out) == 7
    assert "is no cursor" in (told := capfd.readouterr()).err
    assert "Traceback" not in told.err
    assert cursor.read_bytes() == content
    assert not out.exists()


def test_a_cursor_that_is_no_file_is_refused(log: Path, tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dir").mkdir()
    for name in ("link", "fifo", "dir"):
        assert run(log, "--cursor", tmp_path / name) == 7, name
        assert "cursor" in capfd.readouterr().err
    assert run(log, "--cursor", tmp_path / "none" / "c") == 1
    assert run(log, "--cursor", log / "c") == 1
    assert "own directory" in capfd.readouterr().err
    assert run(log, "--cursor", tmp_path / "c", "-w", tmp_path / "c") == 1


def test_a_cursor_fits_one_log_only(tmp_path: Path, capfd: Any) -> None:
    for name in ("a", "b"):
        life = founded(tmp_path / name, f"ocid/n17/{name * 12}")
        write_begin(life)
        life.store.close()
    assert run(tmp_path / "a", "--cursor", tmp_path / "c", "-w", tmp_path / "out") == 0
    before = (tmp_path / "c").read_bytes()
    assert run(tmp_path / "b", "--cursor", tmp_path / "c", "-w", tmp_path / "out") == 7
    assert "this is another one, 'ocid/n17/bbbbbbbbbbbb'" in capfd.readouterr().err
    assert (tmp_path / "c").read_bytes() == before


def test_a_cursor_finds_history_rewritten(tmp_path: Path, capfd: Any) -> None:
    for name, reason in (("a", "gone"), ("b", "lost")):
        life = founded(tmp_path / name)
        life.write("pod/x", REGISTRY["pod.lost"](reason=reason))
        life.write("pod/x", REGISTRY["pod.stopped"]())
        life.store.close()
    for arguments in ((), ("--to-seq", 2)):  # at the end, and before a record that cites the other one
        cursor = tmp_path / f"c{len(arguments)}"
        assert run(tmp_path / "a", "--cursor", cursor, *arguments) == 0
        assert run(tmp_path / "b", "--cursor", cursor) == 3
        assert "history was rewritten" in capfd.readouterr().err


def test_a_cursor_finds_a_log_that_is_shorter_than_before(tmp_path: Path, capfd: Any) -> None:
    life = founded(tmp_path / "log")
    life.store.close()
    shutil.copytree(tmp_path / "log", tmp_path / "older")
    life.store = type(life.store)(tmp_path / "log", boot_id="8d2f6c1e-0b7a-4c55-9a3e-5f10c2d4e6b8")
    write_begin(life)
    life.store.close()
    assert run(tmp_path / "log", "--cursor", tmp_path / "c") == 0
    assert run(tmp_path / "older", "--cursor", tmp_path / "c") == 3
    assert "beyond the log's end" in capfd.readouterr().err


def trim(log: Path, first: int, before: int, *, kept: int = 0, told: bool = True) -> None:
    """Take records away, all but *kept*; and, unless that is not to be told, say up to where, as retention does."""
    with lmdb.open(str(log), max_dbs=16, lib_version=0) as env, env.begin(write=True) as txn:
        events, facts = (env.open_db(name, txn=txn, create=False) for name in (b"ev", b"mk"))
        last = txn.get(U64.pack(before - 1), db=events)
        for seq in range(first, before):
            assert seq == kept or txn.delete(U64.pack(seq), db=events)
        if told:
            txn.put(b"trimmed", U64.pack(before - 1) + last[-32:], db=facts)


def test_records_that_left_the_log_unexported_are_told(log: Path, tmp_path: Path, capfd: Any) -> None:
    cursor, out = tmp_path / "c", tmp_path / "out"
    assert run(log, "--cursor", cursor, "--to-seq", 10, "-w", out) == 0
    trim(log, 1, 11)
    assert run(log, "--cursor", cursor, "--to-seq", 20, "-w", out) == 0, "all of them were exported"
    assert seqs(out) == list(range(1, 21))
    trim(log, 11, 30, kept=25)
    for filters in ((), ("--pod", "web")):
        assert run(log, "--cursor", cursor, "-w", out, *filters) == 7
        assert "records 21 to 29 left the log" in capfd.readouterr().err
    assert seqs(out) == list(range(1, 21))
    assert run(log, "-w", tmp_path / "rest") == 0, "without a cursor there is nothing to miss"
    assert seqs(tmp_path / "rest") == [25, *range(30, 49)]


def test_a_record_missing_in_the_middle_is_damage(log: Path, tmp_path: Path, capfd: Any) -> None:
    trim(log, 20, 21, told=False)
    assert run(log, "-w", tmp_path / "out") == 2
    assert "record 20: the record is missing" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_one_exporter_has_a_cursor(log: Path, tmp_path: Path, capfd: Any) -> None:
    with cursors.CursorFile(tmp_path / "c"):
        assert run(log, "--cursor", tmp_path / "c") == 8
        assert "another exporter runs with it" in capfd.readouterr().err
    assert run(log, "--cursor", tmp_path / "c") == 0
    held = outputs.open_output(str(tmp_path / "out"), grows=True)
    assert run(log, "--cursor", tmp_path / "c2", "-w", tmp_path / "out") == 8
    held.close()


# --- killed, refused, broken -----------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the exporter catches it, and nothing it had buffered counts."""


def crashing(monkeypatch: pytest.MonkeyPatch, at: int) -> dict[str, int]:
    """Let the exporter die at the *at*-th point where a kill could find it; 0 lets it live. No disk is waited for.

    Returns:
        how much of each file was synced, as it goes on.
    """
    synced: dict[str, int] = {}
    passed = 0

    def point() -> None:
        nonlocal passed
        passed += 1
        if passed == at:
            raise Killed

    def around(module: Any, name: str, real: Callable[..., Any]) -> None:
        def doing(*args: Any, **more: Any) -> Any:
            point()
            result = real(*args, **more)
            point()
            return result

        monkeypatch.setattr(module, name, doing)

    def torn(descriptor: int, data: Any) -> int:
        point()
        done: int = real_write(descriptor, data[: max(len(data) // 2, 1)])
        point()
        return done

    real_write = os.write

    def fsync(descriptor: int) -> None:
        synced[os.readlink(f"/proc/self/fd/{descriptor}")] = os.fstat(descriptor).st_size

    monkeypatch.setattr(os, "write", torn)
    around(os, "fsync", fsync)
    around(Path, "replace", Path.replace)
    return synced


@pytest.mark.parametrize(("format", "power_cut"), [("jsonl", False), ("jsonl", True), ("cloudevents-batch", False)])
def test_killed_anywhere_it_repeats_and_leaves_nothing_out(
    log: Path, tmp_path: Path, format: str, power_cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = 0
    while True:
        out, cursor = tmp_path / f"out{kills}", tmp_path / f"c{kills}"
        arguments = ("--format", format, "--cursor", cursor, "-w", out, "--to-seq", 17)
        with monkeypatch.context() as patched:
            synced = crashing(patched, kills + 1)
            try:
                run(log, *arguments)
            except Killed:
                pass
            else:
                break
        if power_cut and out.exists():  # what was written and not synced is lost; what was renamed may be there
            os.truncate(out, synced.get(str(out), 0))
        if cursor.exists():
            before = kept(cursor)["next_seq"]
            assert set(range(1, before)) <= set(read(out)), f"kill {kills}: a cursor is never ahead of what is out"
        with monkeypatch.context() as patched:
            crashing(patched, 0)
            assert run(log, *arguments) == 0
        found = read(out)
        assert set(found) == set(range(1, 18)), f"kill {kills}"
        again = [later for earlier, later in itertools.pairwise(found) if later <= earlier]
        assert len(again) <= 1, "one batch comes twice at most"
        assert len(found) <= 17 + 5
        kills += 1
    assert kills > 40


def read(out: Path) -> list[int]:
    """Return the records in whole lines, in order; a torn last one does not count."""
    lines = out.read_bytes().split(b"\n")[:-1] if out.exists() else []
    records = [json.loads(line) for line in lines]
    return [
        int(one["seq"] if "seq" in one else one["id"])
        for each in records
        for one in (each if isinstance(each, list) else [each])
    ]


def test_a_whole_file_is_there_or_the_one_before(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.write_text("before\n")
    kills = 0
    while True:
        with monkeypatch.context() as patched:
            crashing(patched, kills + 1)
            try:
                run(log, "-w", out)
            except Killed:
                assert out.read_text() == "before\n" or seqs(out) == list(range(1, 49))
                if seqs_or_none(out):
                    out.write_text("before\n")
                kills += 1
            else:
                break
    assert seqs(out) == list(range(1, 49))
    assert kills >= 6
    assert {path.name for path in tmp_path.iterdir()} == {"out", "log"}


def seqs_or_none(path: Path) -> bool:
    return path.read_text() != "before\n"


@pytest.mark.parametrize("where", ["-w", "stdout"])
def test_a_full_disk_is_said_and_moves_no_cursor(log: Path, tmp_path: Path, where: str, capfd: Any) -> None:
    cursor = tmp_path / "c"
    assert run(log, "--cursor", cursor, "--to-seq", 7, "-w", tmp_path / "first") == 0
    before = cursor.read_bytes()
    if where == "-w":
        assert run(log, "--cursor", cursor, "-w", "/dev/full") == 1
    else:
        with open("/dev/full", "wb") as full:
            saved = os.dup(1)
            os.dup2(full.fileno(), 1)
            try:
                assert run(log, "--cursor", cursor) == 1
            finally:
                os.dup2(saved, 1)
                os.close(saved)
    assert "cannot be written: No space left on device" in capfd.readouterr().err
    assert cursor.read_bytes() == before
    assert Path("/dev/full").is_char_device()


def test_a_disk_that_fills_up_leaves_what_can_go_on(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    out, cursor = tmp_path / "out", tmp_path / "c"
    real_write, left = os.write, [3000]

    def write(descriptor: int, data: Any) -> int:
        if not left[0]:
            raise OSError(28, "No space left on device")
        done = real_write(descriptor, data[: left[0]])
        left[0] -= done
        return done

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", write)
        assert run(log, "--cursor", cursor, "-w", out) == 1
    assert "No space left" in capfd.readouterr().err
    assert not out.read_bytes().endswith(b"\n"), "the last line is torn"
    assert run(log, "--cursor", cursor, "-w", out) == 0
    found = read(out)
    assert set(found) == set(range(1, 49))


def test_a_cursor_that_cannot_be_written_ends_the_export(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: object, cursor: object) -> None:
        raise EffectFailed("no")

    monkeypatch.setattr(cursors.CursorFile, "store", refused)
    assert run(log, "--cursor", tmp_path / "c", "-w", tmp_path / "out") == 1
    assert seqs(tmp_path / "out") == [1, 2, 3, 4, 5]


def test_a_reader_that_leaves_is_no_failure_to_explain(log: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    saved = os.dup(1)
    os.dup2(writing, 1)
    try:
        assert run(log, "--cursor", tmp_path / "c") == 141
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(writing)
    assert not (tmp_path / "c").exists()


def test_a_strangers_half_line_is_left_alone(log: Path, tmp_path: Path, capfd: Any) -> None:
    out = tmp_path / "notes.txt"
    out.write_text("one\ntwo, and no end of it")
    assert run(log, "--cursor", tmp_path / "c", "-w", out) == 7
    assert out.read_text() == "one\ntwo, and no end of it"
    assert "no exported record" in capfd.readouterr().err
    out.write_text('{"seq":1}\n{"seq":')
    assert run(log, "--cursor", tmp_path / "c", "-w", out) == 0
    assert seqs(out) == [1, *range(1, 49)]


def test_a_file_that_was_rotated_away_is_begun_anew(tmp_path: Path) -> None:
    out = outputs.open_output(str(tmp_path / "out"), grows=True)
    out.write(b"{1}\n")
    (tmp_path / "out").rename(tmp_path / "out.1")
    out.write(b"{2}\n")
    out.finish()
    (tmp_path / "out").unlink()
    out.write(b"{3}\n")
    out.finish()
    out.close()
    assert [(tmp_path / name).read_text() for name in ("out.1", "out")] == ["{1}\n", "{3}\n"]


def test_a_link_is_written_through(log: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real" / "out")
    assert run(log, "-w", tmp_path / "out") == 0
    assert (tmp_path / "out").is_symlink()
    assert seqs(tmp_path / "real" / "out") == list(range(1, 49))


# --- following, and being slow ---------------------------------------------------------------------------------------


@contextmanager
def exporter(log: Path, tmp_path: Path, *arguments: object, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    link = tmp_path / "ocid_replay"
    if not link.exists():
        link.symlink_to(TOOLS / "tools" / "replay")
    path = os.pathsep.join((str(tmp_path), str(TOOLS)))
    command = [sys.executable, "-m", "ocid_replay", "export", "--log", str(log), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(command, env=environment, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_a_growing_log_is_followed_through_kills(tmp_path: Path) -> None:
    life = founded(tmp_path / "log")
    out, cursor = tmp_path / "out", tmp_path / "c"
    for write in (write_begin, write_web, write_job):
        with exporter(life.store.directory, tmp_path, "--follow", "--cursor", cursor, "-w", out):
            write(life)
            size = len(life.envelopes)
            until(lambda size=size: cursor.exists() and kept(cursor)["next_seq"] == size + 1)  # type: ignore[misc]
    assert sorted(set(read(out))) == list(range(1, len(life.envelopes) + 1))
    life.store.close()


def test_an_exporter_that_nobody_reads_holds_nothing_up(tmp_path: Path) -> None:
    """The pipe is full, and no transaction is open: pages that are freed are used again."""
    life = founded(tmp_path / "log")
    opened = container.LogReopened()
    for _ in range(20):
        life.write(f"container/{APP}", *[opened] * 200)
    with exporter(life.store.directory, tmp_path, "--follow", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        time.sleep(0.5)  # it has filled the pipe, and waits
        for _ in range(5):
            life.write(f"container/{APP}", opened)
            assert "no active readers" in life.store._env.readers()
        with life.store._env.begin():
            assert "no active readers" not in life.store._env.readers(), "the question finds what it looks for"
        assert process.poll() is None
        assert process.stdout.read(1 << 16), "and it goes on when it can"
    life.store.close()


def test_a_log_that_is_set_aside_under_a_follower_is_noticed(tmp_path: Path) -> None:
    life = founded(tmp_path / "log")
    life.store.close()
    with exporter(
        tmp_path / "log", tmp_path, "--follow", "--cursor", tmp_path / "c", stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        until((tmp_path / "c").exists)
        data = tmp_path / "log" / "data.mdb"
        data.rename(tmp_path / "aside.mdb")
        shutil.copy(tmp_path / "aside.mdb", data)
        assert process.wait(20) == 1
        assert process.stderr is not None
        assert b"replaced by another one" in process.stderr.read()


def test_batches_tell_the_place_they_reach(log: Path) -> None:
    with look(log) as reader:
        batches = list(scan.Scan(reader, Selection()).batches(follow=False))
        assert (batches[-1].next_seq - 1, batches[-1].last_hash) == reader.last()
    assert [batch.next_seq for batch in batches] == [*range(6, 49, 5), 49]
