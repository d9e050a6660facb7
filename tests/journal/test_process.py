"""The log across processes: killed writers, readers beside the writer, one daemon only."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ocid.errors import NotFound, Unavailable
from ocid.events.envelope import DAEMON
from ocid.journal.opening import open_or_quarantine
from ocid.journal.owner import LastLife
from ocid.journal.pending import prepare
from ocid.journal.reader import Reader
from ocid.journal.verify import verify
from tests.journal.helpers import BOOT, A, fact, python

CHILD = Path(__file__).with_name("appending_child.py")

READER = """
import sys
from pathlib import Path
from ocid.journal.reader import Reader
with Reader(Path(sys.argv[1])) as reader:
    for line in sys.stdin:
        wanted = int(line)
        print(len(reader.read(1)), reader.last()[0] == wanted, len(reader.read_stream("pod/a")), flush=True)
"""


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    acknowledged: dict[int, tuple[str, int]] = {}
    for _ in range(3):
        child = python(CHILD, directory, stdout=subprocess.PIPE)
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(1500)]
        child.kill()
        lines += child.stdout.readlines()
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        for line in lines:
            seq, stream, version = line.decode().split()
            acknowledged[int(seq)] = (stream, int(version))

    opened = open_or_quarantine(directory, boot_id=BOOT)
    try:
        assert opened.quarantined is None
        assert opened.last_life is LastLife.KILLED
        assert not opened.after_clean_stop
        assert not opened.rebooted
        assert opened.store.epoch == 4
        report = verify(opened.store)
        assert report.fault is None
        assert report.records >= len(acknowledged) >= 4500
        found = {}
        next_seq = 1
        while chunk := opened.store.read(next_seq):
            found.update({each.seq: (str(each.stream), each.version) for each in chunk})
            next_seq = chunk[-1].seq + 1
        assert {seq: found[seq] for seq in acknowledged} == acknowledged
    finally:
        opened.close()


def test_another_process_reads_what_is_being_written(tmp_path: Path) -> None:
    opened = open_or_quarantine(tmp_path / "log", boot_id=BOOT, map_bytes=64 << 20)
    opened.store.append_batch([prepare(A, 0, [fact(1)], DAEMON)], 1, 1)
    child = python("-c", READER, tmp_path / "log", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        for count in range(1, 40):
            child.stdin.write(b"%d\n" % count)
            child.stdin.flush()
            assert child.stdout.readline() == b"%d True %d\n" % (count, count)
            opened.store.append_batch([prepare(A, count, [fact(count)], DAEMON)], 1, 1)
        opened.store._grow()  # a reader beside the daemon follows a map that has grown
        big = [bytes([number]) * (7 << 20) for number in range(10)]
        opened.store.append_batch([prepare(A, 40, [fact(40)], DAEMON, big)], 1, 1)
        child.stdin.write(b"41\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"41 True 41\n"
    finally:
        child.stdin.close()
        child.stdout.close()
        assert child.wait(10) == 0
        opened.close()


def test_a_second_daemon_is_refused_with_the_firsts_pid(tmp_path: Path) -> None:
    child = python(CHILD, tmp_path / "log", stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        child.stdout.readline()
        with pytest.raises(Unavailable, match=rf"log' is in use by process {child.pid}: stop that daemon first"):
            open_or_quarantine(tmp_path / "log", boot_id=BOOT)
    finally:
        child.kill()
        child.stdout.close()
        child.wait()

    open_or_quarantine(tmp_path / "log", boot_id=BOOT).close()


def test_reading_a_log_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"log '.*' not found"):
        Reader(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_whole_check_is_a_command(tmp_path: Path) -> None:
    opened = open_or_quarantine(tmp_path / "log", boot_id=BOOT)
    opened.store.append_batch([prepare(A, 0, [fact(1), fact(2)], DAEMON)], 1, 1)
    opened.close()

    done = subprocess.run(
        [sys.executable, "-m", "ocid.journal.check", str(tmp_path / "log")],
        capture_output=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip

    assert b'"records":2' in done.stdout.splitlines()[-1]
    assert b'"fault":null' in done.stdout.splitlines()[-1]
