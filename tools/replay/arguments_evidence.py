"""The grammar of the commands of ``ocid-replay`` that pack evidence and check it."""

from __future__ import annotations

import argparse
from collections.abc import Callable

Command = Callable[[str, str], argparse.ArgumentParser]
Options = Callable[[argparse.ArgumentParser], None]


def add(command: Command, filters: Options, trust: Options, output: Options) -> None:
    """Add the commands.

    Args:
        command: adds one, by its name and what it is for.
        filters: adds the filters of ``timeline``.
        trust: adds ``--key``.
        output: adds the choice between text and JSON.
    """
    packs = command("evidence", "Pack records, what they cite, and their proofs into one file to keep and hand on.")
    packs.add_argument("-w", "--write", required=True, metavar="FILE", help="the file, a tar with gzip; must not exist")
    filters(packs)
    trust(packs)
    witness(packs)
    packs.add_argument(
        "--confidential",
        action="store_true",
        help="pack command lines, configurations and specifications of pods, too, as far as they are not erased",
    )
    output(packs)
    checks = command("check-evidence", "Check a file of evidence: is it whole, and what the log's key signed for?")
    checks.add_argument("file", metavar="FILE", help="what 'evidence' wrote")
    trust(checks)
    witness(checks)
    output(checks)


def witness(parser: argparse.ArgumentParser) -> None:
    """Add ``--witness``."""
    parser.add_argument(
        "--witness",
        action="append",
        metavar="FILE",
        help="checkpoints that were kept elsewhere, one after the other; may be repeated",
    )
