"""Making the entries of the log's indexes, to write them and to check what was written."""

from __future__ import annotations

from ocid.events import kin
from ocid.events.base import Event
from ocid.ids import StreamId
from ocid.journal.environment import U64, child_key, name_key


def entries(event: Event, stream: StreamId, seq: int) -> list[tuple[bytes, bytes]]:
    """Return what record *seq* puts into the index of names and children."""
    if event.TYPE not in kin.TYPES:
        return []
    at, value = U64.pack(seq), stream.encode()
    found = [(name_key(name) + at, value) for name in kin.names_of(event)]
    if (parent := kin.parent_of(event)) is not None:
        found.append((child_key(parent) + at, value))
    return found
