"""The directory: which actors are alive, found by id, created at most once by key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from ocid.actors.actor import Actor, Decider, Note, Perform
from ocid.actors.supervisor import Supervisor
from ocid.errors import NotFound
from ocid.ids import stream
from ocid.ports import Journal

State = TypeVar("State")


class Kind(Generic[State]):
    """All living actors of one aggregate. Creating is synchronous, so two callers can never create the same one."""

    def __init__(
        self,
        aggregate: str,
        decider: Decider,
        journal: Journal,
        supervisor: Supervisor,
        key_of: Callable[[State], object] = lambda state: None,
        on_given_up: Callable[[Actor[State], str], None] = lambda actor, reason: None,
        on_over: Callable[[Actor[State]], None] = lambda actor: None,
    ) -> None:
        """*key_of* names what a second request for the same thing is recognised by, None for nothing."""
        self._aggregate = aggregate
        self._decider = decider
        self._journal = journal
        self._supervisor = supervisor
        self._key_of = key_of
        self._on_given_up = on_given_up
        self._on_over = on_over
        self._perform: Perform | None = None
        self._actors: dict[str, Actor[State]] = {}
        self._keys: dict[object, Actor[State]] = {}
        self._restored: list[str] = []

    def performed_by(self, perform: Callable[[Any, Any], Any]) -> None:
        """Say what runs the effects; set once by the composition, before the first actor."""
        self._perform = perform

    def create(self, name: str, key: object = None, *, recurs: bool = False) -> Actor[State]:
        """Start the actor of a new stream, under *key* if one is given.

        *recurs* tells that the stream may have been over before: names such as a layer's come again.
        """
        before = self._actors.get(name)
        assert before is None or before.over.is_set(), f"{self._aggregate}/{name} lives already"
        actor = self._make(name)
        if recurs:
            actor.replay()
            actor.restore(self._decider.INITIAL, actor.version)
        self._enter(actor, name, key)
        self._supervise(actor, name)
        return actor

    async def restore(self, name: str, state: State, version: int, commands: Iterable[object]) -> Actor[State]:
        """Enter the actor of a stream that the log knows, in the state that it folds to, *commands* decided first.

        It does nothing before ``start_restored``: an effect may need actors that are not restored yet.
        """
        actor = self._make(name)
        actor.restore(state, version)
        await actor.absorb(commands)
        self._enter(actor, name, self._key_of(actor.state))
        self._restored.append(name)
        return actor

    def start_restored(self) -> None:
        """Let every restored actor go on with what it owes."""
        for name in self._restored:
            self._supervise(self._actors[name], name)
        self._restored.clear()

    def joined(self, key: object) -> Actor[State] | None:
        """Return the living actor created under *key*, if there is one that a second request can still join."""
        actor = self._keys.get(key)
        if actor is None or (actor.version and self._key_of(actor.state) != key):
            return None
        return actor

    def revived(self, name: str) -> Actor[State]:
        """Return a living actor, started again if its supervisor gave it up: for requests that take things down.

        Raises:
            NotFound: there is none of that name.
        """
        actor = self.get(name)
        if actor.unfit is not None:
            actor.revive()
            self._supervise(actor, name)
        return actor

    def release_key(self, actor: Actor[State]) -> None:
        """Let go of the key, so that the next request for the same thing makes a new one."""
        for key in [key for key, holder in self._keys.items() if holder is actor]:
            del self._keys[key]

    def get(self, name: str) -> Actor[State]:
        """Return a living actor.

        Raises:
            NotFound: there is none of that name.
        """
        actor = self._actors.get(name)
        if actor is None:
            raise NotFound(self._aggregate, name)
        return actor

    def find(self, name: str) -> Actor[State] | None:
        """Return a living actor, or None."""
        return self._actors.get(name)

    def unborn(self) -> list[tuple[object, Actor[State]]]:
        """List, with their keys, the actors whose first event is not durable yet."""
        return [(key, actor) for key, actor in self._keys.items() if actor.version == 0]

    def __iter__(self) -> Iterator[Actor[State]]:
        return iter(list(self._actors.values()))

    def __len__(self) -> int:
        return len(self._actors)

    def _make(self, name: str) -> Actor[State]:
        assert self._perform is not None, f"nobody performs the effects of {self._aggregate}"
        perform = self._perform

        async def bound(effect: Any, state: Any) -> Note:
            note: Note = await perform(effect, state)
            return note

        return Actor(stream(self._aggregate, name), self._decider, bound, self._journal)

    def _enter(self, actor: Actor[State], name: str, key: object) -> None:
        self._actors[name] = actor
        if key is not None:
            self._keys[key] = actor

    def _supervise(self, actor: Actor[State], name: str) -> None:
        def forget() -> None:
            if self._actors.get(name) is actor:
                del self._actors[name]
            self.release_key(actor)
            self._on_over(actor)

        def given_up(reason: str) -> None:
            if self._decider.is_over(actor.state):  # there is nothing that a later request could take down
                forget()
            self._on_given_up(actor, reason)

        self._supervisor.start(actor, forget, given_up)
