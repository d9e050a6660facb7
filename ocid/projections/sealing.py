"""What the log says about itself: its name, whose key signs for it, and up to where. Pure."""

from __future__ import annotations

import msgspec

from ocid.events import log as events
from ocid.events.envelope import Envelope


class Sealing(msgspec.Struct, kw_only=True):
    """The log as of its last event about itself."""

    origin: str = ""  # "" until it is founded
    key: str = ""  # verifier key, NAME+ID+KEY
    size: int = 0  # records that are signed for
    wall_ns: int = 0  # when that was
    seq: int = 0  # of the newest event about the log itself
    version: int = 0

    def apply(self, envelope: Envelope) -> None:
        """Fold one event in."""
        self.seq, self.version = envelope.seq, envelope.version
        match envelope.event:
            case events.Founded(origin=origin, key=key):
                self.origin, self.key = origin, key
            case events.KeyRotated(key=key) | events.KeyReplaced(key=key):
                self.key = key
            case events.Sealed(size=size):
                self.size, self.wall_ns = size, envelope.wall_ns
            case _:
                pass
