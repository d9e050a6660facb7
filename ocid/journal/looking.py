"""Looking at a log from beside the daemon, or without one: live, copied or archived. Read-only.

What can go wrong with a file that may be anybody's comes as one of the errors named here, never as a crash: the pages
that LMDB trusts are checked before it is let near them.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import lmdb

from ocid.errors import EffectFailed, NotFound
from ocid.events.codec import Damaged
from ocid.events.envelope import Envelope
from ocid.events.node import PeerSeen
from ocid.journal import opening, structure
from ocid.journal.reader import Reader

POLL_S: Final = 0.2  # how long news of a followed log may take
PEERS_KEPT: Final = 1024
_GLIMPSES: Final = 3  # a file that grows while it is looked at may look wrong once
_GLIMPSE_S: Final = 0.05


def look(directory: Path) -> Reader:
    """Open the log in *directory* for reading; close it after use.

    Raises:
        NotFound: there is no log.
        EffectFailed: it cannot be opened; the message says why, and what to do.
        Unsupported: it has a format that this build does not read.
        Unavailable: all slots for readers are taken.
        Damaged: the file is not whole.
    """
    try:
        if not structure.has_data(directory):
            raise NotFound("log", str(directory))
        _gate(directory)
        return Reader(directory)
    except PermissionError as error:
        raise _forbidden(directory) from error
    except OSError as error:
        raise EffectFailed(f"the log in {str(directory)!r} cannot be read: {error.strerror}") from error
    except structure.DAMAGE as error:
        raise Damaged(str(error)) from error
    except lmdb.Error as error:
        if "denied" in str(error):
            raise _forbidden(directory) from error
        raise EffectFailed(f"the log in {str(directory)!r} cannot be opened: {error}") from error


def envelopes(reader: Reader, from_seq: int = 1, *, follow: bool = False) -> Iterator[Envelope]:
    """Yield the log in order from *from_seq* on; with *follow*, wait at its end for more, for ever.

    Raises:
        Damaged: a record is not what was written.
    """
    seq = max(from_seq, 1)
    while True:
        try:
            chunk = reader.read(seq)
        except structure.DAMAGE as error:
            raise Damaged(str(error), seq) from error
        if chunk:
            yield from chunk
            seq = chunk[-1].seq + 1
        elif not follow:
            return
        else:
            time.sleep(POLL_S)


@contextmanager
def damage_named() -> Iterator[None]:
    """Let whatever LMDB says of a damaged file come as ``Damaged``."""
    try:
        yield
    except structure.DAMAGE as error:
        raise Damaged(str(error)) from error


def peers(reader: Reader) -> Callable[[int], PeerSeen | None]:
    """Return what finds the ``node.peer_seen`` event that ``who`` cites; None when it is none."""

    @functools.lru_cache(maxsize=PEERS_KEPT)
    def peer(seq: int) -> PeerSeen | None:
        for envelope in reader.read(seq, 1) if seq else ():
            if envelope.seq == seq and isinstance(envelope.event, PeerSeen):
                return envelope.event
        return None

    return peer


def _gate(directory: Path) -> None:
    fault = structure.fault_of(directory)
    for _ in range(_GLIMPSES):
        if fault is None:
            return
        time.sleep(_GLIMPSE_S)
        fault = structure.fault_of(directory)
    if fault is not None and (report := opening.check_whole(directory)).fault is not None:
        raise Damaged(report.fault.what, report.fault.seq)


def _forbidden(directory: Path) -> EffectFailed:
    return EffectFailed(f"the log in {str(directory)!r} may not be read by this user: run this as root, or on a copy")
