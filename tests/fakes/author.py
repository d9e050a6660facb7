"""Writes logs, signed ones too: as a daemon would, or as somebody would who wants it to look so."""

from __future__ import annotations

from pathlib import Path

from ocid.domain import note
from ocid.domain.confidential import Beside
from ocid.domain.note import Checkpoint, Key
from ocid.events.base import Event
from ocid.events.envelope import DAEMON
from ocid.events.log import LOG, Founded, KeyReplaced, KeyRotated, Sealed
from ocid.events.node import NODE
from ocid.ids import digest_of
from ocid.journal.pending import prepare
from ocid.journal.seals import Seals, check_seals
from ocid.journal.store import Store
from ocid.journal.verify import verify
from tests.fakes.signers import FakeSigner
from tests.journal.helpers import BOOT, fact

ORIGIN = "ocid/node/0123456789ab"


class Author:
    """Writes one log."""

    def __init__(self, directory: Path, signer: int = 1, origin: str = ORIGIN) -> None:
        directory.mkdir(exist_ok=True)
        self.store = Store(directory, boot_id=BOOT, map_bytes=64 << 20)
        self.signer, self.origin = FakeSigner(signer), origin
        self.notes: list[str] = []
        self.versions = {NODE: 0, LOG: 0}

    @property
    def key(self) -> Key:
        return Key(self.origin, self.signer.public)

    def found(self) -> Author:
        return self.log(Founded(origin=self.origin, key=self.key.text()))

    def write(self, count: int, first: int = 0) -> Author:
        for number in range(first, first + count):
            self.store.append_batch([prepare(NODE, self.versions[NODE], [fact(number)], DAEMON)], 60 * 10**9, 1)
            self.versions[NODE] += 1
        return self

    def log(self, event: Event, *documents: Beside) -> Author:
        self.store.append_batch([prepare(LOG, self.versions[LOG], [event], DAEMON, documents)], 60 * 10**9, 1)
        self.versions[LOG] += 1
        return self

    def seal(self, *, signer: int = 0, kept: bool = True) -> Author:
        head = self.store.head()
        text = Checkpoint(self.origin, head.size, head.root()).text()
        by = FakeSigner(signer) if signer else self.signer
        written = note.signed(text, [(self.key, by.sign(text.encode()))])
        self.notes.append(written)
        event = Sealed(size=head.size, root=head.root().hex(), note=digest_of(written.encode()), occasion="time")
        return self.log(event, *([written.encode()] if kept else []))

    def rotate(self, signer: int, *, vouches: int = 0) -> Author:
        new = Key(self.origin, FakeSigner(signer).public)
        text = f"{new.text()}\n"
        by = FakeSigner(vouches) if vouches else self.signer
        voucher = note.signed(text, [(self.key, by.sign(text.encode()))]).encode()
        self.log(KeyRotated(key=new.text(), note=digest_of(voucher)), voucher)
        self.signer = FakeSigner(signer)
        return self

    def replace(self, signer: int) -> Author:
        self.signer = FakeSigner(signer)
        return self.log(KeyReplaced(key=self.key.text(), reason="it was missing"))

    def check(self, *, key: Key | None = None, witnessed: list[str] | None = None) -> Seals:
        assert verify(self.store).fault is None, "such a log is not damaged, only another one"
        return check_seals(self.store, key=key, witnessed=witnessed)
