"""Why a container or pod ended, from its own events: what is known, what follows, and what nobody can know. Pure."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from ocid.events import container, exec as execution, pod, session
from ocid.events.envelope import Envelope
from ocid.projections.phrases import duration, signal_name

Asker = Callable[[Envelope], str]

SIGNAL_BASE: Final = 128
_KILLED: Final = SIGNAL_BASE + signal.SIGKILL
_OVER: Final = (
    execution.Finished, execution.Failed, execution.Abandoned, session.Closed, session.Failed, session.Abandoned,
)  # fmt: skip


class Finding(msgspec.Struct, frozen=True):
    """One statement and the records that it rests on."""

    text: str
    seqs: tuple[int, ...]


class Ending(msgspec.Struct, frozen=True):
    """How a container ended, for programs and for people."""

    cause: str  # one of CAUSES
    finding: Finding


# What ``Ending.cause`` can be; programs rely on these words.
CAUSES: Final = (
    "prepare-failed", "create-failed", "start-failed",  # it never ran
    "not-started", "running", "stopping", "given-up",  # it has not ended, as far as the log goes
    "reboot", "unwatched",  # nobody saw it end
    "oom", "oom-inside",  # the kernel killed its init, or another process of it, for want of memory
    "unstarted",  # stopped before its program ran
    "killed-on-request", "killed-after-grace", "killed-before-grace", "signal-after-stop", "ended-after-stop",
    "signal",  # nobody asked for it through ocid
    "finished", "failed",  # by itself, with exit code 0 or another one
)  # fmt: skip


def of_container(events: Sequence[Envelope], asker: Asker) -> list[Finding]:
    """Say why the container ended, or that it has not.

    Args:
        events: of the container and of the commands run in it, in order.
        asker: names who asked for what an envelope holds.
    """
    own = [each for each in events if each.stream.startswith("container/")]
    findings = [ending(own, asker).finding]
    exited = last(own, container.Exited)
    if exited is None or not isinstance(exited.event, container.Exited) or exited.event.exit_code <= SIGNAL_BASE:
        return findings
    if open_execs := running_execs(events, exited.seq):
        findings.append(Finding("commands ran in it when it ended", tuple(open_execs)))
    return findings


def ending(own: Sequence[Envelope], asker: Asker) -> Ending:
    """Return how the container of the events *own* ended, or that it has not."""
    for kind, cause, what in (
        (container.PrepareFailed, "prepare-failed", "it never ran: it could not be prepared"),
        (container.CreateFailed, "create-failed", "it never ran: the OCI runtime refused to create it"),
        (container.StartFailed, "start-failed", "it never ran: its program could not be started"),
    ):
        if (failed := last(own, kind)) is not None:
            message = getattr(failed.event, "message", "")
            return Ending(cause, Finding(f"{what}: {message}", (failed.seq,)))
    exited = last(own, container.Exited)
    # A request after the end did not end it.
    before = [each for each in own if exited is None or each.seq < exited.seq]
    stop = last(before, container.StopRequested)
    if exited is None or not isinstance(exited.event, container.Exited):
        if (gave_up := last(own, container.GaveUp)) is not None:
            return Ending("given-up", Finding("how it goes on is not known: its actor was given up", (gave_up.seq,)))
        return _not_ended(own, stop)
    return _exit(exited, exited.event, stop, last(own, container.Started), asker)


def of_pod(events: Sequence[Envelope], asker: Asker) -> list[Finding]:
    """Say why the pod ended, or that it has not. *events* are the pod's own."""
    if (failed := last(events, pod.Failed)) is not None and isinstance(failed.event, pod.Failed):
        return [Finding(f"it could not be made: {failed.event.step}: {failed.event.message}", (failed.seq,))]
    findings = []
    if (lost := last(events, pod.Lost)) is not None and isinstance(lost.event, pod.Lost):
        findings.append(Finding(f"it was lost without our doing: {lost.event.reason}", (lost.seq,)))
    if (gave_up := last(events, pod.GaveUp)) is not None:
        findings.append(Finding("its actor crashed too often and was given up", (gave_up.seq,)))
    stop, removal = last(events, pod.StopRequested), last(events, pod.RemoveRequested)
    if stop is not None:
        findings.append(Finding(f"{asker(stop)} asked to stop it", (stop.seq,)))
    if removal is not None:
        findings.append(Finding(f"{asker(removal)} asked to remove it", (removal.seq,)))
    if findings:
        return findings
    ready = last(events, pod.Ready)
    return [Finding("it has not ended" if ready is not None else "it is not ready yet", (events[-1].seq,))]


