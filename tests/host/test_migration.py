"""The migration lock is taken without moving anyone."""

# ruff: noqa: ASYNC240

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ocid.adapters.cgroups import Cgroups
from ocid.adapters.migration import MigrationLock

_TREE = Path(__file__).resolve().parents[2]
_STAY_THERE = """
import sys
from ocid.adapters.cgroups import Cgroups
from ocid.adapters.migration import MigrationLock
sys.stdin.readline()
before = open("/proc/self/cgroup").read()
MigrationLock(Cgroups().hierarchies).stay()
print(before == open("/proc/self/cgroup").read(), sys.argv[1] in before)
"""


async def test_a_process_in_a_cgroup_of_its_own_stays_there(cgroup_parent: str) -> None:
    child = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", _STAY_THERE, cgroup_parent],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=_TREE,
    )
    for directory in Cgroups("cgroupfs").directories(cgroup_parent):
        os.makedirs(directory, exist_ok=True)
        if "/cpuset/" not in directory:  # empty of processors until it is told some
            Path(directory, "cgroup.procs").write_text(str(child.pid))
    said, _ = child.communicate("now\n")

    assert said.split() == ["True", "True"]


def test_the_lock_is_taken_in_every_kind_of_hierarchy() -> None:
    before = Path("/proc/self/cgroup").read_text()
    for name, root in Cgroups().hierarchies.items():
        MigrationLock({name: root}).stay()
    assert Path("/proc/self/cgroup").read_text() == before


def test_without_a_hierarchy_staying_fails_and_warming_does_not() -> None:
    lock = MigrationLock({})
    with pytest.raises(FileNotFoundError, match="no cgroup"):
        lock.stay()
    lock.warm()


def test_warming_waits_for_nobody_and_many_wishes_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = MigrationLock({})
    entered, leave, taken = threading.Event(), threading.Event(), []

    def slow() -> None:
        taken.append(time.monotonic())
        entered.set()
        leave.wait(10)

    monkeypatch.setattr(lock, "stay", slow)
    lock.warm()
    assert entered.wait(10)
    for _ in range(100):
        lock.warm()
    assert len(taken) == 1
    entered.clear()
    leave.set()
    assert entered.wait(10)
    time.sleep(0.05)
    assert len(taken) == 2
