"""``ocid key``: whose signature the log's checkpoints bear, and how another key follows it."""

from __future__ import annotations

import argparse

from ocid import tables
from ocid.cli.client import Deps
from ocid.cli.log import current_view, reading
from ocid.config import Loaded
from ocid.errors import Unavailable


def run(args: argparse.Namespace, loaded: Loaded, deps: Deps) -> int:
    """Print the key as one word, for ``ocid-replay verify --key``; with ``--rotate``, have another one follow it.

    Raises:
        Unavailable: the log has no key yet.
        WrongState: another key waits for its turn already.
        EffectFailed: the new key cannot be written.
    """
    with reading(loaded) as reader:
        sealing = current_view(reader).sealing
    if not sealing.key:
        raise Unavailable(
            f"the log in {str(loaded.config.log_dir)!r} has no key: no daemon of this version has run yet"
        )
    if args.rotate:
        deps.make_successor(loaded)
    if args.output == "json":
        tables.json({"origin": sealing.origin, "key": sealing.key, "signed_records": sealing.size, "next": args.rotate})
    else:
        tables.line(sealing.key)
        if args.rotate:
            tables.line("another key was made: a running daemon lets it sign within a minute, else the next one does")
    return 0
