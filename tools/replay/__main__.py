"""``ocid-replay``: what the log says, to people and programs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ocid.errors import NotFound, OcidError, Unsupported
from ocid.events.codec import Damaged
from ocid.projections.text import clean

from . import explain, export, log, prove, state, verify
from .arguments import build_parser
from .cursor import Misfit
from .exits import DAMAGED, FAILED, INTERRUPTED, NO_LOG, PIPE_CLOSED, UNSUPPORTED
from .guard import guarded

COMMANDS: Final[Mapping[str, Callable[[argparse.Namespace], int]]] = {
    "log": log.run,
    "state": state.run,
    "explain": explain.run,
    "verify": verify.run,
    "export": export.run,
    "prove": prove.run,
}


def main(argv: Sequence[str] | None = None, guard: Callable[[Callable[[], int]], int] = guarded) -> int:
    """Run one command line and return the exit code; see ``ocid-replay --help`` for the codes.

    Args:
        argv: the arguments after the program's name; None for those of this process.
        guard: runs the command where a damaged log can do no harm.
    """
    args = build_parser().parse_args(argv)
    return guard(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Run one command in this process, and put every foreseen failure in one line."""
    try:
        return COMMANDS[args.command](args)
    except NotFound as error:
        return _fail(error.message, NO_LOG if error.kind == "log" else FAILED)
    except Unsupported as error:
        return _fail(error.message, UNSUPPORTED)
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
