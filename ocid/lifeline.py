"""Ending with one's parent: for child processes that nobody else would end."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def end_with_parent(parent: int) -> None:
    """Make the kernel send SIGTERM to this process when the thread that forked it is gone, however that ended.

    Ends at once with status 1 when *parent*, its pid, is gone already. Source: prctl(2).
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
