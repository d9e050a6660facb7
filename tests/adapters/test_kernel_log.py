"""Whom the kernel's log names as killed for memory, and whose word that is."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ocid.adapters import kernel_log
from ocid.ports import Process

TICKS = os.sysconf("SC_CLK_TCK")
NOW_S = time.clock_gettime(time.CLOCK_MONOTONIC)
INIT = Process(pid=23823, start_ticks=int((time.clock_gettime(time.CLOCK_BOOTTIME) - 50) * TICKS))
KILLED = "Memory cgroup out of memory: Killed process 23823 (sh) total-vm:26888kB, anon-rss:16004kB, UID:0"


def record(text: str, *, level: int = 3, ago_s: float = 10.0) -> bytes:
    return f"{level},188669,{int((NOW_S - ago_s) * 1e6)},-;{text}\n SUBSYSTEM=x\n".encode()


@pytest.mark.parametrize(
    ("said", "killed"),
    [
        (record(KILLED), True),
        (record(KILLED.replace("Memory cgroup out", "Out")), True),
        (record(KILLED.replace("Memory cgroup out of memory", "Out of memory (oom_kill_allocating_task)")), True),
        (record(KILLED.replace("23823", "2382")), False),
        (record(KILLED.replace("(sh)", "(sh) Killed process 1 (x)")), True),
        (record(KILLED, level=11), False),  # somebody wrote it there: facility 1, user
        (record(KILLED, ago_s=60), False),  # another process had that pid
        (record(f"app: {KILLED}"), False),
        (b"", False),
        (b"\xff\xfe;", False),
    ],
)
def test_what_tells_of_a_kill(said: bytes, killed: bool) -> None:
    assert kernel_log._tells(said, INIT) is killed


def test_a_log_that_cannot_be_read_tells_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernel_log, "PATH", str(tmp_path / "absent"))
    assert not kernel_log.oom_killed(INIT, 137)


def test_who_was_not_killed_is_not_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "kmsg"
    path.write_bytes(record(KILLED))
    monkeypatch.setattr(kernel_log, "PATH", str(path))
    assert kernel_log.oom_killed(INIT, 137)
    assert not kernel_log.oom_killed(INIT, 1)
