"""Witnesses in memory that refuse or hang as they are told, and checkpoints to send to them."""

from __future__ import annotations

from hashlib import sha256

import trio

from ocid.domain import note
from ocid.domain.note import Checkpoint, Key
from ocid.errors import Unavailable
from tests.fakes.signers import FakeSigner

ORIGIN = "ocid/node/0123456789ab"


def checkpoint(size: int, *, origin: str = ORIGIN, further: tuple[str, ...] = ()) -> str:
    """A signed checkpoint over so many records, with a made-up root."""
    signer = FakeSigner(1)
    text = Checkpoint(origin, size, sha256(b"%d" % size).digest(), further).text()
    return note.signed(text, [(Key(origin, signer.public), signer.sign(text.encode()))])


class FakeWitness:
    """Implements ``Witness``."""

    kind = "fake"

    def __init__(self, name: str = "one", *, keeps_all: bool = False) -> None:
        self.name = name
        self.keeps_all = keeps_all
        self.kept: list[str] = []
        self.tried: list[float] = []  # when
        self.refuses: Exception | None = None
        self.takes_s = 0.0
        self.at_once = 0

    def fails(self, message: str = "nobody there") -> None:
        self.refuses = Unavailable(message)

    async def keep(self, note: str) -> None:
        assert self.at_once == 0, "one checkpoint at a time"
        self.at_once += 1
        try:
            self.tried.append(trio.current_time())
            await trio.sleep(self.takes_s)
            if self.refuses is not None:
                raise self.refuses
            self.kept.append(note)
        finally:
            self.at_once -= 1
