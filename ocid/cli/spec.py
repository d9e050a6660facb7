"""``ocid spec``: config.json files for OCI runtimes, made and checked. Needs no daemon."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Final

import msgspec

from ocid import tables
from ocid.cli import spec_host
from ocid.cli.client import Deps
from ocid.cli.spec_generate import spec_of
from ocid.config import Loaded
from ocid.domain.spec.validate import CONFIG_BYTES_MAX, Fault, decode, paths_of, validate
from ocid.errors import InvalidRequest
from ocid.projections.text import clean

CONFIG: Final = "config.json"
FAULTY: Final = 1
UNREADABLE: Final = 2


def run(args: argparse.Namespace, loaded: Loaded, deps: Deps) -> int:
    """Generate or validate."""
    return _generate(args) if args.spec_command == "generate" else _validate(args)


def _generate(args: argparse.Namespace) -> int:
    text = msgspec.json.format(msgspec.json.encode(spec_of(args)), indent=2) + b"\n"
    if not args.output:
        sys.stdout.write(text.decode())
        return 0
    try:
        Path(args.output).write_bytes(text)
    except OSError as error:
        raise InvalidRequest(f"{args.output}: {error.strerror}") from error
    return 0


def _validate(args: argparse.Namespace) -> int:
    """Print one line for each fault: 0 when there is none, 1 for faults, 2 for a file that cannot be read."""
    bundle, raw = ".", b""
    try:
        if args.path == "-":
            raw = sys.stdin.buffer.read(CONFIG_BYTES_MAX + 1)
        else:
            file = Path(args.path, CONFIG) if os.path.isdir(args.path) else Path(args.path)
            bundle, raw = str(file.parent), spec_host.read(str(file), CONFIG_BYTES_MAX + 1)
    except InvalidRequest as error:
        sys.stderr.write(f"ocid: {clean(error.message)}\n")
        return UNREADABLE
    faults = faults_of(raw, os.path.abspath(bundle), look=not args.no_host)
    if args.output == "json":
        tables.json({"valid": not faults, "faults": faults})
    else:
        for fault in faults:
            tables.line(f"{fault.path}: {fault.message}")
    return FAULTY if faults else 0


def faults_of(raw: bytes, bundle: str, *, look: bool) -> tuple[Fault, ...]:
    """Return everything that is wrong with a config.json in the directory *bundle*."""
    spec, unreadable = decode(raw)
    if unreadable:
        return unreadable
    found = spec_host.look(paths_of(spec, bundle)) if look else None
    return validate(spec, found, bundle)
