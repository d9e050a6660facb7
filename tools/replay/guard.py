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

from .exits import DAMAGED, FAILED

_DEADLY: Final = (signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)


def guarded(work: Callable[[], int]) -> int:
    """Return what *work* returns, run in a child of this process; 2 when reading killed it.

    The process must have no threads and no log open.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _work_and_exit(work)
    while True:
        try:
            _, status = os.waitpid(child, 0)
            break
        except KeyboardInterrupt:  # the child got the signal, too, and is about to end
            continue
    if not os.WIFSIGNALED(status):
        return os.waitstatus_to_exitcode(status)
    number = os.WTERMSIG(status)
    if number in _DEADLY:
        name = signal.Signals(number).name
        sys.stderr.write(f"ocid-replay: the log is damaged: reading it is deadly ({name})\n")
        return DAMAGED
    return 128 + number


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
