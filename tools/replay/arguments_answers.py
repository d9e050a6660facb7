"""The grammar of the commands of ``ocid-replay`` that answer questions."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

Command = Callable[[str, str], argparse.ArgumentParser]

OUTPUTS: Final = ("table", "json", "jsonl")
MOMENT: Final = "a seq, or a time: RFC 3339, 'now', or so long ago: 90s, 15m, 2h, 3d"
CHARS_MAX: Final = 4096  # of anything typed
QUERY_CHARS_MAX: Final = 65_536
TYPES_MAX: Final = 64


def add(command: Command, filters: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the commands.

    Args:
        command: adds one, by its name and what it is for.
        filters: adds the filters of ``log``.
    """
    died = command("why-died", "Say why a container died: verdict, confidence, evidence, and what is not known.")
    died.add_argument("container", type=_text, metavar="CONTAINER", help="id, beginning of it, name, or POD/NAME")
    died.epilog = "exit code 0 also for a container that has not died: the answer says so"
    did = command("who-did", "Say who is behind records of some kinds, also of what the daemon did by itself later.")
    did.add_argument("event_type", type=_text, nargs="+", metavar="EVENT-TYPE", help="such as image.removed, or a glob")
    filters(did)
    for parser in (died, did):
        _output(parser)


def _output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        choices=OUTPUTS,
        default="table",
        help="table for people, json for one document, or jsonl for an object a line",
    )


def _text(text: str) -> str:
    if not text.strip() or len(text) > CHARS_MAX:
        raise argparse.ArgumentTypeError(f"wanted 1 to {CHARS_MAX} characters, not {len(text.strip())}")
    return text
