"""The catalog of images: which image every name means, and which layers may go. One stream for the node."""

from __future__ import annotations

from typing import assert_never

import msgspec

from ocid.events import image as events
from ocid.events.image import CatalogEvent
from ocid.ids import Digest, ImageId

SHORT_ID_MIN = 3  # hex digits of an image id that a request must give at least


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """One image whose layers are all in the store."""

    image_id: ImageId
    manifest: Digest  # document
    config: Digest  # document
    size_bytes: int
    names: tuple[str, ...] = ()  # registry/path:tag and registry/path@digest, in order of naming


class Catalog(msgspec.Struct, frozen=True, kw_only=True):
    """All images by id, all names, and whether layers wait to be collected."""

    images: dict[ImageId, Image] = {}
    by_name: dict[str, ImageId] = {}
    collect: int = 0  # removals, releases and finds whose layers have not been collected


INITIAL = Catalog()


class Add(msgspec.Struct, frozen=True, kw_only=True):
    """Enter an image under *names*; a name that meant another image means this one from now on."""

    image_id: ImageId
    manifest: Digest
    config: Digest
    size_bytes: int
    names: tuple[str, ...]


class Remove(msgspec.Struct, frozen=True, kw_only=True):
    """Forget an image and all its names. CRI RemoveImage."""

    image_id: ImageId


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """The last container of an image that had left the catalog is gone."""

    image_id: ImageId


class NoteLeft(msgspec.Struct, frozen=True, kw_only=True):
    """So many layers are there that nothing refers to."""

    layers: int


class NoteCollected(msgspec.Struct, frozen=True, kw_only=True):
    """So many layers that nothing referred to are gone."""

    layers: int
    collect: int  # the count that the collection was owed for; newer removals owe another one


class NoteGaveUp(msgspec.Struct, frozen=True, kw_only=True):
    """The supervisor will not restart this actor."""

    reason: str


Command = Add | Remove | Release | NoteLeft | NoteCollected | NoteGaveUp


class Collect(msgspec.Struct, frozen=True, kw_only=True):
    """Remove layers that nothing refers to."""

    collect: int  # as the state has it


Effect = Collect


def decide(state: Catalog, command: Command) -> tuple[CatalogEvent, ...]:
    """Say which facts *command* makes of *state*. ``()`` means that it is so already."""
    match command:
        case Add(image_id=image_id, manifest=manifest, config=config, size_bytes=size_bytes, names=names):
            known = state.images.get(image_id)
            facts: list[CatalogEvent] = []
            if known is None:
                added = events.ImageAdded(image_id=image_id, manifest=manifest, config=config, size_bytes=size_bytes)
                facts.append(added)
            facts.extend(
                events.ImageNamed(image_id=image_id, name=name) for name in names if state.by_name.get(name) != image_id
            )
            return tuple(facts)
        case Remove(image_id=image_id):
            return (events.ImageRemoved(image_id=image_id),) if image_id in state.images else ()
        case Release(image_id=image_id):
            return () if image_id in state.images else (events.ImageReleased(image_id=image_id),)
        case NoteLeft(layers=layers):
            return (events.LayersLeft(layers=layers),) if layers and not state.collect else ()
        case NoteCollected(layers=layers, collect=collect):
            return (events.LayersCollected(layers=layers),) if state.collect == collect > 0 else ()
        case NoteGaveUp():
            return ()
        case _:
            assert_never(command)


def evolve(state: Catalog, event: CatalogEvent) -> Catalog:
    """Return *state* after *event*. Total: it never refuses a fact."""
    match event:
        case events.ImageAdded():
            image = Image(
                image_id=event.image_id, manifest=event.manifest, config=event.config, size_bytes=event.size_bytes
            )
            return msgspec.structs.replace(state, images={**state.images, event.image_id: image})
        case events.ImageNamed(image_id=image_id, name=name):
            return _named(state, image_id, name)
        case events.ImageRemoved(image_id=image_id):
            images = {key: image for key, image in state.images.items() if key != image_id}
            by_name = {name: key for name, key in state.by_name.items() if key != image_id}
            return Catalog(images=images, by_name=by_name, collect=state.collect + 1)
        case events.ImageReleased() | events.LayersLeft():
            return msgspec.structs.replace(state, collect=state.collect + 1)
        case events.LayersCollected():
            return msgspec.structs.replace(state, collect=0)
        case _:
            assert_never(event)


def _named(state: Catalog, image_id: ImageId, name: str) -> Catalog:
    images = dict(state.images)
    before = images.get(state.by_name.get(name, ImageId("")))
    if before is not None:
        names = tuple(one for one in before.names if one != name)
        images[before.image_id] = msgspec.structs.replace(before, names=names)
    image = images.get(image_id)
    if image is not None:
        images[image_id] = msgspec.structs.replace(image, names=(*image.names, name))
    return msgspec.structs.replace(state, images=images, by_name={**state.by_name, name: image_id})


def plan(state: Catalog) -> Effect | None:
    """Return the collection that is owed, or None."""
    return Collect(collect=state.collect) if state.collect else None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What recovery found in the store."""

    unreferenced: int  # layers that no image, container or pull refers to


def observe(state: Catalog, found: Found) -> tuple[Command, ...]:
    """Turn what was *found* after a restart into ordinary commands.

    An interrupted collection is still owed. One that nobody had asked for yet, when the last container of a removed
    image was gone, is asked for now.
    """
    return (NoteLeft(layers=found.unreferenced),) if found.unreferenced and not state.collect else ()


def gave_up(reason: str) -> Command:
    """Return the command that ends the catalog's actor for good."""
    return NoteGaveUp(reason=reason)


def is_over(state: Catalog) -> bool:
    """The catalog never ends."""
    return False


def find(state: Catalog, name: str) -> ImageId | None:
    """Find an image by one of its names, by its id, or by the beginning of the id's hex digits."""
    if name in state.by_name:
        return state.by_name[name]
    if ImageId(name) in state.images:
        return ImageId(name)
    digits = name.removeprefix("sha256:")
    if len(digits) < SHORT_ID_MIN or not all(digit in "0123456789abcdef" for digit in digits):
        return None
    found = [image_id for image_id in state.images if image_id.startswith(f"sha256:{digits}")]
    return found[0] if len(found) == 1 else None
