"""Reading a log that may be anybody's in a child process, because a damaged file kills whoever maps it.

LMDB trusts its file. A page that points beyond the end of it ends the reading process with SIGBUS, other damage with
SIGSEGV or SIGABRT; none of them can be caught as an error. The parent turns them into a message and an exit code.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Final

from ocid.lifeline import end_with_parent

from .exits import DAMAGED, FAILED

_DEADLY: Final = (signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
_PASSED_ON: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GIVE_WAY: Final = 10  # nice: the daemon and what it runs go first
_SIGNAL_BASE: Final = 128


def guarded(work: Callable[[], int]) -> int:
    """Return what *work* returns, run in a child of this process; 2 when reading killed it.

    The process must have no threads and no log open.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        end_with_parent(parent)
        os.nice(GIVE_WAY)
        _work_and_exit(work)
    asked: list[int] = []

    def pass_on(number: int, _: object) -> None:
        asked.append(number)
        os.kill(child, signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    try:
        _, status = os.waitpid(child, 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        return _SIGNAL_BASE + asked[0]
    if not os.WIFSIGNALED(status):
        return os.waitstatus_to_exitcode(status)
    ended_by = os.WTERMSIG(status)
    if ended_by in _DEADLY:
        name = signal.Signals(ended_by).name
        sys.stderr.write(f"ocid-replay: the log is damaged: reading it is deadly ({name})\n")
        return DAMAGED
    return _SIGNAL_BASE + ended_by


def _work_and_exit(work: Callable[[], int]) -> None:
    """Never returns: what the parent had set up to run at its exit is not the child's."""
    code = FAILED
    try:
        code = work()
        sys.stdout.flush()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else FAILED
    except BrokenPipeError:
        code = FAILED
    except BaseException:  # a bug: show it, since nothing above us can
        traceback.print_exc()
    finally:
        try:
            sys.stderr.flush()
        finally:
            os._exit(code)
