"""What the events of streaming sessions say, in plain words. ``ocid.projections.words`` is where they are asked for."""

from __future__ import annotations

from ocid.events import session
from ocid.projections.phrases import claimed, duration, exit_words
from ocid.projections.text import short, size
from ocid.projections.vocabulary import says


@says(session.Requested)
def _requested(event: session.Requested) -> str:
    if event.kind == "portforward":
        ports = " ".join(map(str, event.ports)) or "ports of the client's choice"
        return f"port-forward into pod {short(event.pod_id)}: {ports}"
    streams = [name for name in ("stdin", "stdout", "stderr") if getattr(event, name)]
    over = ", ".join(streams + ["on a terminal"] * event.tty)
    if event.kind == "attach":
        return f"attach to container {short(event.container_id)} ({over})"
    claim = claimed(event.audit_hints)
    return f"a client's command in container {short(event.container_id)} ({over}): {event.argv_brief}{claim}"


@says(session.Opened)
def _opened(event: session.Opened) -> str:
    return f"its client connected from {event.remote}" if event.remote else "its client connected"


@says(session.Closed)
def _closed(event: session.Closed) -> str:
    ended = "ended" if event.exit_code is None else f"ended with {exit_words(event.exit_code)}"
    why = f", cut short: {event.reason}" if event.reason else ""
    return f"{ended} after {duration(event.took_ms)}{why}; {_traffic(event)}"


def _traffic(event: session.Closed) -> str:
    if event.ports:
        return ", ".join(map(_port, event.ports))
    return f"{size(event.stdin_bytes)} in, {size(event.stdout_bytes)} out, {size(event.stderr_bytes)} err"


def _port(use: session.PortUse) -> str:
    name = f"port {use.port}" if use.port else "further ports"
    failed = f", {use.failed} failed" if use.failed else ""
    return f"{name}: {use.connections} connections{failed}, {size(use.bytes_in)} in, {size(use.bytes_out)} out"


@says(session.Failed)
def _failed(event: session.Failed) -> str:
    return f"could not be served: {event.error}: {event.message}"


@says(session.Expired)
def _expired(event: session.Expired) -> str:
    return f"expired: {event.reason}"


@says(session.Abandoned)
def _abandoned(event: session.Abandoned) -> str:
    return f"how it ended is not known: {event.reason}"
