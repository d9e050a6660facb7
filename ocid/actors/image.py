"""Actors of pulls, of layers and of the catalog: what their effects do to registries and to the store."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

import trio

from ocid.actors.actor import Actor, Note
from ocid.actors.host import Host, back_off
from ocid.domain import catalog, layer, manifest as manifests, pull, reference as references
from ocid.domain.checkpoint_facts import IMAGE_ANNOTATIONS
from ocid.domain.image_config import parse_image_config
from ocid.domain.layer import Layer
from ocid.domain.pull import Pull
from ocid.errors import OcidError, Unavailable, revive
from ocid.events import image as events, layer as layer_events
from ocid.events.envelope import Context
from ocid.ids import ChainId, Digest, ImageId, PullId
from ocid.ports import Credentials, ImageFacts, Journal, LayerBlob, ResolvedImage

if TYPE_CHECKING:
    from ocid.actors.core import Core

ENSURE_TRIES_MAX = 10  # times that a layer may come to nothing in another pull's hands
FACTS_MAX = 256  # images whose manifest and configuration are kept parsed


class Images:
    """What manifests and configurations say, read from the log's documents."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.facts = functools.lru_cache(maxsize=FACTS_MAX)(self._facts)
        self.layers = functools.lru_cache(maxsize=FACTS_MAX)(self._layers)

    def _facts(self, manifest: Digest) -> ImageFacts:
        """Return what an image's manifest and configuration say."""
        raw = self._journal.document(manifest)
        parsed = manifests.parse(raw)
        assert isinstance(parsed, manifests.Manifest), "an image's manifest is never an index"
        config = self._journal.document(parsed.config.digest)
        return ImageFacts(
            image_id=image_id_of(parsed),
            reference="",
            manifest=manifest,
            config=parse_image_config(config),
            layers=manifests.chain_ids(manifests.diff_ids(config)),
            checkpoint=manifests.annotation(raw, IMAGE_ANNOTATIONS),
        )

    def _layers(self, image_id: ImageId) -> tuple[ChainId, ...]:
        """Return an image's layers, base layer first: its id is the digest of the configuration that names them."""
        return manifests.chain_ids(manifests.diff_ids(self._journal.document(Digest(image_id))))


def names_of(name: str, digest: Digest) -> tuple[str, ...]:
    """Return the names that a pull gives an image: the tag it came by, if any, and the repository with the digest."""
    parsed = references.parse(name)
    by_digest = f"{parsed.repository}@{digest}"
    return (by_digest,) if parsed.tag is None or parsed.digest is not None else (name, by_digest)


def image_id_of(manifest: manifests.Manifest) -> ImageId:
    """Return the image id: the digest of the configuration."""
    return ImageId(manifest.config.digest)


@dataclass
class Session:
    """What a pull knows and the log must not: credentials. And what only those who watch need: progress."""

    reference: str
    credentials: Credentials | None
    resolved: ResolvedImage | None = None
    done: dict[Digest, int] = field(default_factory=dict)  # bytes of each blob that have come

    def progress(self) -> Iterator[tuple[Digest, int, int]]:
        """Yield blob, bytes done, bytes in all of each layer."""
        for blob in self.resolved.layers if self.resolved is not None else ():
            yield blob.blob, self.done.get(blob.blob, 0), blob.size_bytes


