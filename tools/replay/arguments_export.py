"""The grammar of ``ocid-replay export``, beside the filters that it shares with other commands."""

from __future__ import annotations

import argparse
from typing import Final

FORMATS: Final = ("jsonl", "cloudevents", "cloudevents-batch", "ocsf")


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="jsonl",
        help="native JSON lines, CloudEvents 1.0 as lines or as an array (with --follow or --cursor, an array a line), "
        "or OCSF as lines",
    )
    parser.add_argument(
        "--source", default="", metavar="URI", help="CloudEvents source; '/' and the name of the log by default"
    )
    parser.add_argument(
        "-w",
        "--write",
        default="",
        metavar="FILE",
        help="write there; the file is replaced once the export is whole, or with --follow or --cursor appended to",
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on with records as they are written")
    parser.add_argument(
        "--cursor",
        default="",
        metavar="FILE",
        help="go on where the last export with this file ended; it moves only when what came before it is written, so "
        "a record may come twice, and never not at all",
    )
