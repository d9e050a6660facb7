"""What checkpoints show of a log that somebody rewrote without damaging it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ocid.domain import note
from ocid.domain.note import Checkpoint, Key
from ocid.events.log import Founded, Sealed
from ocid.ids import digest_of
from ocid.journal.seals import Seals
from tests.fakes.author import ORIGIN, Author
from tests.fakes.signers import FakeSigner


@pytest.fixture
def author(tmp_path: Path) -> Author:
    return Author(tmp_path / "log")


def whats(seals: Seals) -> list[str]:
    return [fault.what for fault in seals.faults]


def test_a_log_as_it_should_be(author: Author) -> None:
    author.found().write(300).seal().write(10).seal().write(4)
    seals = author.check(key=author.key, witnessed=author.notes[:1])
    assert whats(seals) == []
    assert (seals.origin, seals.key, seals.trusted) == (ORIGIN, author.key.text(), True)
    assert (seals.checkpoints, seals.size, seals.unsigned, seals.witnessed) == (2, 312, 5, 301)
    assert seals.root == author.store.root(312)
    assert not author.check().trusted, "its own word is not enough"


def test_an_empty_log_lacks_nothing(author: Author) -> None:
    assert whats(author.check()) == []


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda one: one.write(3), "nobody ever signed for it"),
        (lambda one: one.found().write(3), "no checkpoint was ever signed"),
        (lambda one: one.found().seal(signer=9), "not signed by the log's key"),
        (lambda one: one.found().seal(kept=False), "is missing"),
        (lambda one: one.found().seal().found(), "founded again"),
        (lambda one: one.found().seal().rotate(2, vouches=3).seal(), "did not sign for the new key"),
        (lambda one: one.log(Founded(origin=ORIGIN, key="no key")).seal(), "is no key"),
    ],
)
def test_what_is_missing_or_wrong(author: Author, write: Callable[[Author], Author], words: str) -> None:
    seals = write(author).check()
    assert any(words in what for what in whats(seals)), whats(seals)


def test_a_checkpoint_that_says_something_else(author: Author, tmp_path: Path) -> None:
    other = Author(tmp_path / "other").found().write(5, first=100).seal()
    foreign = other.notes[0].encode()
    head = note.checkpoint_of(note.parse(other.notes[0]).text)
    author.found().write(5)
    author.log(Sealed(size=6, root=author.store.root(6).hex(), note=digest_of(foreign), occasion="time"), foreign)
    author.log(Sealed(size=6, root=head.root.hex(), note=digest_of(foreign), occasion="time"), foreign)
    author.log(Sealed(size=6, root="", note=digest_of(b"no note"), occasion="time"), b"no note")
    seals = author.check()
    assert whats(seals)[:3] == [
        "its checkpoint says something else than the record",
        "the first 6 records are not those that were signed for",
        f"its checkpoint {digest_of(b'no note')} is missing",
    ]
    assert seals.checkpoints == 0


def test_checkpoints_only_grow(author: Author) -> None:
    author.found().write(5).seal().write(1).seal()
    old = author.notes[0].encode()
    head = note.checkpoint_of(note.parse(author.notes[0]).text)
    author.log(Sealed(size=6, root=head.root.hex(), note=digest_of(old), occasion="time"), old)
    assert whats(author.check()) == ["its checkpoint covers 6 records, the one before it 8"]


def test_a_rotated_key_is_trusted_through_the_one_before(author: Author) -> None:
    first = author.found().seal().key
    author.rotate(2).seal().rotate(3).seal()
    for key in (first, Key(ORIGIN, FakeSigner(2).public), Key(ORIGIN, FakeSigner(3).public)):
        seals = author.check(key=key)
        assert whats(seals) == []
        assert seals.trusted
    assert any("signed nothing here" in what for what in whats(author.check(key=Key(ORIGIN, FakeSigner(9).public))))


def test_a_replaced_key_is_not_trusted(author: Author) -> None:
    first = author.found().seal().key
    author.replace(2).seal()
    assert whats(author.check()) == []
    assert any("nothing vouches for the key" in what for what in whats(author.check(key=first)))
    assert author.check(key=author.key).trusted


def test_a_log_rewritten_by_somebody_with_the_key_contradicts_the_witness(author: Author, tmp_path: Path) -> None:
    witnessed = author.found().write(300).seal().notes
    forged = Author(tmp_path / "forged").found().write(100).write(1, first=777).write(199, first=101).seal().write(50)
    assert whats(forged.check(key=author.key)) == [], "nothing in the log itself shows it"
    assert whats(forged.check(witnessed=witnessed)) == ["witness: the first 301 records are not those that it saw"]


def test_a_log_that_was_cut_off_contradicts_the_witness(author: Author, tmp_path: Path) -> None:
    witnessed = author.found().write(300).seal().notes
    short = Author(tmp_path / "short").found().write(200).seal()
    assert whats(short.check(key=author.key)) == []
    assert whats(short.check(witnessed=witnessed)) == ["witness: saw 301 records, and the log has 202"]


def test_a_log_begun_anew_is_unknown_to_the_witness(author: Author, tmp_path: Path) -> None:
    witnessed = author.found().write(3).seal().notes
    fresh = Author(tmp_path / "fresh", signer=4, origin="ocid/node/ffffffffffff").found().write(9).seal()
    assert whats(fresh.check(witnessed=witnessed)) == ["witness: knows no checkpoint of 'ocid/node/ffffffffffff'"]
    assert whats(author.check(witnessed=[])) == [f"witness: knows no checkpoint of {ORIGIN!r}"]


def test_a_witness_that_was_lied_to(author: Author) -> None:
    author.found().write(3).seal()
    text = Checkpoint(ORIGIN, 2, bytes(32)).text()
    forged = note.signed(text, [(author.key, FakeSigner(9).sign(text.encode()))])
    assert any("bears no signature" in what for what in whats(author.check(witnessed=[forged])))
    assert any("no signatures below" in what for what in whats(author.check(witnessed=["garbage"])))
