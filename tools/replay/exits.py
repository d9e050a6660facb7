"""Exit codes of ``ocid-replay``, for programs to rely on."""

from __future__ import annotations

from typing import Final

OK: Final = 0
FAILED: Final = 1
DAMAGED: Final = 2
CONTRADICTED: Final = 3  # whole, but not the log that was signed for, or that a witness saw
NO_LOG: Final = 4  # none, or nothing in it
UNSUPPORTED: Final = 5
UNSIGNED: Final = 6  # nobody ever signed for it
NO_CURSOR: Final = 7  # it is of another log, is none, or what it points to left the log
BUSY: Final = 8  # another exporter has that cursor or file
UNSTABLE: Final = 9  # the log does not fold to the same state every time
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it
PIPE_CLOSED: Final = 141  # 128 + SIGPIPE
