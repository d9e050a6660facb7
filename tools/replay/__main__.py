"""``ocid-replay``: what the log says, to people and programs."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from ocid.errors import NotFound, OcidError, Unsupported
from ocid.events.codec import Damaged
from ocid.journal import archive, structure
from ocid.projections.text import clean

from . import (
    check_evidence,
    diff,
    evidence,
    execs,
    explain,
    export,
    fold,
    lineage,
    orphans,
    peers,
    prove,
    recovery,
    sql,
    state,
    state_at,
    stats,
    timeline,
    verify,
    who_did,
    why_died,
)
from .arguments import USAGE, build_parser
from .cursor import Misfit
from .exits import DAMAGED, FAILED, INTERRUPTED, NO_LOG, PIPE_CLOSED, UNSUPPORTED
from .guard import guarded

COMMANDS: Final[Mapping[str, Callable[[argparse.Namespace], int]]] = {
    "timeline": timeline.run,
    "state": state.run,
    "explain": explain.run,
    "verify": verify.run,
    "export": export.run,
    "prove": prove.run,
    "evidence": evidence.run,
    "check-evidence": check_evidence.run,
    "why-died": why_died.run,
    "who-did": who_did.run,
    "state-at": state_at.run,
    "diff": diff.run,
    "execs": execs.run,
    "lineage": lineage.run,
    "recovery": recovery.run,
    "orphans": orphans.run,
    "peers": peers.run,
    "stats": stats.run,
    "fold": fold.run,
    "sql": sql.run,
}


def main(argv: Sequence[str] | None = None, guard: Callable[[Callable[[], int]], int] = guarded) -> int:
    """Run one command line and return the exit code; see ``ocid-replay --help`` for the codes.

    Args:
        argv: the arguments after the program's name; None for those of this process.
        guard: runs the command where a damaged log can do no harm.
    """
    args = build_parser().parse_args(argv)
    return guard(lambda: run_on_archive(args) if args.log and archive.is_archive(Path(args.log)) else run(args))


def run_on_archive(args: argparse.Namespace) -> int:
    """Unpack the archive that ``--log`` names, run one command on what was in it, and remove that again."""
    with tempfile.TemporaryDirectory(prefix="ocid-replay-") as directory:
        try:
            archive.unpack(Path(args.log), Path(directory))
        except (Damaged, *structure.DAMAGE) as error:
            return _fail(f"the archive is damaged: {error}", DAMAGED)
        except Unsupported as error:
            return _fail(error.message, UNSUPPORTED)
        except OSError as error:
            return _fail(f"the archive {args.log!r} cannot be unpacked: {error}", FAILED)
        args.log = directory
        return run(args)


def run(args: argparse.Namespace) -> int:
    """Run one command in this process, and put every foreseen failure in one line."""
    try:
        return COMMANDS[args.command](args)
    except NotFound as error:
        return _fail(error.message, NO_LOG if error.kind == "log" else FAILED)
    except Unsupported as error:
        return _fail(error.message, UNSUPPORTED)
    except sql.QueryRefused as error:
        return _fail(error.message, USAGE)
    except Misfit as error:
        return _fail(error.message, error.code)
    except OcidError as error:
        return _fail(error.message, FAILED)
    except Damaged as damage:
        return _fail(f"the log is damaged: {damage}; 'ocid-replay verify' says how far it can be trusted", DAMAGED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered has no reader
        return PIPE_CLOSED


def _fail(message: str, code: int) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"ocid-replay: {clean(message)}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
