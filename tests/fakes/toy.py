"""The smallest aggregate there is, a lamp with a dimmer, and a journal without a log: for tests of the actor loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

import msgspec
import trio

from ocid.errors import NotFound, OcidError, WrongState
from ocid.events.base import Event
from ocid.events.envelope import Context, Envelope
from ocid.ids import Digest, StreamId


class Hung(Event, frozen=True, kw_only=True):
    """A lamp hangs from the ceiling."""


class Wanted(Event, frozen=True, kw_only=True):
    """Somebody wants this much light."""

    level: int


class Reached(Event, frozen=True, kw_only=True):
    """The lamp gives this much light."""

    level: int


class Burnt(Event, frozen=True, kw_only=True):
    """The lamp is no more."""


class GaveUp(Event, frozen=True, kw_only=True):
    """Nobody tends to the lamp."""

    reason: str


class Lamp(msgspec.Struct, frozen=True, kw_only=True):
    hung: bool = False
    wanted: int = 0
    level: int = 0
    burnt: bool = False
    gave_up: str | None = None


class Hang(msgspec.Struct, frozen=True):
    pass


class Want(msgspec.Struct, frozen=True):
    level: int


class NoteReached(msgspec.Struct, frozen=True):
    level: int


class NoteNothing(msgspec.Struct, frozen=True):
    pass


class Burn(msgspec.Struct, frozen=True):
    pass


class NoteGaveUp(msgspec.Struct, frozen=True):
    reason: str


class Dim(msgspec.Struct, frozen=True):
    """The effect: turn the dimmer."""

    to: int


INITIAL = Lamp()


def decide(state: Lamp, command: Any) -> tuple[Event, ...]:
    match command:
        case Hang():
            return () if state.hung else (Hung(),)
        case _ if not state.hung:
            raise WrongState("lamp", "toy", wants="hung", is_now="in its box")
        case Want(level=level):
            return () if level == state.wanted and state.gave_up is None else (Wanted(level=level),)
        case NoteReached(level=level):
            return (Reached(level=level),)
        case Burn():
            return () if state.burnt else (Burnt(),)
        case NoteNothing():
            return ()
        case NoteGaveUp(reason=reason):
            return (GaveUp(reason=reason),)
        case _:
            assert_never(command)


def evolve(state: Lamp, event: Event) -> Lamp:
    change = msgspec.structs.replace
    match event:
        case Hung():
            return Lamp(hung=True)
        case Wanted(level=level):
            return change(state, wanted=level, gave_up=None)
        case Reached(level=level):
            return change(state, level=level)
        case Burnt():
            return change(state, burnt=True)
        case GaveUp(reason=reason):
            return change(state, gave_up=reason)
    raise AssertionError(event)


def plan(state: Lamp) -> Dim | None:
    owes = state.hung and state.level != state.wanted and not state.burnt and state.gave_up is None
    return Dim(to=state.wanted) if owes else None


def gave_up(reason: str) -> NoteGaveUp:
    return NoteGaveUp(reason=reason)


def is_over(state: Lamp) -> bool:
    return state.burnt


class Ledger:
    """Port ``Journal`` without a log: each append takes *commit_s*."""

    def __init__(self, commit_s: float = 0.001) -> None:
        self.commit_s = commit_s
        self.envelopes: list[Envelope] = []
        self.refuses: OcidError | None = None  # what the next append raises
        self.broken = False  # a log whose commit failed: it never answers again

    async def append(
        self,
        stream: StreamId,
        expected_version: int,
        events: Sequence[Event],
        context: Context,
        documents: Sequence[bytes] = (),
    ) -> tuple[Envelope, ...]:
        if self.refuses is not None:
            refused, self.refuses = self.refuses, None
            raise refused
        if self.broken:
            await trio.sleep_forever()
        version = len(self.read_stream(stream))
        assert version == expected_version, f"{stream} is at {version}, not {expected_version}"
        written = tuple(
            Envelope(
                seq=len(self.envelopes) + number,
                stream=stream,
                version=version + number,
                type=type(event).__name__,
                type_version=1,
                wall_ns=0,
                boot_ns=0,
                boot_id="",
                epoch=1,
                context=context,
                event=event,
            )
            for number, event in enumerate(events, start=1)
        )
        self.envelopes += written  # a cancelled append becomes durable all the same
        await trio.sleep(self.commit_s)
        return written

    async def drained(self) -> None:
        await trio.lowlevel.checkpoint()

    def read_stream(self, stream: StreamId) -> list[Envelope]:
        return [one for one in self.envelopes if one.stream == stream]

    def document(self, digest: Digest) -> bytes:
        raise NotFound("document", digest)

    def facts(self) -> list[Event]:
        return [one.event for one in self.envelopes]
