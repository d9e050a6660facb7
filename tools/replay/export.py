"""``ocid-replay export``: records for other programs, one JSON object a line."""

from __future__ import annotations

import argparse
import functools
import platform
import urllib.parse

from ocid import tables
from ocid.errors import InvalidRequest
from ocid.journal.looking import look
from ocid.projections.fields import plain

from .cloudevents import cloud_event
from .exits import OK
from .reading import log_directory, selected, selection_of

SOURCE_CHARS_MAX = 2048


def run(args: argparse.Namespace) -> int:
    """Write the records that the filters select to standard output."""
    source = args.source or f"/ocid/{urllib.parse.quote(platform.node() or 'unknown')}"
    if not source.isprintable() or " " in source or len(source) > SOURCE_CHARS_MAX:
        raise InvalidRequest("--source: wanted a URI reference of at most 2048 characters")
    convert = functools.partial(cloud_event, source=source) if args.format == "cloudevents" else plain
    with look(log_directory(args)) as reader:
        tables.json_lines(map(convert, selected(reader, selection_of(args))))
    return OK
