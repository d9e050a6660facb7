"""Signed notes and checkpoints as text: how a tree head is written down so that others can check it. No keys here.

A note is text that ends with a newline, an empty line, and one line for each signature. The text of a checkpoint has
the log's origin, the tree's size, its root in base64, and further lines that a reader may ignore::

    ocid/node-7/5f0c9e1ab2d3
    4096
    Fn2o…=

    — ocid/node-7/5f0c9e1ab2d3 jyX1…=

Source: C2SP signed-note and tlog-checkpoint.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final

import msgspec

from ocid.domain.merkle import HASH_BYTES
from ocid.errors import InvalidRequest

ED25519: Final = 1  # signature type, one byte in front of the public key
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
NOTE_BYTES_MAX: Final = 16_384
SIGNATURES_MAX: Final = 16

_DASH: Final = "— "  # em dash and space begin a signature's line
_NAME: Final = re.compile(r"[^\s+\x00-\x1f\x7f]{1,200}")
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")

Check = Callable[[bytes, bytes, bytes], bool]  # public key, message, signature


class Key(msgspec.Struct, frozen=True):
    """Whose signatures count: a name and an Ed25519 public key."""

    name: str
    public: bytes  # 32 bytes

    @property
    def id(self) -> bytes:
        """The four bytes that stand for it in a signature's line."""
        return sha256(self.name.encode() + b"\n" + bytes([ED25519]) + self.public).digest()[:4]

    def text(self) -> str:
        """Return it as one word, ``name+id+key``, as signed notes write verifier keys."""
        return f"{self.name}+{self.id.hex()}+{_base64(bytes([ED25519]) + self.public)}"


class Checkpoint(msgspec.Struct, frozen=True):
    """A tree head."""

    origin: str
    size: int
    root: bytes  # 32 bytes
    further: tuple[str, ...] = ()  # lines after the root

    def text(self) -> str:
        """Return what is signed."""
        return "".join(f"{line}\n" for line in (self.origin, self.size, _base64(self.root), *self.further))


class Signature(msgspec.Struct, frozen=True):
    """One signature's line, not checked."""

    name: str
    key_id: bytes
    signature: bytes


class Note(msgspec.Struct, frozen=True):
    """A text with the signatures below it."""

    text: str
    signatures: tuple[Signature, ...]

    def signed_by(self, key: Key, check: Check) -> bool:
        """Say whether one of the signatures is this key's, and right."""
        return any(
            check(key.public, self.text.encode(), each.signature)
            for each in self.signatures
            if (each.name, each.key_id) == (key.name, key.id)
        )


def key_of(text: str) -> Key:
    """Read what ``Key.text`` wrote.

    Raises:
        InvalidRequest: it is no Ed25519 verifier key.
    """
    name, _, rest = text.strip().partition("+")
    key_id, _, encoded = rest.partition("+")
    packed = _bytes(encoded)
    if not _NAME.fullmatch(name) or packed is None or len(packed) != 1 + KEY_BYTES or packed[0] != ED25519:
        raise InvalidRequest(f"{text[:100]!r} is no key: wanted NAME+ID+KEY of an Ed25519 key, as in 'ocid keys'")
    key = Key(name, packed[1:])
    if key.id.hex() != key_id:
        raise InvalidRequest(f"key {name!r} has id {key.id.hex()}, not {key_id[:20]!r}: a character was lost")
    return key


def signed(text: str, signatures: Sequence[tuple[Key, bytes]]) -> str:
    """Return the note of *text*, which ends with a newline, with these signatures."""
    assert text.endswith("\n")
    lines = (f"{_DASH}{key.name} {_base64(key.id + signature)}\n" for key, signature in signatures)
    return f"{text}\n{''.join(lines)}"


def parse(note: str) -> Note:
    """Read a note. Signatures of other types than Ed25519 are left out.

    Raises:
        InvalidRequest: it is no signed note.
    """
    if len(note) > NOTE_BYTES_MAX:
        raise InvalidRequest(f"the note has {len(note)} characters; the limit is {NOTE_BYTES_MAX}")
    text, separator, below = note.rpartition("\n\n")
    lines = below.split("\n")
    if not separator or lines[-1] or len(lines) < 2 or len(lines) > SIGNATURES_MAX + 1:
        raise InvalidRequest("the note has no signatures below an empty line")
    if any(ord(each) < 0x20 and each != "\n" for each in note):
        raise InvalidRequest("the note has control characters")
    signatures = [_signature(line) for line in lines[:-1]]
    return Note(f"{text}\n", tuple(each for each in signatures if len(each.signature) == SIGNATURE_BYTES))


def split(text: str) -> list[str]:
    """Return the notes that were written into one file, one after the other."""
    notes: list[str] = []
    lines: list[str] = []
    for line in text.splitlines(keepends=True):
        if lines and lines[-1].startswith(_DASH) and not line.startswith(_DASH):
            notes.append("".join(lines))
            lines = []
        if lines or line.strip():
            lines.append(line)
    return [*notes, "".join(lines)] if lines else notes


def checkpoint_of(text: str) -> Checkpoint:
    """Read the text of a checkpoint's note.

    Raises:
        InvalidRequest: it is none.
    """
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not lines[0] or not _SIZE.fullmatch(lines[1]):
        raise InvalidRequest("the note is no checkpoint: wanted lines with origin, size and root")
    root = _bytes(lines[2])
    if root is None or len(root) != HASH_BYTES:
        raise InvalidRequest(f"the checkpoint's root {lines[2][:60]!r} is no hash: wanted 32 bytes in base64")
    if not all(lines[3:-1]):
        raise InvalidRequest("the checkpoint has an empty line")
    return Checkpoint(lines[0], int(lines[1]), root, tuple(lines[3:-1]))


def _signature(line: str) -> Signature:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    packed = _bytes(encoded)
    if not line.startswith(_DASH) or not _NAME.fullmatch(name) or packed is None or len(packed) < 5:
        raise InvalidRequest(f"the note's line {line[:80]!r} is no signature")
    return Signature(name, packed[:4], packed[4:])


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _bytes(text: str) -> bytes | None:
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return value if _base64(value) == text else None
