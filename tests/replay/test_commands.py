"""``ocid-replay`` as it is run: output for people and programs, exit codes, and logs that are none or are damaged."""

from __future__ import annotations

import faulthandler
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given, strategies as st
from ocid_replay.__main__ import main
from ocid_replay.cloudevents import cloud_event
from ocid_replay.guard import guarded

from ocid.events.base import REGISTRY, Event, Opaque
from ocid.events.envelope import Envelope
from ocid.projections.text import exact_time_text
from tests.events.samples import envelope, events
from tests.fakes.lives import APP, HOG, JOB, LATE, WEB, Life, write_log


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lives") / "log"
    write_log(path)
    return path


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], directory: Path) -> Run:
    """Return what runs a command in this process: exit code, output, errors."""

    def run_it(*arguments: object, log: Path = directory) -> tuple[int, str, str]:
        command, *rest = map(str, arguments)
        code = main([command, "--log", str(log), *rest], guard=lambda work: work())
        return code, *capfd.readouterr()

    return run_it


# --- timeline -----------------------------------------------------------------------------------------------------


def test_timeline_shows_every_record_in_order(run: Run) -> None:
    code, out, err = run("timeline")
    heading, *lines = out.splitlines()
    assert (code, err) == (0, "")
    assert heading.split() == ["SEQ", "TIME(UTC)", "Δ", "STREAM", "EVENT", "WHO", "DETAIL"]
    assert [int(line.split()[0]) for line in lines] == list(range(1, 49))
    assert lines[0].split()[2] == "node/self"
    assert lines[21].split()[:6] == [
        "22", "2025-11-24T04:00:16.000Z", "+1.000s",
        "container/c1c1c1c1c1c1", "container.stop_requested", "crictl[900]",
    ]  # fmt: skip


def test_timeline_filters(run: Run) -> None:
    _, out, _ = run(
        "timeline", "--container", "app", "--type", "*.exited", "--who", 812, "--from-seq", 2, "--to-seq", 40
    )
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["23"]


def test_timeline_for_programs_is_one_object_a_line(run: Run) -> None:
    _, out, _ = run("timeline", "-o", "jsonl", "--stream", "node")
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["type"] for record in records] == ["node.started", "node.peer_seen", "node.peer_seen"]
    assert records[1]["event"]["exe"] == "/usr/bin/kubelet"
    assert records[1]["words"].startswith("/usr/bin/kubelet connected")


def test_foreign_text_cannot_drive_the_terminal(run: Run, tmp_path: Path) -> None:
    life = Life(tmp_path / "log")
    life.write("pod/x", REGISTRY["pod.lost"](reason="\x1b[2J\nfake line\r\u202e"))
    life.store.close()
    _, out, _ = run("timeline", log=tmp_path / "log")
    assert len(out.splitlines()) == 2
    assert out.replace("\n", "").isprintable()


# --- state -----------------------------------------------------------------------------------------------------------


def test_state_at_the_end_has_what_is_not_removed(run: Run) -> None:
    code, out, _ = run("state", "-o", "json")
    state = json.loads(out)
    assert (code, state["seq"], state["epoch"]) == (0, 48, 1)
    assert [pod["id"] for pod in state["pods"]] == [JOB]
    assert [(each["id"], each["state"], each["exit_code"]) for each in state["pods"][0]["containers"]] == [
        (HOG, "exited", 137),
        (LATE, "running", None),
    ]
    assert state["pods"][0]["containers"][0]["reason"] == "OOMKilled"
    assert [image["names"] for image in state["images"]] == [["docker.io/library/busybox:1.36"]]
    assert [lease["address"] for lease in state["leases"]] == ["10.85.0.3/16"]


def test_state_at_a_seq_is_what_was_then(run: Run) -> None:
    _, out, _ = run("state", "--seq", 21, "-o", "json")
    state = json.loads(out)
    assert [pod["id"] for pod in state["pods"]] == [WEB]
    assert [each["id"] for each in state["pods"][0]["containers"]] == [APP]
    assert state["pods"][0]["containers"][0]["pid"] == 4711


def test_state_at_a_time_is_that_before_the_clock_passed_it(run: Run) -> None:
    _, out, _ = run("state", "--time", "2025-11-24T04:00:13.5Z")
    assert out.startswith("state after record 19, written 2025-11-24T04:00:13.000Z; daemon epoch 1\n")
    assert "PODS (1)" in out
    assert "CONTAINERS (1)" in out


