"""What the kernel's log says of a process that is gone: the last word where its cgroup went with it, and its monitor
missed it, as when systemd removed the scope before anybody looked.

Source: kernel Documentation/ABI/testing/dev-kmsg; mm/oom_kill.c ``__oom_kill_process``.
"""

from __future__ import annotations

import os
import re
import signal
import time
from typing import Final

from ocid.ports import Process

PATH: Final = "/dev/kmsg"
_SIGKILLED: Final = 128 + signal.SIGKILL
_RECORD_BYTES: Final = 8192  # no record is longer
_RECORDS_MAX: Final = 65_536
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_HEAD: Final = re.compile(rb"([0-9]+),[0-9]+,([0-9]+),[^;]*;")
_KILLED: Final = re.compile(rb"(?:Memory cgroup out|Out) of memory(?: \([a-z_]+\))?: Killed process ([0-9]+) \(")


def oom_killed(process: Process, exit_code: int) -> bool:
    """Say whether the kernel logged that its out-of-memory killer took this process, which ended with that exit code.

    Reads all of the log, which takes milliseconds.

    False where the log cannot be read, and where another PID namespace than the kernel's own is ours.
    """
    if exit_code != _SIGKILLED:
        return False
    try:
        log = os.open(PATH, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return any(_tells(record, process) for record in iter(lambda: _next(log), b""))
    finally:
        os.close(log)


def _next(log: int) -> bytes:
    """Return the next record, b"" at the end. One that was overwritten meanwhile is passed over."""
    for _ in range(_RECORDS_MAX):
        try:
            return os.read(log, _RECORD_BYTES)
        except BrokenPipeError:
            continue
        except OSError:
            break
    return b""


def _tells(record: bytes, process: Process) -> bool:
    """Say whether a record is the kernel's own word that it killed *process*, which has this pid since its start.

    What programs write into the log bears a facility other than 0.
    """
    head = _HEAD.match(record)
    if head is None or int(head[1]) >> 3:
        return False
    said = _KILLED.match(record, head.end())
    if said is None or int(said[1]) != process.pid:
        return False
    asleep_s = time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    return int(head[2]) / 1e6 + asleep_s + 1 >= process.start_ticks * _TICK_S
