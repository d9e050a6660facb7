"""The one actor loop: every pod, container, pull, layer and execution runs it with its own pure functions.

An actor owns one stream. It takes commands from a bounded inbox, lets ``decide`` make facts of them, makes these
durable, evolves, answers. Beside the loop runs at most one effect: the one that ``plan`` derives from the state. When
the state owes another one, the running effect is cancelled and waited for before the next begins. What an effect finds
out comes back into the inbox as a command like any other.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import trio

from ocid.domain.confidential import Document
from ocid.errors import Exhausted, OcidError, Unavailable
from ocid.events.base import Event
from ocid.events.envelope import DAEMON, Context
from ocid.ids import StreamId
from ocid.ports import Journal

INBOX_MAX = 64  # commands waiting for one actor; more is a client gone wild, and is refused

# What the running task works for: commands that it gives to actors, and names no context for, follow from that.
working_for: ContextVar[Context] = ContextVar("working_for", default=DAEMON)

State = TypeVar("State")


class Decider(Protocol):
    """The pure functions of one aggregate: a module of ``ocid.domain`` has exactly this shape."""

    INITIAL: Any

    def decide(self, state: Any, command: Any) -> tuple[Any, ...]: ...
    def evolve(self, state: Any, event: Any) -> Any: ...
    def plan(self, state: Any) -> Any: ...
    def gave_up(self, reason: str) -> Any: ...
    def is_over(self, state: Any) -> bool: ...


class Note(msgspec.Struct, frozen=True):
    """What an effect found out: a command for its own actor, with the documents that its facts will cite."""

    command: Any
    documents: tuple[Document, ...] = ()


class Ask:
    """One command on its way, and the answer to it."""

    __slots__ = ("answered", "command", "context", "documents", "error")

    def __init__(self, command: Any, context: Context | None, documents: Sequence[Document]) -> None:
        self.command = command
        self.context = context  # None: the actor's own note, which follows from what it did last
        self.documents = documents
        self.answered = trio.Event()
        self.error: Exception | None = None

    def refuse(self, error: Exception) -> None:
        self.error = error
        self.answered.set()


Perform = Callable[[Any, Any], Awaitable[Note]]  # (effect, state) → what it found out


class Actor(Generic[State]):
    """One aggregate alive: its state as of the last durable event, its inbox, and those who wait for it to change."""

    def __init__(self, stream: StreamId, decider: Decider, perform: Perform, journal: Journal) -> None:
        self.stream = stream
        self.decider = decider
        self.state: State = decider.INITIAL
        self.version = 0
        self.over = trio.Event()  # set when the actor will never run again
        self.unfit: str | None = None  # why its supervisor gave it up
        self.follows = DAEMON  # context of what comes of the last command by itself: asked for by nobody else
        self._perform = perform
        self._journal = journal
        self._send, self._inbox = trio.open_memory_channel[Ask](INBOX_MAX)
        self._changed = trio.Event()
        self._current: Ask | None = None

    # --- for callers -------------------------------------------------------------------------------------------------

    async def ask(self, command: object, context: Context | None = None, documents: Sequence[Document] = ()) -> State:
        """Have *command* decided and its facts made durable; return the state after it.

        The command is taken whether or not the caller goes on waiting. Its facts follow from *context*, or else from
        what the calling task works for: an effect of another actor, or a recovery.

        Raises:
            OcidError: ``decide`` refused it.
            Exhausted: too many commands are waiting for this actor already.
            Unavailable: the actor was given up by its supervisor.
        """
        ask = self.tell(command, context, documents)
        await ask.answered.wait()
        if ask.error is not None:
            raise ask.error
        return self.state

    def tell(self, command: object, context: Context | None = None, documents: Sequence[Document] = ()) -> Ask:
        """Put *command* into the inbox without waiting for its answer."""
        ask = Ask(command, working_for.get() if context is None else context, documents)
        if self.over.is_set():
            self._dismiss(ask)
            return ask
        try:
            self._send.send_nowait(ask)
        except trio.WouldBlock:
            message = f"{self.stream} has {INBOX_MAX} requests waiting already; try again when they are answered"
            raise Exhausted(message) from None
        return ask

    async def until(self, holds: Callable[[State], bool]) -> State:
        """Wait until *holds* is true of the state, and return that state.

        Raises:
            Unavailable: the actor ended or was given up before that.
        """
        while not holds(self.state):
            if self.over.is_set():
                raise Unavailable(self.unfit or f"{self.stream} is gone")
            await self._changed.wait()
        return self.state

    # --- for the supervisor ------------------------------------------------------------------------------------------

    def restore(self, state: State, version: int) -> None:
        """Set the state folded from the log."""
        self.state = state
        self.version = version
        self._wake()

    async def rebuild(self) -> None:
        """Fold the state anew from the stream, after a crash of the loop."""
        await self._journal.drained()
        self.replay()

    def replay(self) -> None:
        """Take the state that the stream's durable events fold to."""
        state, version = self.decider.INITIAL, 0
        for envelope in self._journal.read_stream(self.stream):
            state, version = self.decider.evolve(state, envelope.event), envelope.version
        self.restore(state, version)

    async def absorb(self, commands: Iterable[object]) -> None:
        """Decide *commands* before the loop runs for the first time, so that no effect starts on what was before."""
        for command in commands:
            ask = Ask(command, working_for.get(), ())
            await self._take(ask)
            if ask.error is not None:
                raise ask.error

    def fail_current(self, error: Exception) -> None:
        """Answer the command that the loop crashed on."""
        if self._current is not None:
            self._current.refuse(error)
            self._current = None

    def end(self, unfit: str | None = None) -> None:
        """Close the actor: refuse what is waiting and wake everyone."""
        self.unfit = unfit
        self.over.set()
        while True:
            try:
                ask = self._inbox.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                break
            self._dismiss(ask)
        self._wake()

    def _dismiss(self, ask: Ask) -> None:
        """Answer a command that comes after the end: what is so already succeeds, as stopping what is removed does."""
        try:
            late = self.unfit is not None or self.decider.decide(self.state, ask.command) != ()
        except OcidError as error:
            ask.refuse(error)
            return
        if late:
            ask.refuse(Unavailable(self.unfit or f"{self.stream} is gone"))
        ask.answered.set()

    def revive(self) -> None:
        """Make an actor that was given up able to run again; the supervisor must start it."""
        self.over = trio.Event()
        self.unfit = None

    async def give_up(self, reason: str) -> None:
        """Record that this actor is not restarted any more, and end it."""
        await self._take(Ask(self.decider.gave_up(reason), None, ()))
        self.end(unfit=reason)

    # --- the loop ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the inbox and run the effect that is due, until the aggregate is over. Crashes are the supervisor's."""
        in_flight: Any = None
        scope = trio.CancelScope()
        idle = trio.Event()
        idle.set()
        async with trio.open_nursery() as effects:
            while True:
                due = self.decider.plan(self.state)
                if due != in_flight:
                    scope.cancel()
                    before, scope, in_flight = idle, trio.CancelScope(), due
                    if due is not None:
                        idle = trio.Event()
                        effects.start_soon(self._run_effect, due, scope, before, idle)
                if due is None and self.decider.is_over(self.state):
                    break
                ask = await self._inbox.receive()
                await self._take(ask)
                if not self.version and ask.error is not None:
                    break  # nothing came of what it was made for
            effects.cancel_scope.cancel()
        self.end()

    async def _take(self, ask: Ask) -> None:
        self._current = ask
        try:
            facts: tuple[Event, ...] = self.decider.decide(self.state, ask.command)
            context = self.follows if ask.context is None else ask.context
            # Not shielded: a log that failed never answers. Cut short here, the actor is rebuilt from its stream.
            append = self._journal.append
            written = await append(self.stream, self.version, facts, context, ask.documents) if facts else ()
        except OcidError as error:
            ask.refuse(error)
            self._current = None
            return
        if facts:
            self.follows = Context(correlation=context.correlation, cause=written[-1].seq, trace=context.trace)
            self.state = functools.reduce(self.decider.evolve, (one.event for one in written), self.state)
            self.version += len(facts)
            self._wake()
        ask.answered.set()
        self._current = None

    async def _run_effect(self, effect: Any, scope: trio.CancelScope, before: trio.Event, idle: trio.Event) -> None:
        working_for.set(self.follows)  # of this task alone
        try:
            await before.wait()
            if scope.cancel_called:
                return  # superseded before it began
            with scope:
                note = await self._perform(effect, self.state)
            if not scope.cancelled_caught:
                await self._deliver(effect, note)
        finally:
            idle.set()

    async def _deliver(self, effect: Any, note: Note) -> None:
        ask = Ask(note.command, None, note.documents)
        await self._send.send(ask)
        await ask.answered.wait()
        if ask.error is not None:
            raise AssertionError(f"{self.stream} refused its own note {note.command!r}") from ask.error
        assert self.decider.plan(self.state) != effect, f"{self.stream} stalls: {note.command!r} left {effect!r} due"

    def _wake(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()
