"""``ocid config``: what is in force, and where each value came from."""

from __future__ import annotations

import argparse
from typing import Any

import msgspec

from ocid import tables
from ocid.cli.client import Deps
from ocid.config import Loaded

COLUMNS = ("KEY", "FROM", "VALUE")


def run(args: argparse.Namespace, loaded: Loaded, deps: Deps) -> int:
    """Print every key."""
    if args.output == "json":
        tables.json({"config": loaded.config, "sources": loaded.sources, "files": loaded.files})
    else:
        tables.show(COLUMNS, [(key, source, value_text(value)) for key, value, source in loaded.values()])
    return 0


def value_text(value: Any) -> str:
    """Write a value as TOML does. Pure."""
    return msgspec.json.encode(value).decode()
