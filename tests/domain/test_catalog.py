"""The catalog of images: names that move, removals, and the collection that is owed after them."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, strategies as st

from ocid.domain import catalog
from ocid.domain.catalog import Catalog
from ocid.events import image as events
from ocid.ids import ImageId, digest_of

ONE, TWO = ImageId(digest_of(b"one")), ImageId(digest_of(b"two"))
DOCUMENT = digest_of(b"document")


def add(image_id: ImageId, *names: str) -> catalog.Add:
    return catalog.Add(image_id=image_id, manifest=DOCUMENT, config=DOCUMENT, size_bytes=5, names=names)


def after(*commands: catalog.Command, state: Catalog = catalog.INITIAL) -> Catalog:
    for command in commands:
        state = functools.reduce(catalog.evolve, catalog.decide(state, command), state)
    return state


LIVES: dict[str, Catalog] = {
    "empty": catalog.INITIAL,
    "one": after(add(ONE, "reg/a:1")),
    "nameless": after(add(ONE, "reg/a:1"), add(TWO, "reg/a:1")),
    "collecting": after(add(ONE, "reg/a:1"), catalog.Remove(image_id=ONE)),
}
COMMANDS: dict[str, catalog.Command] = {
    "add": add(ONE, "reg/a:1"),
    "add two names": add(ONE, "reg/a:1", "reg/a:2"),
    "remove": catalog.Remove(image_id=ONE),
    "release": catalog.Release(image_id=ONE),
    "left": catalog.NoteLeft(layers=2),
    "none left": catalog.NoteLeft(layers=0),
    "collected": catalog.NoteCollected(layers=3, collect=1),
    "gave up": catalog.NoteGaveUp(reason="crash"),
}
EXPECTED = {
    ("empty", "add"): "AN",
    ("empty", "add two names"): "ANN",
    ("empty", "remove"): "",
    ("empty", "release"): "E",
    ("empty", "left"): "L",
    ("empty", "none left"): "",
    ("empty", "collected"): "",
    ("empty", "gave up"): "",
    ("one", "add"): "",
    ("one", "add two names"): "N",
    ("one", "remove"): "R",
    ("one", "release"): "",
    ("one", "left"): "L",
    ("one", "none left"): "",
    ("one", "collected"): "",
    ("one", "gave up"): "",
    ("nameless", "add"): "N",
    ("nameless", "add two names"): "NN",
    ("nameless", "remove"): "R",
    ("nameless", "release"): "",
    ("nameless", "left"): "L",
    ("nameless", "none left"): "",
    ("nameless", "collected"): "",
    ("nameless", "gave up"): "",
    ("collecting", "add"): "AN",
    ("collecting", "add two names"): "ANN",
    ("collecting", "remove"): "",
    ("collecting", "release"): "E",
    ("collecting", "left"): "",
    ("collecting", "none left"): "",
    ("collecting", "collected"): "C",
    ("collecting", "gave up"): "",
}
LETTERS = {
    events.ImageAdded: "A",
    events.ImageNamed: "N",
    events.ImageRemoved: "R",
    events.ImageReleased: "E",
    events.LayersLeft: "L",
    events.LayersCollected: "C",
}


@pytest.mark.parametrize("phase", LIVES)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_phase_answers_every_command(phase: str, command: str) -> None:
    facts = catalog.decide(LIVES[phase], COMMANDS[command])
    assert "".join(LETTERS[type(fact)] for fact in facts) == EXPECTED[phase, command]


@pytest.mark.parametrize("phase", LIVES)
def test_collection_is_owed_after_a_removal_only(phase: str) -> None:
    assert catalog.plan(LIVES[phase]) == (catalog.Collect(collect=1) if phase == "collecting" else None)
    assert catalog.observe(LIVES[phase], catalog.Found(unreferenced=0)) == ()
    owed = phase == "collecting"  # an interrupted collection, which takes whatever is left over
    left = catalog.observe(LIVES[phase], catalog.Found(unreferenced=2))
    assert left == (() if owed else (catalog.NoteLeft(layers=2),))
    assert catalog.plan(after(*left, state=LIVES[phase])) == catalog.Collect(collect=1)
    assert not catalog.is_over(LIVES[phase])


def test_a_name_that_moves_leaves_the_old_image_without_it() -> None:
    state = LIVES["nameless"]
    assert state.images[ONE].names == ()
    assert state.images[TWO].names == ("reg/a:1",)
    assert state.by_name == {"reg/a:1": TWO}


def test_removing_an_image_removes_all_its_names_and_no_other() -> None:
    state = after(add(ONE, "reg/a:1", "other/b:1"), add(TWO, "reg/a:2"), catalog.Remove(image_id=ONE))
    assert state.by_name == {"reg/a:2": TWO}
    assert list(state.images) == [TWO]


def test_a_removal_during_a_collection_owes_another_one() -> None:
    state = after(add(ONE, "reg/a:1"), add(TWO, "reg/a:2"), catalog.Remove(image_id=ONE))
    first = catalog.plan(state)
    state = after(catalog.Remove(image_id=TWO), state=state)
    assert catalog.plan(state) != first
    late, timely = (catalog.NoteCollected(layers=1, collect=count) for count in (1, 2))
    assert catalog.plan(after(late, state=state)) == catalog.Collect(collect=2)
    assert catalog.plan(after(timely, state=state)) is None


def test_an_image_is_found_by_name_id_and_the_beginning_of_its_id() -> None:
    state = after(add(ONE, "reg/a:1"), add(TWO, "reg/a:2"))
    digits = ONE.removeprefix("sha256:")
    for name in ("reg/a:1", ONE, digits, digits[:12], f"sha256:{digits[:8]}"):
        assert catalog.find(state, name) == ONE
    for name in ("reg/a:3", "", digits[:2], "sha256:", "zz" + digits[2:]):
        assert catalog.find(state, name) is None


NAMES = st.sampled_from(["a:1", "a:2", "b:1"])
IDS = st.sampled_from([ONE, TWO])
ANY = st.one_of(
    st.builds(lambda image_id, names: add(image_id, *names), IDS, st.lists(NAMES, max_size=3, unique=True)),
    st.builds(lambda image_id: catalog.Remove(image_id=image_id), IDS),
    st.just(catalog.NoteCollected(layers=0, collect=1)),
)


@given(st.lists(ANY, max_size=12))
def test_names_and_images_always_agree(commands: list[catalog.Command]) -> None:
    state = after(*commands)
    named = {name: image_id for image_id, image in state.images.items() for name in image.names}
    assert named == state.by_name
    assert all(key == image.image_id for key, image in state.images.items())
