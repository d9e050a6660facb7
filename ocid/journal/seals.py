"""Proving that a log is the one that was signed for: its checkpoints, the keys behind them, and what witnesses saw.

``verify`` shows that nothing is damaged. Somebody who rewrote everything and recomputed every hash gets past it, but
not past a signature, and not past a checkpoint that was kept elsewhere. All that should be there and is not is a
fault: a log without checkpoints, a key without a voucher, a tree smaller than a witness saw.

All this takes it that ``verify`` found no fault before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from ocid.domain import note
from ocid.domain.note import Check, Checkpoint, Key, Note
from ocid.errors import InvalidRequest, NotFound
from ocid.events.codec import Damaged
from ocid.events.envelope import Envelope
from ocid.events.log import LOG, Founded, KeyReplaced, KeyRotated, Sealed
from ocid.ids import Digest
from ocid.journal.parts import Fault
from ocid.journal.reader import Reader
from ocid.journal.signatures import verifies

FAULTS_MAX: Final = 20  # told; more say nothing new


class Seals(msgspec.Struct):
    """What is signed for, by whom, and what contradicts it."""

    origin: str = ""  # the log's name; "" when it has none
    key: str = ""  # that signs now: NAME+ID+KEY
    trusted: bool = False  # the key was given, or vouched for by one that was
    checkpoints: int = 0  # good ones
    trimmed: int = 0  # signed ones that end among records that are gone, so that only their signature can be checked
    size: int = 0  # records that the last good one covers
    root: bytes = b""
    wall_ns: int = 0  # when it was made
    unsigned: int = 0  # records after it
    witnessed: int = 0  # records that the largest checkpoint of a witness covers
    faults: list[Fault] = msgspec.field(default_factory=list)

    def fault(self, seq: int, what: str) -> None:
        """Note one more."""
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(Fault(seq, what))


def check_seals(
    reader: Reader, *, key: Key | None = None, witnessed: Sequence[str] | None = None, check: Check = verifies
) -> Seals:
    """Check every checkpoint of a log that ``verify`` found whole, and compare it with what witnesses kept.

    Args:
        reader: the log.
        key: the one that must have signed, now or once; None takes the log's own word for its keys.
        witnessed: checkpoints that were kept elsewhere, as notes; None when nobody was asked. Asked in vain is a fault.
        check: how signatures are checked.
    """
    seals = Seals()
    keys: list[Key] = []
    for envelope in reader.read_stream(LOG):
        _take(reader, envelope, seals, keys, key, check)
    last_seq = reader.last_seq()
    seals.unsigned = last_seq - seals.size
    if last_seq and not seals.origin:
        seals.fault(0, "the log has no name and no key: nobody ever signed for it")
    elif last_seq and not seals.checkpoints:
        seals.fault(0, "no checkpoint was ever signed")
    if key is not None and not seals.trusted:
        seals.fault(0, f"the key {key.name}+{key.id.hex()} signed nothing here, and vouched for no key that did")
    if witnessed is not None:
        _compare(reader, seals, keys if key is None else [*keys, key], witnessed, check)
    return seals


def _take(reader: Reader, envelope: Envelope, seals: Seals, keys: list[Key], pinned: Key | None, check: Check) -> None:
    """Check one record of the log about itself."""
    event, seq = envelope.event, envelope.seq
    if isinstance(event, Founded) and seals.origin:
        seals.fault(seq, f"the log is founded again, as {event.origin!r}")
    elif isinstance(event, Founded):
        seals.origin = event.origin
        _enter(seals, keys, event.key, pinned, seq, vouched=False)
    elif isinstance(event, KeyRotated):
        voucher = _note(reader, event.note)
        vouched = voucher is not None and bool(keys) and voucher.signed_by(keys[-1], check)
        vouched = vouched and voucher is not None and voucher.text == f"{event.key}\n"
        if not vouched:
            seals.fault(seq, "the key before it did not sign for the new key")
        _enter(seals, keys, event.key, pinned, seq, vouched=vouched)
    elif isinstance(event, KeyReplaced):
        before = seals.trusted
        _enter(seals, keys, event.key, pinned, seq, vouched=False)
        if pinned is not None and before and not seals.trusted:
            seals.fault(seq, f"nothing vouches for the key from here on: {event.reason}")
    elif isinstance(event, Sealed):
        _check_seal(reader, seals, keys, event, envelope, check)


def _enter(seals: Seals, keys: list[Key], text: str, pinned: Key | None, seq: int, *, vouched: bool) -> None:
    """Take another key for the one that signs; it is trusted if it was given, or vouched for by one that is."""
    try:
        entered = note.key_of(text)
    except InvalidRequest as error:
        seals.fault(seq, error.message)
        return
    seals.key = text
    seals.trusted = pinned is not None and (entered.public == pinned.public or (vouched and seals.trusted))
    keys.append(entered)


def _check_seal(reader: Reader, seals: Seals, keys: list[Key], event: Sealed, envelope: Envelope, check: Check) -> None:
    seq = envelope.seq
    found = _note(reader, event.note)
    if found is None:
        seals.fault(seq, f"its checkpoint {event.note} is missing")
    elif not keys or not found.signed_by(keys[-1], check):
        seals.fault(seq, "its checkpoint is not signed by the log's key")
    elif (head := _head(found)) is None or (head.origin, head.size, head.root.hex()) != (
        seals.origin,
        event.size,
        event.root,
    ):
        seals.fault(seq, "its checkpoint says something else than the record")
    elif not seals.size <= head.size < seq:
        seals.fault(seq, f"its checkpoint covers {head.size} records, the one before it {seals.size}")
    elif (root := _root(reader, head.size)) is None:
        seals.trimmed += 1
        seals.size = head.size
    elif root != head.root:
        seals.fault(seq, f"the first {head.size} records are not those that were signed for")
    else:
        seals.checkpoints += 1
        seals.size, seals.root, seals.wall_ns = head.size, head.root, envelope.wall_ns


def _compare(reader: Reader, seals: Seals, keys: Sequence[Key], witnessed: Sequence[str], check: Check) -> None:
    """Compare the log with what was kept elsewhere."""
    last_seq = reader.last_seq()
    trimmed: list[int] = []  # sizes that end among records that are gone
    for text in witnessed:
        try:
            found = note.parse(text)
            head = note.checkpoint_of(found.text)
        except InvalidRequest as error:
            seals.fault(0, f"witness: {error.message}")
            continue
        if head.origin != seals.origin:
            continue  # another node's, or that of the log before this one
        if not any(found.signed_by(each, check) for each in keys):
            seals.fault(0, f"witness: the checkpoint over {head.size} records bears no signature of the log's keys")
        elif head.size > last_seq:
            seals.fault(0, f"witness: saw {head.size} records, and the log has {last_seq}")
        elif (root := _root(reader, head.size)) is None:
            trimmed.append(head.size)
        elif root != head.root:
            seals.fault(0, f"witness: the first {head.size} records are not those that it saw")
        else:
            seals.witnessed = max(seals.witnessed, head.size)
    if trimmed and not seals.witnessed:
        seals.fault(
            0, f"witness: what it saw last, {max(trimmed)} records, was trimmed since: ask the archive of these"
        )
    elif not seals.witnessed and not any(fault.what.startswith("witness: ") for fault in seals.faults):
        seals.fault(0, f"witness: knows no checkpoint of {seals.origin or 'this log'!r}")


def _note(reader: Reader, digest: Digest) -> Note | None:
    try:
        return note.parse(reader.document(digest).decode("utf-8", "replace"))
    except (NotFound, Damaged, InvalidRequest):
        return None


def _head(found: Note) -> Checkpoint | None:
    try:
        return note.checkpoint_of(found.text)
    except InvalidRequest:
        return None


def _root(reader: Reader, size: int) -> bytes | None:
    """Return the root over the first *size* records; None where these end among records that were trimmed."""
    try:
        return reader.root(size)
    except Damaged as damage:
        return None if damage.seq and size <= reader.trimmed()[0] else b""
