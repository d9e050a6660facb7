"""How a start tells that init executed its program, on processes that bear the names that OCI runtimes give theirs."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ocid.adapters import process as processes
from ocid.adapters.start import has_executed
from ocid.ports import Process
from tests.host.nodes import SLOW

NAMED = """
import ctypes, os, sys, time
ctypes.CDLL(None).prctl(15, sys.argv[1].encode(), 0, 0, 0)  # PR_SET_NAME
os.write(1, b"!")
time.sleep(float(sys.argv[2]))
os.execv(sys.argv[3], sys.argv[3:]) if sys.argv[3:] else os._exit(1)
"""


@contextmanager
def named(name: str, waits_s: float, *program: str) -> Iterator[tuple[subprocess.Popen[bytes], Process]]:
    """Have a process of that name, which ends after a while, or executes a program then."""
    words = [sys.executable, "-c", NAMED, name, str(waits_s), *program]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.read(1) == b"!"
            process = processes.identify(child.pid)
            assert process is not None
            yield child, process
        finally:
            child.send_signal(signal.SIGKILL)


@pytest.mark.parametrize(("kind", "name"), [("runc", "runc:[2:INIT]"), ("crun", "crun")])
async def test_an_init_that_fails_late_has_not_executed(kind: str, name: str) -> None:
    with named(name, 0.4) as (child, process):
        assert await has_executed(kind, process, processes.executable_of(child.pid)) is False


async def test_an_init_that_executes_late_has_executed() -> None:
    with named("runc:[2:INIT]", 0.4, "/bin/sleep", "60") as (child, process):
        assert await has_executed("runc", process, processes.executable_of(child.pid)) is True
        assert processes.name_of(child.pid) == "sleep"


async def test_a_program_with_the_runtimes_name_keeps_nobody_waiting(tmp_path: Path) -> None:
    sleep = shutil.which("sleep")
    assert sleep is not None
    program = shutil.copy(sleep, tmp_path / "crun-tests")
    with named("crun", 0.01, str(program), "60") as (child, process):
        waited_as, began = processes.executable_of(child.pid), time.monotonic()
        assert await has_executed("crun", process, waited_as) is True
        assert time.monotonic() - began < 1 * SLOW
        assert processes.name_of(child.pid) == "crun-tests"
