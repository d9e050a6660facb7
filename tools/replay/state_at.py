"""``ocid-replay state-at``: what ``ocid ps``, ``images`` and ``inspect`` would have shown at another time."""

from __future__ import annotations

import argparse
import time

import msgspec

from ocid import tables
from ocid.journal.looking import look

from . import output
from .exits import NO_LOG, OK
from .inspecting import inspect
from .moments import parse_moment
from .reading import log_directory
from .state import describe, show, view_at


def run(args: argparse.Namespace) -> int:
    """Print the state as of ``args.moment``, or one thing of it in full."""
    moment = parse_moment(args.moment, time.time_ns())
    with look(log_directory(args)) as reader:
        view, at_ns = view_at(reader, moment.seq, moment.wall_ns)
        if args.inspect:
            found = inspect(view, args.inspect, reader.document)
            if args.output == "table":
                pretty = msgspec.json.format(msgspec.json.encode(found, order="deterministic"), indent=2)
                for line in pretty.decode().splitlines():
                    tables.line(line)
            else:
                output.told(args.output, found, ())
            return OK
        facts = describe(view, at_ns)
    if args.output == "table":
        show(view, at_ns)
    else:
        output.told(args.output, facts, ())
    return OK if view.seq else NO_LOG
