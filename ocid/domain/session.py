"""A streaming session: asked for, opened by one client, served once, over.

::

    requested ─ AwaitClient ─ opened ─ Serve ─ closed
        │                       └─ failed, abandoned
        └─ expired, abandoned, failed
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from ocid.errors import WrongState
from ocid.events import session as events
from ocid.events.session import SessionEvent


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """All that one session remembers."""

    requested: events.Requested | None = None
    opened: events.Opened | None = None
    closed: events.Closed | None = None
    failed: events.Failed | None = None
    expired: events.Expired | None = None
    abandoned: events.Abandoned | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more, nor ever will."""
        return any(one is not None for one in (self.closed, self.failed, self.expired, self.abandoned))

    @property
    def phase(self) -> str:
        """One word for messages."""
        if self.requested is None:
            return "unknown"
        for name in ("closed", "failed", "expired", "abandoned", "opened"):
            if getattr(self, name) is not None:
                return name
        return "requested"


INITIAL = Session()


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Wait for the client of the session that *requested* describes."""

    requested: events.Requested


class Open(msgspec.Struct, frozen=True, kw_only=True):
    """Its client is there."""

    remote: str


class NoteClosed(msgspec.Struct, frozen=True, kw_only=True):
    """It was served."""

    closed: events.Closed


class NoteFailed(msgspec.Struct, frozen=True, kw_only=True):
    """It could not be served."""

    error: str
    message: str


class NoteExpired(msgspec.Struct, frozen=True, kw_only=True):
    """Nobody came in time."""

    reason: str


class NoteAbandoned(msgspec.Struct, frozen=True, kw_only=True):
    """Nobody knows how it ended."""

    reason: str


Command = Request | Open | NoteClosed | NoteFailed | NoteExpired | NoteAbandoned


class AwaitClient(msgspec.Struct, frozen=True, kw_only=True):
    """Let the time pass that a client has to come."""


class Serve(msgspec.Struct, frozen=True, kw_only=True):
    """Join the client to the container or pod until either is done."""


Effect = AwaitClient | Serve


def decide(state: Session, command: Command) -> tuple[SessionEvent, ...]:
    """Say which facts *command* makes of *state*.

    Raises:
        WrongState: a client comes to a session that does not wait for one.
    """
    match command:
        case Request(requested=requested):
            return () if state.requested is not None else (requested,)
        case Open(remote=remote):
            if state.phase != "requested":
                raise _wrong(state, "waiting for its client")
            return (events.Opened(remote=remote),)
        case _ if state.requested is None:
            raise _wrong(state, "requested")
        case _ if state.ended:
            return ()
        case NoteClosed(closed=closed):
            if state.opened is None:
                raise _wrong(state, "opened")
            return (closed,)
        case NoteFailed(error=error, message=message):
            return (events.Failed(error=error, message=message),)
        case NoteExpired(reason=reason):
            return () if state.opened is not None else (events.Expired(reason=reason),)
        case NoteAbandoned(reason=reason):
            return (events.Abandoned(reason=reason),)
        case _:
            assert_never(command)


def _wrong(state: Session, wants: str) -> WrongState:
    name = "" if state.requested is None else state.requested.session_id
    return WrongState("session", name, wants=wants, is_now=state.phase)


def evolve(state: Session, event: SessionEvent) -> Session:
    """Return *state* after *event*. Total: it never refuses a fact."""
    match event:
        case events.Requested():
            return Session(requested=event)
        case events.Opened():
            return msgspec.structs.replace(state, opened=event)
        case events.Closed():
            return msgspec.structs.replace(state, closed=event)
        case events.Failed():
            return msgspec.structs.replace(state, failed=event)
        case events.Expired():
            return msgspec.structs.replace(state, expired=event)
        case events.Abandoned():
            return msgspec.structs.replace(state, abandoned=event)
        case _:
            assert_never(event)


def plan(state: Session) -> Effect | None:
    """Return the effect still owed: to wait for the client, then to serve it, once."""
    if state.requested is None or state.ended:
        return None
    return AwaitClient() if state.opened is None else Serve()


def observe(state: Session) -> tuple[Command, ...]:
    """After a restart: tokens and connections died with the daemon."""
    if state.requested is None or state.ended:
        return ()
    when = "before its client came" if state.opened is None else "while it was open"
    return (NoteAbandoned(reason=f"the daemon ended {when}"),)


def gave_up(reason: str) -> Command:
    """Return the command that ends a session's actor for good."""
    return NoteFailed(error="EffectFailed", message=reason)


def is_over(state: Session) -> bool:
    """Say whether nothing will ever happen to this session again."""
    return state.ended
