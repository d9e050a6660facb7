#!/usr/bin/env python3
"""Make ``ocid/cri/stubs`` from ``runtime/v1/api.proto``: ``python proto/generate.py [--into DIR]``.

Messages come from protoc, their types from mypy-protobuf, services from grpclib. protoc is told that the ``.proto``
lies in ``ocid/cri/stubs``; so the modules name and import each other as ``ocid.cri.stubs.…`` and need no patching.

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

PROTO = Path(__file__).resolve().parent
PACKAGE = "ocid/cri/stubs"
STUBS = PROTO.parent / PACKAGE
OLDEST_PROTOBUF = (6, 30, 0)  # as in pyproject.toml; before lowering it, run tests/cri/test_wire.py with that version
MADE_BY = {
    "api_pb2.py": ["grpcio-tools"],
    "api_pb2.pyi": ["grpcio-tools", "mypy-protobuf"],
    "api_grpc.py": ["grpcio-tools", "grpclib"],
}

_REQUIRED_PROTOBUF = re.compile(r"(?<=    _runtime_version\.Domain\.PUBLIC,\n)    \d+,\n    \d+,\n    \d+,\n")


def generate(into: Path) -> None:
    """Write the files of ``MADE_BY`` to the directory ``into``."""
    with tempfile.TemporaryDirectory() as scratch:
        _run_protoc(scratch)
        for name, tools in MADE_BY.items():
            text = (Path(scratch) / PACKAGE / name).read_text()
            if name == "api_pb2.py":
                text = _require(OLDEST_PROTOBUF, text)
            (into / name).write_text(header(tools) + text)


def header(tools: list[str]) -> str:
    """The lines above a generated file: what made it. They change when a tool does."""
    versions = ", ".join(f"{tool} {version(tool)}" for tool in tools)
    return f"# Made by proto/generate.py from proto/runtime/v1/api.proto with {versions}. Do not edit.\n"


def _run_protoc(out: str) -> None:
    plugins = sysconfig.get_path("scripts")
    subprocess.run(
        [
            *[sys.executable, "-m", "grpc_tools.protoc", f"-I{PACKAGE}=runtime/v1"],
            *[f"--python_out={out}", f"--grpclib_python_out={out}", f"--mypy_out=quiet:{out}"],
            "runtime/v1/api.proto",
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
    parser = argparse.ArgumentParser(description="make ocid/cri/stubs from proto/runtime/v1/api.proto")
    parser.add_argument("--into", type=Path, default=STUBS, metavar="DIR", help="write there instead of ocid/cri/stubs")
    into = parser.parse_args().into
    into.mkdir(parents=True, exist_ok=True)
    generate(into)


if __name__ == "__main__":
    main()
