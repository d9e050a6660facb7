"""``ocid-replay execs``: every command, attach and port-forward, with who asked for it and what came of it."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from ocid.errors import OcidError
from ocid.events import container, exec as execution, pod, session
from ocid.events.codec import Damaged
from ocid.events.envelope import Envelope
from ocid.ids import Digest
from ocid.journal.looking import look, peers
from ocid.projections.fields import fields
from ocid.projections.phrases import duration
from ocid.projections.text import exact_time_text, short, size, time_text
from ocid.projections.words import who, who_in_full

from . import output
from .attribution import Peer
from .exits import OK
from .lookup import Lookup, Stored
from .meaning import chosen
from .reading import log_directory, selected, selection_of

COLUMNS: Final = (
    "SEQ", "TIME(UTC)", "KIND", "CONTAINER", "POD", "CALLER", "TTY", "IN", "OUT", "ERR", "TOOK", "EXIT", "STATE",
    "END", "WHAT",
)  # fmt: skip
REPEATED: Final = "exec.repeated"  # counts runs of a command that stands once in the log

DOCUMENTS_KEPT: Final = 1024
_ENDS: Final = (
    execution.Finished, execution.Failed, execution.Abandoned,
    session.Closed, session.Failed, session.Expired, session.Abandoned,
)  # fmt: skip

Document = Callable[[Digest], bytes]


class Line(msgspec.Struct, kw_only=True):
    """One command or session."""

    seq: int  # of the request
    time: str
    wall_ns: int
    kind: str  # "execsync", "exec", "attach", "portforward"
    id: str
    container_id: str = ""
    container: str = ""
    pod_id: str = ""
    pod: str = ""
    caller: str = ""
    caller_in_full: str = ""
    caller_seq: int = 0
    peer: dict[str, Any] | None = None
    argv: list[str] | None = None  # after redaction; None where its document is not there, or there is no command
    argv_brief: str = ""
    audit_hints: tuple[str, ...] = ()  # what the client claims, no proof
    tty: bool = False
    ports: tuple[int, ...] = ()
    bytes_in: int | None = None
    bytes_out: int | None = None
    bytes_err: int | None = None
    took_ms: int | None = None
    exit_code: int | None = None
    state: str = "running"  # also "waiting", "finished", "timed out", "cut short", "failed", "expired", "abandoned"
    reason: str = ""
    remote: str = ""  # where its client connected from
    end_seq: int = 0
    repeats: int = 0  # further runs that were only counted


def run(args: argparse.Namespace) -> int:
    """Print the commands and sessions that the filters select."""
    begin, args.type = chosen(args.type, (execution.Requested, session.Requested)), ["exec.*", "session.*"]
    with look(log_directory(args)) as reader:
        log, peer = Stored(reader), peers(reader)
        document = functools.lru_cache(maxsize=DOCUMENTS_KEPT)(reader.document)
        streams = gather(selected(reader, selection_of(args)), begin, log)
        found = [line(events, log, peer, document) for events in streams]
    output.listed(args.output, "execs", found, COLUMNS, map(row, found))
    return OK


def gather(found: Iterable[Envelope], begin: Sequence[str], log: Lookup) -> Iterator[Sequence[Envelope]]:
    """Yield the streams of the requests in *found*, of the types *begin*, each whole, in order. Pure but for *log*.

    *log* is asked only for what does not come to its end in *found*.
    """
    streams: dict[str, list[Envelope]] = {}
    for each in found:
        if each.type in begin:
            streams[each.stream] = [each]
        elif each.stream in streams:
            streams[each.stream].append(each)
    for stream, events in streams.items():
        yield events if isinstance(events[-1].event, _ENDS) else log.stream(stream)


def line(events: Sequence[Envelope], log: Lookup, peer: Peer, document: Document | None = None) -> Line:
    """Return what the *events* of one command's or session's stream come to. Pure but for what reads the log."""
    requested = events[0]
    found = _asked(requested, peer, document)
    _name(found, log)
    for each in events[1:]:
        _go_on(found, each)
    return found


def _asked(requested: Envelope, peer: Peer, document: Document | None) -> Line:
    asker = requested.context.who
    seen = peer(asker) if asker else None
    found = Line(
        seq=requested.seq,
        time=exact_time_text(requested.wall_ns),
        wall_ns=requested.wall_ns,
        kind="execsync",
        id=requested.stream.partition("/")[2],
        caller=who(seen, asker),
        caller_in_full=who_in_full(seen, asker),
        caller_seq=asker,
        peer=None if seen is None else msgspec.to_builtins(seen),
    )
    match requested.event:
        case execution.Requested() as event:
            found.container_id, found.argv = event.container_id, _argv(event.argv, document)
            found.argv_brief, found.audit_hints = event.argv_brief, event.audit_hints
        case session.Requested() as asked:
            found.kind, found.pod_id, found.container_id = asked.kind, asked.pod_id, asked.container_id
            found.argv, found.argv_brief = _argv(asked.argv, document), asked.argv_brief
            found.audit_hints, found.tty, found.ports, found.state = (
                asked.audit_hints,
                asked.tty,
                asked.ports,
                "waiting",
            )
        case _:
            found.kind = "unknown"
    return found


def _go_on(found: Line, each: Envelope) -> None:
    """Take in the next event of the stream."""
    match each.event:
        case execution.Finished() as event:
            found.state = "timed out" if event.timed_out else "finished"
            found.exit_code, found.took_ms = event.exit_code, event.took_ms
            found.bytes_out, found.bytes_err = event.stdout_bytes, event.stderr_bytes
        case session.Opened(remote=remote):
            found.state, found.remote = "running", remote
            return
        case session.Closed() as closed:
            found.state, found.reason = "cut short" if closed.reason else "finished", closed.reason
            found.exit_code, found.took_ms = closed.exit_code, closed.took_ms
            found.bytes_in = closed.stdin_bytes + sum(port.bytes_in for port in closed.ports)
            found.bytes_out = closed.stdout_bytes + sum(port.bytes_out for port in closed.ports)
            found.bytes_err = closed.stderr_bytes
            found.ports = found.ports or tuple(port.port for port in closed.ports)
        case execution.Failed(message=message) | session.Failed(message=message):
            found.state, found.reason = "failed", message
        case session.Expired(reason=reason):
            found.state, found.reason = "expired", reason
        case execution.Abandoned(reason=reason) | session.Abandoned(reason=reason):
            found.state, found.reason = "abandoned", reason
        case other if each.type == REPEATED:
            count = fields(other).get("count", 0)
            found.repeats += count if isinstance(count, int) else 0
        case _:
            return
    found.end_seq = each.seq


def _name(found: Line, log: Lookup) -> None:
    """Say what its container and pod are called, as far as the log has that."""
    of_container = log.first(f"container/{found.container_id}") if found.container_id else None
    if of_container is not None and isinstance(declared := of_container.event, container.Declared):
        found.container, found.pod_id = declared.name, declared.pod_id
    of_pod = log.first(f"pod/{found.pod_id}") if found.pod_id else None
    if of_pod is not None and isinstance(owner := of_pod.event, pod.Declared):
        found.pod = f"{owner.namespace}/{owner.name}"


def _argv(digest: Digest | None, document: Document | None) -> list[str] | None:
    if digest is None or document is None:
        return None
    try:
        return msgspec.json.decode(document(digest), type=list[str])
    except (OcidError, Damaged, msgspec.MsgspecError):
        return None


def row(one: Line) -> tuple[str, ...]:
    """Return its row. Pure."""
    return (
        str(one.seq),
        time_text(one.wall_ns),
        one.kind,
        one.container or short(one.container_id) or "-",
        one.pod or short(one.pod_id) or "-",
        one.caller,
        "tty" if one.tty else "-",
        *("-" if count is None else size(count) for count in (one.bytes_in, one.bytes_out, one.bytes_err)),
        "-" if one.took_ms is None else duration(one.took_ms),
        "-" if one.exit_code is None else str(one.exit_code),
        one.state,
        f"[{one.end_seq}]" if one.end_seq else "-",
        " ".join(_what(one)),
    )


def _what(one: Line) -> Iterator[str]:
    if one.kind == "portforward":
        yield f"ports {' '.join(map(str, one.ports)) or 'of the client’s choice'}"
    elif one.argv_brief:
        yield one.argv_brief
    if one.repeats:
        yield f"(and {one.repeats} times more)"
    if one.audit_hints:
        yield f"[claims {', '.join(one.audit_hints)}]"
    if one.reason:
        yield f"({one.reason})"
