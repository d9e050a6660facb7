"""The envelope: where an event stands in the log, when it was written, what led to it, and who asked."""

from __future__ import annotations

import msgspec

from ocid.events.base import Event
from ocid.ids import StreamId


class Context(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What led to an event. One per CRI call, recovery run or observation; handed along to all that follows from it."""

    who: int = 0  # seq of the ``node.peer_seen`` event of the socket client; 0 is the daemon itself
    correlation: str = ""  # one id for everything that one call or one recovery led to
    cause: int = 0  # seq of the event that this one follows from; 0 when it has none
    command_id: str = ""  # the caller's name for the request, where it has one (RPC and idempotency key)
    trace: str = ""  # the caller's own trace, "<trace id>-<parent id>-<flags>", see ``ocid.events.trace``; "": none


DAEMON = Context()


class Envelope(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One record of the log, decoded."""

    seq: int  # position in the log, from 1, without gaps
    stream: StreamId
    version: int  # position in the stream, from 1
    type: str
    type_version: int
    wall_ns: int  # CLOCK_REALTIME, Unix epoch
    boot_ns: int  # CLOCK_BOOTTIME: orders and measures within one boot, whatever the wall clock does
    boot_id: str  # /proc/sys/kernel/random/boot_id
    epoch: int  # which life of the daemon wrote it, from 1
    context: Context
    event: Event