def test_state_before_everything_is_nothing(run: Run) -> None:
    assert run("state", "--time", "2001-01-01")[:2] == (4, "nothing had been recorded\n")


def test_state_after_a_record_that_is_not_there_is_refused(run: Run) -> None:
    code, _, err = run("state", "--seq", 49)
    assert (code, err) == (1, "ocid-replay: record 49 is not in the log, which ends at 48\n")


# --- explain, export -------------------------------------------------------------------------------------------------


def test_explain_tells_people_and_programs(run: Run) -> None:
    code, out, _ = run("explain", "c1")
    assert code == 0
    assert "crictl[900] asked to stop it; it did not end within 2.0 s, and SIGKILL ended it [22] [23]" in out
    told = json.loads(run("explain", "c1", "-o", "json")[1])
    assert told["verdicts"][0]["findings"][0]["seqs"] == [22, 23]


def test_explain_of_nothing_fails_in_one_line(run: Run) -> None:
    assert run("explain", "zz") == (1, "", "ocid-replay: pod or container 'zz' not found\n")


def test_exports_are_whole_and_filtered(run: Run) -> None:
    _, native, _ = run("export")
    assert [json.loads(line)["seq"] for line in native.splitlines()] == list(range(1, 49))
    _, events_, _ = run("export", "--format", "cloudevents", "--source", "/node/n17", "--pod", "web")
    exported = [json.loads(line) for line in events_.splitlines()]
    assert {event["source"] for event in exported} == {"/node/n17"}
    assert exported[0]["type"] == "io.ocid.pod.declared"
    assert exported[0]["time"] == "2025-11-24T04:00:07.000000000Z"


def test_a_source_that_is_no_uri_is_refused(run: Run) -> None:
    code, out, err = run("export", "--source", "a b")
    assert (code, out) == (1, "")
    assert "wanted a URI reference" in err


def check_by_oracle(mapped: dict[str, Any]) -> None:
    """Have the cloudevents package read it, and compare."""
    body = msgspec.json.encode(mapped)
    read = from_structured(HTTPMessage({"content-type": "application/cloudevents+json"}, body), JSONFormat())
    assert read.get_id() == mapped["id"]
    assert read.get_source() == mapped["source"]
    assert read.get_type() == mapped["type"]
    assert read.get_specversion() == "1.0"
    assert read.get_subject() == mapped["subject"]
    assert read.get_dataschema() == mapped["dataschema"]
    if "time" in mapped:  # where it is not, the package makes one up
        assert exact_time_text(int(read.get_time().timestamp()) * 10**9)[:19] == mapped["time"][:19]
    assert read.get_data() == json.loads(body)["data"]
    assert read.get_extension("sequence") == mapped["sequence"]
    for name in mapped:
        assert name.isalnum()
        assert name == name.lower()


OURS = sorted((kind for kind in REGISTRY.values() if kind.__module__.startswith("ocid.")), key=lambda kind: kind.TYPE)


@given(st.sampled_from(OURS).flatmap(events))
def test_every_event_is_a_cloud_event_to_the_reference_implementation(event: Event) -> None:
    check_by_oracle(cloud_event(envelope(event), "/ocid/n1"))


def test_unknown_events_and_impossible_clocks_are_cloud_events_too() -> None:
    later = Opaque(type="later.kind", type_version=2, payload=msgspec.msgpack.encode({"a": b"\xff", "b": [1, None]}))
    ready = envelope(REGISTRY["pod.ready"]())
    one: Envelope = msgspec.structs.replace(ready, event=later, type="later.kind", wall_ns=2**70)
    mapped = cloud_event(one, "/ocid/n1")
    assert mapped["data"] == {"a": "ff", "b": [1, None]}
    assert "time" not in mapped
    check_by_oracle(mapped)


# --- verify, and logs that cannot be read ----------------------------------------------------------------------------


def test_verify_of_a_good_log(run: Run) -> None:
    code, out, _ = run("verify")
    assert code == 6, "nobody signed for it"
    assert "48 records hashed and chained, 10 streams" in out
    facts = json.loads(run("verify", "-o", "json")[1])
    assert (facts["exit_code"], facts["records"], facts["fault"]) == (6, 48, None)


