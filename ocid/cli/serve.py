"""``ocid serve``: the daemon."""

from __future__ import annotations

import argparse

from ocid.cli.client import Deps
from ocid.config import Loaded


def run(args: argparse.Namespace, loaded: Loaded, deps: Deps) -> int:
    """Run the daemon until it is told to stop."""
    return deps.serve(loaded)
