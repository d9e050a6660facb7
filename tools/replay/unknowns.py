"""What the log cannot tell about a container's end. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ocid.events import container
from ocid.events.envelope import Envelope
from ocid.projections.text import time_text

from .output import cited
from .verdict import SIGNAL_BASE


def unknowns(
    cause: str,
    exited: container.Exited | None,
    stop: Envelope | None,
    open_: Sequence[Envelope],
    watched: bool,
    found_by: Envelope | None,
) -> Iterator[str]:
    """Yield a sentence for each thing that is not known.

    Args:
        cause: one of ``verdict.CAUSES``.
        exited: the end, where there is one.
        stop: the request for it, where there is one.
        open_: the requests of commands and sessions that had not ended.
        watched: whether one life of the daemon saw all of the container's.
        found_by: the start of the daemon that found it ended already.
    """
    at = time_text(exited.at_ns) if exited is not None else ""
    if cause in ("signal", "killed-before-grace"):
        yield (
            "who sent the signal: the kernel does not tell a runtime; "
            f"look at auditd, or at a tracer such as Tetragon, around {at}"
        )
    if cause in ("unwatched", "reboot"):
        yield "its exit code, and whether a signal or a want of memory ended it"
        yield f"when it ended: {at} is when that was noticed"
    if cause in ("oom", "oom-inside"):
        yield f"which of its processes the kernel killed, and how much memory it had: see the kernel's log around {at}"
        yield "whether its own limit was reached, its pod's, or the node's: the kernel counts all of them alike"
    if cause == "failed" or (cause == "finished" and exited is not None):
        yield "why its program ended: look at its own output"
    if stop is not None and stop.context.who:
        yield "why its end was asked for: CRI calls carry no reason"
    if open_:
        seqs = cited(each.seq for each in open_)
        yield f"whether what ran inside it then ({seqs}) had to do with its end: the log does not hold what is typed"
    if found_by is not None:
        monitor = exited is not None and exited.source == "monitor"
        known = "; the exit code is what its monitor wrote down meanwhile" if monitor else ""
        yield f"what went on while the daemon was down: its start in record {found_by.seq} found it ended{known}"
    elif not watched:
        yield "what went on while the daemon was down, earlier in its life"
    if exited is not None and exited.source == "kernel":
        yield "why its monitor was lost: nothing records a monitor's end"
    if exited is not None and exited.exit_code > SIGNAL_BASE and cause in ("failed", "ended-after-stop"):
        yield "whether its program chose that exit code, or passes on a signal that a child of it got"
