"""What the events of repeated commands say, in plain words. ``ocid.projections.words`` is where they are asked for."""

from __future__ import annotations

from typing import Final

from ocid.events import exec as execution
from ocid.projections.phrases import duration, exit_words
from ocid.projections.text import size, time_text
from ocid.projections.vocabulary import says

_ENDS: Final = {
    "idle": "nobody ran it any more",
    "container": "its container ended",
    "stop": "the daemon stopped",
    "renewed": "a new stream goes on with it",
}


@says(execution.Repeated)
def _repeated(event: execution.Repeated) -> str:
    took = duration(event.took_ms_min)
    if event.took_ms_max != event.took_ms_min:
        took += f" to {duration(event.took_ms_max)}"
    output = f"{size(event.stdout_bytes)} out, {size(event.stderr_bytes)} err{' in all' if event.count > 1 else ''}"
    when = f"from {time_text(event.since_ns)} to {time_text(event.until_ns)}"
    times = f"{event.count} times {when}, each time" if event.count > 1 else f"once at {time_text(event.since_ns)},"
    return f"ran again {times} with {exit_words(event.exit_code)} after {took}; {output}"


@says(execution.Changed)
def _changed(event: execution.Changed) -> str:
    ended = "was killed because its time was up" if event.timed_out else f"ended with {exit_words(event.exit_code)}"
    output = f"{size(event.stdout_bytes)} out, {size(event.stderr_bytes)} err"
    return f"ran again, and {ended} after {duration(event.took_ms)}; {output}"


@says(execution.Ended)
def _ended(event: execution.Ended) -> str:
    return f"not counted any further: {_ENDS.get(event.reason, event.reason)}"
