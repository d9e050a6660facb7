"""``ocid-replay fold``: the digest of what the log folds to; twice, to see that it is the same every time."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from ocid import tables
from ocid.errors import EffectFailed, InvalidRequest
from ocid.journal.looking import look

from . import folding, output
from .exits import NO_LOG, OK, UNSTABLE
from .reading import log_directory

CHILD_S_MAX: Final = 3600
_SEED_OF_CHILD: Final = "271828"
_OTHER_SEED: Final = "314159"


class Folding(msgspec.Struct, frozen=True):
    """One way to fold the log, and what came of it."""

    how: str
    from_seq: int  # the first record that was folded
    to_seq: int
    digest: str


def run(args: argparse.Namespace) -> int:
    """Print the digest after ``args.seq``, or after the last record; with ``args.twice``, of several ways to it."""
    directory = log_directory(args)
    with look(directory) as reader:
        last = reader.last_seq()
        if args.seq > last:
            raise InvalidRequest(f"record {args.seq} is not in the log, which ends at {last}")
        to_seq = args.seq or last
        if not to_seq:
            tables.line("the log holds no records, so there is nothing to fold")
            return NO_LOG
        whole, _ = folding.fold(reader, to_seq)
        found = [Folding("from the first record", 1, to_seq, folding.digest(whole))]
        if args.twice:
            bytes_, began = folding.fold(reader, to_seq, with_snapshot=True)
            if began:
                found.append(
                    Folding(
                        f"from the daemon's snapshot after record {began}", began + 1, to_seq, folding.digest(bytes_)
                    )
                )
    if args.twice:
        found.append(Folding("in another process, with another hash seed", 1, to_seq, _in_child(directory, to_seq)))
    same = len({each.digest for each in found}) == 1
    if args.output == "table":
        for each in found:
            tables.line(f"{each.digest}  up to [{each.to_seq}], {each.how}")
        if args.twice:
            tables.line("the same each time" if same else "NOT THE SAME: what the log means depends on who reads it")
    else:
        output.told(args.output, {"same": same, "foldings": msgspec.to_builtins(found)}, ())
    return OK if same else UNSTABLE


def _in_child(directory: Path, to_seq: int) -> str:
    """Return the digest that a process of its own comes to.

    Raises:
        EffectFailed: it did not.
    """
    seed = _SEED_OF_CHILD if os.environ.get("PYTHONHASHSEED") != _SEED_OF_CHILD else _OTHER_SEED
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths}
    command = [sys.executable, "-P", str(Path(folding.__file__)), str(directory.absolute()), str(to_seq)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=CHILD_S_MAX, check=False)
    except subprocess.TimeoutExpired:
        raise EffectFailed(f"folding the log in another process took more than {CHILD_S_MAX} s") from None
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise EffectFailed(f"folding the log in another process failed with {done.returncode}: {last[:300]}")
    return done.stdout.decode().strip()