def test_verify_of_a_changed_record(run: Run, tmp_path: Path) -> None:
    write_log(tmp_path / "log")
    data = tmp_path / "log" / "data.mdb"
    data.write_bytes(data.read_bytes().replace(b"cat /health", b"dog /health"))

    code, out, _ = run("verify", log=tmp_path / "log")
    assert code == 2
    assert "DAMAGED" in out
    assert "record 20: " in out
    assert "records 1 to 19 are good" in out
    assert run("timeline", log=tmp_path / "log")[0] == 2
    assert "ocid-replay verify" in run("explain", "c1", log=tmp_path / "log")[2]


@pytest.mark.parametrize("command", ["timeline", "state", "verify", "export"])
def test_a_truncated_log_is_damaged_and_no_crash(run: Run, tmp_path: Path, command: str) -> None:
    write_log(tmp_path / "log")
    data = tmp_path / "log" / "data.mdb"
    os.truncate(data, data.stat().st_size // 2)
    code, out, err = run(command, log=tmp_path / "log")
    assert code == 2
    assert "Traceback" not in out + err
    assert "amaged" in out + err or "DAMAGED" in out


@pytest.mark.parametrize("command", ["timeline", "state", "verify", "export"])
def test_no_log_is_exit_code_4(run: Run, tmp_path: Path, command: str) -> None:
    assert run(command, log=tmp_path / "none") == (4, "", f"ocid-replay: log '{tmp_path / 'none'}' not found\n")


def test_an_empty_log_verifies_to_nothing(run: Run, tmp_path: Path) -> None:
    Life(tmp_path / "log").store.close()
    assert run("verify", log=tmp_path / "log")[0] == 4


@pytest.mark.parametrize("command", ["timeline", "verify"])
def test_another_format_is_exit_code_5(run: Run, tmp_path: Path, command: str) -> None:
    write_log(tmp_path / "log")
    data = tmp_path / "log" / "data.mdb"
    raw = bytearray(data.read_bytes())
    raw[20] = raw[4096 + 20] = 2  # MDB_meta.mm_version, after the page's header and the magic number
    data.write_bytes(raw)
    code, out, err = run(command, log=tmp_path / "log")
    assert (code, out) == (5, "")
    assert "LMDB format 2" in err


@pytest.mark.parametrize("content", [b"x", b"\0" * 8192, os.urandom(20_000)])
def test_a_file_that_is_no_log_is_damaged(run: Run, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.mdb").write_bytes(content)
    for command in ("timeline", "verify"):
        code, out, err = run(command, log=tmp_path)
        assert code == 2
        assert "Traceback" not in out + err


def test_usage_errors_do_not_look_like_damage(run: Run) -> None:
    for arguments in (("timeline", "--from-seq", "0"), ("state", "--seq", "1", "--time", "1h")):
        with pytest.raises(SystemExit) as left:
            run(*arguments)
        assert left.value.code == 64
    assert run("timeline", "--since", "soon")[0] == 1


# --- the guard -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deadly", "code"), [(signal.SIGBUS, 2), (signal.SIGSEGV, 2), (signal.SIGTERM, 143), (signal.SIGKILL, 137)]
)
def test_a_deadly_log_kills_the_child_only(deadly: int, code: int) -> None:
    def die() -> int:
        faulthandler.disable()  # pytest's would print where the child was
        os.kill(os.getpid(), deadly)
        return 0

    assert guarded(die) == code


def test_the_childs_exit_code_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # what the child writes there ends with it
    assert guarded(lambda: 4) == 4
    assert guarded(lambda: sys.exit(64)) == 64
    assert guarded(lambda: 1 // 0) == 1


def test_reading_gives_way_to_the_daemon() -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert guarded(lambda: os.getpriority(os.PRIO_PROCESS, 0)) == min(own + 10, 19)


def test_a_signal_to_the_parent_ends_both(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "ocid_replay").symlink_to(Path(__file__).parents[2] / "tools" / "replay")
    path = os.pathsep.join((str(tmp_path), str(Path(__file__).parents[2])))
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        with subprocess.Popen(
            [sys.executable, "-m", "ocid_replay", "timeline", "-f", "--log", str(directory)],
            env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            for _ in range(49):
                process.stdout.readline()
            process.send_signal(number)
            assert process.wait(10) == code
            assert process.stdout.read() == b""  # ends only when the child, too, has let go of it
            assert process.stderr.read() == b""