class PullEffects:
    """Runs the effects of every pull. Sessions die with the daemon: a pull is then abandoned, its layers stay."""

    def __init__(self, host: Host, core: Core) -> None:
        self._host = host
        self._core = core
        self.sessions: dict[PullId, Session] = {}

    async def begin(self, reference: str, credentials: Credentials | None, context: Context) -> Actor[Pull]:
        """Join the pull of *reference* with the same credentials that is going on, or start one."""
        key = (reference, credentials)
        actor = self._core.pulls.joined(key)
        if actor is not None:
            return actor
        pull_id = PullId(self._host.new_id(32))
        self.sessions[pull_id] = Session(reference, credentials)
        actor = self._core.pulls.create(pull_id, key)
        requested = events.PullRequested(pull_id=pull_id, reference=reference, with_credentials=credentials is not None)
        await actor.ask(pull.Request(requested=requested), context)
        return actor

    async def perform(self, effect: pull.Effect, state: Pull) -> Note:
        """Run one effect and say what came of it. Foreseen failures are notes, too."""
        assert state.requested is not None, "a pull that nobody requested owes nothing"
        pull_id = state.requested.pull_id
        session = self.sessions.get(pull_id)
        if session is None:
            return Note(pull.NoteAbandoned(reason="the daemon was restarted during the pull"))
        try:
            note = await self._perform(effect, state, session)
        except OcidError as error:
            note = Note(pull.NoteFailed(error=type(error).__name__, message=error.message))
        if isinstance(note.command, pull.NoteFailed | pull.NoteRegistered):
            del self.sessions[pull_id]
        return note

    async def _perform(self, effect: pull.Effect, state: Pull, session: Session) -> Note:
        match effect:
            case pull.Resolve():
                return await self._resolve(session)
            case pull.EnsureLayers():
                await self._ensure_layers(state, session)
                return Note(pull.NoteLayersReady())
            case pull.Register():
                return await self._register(session)
            case _:
                assert_never(effect)

    async def _resolve(self, session: Session) -> Note:
        resolved = session.resolved = await self._host.registry.resolve(session.reference, session.credentials)
        note = pull.NoteResolved(
            resolved=events.PullResolved(
                endpoint=resolved.endpoint,
                manifest=resolved.manifest_digest,
                index=resolved.index_digest,
                image_id=resolved.image_id,
                layers=len(resolved.layers),
                total_bytes=resolved.total_bytes,
            )
        )
        documents = [resolved.manifest, resolved.config]
        if resolved.index is not None:
            documents.append(resolved.index)
        return Note(note, tuple(documents))

    async def _ensure_layers(self, state: Pull, session: Session) -> None:
        """Have every layer made, a few at a time; layers that others are making are waited for."""
        assert session.resolved is not None, "layers come after resolving"
        assert state.requested is not None, "a pull that nobody requested owes nothing"
        limit = trio.CapacityLimiter(self._host.settings.pull_layers_max)
        failures: list[OcidError] = []
        pull_id = state.requested.pull_id

        async def ensure(blob: LayerBlob) -> None:
            async with limit:
                if failures:
                    return
                try:
                    await self._ensure(blob, pull_id)
                except OcidError as error:
                    failures.append(error)

        async with trio.open_nursery() as nursery:
            for blob in dict.fromkeys(session.resolved.layers):
                nursery.start_soon(ensure, blob)
        if failures:
            raise failures[0]

    async def _ensure(self, blob: LayerBlob, pull_id: PullId) -> None:
        """Have one layer made. One that fails in another pull's hands is tried once more in ours."""
        wanted = layer_events.Wanted(
            chain_id=blob.chain_id,
            diff_id=blob.diff_id,
            blob=blob.blob,
            media_type=blob.media_type,
            blob_bytes=blob.size_bytes,
            pull_id=pull_id,
        )
        for _ in range(ENSURE_TRIES_MAX):
            actor = self._core.layers.find(blob.chain_id)
            if actor is None or actor.over.is_set():
                actor = self._core.layers.create(blob.chain_id, recurs=True)
            try:
                state: Layer = await actor.ask(layer.Want(wanted=wanted))
                mine = state.wanted is not None and state.wanted.pull_id == pull_id
                state = await actor.until(lambda one: one.is_ready or layer.is_over(one))
            except Unavailable:
                if actor.unfit is not None:
                    raise
                continue  # it ended between two steps of ours: begin a new one
            if state.is_ready:
                return
            if state.failed is not None and mine:
                raise revive(state.failed.error, state.failed.message)
        raise Unavailable(f"layer {blob.chain_id} failed {ENSURE_TRIES_MAX} times in the hands of other pulls")

    async def _register(self, session: Session) -> Note:
        resolved = session.resolved
        assert resolved is not None, "registering comes after resolving"
        names = names_of(session.reference, resolved.index_digest or resolved.manifest_digest)
        add = catalog.Add(
            image_id=resolved.image_id,
            manifest=resolved.manifest_digest,
            config=Digest(resolved.image_id),
            names=names,
            size_bytes=resolved.total_bytes,
        )
        await self._core.catalog.get("images").ask(add)
        return Note(pull.NoteRegistered(image_id=resolved.image_id))


