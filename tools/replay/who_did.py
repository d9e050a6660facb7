"""``ocid-replay who-did``: who is behind each record of some kinds."""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Iterable, Iterator
from typing import Any, Final

from ocid import tables
from ocid.errors import NotFound
from ocid.events import base
from ocid.events.envelope import Envelope
from ocid.journal.looking import look, peers
from ocid.projections.fields import plain
from ocid.projections.text import exact_time_text, short, time_text
from ocid.projections.words import words

from .attribution import Attribution, Peer, attribute, brief, facts as attribution_facts
from .exits import OK
from .lookup import Stored
from .output import cited
from .reading import log_directory, selected, selection_of

COLUMNS: Final = (
    ("SEQ", 7), ("TIME(UTC)", 24), ("EVENT", 26), ("SUBJECT", 22), ("WHO", 18), ("UID", 5), ("LOGIN", 6),
    ("EXECUTABLE", 16), ("CALL", 18), ("BECAUSE OF", 12), ("DETAIL", 0),
)  # fmt: skip
_NO_LOGIN: Final = 4294967295


def run(args: argparse.Namespace) -> int:
    """Print who is behind the records that the filters and types select."""
    args.type = [*args.type, *args.event_type]
    selection = selection_of(args)
    with look(log_directory(args)) as reader:
        log, peer = Stored(reader), peers(reader)
        found = ((envelope, attribute(envelope, log)) for envelope in selected(reader, selection))
        first = next(found, None)
        if first is None:
            raise NotFound("record of type", unknown_of(args.type) or ", ".join(args.type))
        _show(args.output, _chained(first, found), peer)
    return OK


def unknown_of(globs: Iterable[str]) -> str:
    """Name the globs that no kind of event of this build fits: typing errors, or what only other builds write. Pure."""
    return ", ".join(f"{glob} (no such type is known)" for glob in globs if not fnmatch.filter(base.REGISTRY, glob))


def row(envelope: Envelope, found: Attribution, peer: Peer) -> tuple[str, ...]:
    """Return a record's row. Pure but for *peer*, which finds who asked."""
    aggregate, _, name = envelope.stream.partition("/")
    seen = peer(found.who) if found.who else None
    login = "-" if seen is None or seen.login_uid == _NO_LOGIN else str(seen.login_uid)
    return (
        str(envelope.seq),
        time_text(envelope.wall_ns),
        envelope.type,
        f"{aggregate}/{short(name)}",
        "the daemon" if found.kind == "daemon" else brief(found, peer),
        "-" if seen is None else str(seen.uid),
        login,
        "-" if seen is None else seen.exe or "not known",
        found.rpc or "-",
        cited(found.because) or "-",
        words(envelope.event),
    )


def facts(envelope: Envelope, found: Attribution, peer: Peer) -> dict[str, Any]:
    """Return a record and who is behind it as JSON-ready data. Pure but for *peer*."""
    return plain(envelope) | {
        "time": exact_time_text(envelope.wall_ns),
        "words": words(envelope.event),
        "asked_by": attribution_facts(found, peer),
    }


def _show(output: str, found: Iterator[tuple[Envelope, Attribution]], peer: Peer) -> None:
    if output == "table":
        tables.stream(COLUMNS, (row(envelope, attributed, peer) for envelope, attributed in found))
    elif output == "jsonl":
        tables.json_lines(facts(envelope, attributed, peer) for envelope, attributed in found)
    else:
        tables.json({"records": [facts(envelope, attributed, peer) for envelope, attributed in found]})


def _chained(
    first: tuple[Envelope, Attribution], rest: Iterator[tuple[Envelope, Attribution]]
) -> Iterator[tuple[Envelope, Attribution]]:
    yield first
    yield from rest
