"""Signed notes: what others wrote is read, and what is no note is refused."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, strategies as st

from ocid.domain import note
from ocid.domain.note import Checkpoint, Key
from ocid.errors import InvalidRequest

# the example of the specification of signed notes, with its key
KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)

SECRET = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OURS = Key("ocid/node", SECRET.public_key().public_bytes_raw())


def check(public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def test_the_example_of_the_specification() -> None:
    key = note.key_of(KEY)
    assert key.text() == KEY
    parsed = note.parse(NOTE)
    assert parsed.text.endswith("your problem is.\n")
    assert parsed.signed_by(key, check)
    assert not note.parse(NOTE.replace("answer", "Answer")).signed_by(key, check)
    assert not parsed.signed_by(OURS, check)


def test_a_checkpoint_goes_there_and_back() -> None:
    head = Checkpoint("ocid/node", 4096, bytes(range(32)), ("epoch 3",))
    written = note.signed(head.text(), [(OURS, SECRET.sign(head.text().encode()))])
    parsed = note.parse(written)
    assert parsed.signed_by(OURS, check)
    assert note.checkpoint_of(parsed.text) == head
    assert not parsed.signed_by(Key("ocid/other", OURS.public), check), "a key's name is part of it"


def test_notes_in_one_file() -> None:
    assert note.split("") == note.split("\n\n") == []
    assert note.split(NOTE) == [NOTE]
    assert note.split(NOTE + NOTE) == note.split(f"{NOTE}\n{NOTE}\n") == [NOTE, NOTE]
    assert note.split("garbage\n" + NOTE) == ["garbage\n" + NOTE]


def test_unknown_signatures_are_no_fault() -> None:
    text = Checkpoint("ocid/node", 1, bytes(32)).text()
    foreign = "— witness/one " + note._base64(b"\x01\x02\x03\x04" + bytes(72)) + "\n"
    both = note.signed(text, [(OURS, SECRET.sign(text.encode()))]) + foreign
    assert note.parse(both).signed_by(OURS, check)


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        ("", "no signatures"),
        ("text\n", "no signatures"),
        ("text\n\n", "no signatures"),
        ("text\n\n— name\n", "no signature"),
        ("text\n\n— name AAAA\n", "no signature"),
        ("text\n\n- name AAAAAAAA\n", "no signature"),
        ("text\n\n— na+me AAAAAAAA\n", "no signature"),
        ("text\n\n— name AAAAAAAA", "no signatures"),
        ("te\x00xt\n\n— name AAAAAAAA\n", "control characters"),
        ("text\n\n" + "— name AAAAAAAA\n" * 17, "no signatures"),
        ("x" * 20_000, "the limit is"),
    ],
)
def test_what_is_no_note(spoilt: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        note.parse(spoilt)


@pytest.mark.parametrize(
    "spoilt",
    [
        "", "origin\n", "origin\n1\n", "origin\n01\nAAAA\n", "origin\n-1\nAAAA\n", "\n1\n" + "A" * 43 + "=\n",
        "origin\n1\n" + "A" * 42 + "==\n", "origin\n1\n" + "A" * 43 + "=\n\nmore\n", "origin\n1\n" + "A" * 42 + "B=\n",
        "origin\n" + "9" * 30 + "\n" + "A" * 43 + "=\n",
    ],
)  # fmt: skip
def test_what_is_no_checkpoint(spoilt: str) -> None:
    with pytest.raises(InvalidRequest):
        note.checkpoint_of(spoilt)


@pytest.mark.parametrize(
    "spoilt",
    [
        "",
        "name",
        "name+00000000+",
        KEY[:-2],
        KEY.replace("c74f20a3", "c74f20a4"),
        KEY.replace("+AR", "+Ag"),
        "a b" + KEY,
    ],
)
def test_what_is_no_key(spoilt: str) -> None:
    with pytest.raises(InvalidRequest):
        note.key_of(spoilt)


@given(st.text(max_size=200))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    for read in (note.parse, note.checkpoint_of, note.key_of):
        try:
            read(text)
        except InvalidRequest:
            continue
