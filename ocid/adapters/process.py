"""Processes that are not our children: found by pid and start time, watched and signalled through a pidfd.

A pid alone may mean another process a moment later. Whoever opens a pidfd first and compares the start time then holds
the right process or none.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import trio

from ocid.adapters import linux
from ocid.errors import NotFound
from ocid.ports import Process

SWEEP_S: Final = 0.5  # between two looks for children that nobody waits for; one system call
GRACE_S: Final = 30.0  # a zombie of this age has no owner that still means to wait for it


def start_ticks(pid: int) -> int | None:
    """Return the start time of a process in clock ticks since boot, None when there is none. proc(5) stat field 22."""
    fields = _stat(pid)
    return None if fields is None else int(fields[19])


def is_zombie(pid: int) -> bool:
    """Say whether the process has ended and waits to be reaped."""
    fields = _stat(pid)
    return fields is not None and fields[0] in ("Z", "X")


def session_of(pid: int) -> int | None:
    """Return the session id of a process. proc(5) stat field 6."""
    fields = _stat(pid)
    return None if fields is None else int(fields[3])


def parent_of(pid: int) -> int | None:
    """Return the parent's pid. proc(5) stat field 4."""
    fields = _stat(pid)
    return None if fields is None else int(fields[1])


def name_of(pid: int) -> str | None:
    """Return the program's name as the kernel has it, at most 15 bytes; a zombie keeps it."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except (FileNotFoundError, ProcessLookupError):
        return None


def executable_of(pid: int) -> tuple[int, int] | None:
    """Return device and inode of the file that a process executes; None of one that ended."""
    try:
        status = os.stat(f"/proc/{pid}/exe")
    except OSError:
        return None
    return status.st_dev, status.st_ino


def ended_as(process: Process) -> str | None:
    """Return the name that an ended process has as a zombie; None when it runs or was reaped."""
    try:
        with open(f"/proc/{process.pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    rear = text.rindex(b")")
    fields = text[rear + 2 :].split(b" ")
    if int(fields[19]) != process.start_ticks or fields[0] not in (b"Z", b"X"):
        return None
    return text[text.index(b"(") + 1 : rear].decode("utf-8", "replace")


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the third on: the second holds the name, which may hold anything."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(b")") + 2 :].decode("ascii").split(" ")


def identify(pid: int) -> Process:
    """Return the process that has this pid now.

    Raises:
        NotFound: there is none.
    """
    ticks = start_ticks(pid)
    if ticks is None:
        raise NotFound("process", str(pid))
    return Process(pid=pid, start_ticks=ticks)


@contextmanager
def opened(process: Process) -> Iterator[int]:
    """Hold a pidfd of exactly this process; -1 when it is gone."""
    pidfd = -1
    with suppress(ProcessLookupError, OSError):
        pidfd = os.pidfd_open(process.pid)
    if pidfd >= 0 and start_ticks(process.pid) != process.start_ticks:
        os.close(pidfd)
        pidfd = -1
    try:
        yield pidfd
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def alive(process: Process) -> bool:
    """Say whether this very process runs; a zombie does not."""
    fields = _stat(process.pid)
    return fields is not None and int(fields[19]) == process.start_ticks and fields[0] not in ("Z", "X")


def send(process: Process, number: int) -> bool:
    """Send a signal to exactly this process; say whether there was one."""
    with opened(process) as pidfd:
        if pidfd < 0:
            return False
        try:
            signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            return False
        return True


async def wait_gone(process: Process) -> None:
    """Wait until the process has ended; it may still be a zombie of its parent's."""
    with opened(process) as pidfd:
        if pidfd < 0:
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.wait_readable(pidfd)


async def kill_and_wait(process: Process, timeout_s: float) -> bool:
    """Send SIGKILL and wait; say whether the process is gone. One that hangs in the kernel is not."""
    send(process, signal.SIGKILL)
    with trio.move_on_after(timeout_s):
        await wait_gone(process)
    return not alive(process)


