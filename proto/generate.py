#!/usr/bin/env python3
"""Make ``ocid/cri/stubs`` and ``ocid/nri/stubs`` from what lies here: ``python proto/generate.py [--into DIR]``.

Messages come from protoc, their types from mypy-protobuf, services from grpclib. protoc is told that the ``.proto``
lies in ``ocid/cri/stubs``; so the modules name and import each other as ``ocid.cri.stubs.…`` and need no patching.
NRI speaks ttrpc, which needs no more than the messages.

With one exception. protoc makes each module refuse a protobuf older than protoc itself, although protoc 30 (protobuf
6.30) and 35 (7.35) write the same code for us but for that number. We write the oldest protobuf that we support.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

PROTO = Path(__file__).resolve().parent
ROOT = PROTO.parent
OLDEST_PROTOBUF = (6, 30, 0)  # as in pyproject.toml; before lowering it, run tests/cri/test_wire.py with that version
MESSAGES, TYPES, SERVICES = ["grpcio-tools"], ["grpcio-tools", "mypy-protobuf"], ["grpcio-tools", "grpclib"]


class Stubs(NamedTuple):
    """One package of generated modules."""

    source: str  # directory of the .proto files, from here
    package: str  # directory of the stubs, from the root
    files: dict[str, list[str]]  # name → the tools that make it


ALL = (
    Stubs("runtime/v1", "ocid/cri/stubs", {"api_pb2.py": MESSAGES, "api_pb2.pyi": TYPES, "api_grpc.py": SERVICES}),
    Stubs(
        "nri",
        "ocid/nri/stubs",
        {"nri_pb2.py": MESSAGES, "nri_pb2.pyi": TYPES, "ttrpc_pb2.py": MESSAGES, "ttrpc_pb2.pyi": TYPES},
    ),
)

_REQUIRED_PROTOBUF = re.compile(r"(?<=    _runtime_version\.Domain\.PUBLIC,\n)    \d+,\n    \d+,\n    \d+,\n")


def generate(into: Path) -> None:
    """Write the packages of ``ALL`` below the directory ``into``."""
    for stubs in ALL:
        (into / stubs.package).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            _run_protoc(stubs, scratch)
            for name, tools in stubs.files.items():
                text = (Path(scratch) / stubs.package / name).read_text()
                if name.endswith("_pb2.py"):
                    text = _require(OLDEST_PROTOBUF, text)
                (into / stubs.package / name).write_text(header(stubs, name, tools) + text)


def header(stubs: Stubs, name: str, tools: list[str]) -> str:
    """The lines above a generated file: what made it. They change when a tool does."""
    versions = ", ".join(f"{tool} {version(tool)}" for tool in tools)
    source = f"proto/{stubs.source}/{name.rpartition('_')[0]}.proto"
    return f"# Made by proto/generate.py from {source} with {versions}. Do not edit.\n"


def _run_protoc(stubs: Stubs, out: str) -> None:
    plugins = sysconfig.get_path("scripts")
    services = [f"--grpclib_python_out={out}"] if SERVICES in stubs.files.values() else []
    sources = sorted({f"{stubs.source}/{name.rpartition('_')[0]}.proto" for name in stubs.files})
    subprocess.run(
        [
            *[sys.executable, "-m", "grpc_tools.protoc", f"-I{stubs.package}={stubs.source}"],
            *[f"--python_out={out}", *services, f"--mypy_out=quiet:{out}"],
            *sources,
        ],
        cwd=PROTO,
        env=os.environ | {"PATH": f"{plugins}{os.pathsep}{os.environ.get('PATH', os.defpath)}"},
        check=True,
    )


def _require(oldest: tuple[int, int, int], text: str) -> str:
    text, found = _REQUIRED_PROTOBUF.subn("".join(f"    {number},\n" for number in oldest), text)
    assert found == 1, f"protoc's check of the protobuf version was found {found} times, not once: look at its output"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description="make the stubs of CRI and NRI from proto/")
    parser.add_argument("--into", type=Path, default=ROOT, metavar="DIR", help="write below it instead of the root")
    generate(parser.parse_args().into)


if __name__ == "__main__":
    main()
