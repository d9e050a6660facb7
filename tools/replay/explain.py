"""``ocid-replay explain``: one pod's or container's story."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ocid import tables
from ocid.events.node import NODE
from ocid.journal.looking import look, peers
from ocid.projections.text import time_text

from .callers import inserted, remarks
from .exits import OK
from .family import events_of, find
from .lookup import Stored
from .reading import log_directory
from .story import Story, tell


def run(args: argparse.Namespace) -> int:
    """Print the story of ``args.id``."""
    with look(log_directory(args)) as reader:
        subject = find(reader, args.id)
        events = events_of(reader, subject)
        found = remarks(reader.read_stream(NODE), events)
        story = tell(subject, inserted(events, found), peers(reader), reader.document, found.hashes, Stored(reader))
    if args.output == "json":
        tables.json(story)
    else:
        for line in text(story):
            tables.line(line)
    return OK


def text(story: Story) -> Iterator[str]:
    """Yield the story's lines; each statement ends with the records that it rests on, in brackets. Pure."""
    yield story.title
    yield ""
    width = max((len(str(line.seq)) for line in story.lines), default=1)
    label_width = max((len(line.subject) for line in story.lines), default=0)
    for line in story.lines:
        label = f"{line.subject:{label_width}}  " if label_width else ""
        by = f", by {line.who}" if line.who else ""
        traced = f" in trace {line.trace}" if line.trace else ""
        yield f"[{line.seq:{width}}] {time_text(line.wall_ns)}  {label}{line.text}{by}{traced}"
    yield ""
    for verdict in story.verdicts:
        yield f"{verdict.subject}:"
        for finding in verdict.findings:
            seqs = " ".join(f"[{seq}]" for seq in finding.seqs)
            yield f"  {finding.text} {seqs}".rstrip()
    if story.askers:
        yield ""
        yield "who asked:"
        for name, full in story.askers.items():
            yield f"  {name}: {full}"