def _not_ended(own: Sequence[Envelope], stop: Envelope | None) -> Ending:
    started = last(own, container.Started)
    if stop is not None:
        return Ending("stopping", Finding("it is being stopped, and its end is not in the log", (stop.seq,)))
    if started is not None:
        return Ending("running", Finding("it has not ended: its program runs", (started.seq,)))
    return Ending("not-started", Finding("its program has not been started", (own[-1].seq,) if own else ()))


def _exit(
    at: Envelope, exited: container.Exited, stop: Envelope | None, started: Envelope | None, asker: Asker
) -> Ending:
    """Say what ended the container, in order of what the evidence can carry."""
    seqs = (at.seq,) if stop is None else (stop.seq, at.seq)
    code = exited.exit_code
    if exited.source == "reboot":
        return Ending("reboot", Finding("it ended when the node was rebooted; its exit code is not known", (at.seq,)))
    if exited.source == "unknown":
        return Ending("unwatched", Finding("it ended while nobody watched; its exit code is not known", seqs))
    if exited.oom_killed and code == _KILLED:
        text = f"the kernel's out-of-memory killer (OOM) ended it, exit code {code}"
        return Ending("oom", Finding(text, (at.seq,)))
    if exited.oom_killed:
        text = f"the kernel's out-of-memory killer (OOM) took a process of it, and it ended with exit code {code}"
        return Ending("oom-inside", Finding(f"{text}{_by(stop, asker)}", seqs))
    if started is None:
        text = f"it was ended before its program ran, exit code {code}{_by(stop, asker)}"
        return Ending("unstarted", Finding(text, seqs))
    if stop is not None and isinstance(stop.event, container.StopRequested):
        cause, text = _after_stop(code, at, stop, stop.event, asker)
        return Ending(cause, Finding(text, seqs))
    if SIGNAL_BASE < code < 255:
        text = (
            f"{signal_name(code - SIGNAL_BASE)} ended it, exit code {code}; nobody asked ocid to stop it, and no "
            "out-of-memory kill was counted. Who sent the signal is not in the log"
        )
        return Ending("signal", Finding(text, seqs))
    if code == 0:
        return Ending("finished", Finding("its program came to its end, exit code 0", seqs))
    return Ending("failed", Finding(f"its program ended by itself with exit code {code}", seqs))


def _after_stop(
    code: int, at: Envelope, stop: Envelope, asked: container.StopRequested, asker: Asker
) -> tuple[str, str]:
    after = "after a time that is not known"
    if at.epoch == stop.epoch and at.boot_id == stop.boot_id:  # one clock measured both, and somebody watched
        after = f"after {duration(max(at.boot_ns - stop.boot_ns, 0) // 1_000_000)}"
    by = asker(stop)
    if code == _KILLED and asked.signal != "SIGKILL":
        if asked.grace_ms == 0:
            return "killed-on-request", f"{by} asked to kill it; SIGKILL ended it"
        if at.boot_id == stop.boot_id and at.boot_ns >= asked.kill_at_boot_ns:
            grace = duration(asked.grace_ms)
            return "killed-after-grace", f"{by} asked to stop it; it did not end within {grace}, and SIGKILL ended it"
        return (
            "killed-before-grace",
            f"{by} asked to stop it; SIGKILL ended it before its time was up, from whom is not in the log",
        )
    if SIGNAL_BASE < code < 255:
        name = signal_name(code - SIGNAL_BASE)
        return "signal-after-stop", f"{by} asked to stop it; {name} ended it {after}, exit code {code}"
    return "ended-after-stop", f"{by} asked to stop it; it ended by itself {after} with exit code {code}"


def _by(stop: Envelope | None, asker: Asker) -> str:
    return "" if stop is None else f"; {asker(stop)} asked to stop it"


def running_execs(events: Sequence[Envelope], before_seq: int) -> list[int]:
    """Return the requests of commands that had not ended before the record *before_seq*."""
    running: dict[str, int] = {}
    commands: set[str] = set()  # sessions that run one, once they are opened
    for each in events:
        if each.seq >= before_seq:
            break
        if isinstance(each.event, session.Requested) and each.event.kind == "exec":
            commands.add(each.stream)
        elif isinstance(each.event, execution.Requested) or (
            isinstance(each.event, session.Opened) and each.stream in commands
        ):
            running[each.stream] = each.seq
        elif isinstance(each.event, _OVER):
            running.pop(each.stream, None)
    return sorted(running.values())


def last(events: Sequence[Envelope], kind: type) -> Envelope | None:
    return next((each for each in reversed(events) if isinstance(each.event, kind)), None)
