"""``ocid-replay orphans``: what was found that nothing in the log named, or that was gone or left without our doing."""

from __future__ import annotations

import argparse
from typing import Any, Final

from ocid.events import exec as execution, image, layer, node, pod, session
from ocid.events.envelope import Envelope
from ocid.journal.looking import look
from ocid.projections.fields import fields
from ocid.projections.text import exact_time_text, short, time_text
from ocid.projections.words import words

from . import output
from .exits import OK
from .meaning import chosen
from .reading import log_directory, selected, selection_of

COLUMNS: Final = ("SEQ", "TIME(UTC)", "EPOCH", "EVENT", "SUBJECT", "WHAT")
KINDS: Final = (
    node.OrphanFound, image.LayersLeft, layer.Lost, pod.Lost, node.NetworkFaulty,
    image.PullAbandoned, execution.Abandoned, session.Abandoned, node.LogQuarantined,
)  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Print the records of these kinds that the filters select."""
    args.type = chosen(args.type, KINDS)
    with look(log_directory(args)) as reader:
        found = list(selected(reader, selection_of(args)))
    output.listed(args.output, "orphans", list(map(facts, found)), COLUMNS, map(row, found))
    return OK


def facts(each: Envelope) -> dict[str, Any]:
    """Return a record as JSON-ready data. Pure."""
    return {
        "seq": each.seq,
        "time": exact_time_text(each.wall_ns),
        "epoch": each.epoch,
        "type": each.type,
        "stream": each.stream,
        "event": fields(each.event),
        "words": words(each.event),
    }


def row(each: Envelope) -> tuple[str, ...]:
    """Return its row. Pure."""
    aggregate, _, name = each.stream.partition("/")
    subject = f"{aggregate}/{short(name)}"
    return str(each.seq), time_text(each.wall_ns), str(each.epoch), each.type, subject, words(each.event)
