"""Whether what a request declares fits into the log, asked before anything is made for it."""

from __future__ import annotations

from ocid.cri.validate_container import CONFIG_BYTES_MAX
from ocid.errors import Exhausted, InvalidRequest
from ocid.events.base import Event
from ocid.events.envelope import Context
from ocid.ids import StreamId
from ocid.journal import pending


def check(stream: StreamId, declared: Event, context: Context, document: bytes) -> None:
    """Refuse a request whose names and paths, each of which may be as long as it is, are too long together.

    Raises:
        InvalidRequest: they are, or the configuration is too large when it is written down.
    """
    if len(document) > CONFIG_BYTES_MAX:
        raise InvalidRequest(f"config is {len(document)} bytes when written down, the limit is {CONFIG_BYTES_MAX}")
    try:
        pending.prepare(stream, 0, (declared,), context, ())
    except Exhausted:
        raise InvalidRequest(
            "config has names and paths that are too long together for one record of the log: "
            "shorten the log directory, the log path, the cgroup parent, the image's name or the metadata"
        ) from None
