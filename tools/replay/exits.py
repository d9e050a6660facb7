"""Exit codes of ``ocid-replay``, for programs to rely on. 3 is kept for a log that contradicts a witness."""

from __future__ import annotations

from typing import Final

OK: Final = 0
FAILED: Final = 1
DAMAGED: Final = 2
NO_LOG: Final = 4  # none, or nothing in it
UNSUPPORTED: Final = 5
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it
PIPE_CLOSED: Final = 141  # 128 + SIGPIPE
