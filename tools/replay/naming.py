"""What the log knows of those whom a record is about, for formats in which every event stands alone. Pure."""

from __future__ import annotations

import msgspec

from ocid.events.node import PeerSeen


class Log(msgspec.Struct, frozen=True):
    """The log that the records are of."""

    origin: str  # its name, unique in the world
    host: str
    version: str  # of the exporter


class Pod(msgspec.Struct, frozen=True):
    """The pod that an event is about."""

    id: str
    name: str
    namespace: str
    uid: str


class Container(msgspec.Struct, frozen=True):
    """The container that an event is about."""

    id: str
    name: str
    image_id: str
    image_ref: str
    handler: str
    pid: int = 0  # of its init; 0 where that is not known


class Naming(msgspec.Struct, frozen=True):
    """What the records before this one say about whom it is about; None and "" where they do not."""

    log: Log
    peer: PeerSeen | None = None  # who asked
    pod: Pod | None = None
    container: Container | None = None
    command: str = ""  # what was run in the container, on one line
    session: str = ""  # "exec", "attach" or "portforward"
    reference: str = ""  # what was pulled
