"""Phrases that the words of several kinds of event share."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Final

_SIGNAL_BASE: Final = 128  # exit code of a process that a signal ended: 128 and the signal's number


def signal_name(number: int) -> str:
    """Return a signal's name, or its number where it has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def exit_words(exit_code: int) -> str:
    """Return what an exit code means."""
    if exit_code > _SIGNAL_BASE and exit_code < 255:
        return f"exit code {exit_code} ({signal_name(exit_code - _SIGNAL_BASE)})"
    return f"exit code {exit_code}"


def duration(ms: int) -> str:
    """Write milliseconds: "85 ms", "12.3 s"."""
    return f"{ms} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


def claimed(hints: Sequence[str]) -> str:
    """Say which API request a command's client claims to act for; "" when it claims none."""
    return f" [its client claims {', '.join(hints)}]" if hints else ""