class LayerEffects:
    """Runs the effects of every layer."""

    def __init__(self, host: Host, pulls: PullEffects) -> None:
        self._host = host
        self._pulls = pulls
        self._turns: dict[Digest, trio.Lock] = {}  # by blob: an image can have one blob as two layers

    async def perform(self, effect: layer.Effect, state: Layer) -> Note:
        """Run one effect and say what came of it. Foreseen failures are notes, too."""
        assert state.wanted is not None, "a layer that nobody wanted owes nothing"
        try:
            match effect:
                case layer.Make():
                    async with self._turn(state.wanted.blob):
                        return await self._make(state.wanted)
                case layer.Discard(failures=failures):
                    await back_off(failures)
                    await self._host.layers.remove(state.wanted.chain_id)
                    return Note(layer.NoteRemoved())
                case _:
                    assert_never(effect)
        except OcidError as error:
            return Note(layer.NoteFailed(error=type(error).__name__, message=error.message))

    @asynccontextmanager
    async def _turn(self, blob: Digest) -> AsyncIterator[None]:
        """One at a time for each blob: two layers made of the same one would write to the same file."""
        turn = self._turns.setdefault(blob, trio.Lock())
        async with turn:
            try:
                yield
            finally:
                if not turn.statistics().tasks_waiting:
                    del self._turns[blob]

    async def _make(self, wanted: layer_events.Wanted) -> Note:
        blob = LayerBlob(
            chain_id=wanted.chain_id,
            diff_id=wanted.diff_id,
            blob=wanted.blob,
            media_type=wanted.media_type,
            size_bytes=wanted.blob_bytes,
        )
        session = self._pulls.sessions.get(wanted.pull_id)
        if session is None:
            raise Unavailable(f"the pull that wanted layer {wanted.chain_id} is over")
        into = self._host.layers.blob_path(blob.blob)
        registry = self._host.registry

        def progress(count: int) -> None:
            session.done[blob.blob] = session.done.get(blob.blob, 0) + count

        try:
            await registry.fetch(session.reference, session.credentials, blob, into, progress)
            size = await self._host.layers.unpack(blob, into)
        except OcidError:
            self._host.layers.forget_blob(blob.blob)
            raise
        return Note(layer.NoteReady(size_bytes=size.size_bytes, inodes=size.inodes))


class CatalogEffects:
    """Runs the catalog's one effect: collecting layers that nothing refers to."""

    def __init__(self, host: Host, core: Core) -> None:
        self._host = host
        self._core = core

    async def perform(self, effect: catalog.Effect, state: catalog.Catalog) -> Note:
        """Remove layers that no image, container or pull refers to."""
        match effect:
            case catalog.Collect(collect=collect):
                return Note(catalog.NoteCollected(layers=await self._collect(), collect=collect))
            case _:
                assert_never(effect)

    async def _collect(self) -> int:
        """The question is asked anew right before each removal, so a pull that began meanwhile keeps its layers."""
        for _, container in self._core.containers.unborn():
            await container.until(lambda one: one.declared is not None)
        removed = 0
        for chain_id in list(self._core.view.layers.rows):
            actor = self._core.layers.find(chain_id)
            if actor is None or not actor.state.is_ready or chain_id in self.referred():
                continue
            await actor.ask(layer.Remove())
            await actor.until(lambda one: one.removed or one.failures > 0)
            removed += actor.state.removed
        return removed

    def referred(self) -> set[ChainId]:
        """Return the layers that an image, a container or a pull in flight refers to. From the view."""
        view, facts = self._core.view, self._core.images.facts
        found: set[ChainId] = set()
        for row in view.catalog.rows.values():
            for image in row.state.images.values():
                found.update(facts(image.manifest).layers)
        for container in view.containers.rows.values():
            if container.state.declared is not None:
                found.update(facts(container.state.declared.image_manifest).layers)
                for image_id in view.containers.config(container.state.declared.container_id).mounted_images:
                    found.update(self._core.images.layers(image_id))
        for pulling in view.pulls.rows.values():
            if pulling.state.resolved is not None and not pulling.state.ended:
                found.update(facts(pulling.state.resolved.manifest).layers)
        return found
