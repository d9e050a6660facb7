"""What the tests of the journal share: clocks, events, and a world in which daemons live and die."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ocid.events.envelope import Context
from ocid.events.node import OrphanFound
from ocid.ids import StreamId

BOOT = "8d2f6c1e-0b7a-4c55-9a3e-5f10c2d4e6b8"
OTHER_BOOT = "11111111-2222-4333-8444-555555555555"
A = StreamId("pod/a")
B = StreamId("pod/b")
CONTEXT = Context(who=1, correlation="c")
ROOT = Path(__file__).parents[2]


class FakeClock:
    """A clock that goes on by a second whenever it is read."""

    def __init__(self) -> None:
        self.now_s = 1_763_956_800

    def wall_ns(self) -> int:
        self.now_s += 1
        return self.now_s * 10**9

    def boot_ns(self) -> int:
        return (self.now_s - 1_763_000_000) * 10**9


class RealClock:
    """The host's clocks."""

    def wall_ns(self) -> int:
        return time.time_ns()

    def boot_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def fact(name: object) -> OrphanFound:
    """Any event; *name* tells it from others."""
    return OrphanFound(kind="mount", name=str(name), action="left")


def python(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    """Start a Python of our own that can import what this one can."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, *map(str, arguments)], env=environment, **options)
