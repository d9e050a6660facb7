"""One run of ``ocid``: the command line read, the configuration loaded, the command run, failures in one line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ocid import config
from ocid.cli import config as config_command, drift, erase, events, images, key, ps, pull, serve, spec
from ocid.cli.client import Deps
from ocid.cli.main_parser import build_parser
from ocid.config import Loaded
from ocid.errors import OcidError
from ocid.events.codec import Damaged
from ocid.projections.text import clean

FAILED: Final = 1
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it
PIPE_CLOSED: Final = 141  # 128 + SIGPIPE

Command = Callable[[argparse.Namespace, Loaded, Deps], int]
COMMANDS: Final[Mapping[str, Command]] = {
    "serve": serve.run,
    "ps": ps.run,
    "images": images.run,
    "pull": pull.run,
    "events": events.run,
    "drift": drift.run,
    "config": config_command.run,
    "key": key.run,
    "erase": erase.run,
    "spec": spec.run,
}


def main(deps: Deps, argv: Sequence[str] | None = None) -> int:
    """Run one command line and return the exit code: 0 for success, 1 for failure; a usage error exits with 2.

    Args:
        deps: what only ``ocid.main`` can wire.
        argv: the arguments after the program's name; None for those of this process.
    """
    args = build_parser().parse_args(argv)
    try:
        overrides = {key: getattr(args, key, None) for key in ("root", "run", "socket")}
        loaded = config.load(getattr(args, "config", None), overrides)
        return COMMANDS[args.command](args, loaded, deps)
    except OcidError as error:
        return _fail(error.message)
    except Damaged as damage:
        return _fail(f"the log is damaged: {damage}; 'ocid-replay verify' says how far it can be trusted")
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered has no reader
        return PIPE_CLOSED


def _fail(message: str) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"ocid: {clean(message)}\n")
    return FAILED
