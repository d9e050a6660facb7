"""A place in the log that somebody names: after a record, or at a time. Pure."""

from __future__ import annotations

import msgspec

from ocid.errors import InvalidRequest
from ocid.events.envelope import Envelope
from ocid.projections.selection import parse_time

_SEQ_MAX = 1 << 63


class Moment(msgspec.Struct, frozen=True):
    """After record *seq*, or after the last record before the wall clock first passes *wall_ns*; one of them is 0."""

    seq: int = 0
    wall_ns: int = 0

    def is_over(self, envelope: Envelope) -> bool:
        """Say whether *envelope* was written after it."""
        return bool(self.seq and envelope.seq > self.seq) or bool(self.wall_ns and envelope.wall_ns > self.wall_ns)


def parse_moment(text: str, now_ns: int) -> Moment:
    """Read a moment: a whole number is a seq, anything else a time.

    Raises:
        InvalidRequest: it is neither.
    """
    stripped = text.strip()
    if stripped.isascii() and stripped.isdigit():
        if len(stripped) > 20 or not 0 < int(stripped) < _SEQ_MAX:
            raise InvalidRequest(f"{text[:40]!r} is no seq: wanted a whole number from 1")
        return Moment(seq=int(stripped))
    return Moment(wall_ns=parse_time(stripped, now_ns))