def find_by_argument(argument: str) -> list[Process]:
    """Return the processes that have *argument* among the words of their command line. Reads all of /proc."""
    wanted = os.fsencode(argument)
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if wanted in words:
            with suppress(NotFound):
                found.append(identify(int(name)))
    return found


def exit_code_of(wait_status: int) -> int:
    """Turn a wait status into 0-255, where 128 + n means killed by signal n."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


def reap_child(pid: int) -> int | None:
    """Reap an ended child by its pid and return its exit code; None when it is no child of ours, or still runs.

    One that the reaper took in passing is told from memory, once.
    """
    try:
        gone = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return _reaped.pop(pid, None)
    return None if gone is None else _code(gone)


def _code(gone: os.waitid_result) -> int:
    return gone.si_status if gone.si_code == os.CLD_EXITED else 128 + gone.si_status


_REMEMBERED_MAX: Final = 256
_RUNTIMES: Final = ("runc", "crun", "conmon", "criu")  # and what they run
expected: Final[set[int]] = set()  # direct children whose ``command.Child`` will reap them
_reaped: Final[dict[int, int]] = {}  # exit codes of orphans that were reaped before anyone asked, the latest ones


def _is_orphan(pid: int) -> bool:
    """Say whether a child is known to have been reparented to us: a container's, or an OCI runtime's rest.

    What we spawn ourselves is in ``expected``, or is a plain program of the host in our own cgroup; a zombie still says
    which was its own.
    """
    if pid in expected:
        return False
    if (name_of(pid) or "").startswith(_RUNTIMES):
        return True
    if any(theirs not in ("/", ours) for theirs, ours in _cgroups_beside_ours(pid)):
        return True
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            line = next((line for line in file if line.startswith("NSpid:")), "")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return len(line.split()) > 2


def _cgroups_beside_ours(pid: int) -> list[tuple[str, str]]:
    """Return a process's and our own cgroup in each hierarchy; a zombie's is "/" where version 1 has let go of it."""
    try:
        theirs, ours = (Path(f"/proc/{one}/cgroup").read_text("utf-8", "replace").splitlines() for one in (pid, "self"))
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [(one.split(":", 2)[2], other.split(":", 2)[2]) for one, other in zip(theirs, ours, strict=False)]


class Reaper:
    """Makes this process inherit its orphaned descendants, and reaps those that nobody waits for.

    It has to be quick about those of a container: the kernel keeps a PID namespace's init until every process in it is
    reaped, and a zombie of a failed exec is ours to reap. A zombie that may have an owner is left to it for the grace
    period; owners reap within milliseconds, so no exit status is ever stolen.
    """

    def __init__(self, *, grace_s: float = GRACE_S, sweep_s: float = SWEEP_S) -> None:
        self._grace_s = grace_s
        self._sweep_s = sweep_s
        self._seen: dict[Process, float] = {}
        linux.become_subreaper()

    async def serve(self) -> None:
        """Sweep for ever."""
        while True:
            self.sweep()
            await trio.sleep(self._sweep_s)

    def sweep(self) -> int:
        """Reap known orphans, and zombies older than the grace period; return how many."""
        reaped = 0
        while True:
            pid = reap_orphans()
            ticks = None if pid is None else start_ticks(pid)
            if pid is None or ticks is None:
                self._seen.clear()
                return reaped
            zombie = Process(pid=pid, start_ticks=ticks)
            now_s = time.monotonic()
            since = self._seen.get(zombie, now_s)
            if pid in expected or now_s - since < self._grace_s:
                self._seen = {zombie: since}
                return reaped
            reap_child(pid)
            reaped += 1


def reap_orphans() -> int | None:
    """Reap the zombies that are known to be orphans, up to the first that may have an owner; return that one's pid."""
    while True:
        try:
            first = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return None
        if first is None:
            return None
        if not _is_orphan(first.si_pid):
            return first.si_pid
        gone = os.waitid(os.P_PID, first.si_pid, os.WEXITED | os.WNOHANG)
        if gone is not None:
            _reaped[first.si_pid] = _code(gone)
        while len(_reaped) > _REMEMBERED_MAX:
            del _reaped[next(iter(_reaped))]
