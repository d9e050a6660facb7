"""The committed stubs are what ``proto/generate.py`` makes of the files beside it."""

from __future__ import annotations

import difflib
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CRI = ("api_grpc.py", "api_pb2.py", "api_pb2.pyi")
NRI = ("nri_pb2.py", "nri_pb2.pyi", "ttrpc_pb2.py", "ttrpc_pb2.pyi")
GENERATED = (*(f"ocid/cri/stubs/{name}" for name in CRI), *(f"ocid/nri/stubs/{name}" for name in NRI))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stubs made anew, where the tools are those that made the committed ones."""
    for tool, wanted in sorted({made_with for name in GENERATED for made_with in makers(name)}):
        if (found := installed(tool)) != wanted:
            pytest.skip(f"the stubs were made with {tool} {wanted}; here is {found or 'none'}")
    into = tmp_path_factory.mktemp("stubs")
    subprocess.run([sys.executable, ROOT / "proto" / "generate.py", "--into", into], check=True)
    return into


@pytest.mark.parametrize("name", GENERATED)
def test_committed_file_is_fresh(name: str, fresh: Path) -> None:
    committed = (ROOT / name).read_text().splitlines()
    made = (fresh / name).read_text().splitlines()
    changes = list(difflib.unified_diff(committed, made, f"committed {name}", f"fresh {name}", n=1, lineterm=""))

    assert not changes, "run `python proto/generate.py` and commit the result:\n" + "\n".join(changes[:60])


def test_every_generated_file_is_checked(fresh: Path) -> None:
    assert sorted(str(path.relative_to(fresh)) for path in fresh.rglob("*") if path.is_file()) == sorted(GENERATED)


def makers(name: str) -> list[tuple[str, str]]:
    """The (tool, version) pairs in the first line of a committed stub."""
    with (ROOT / name).open() as file:
        pairs: list[tuple[str, str]] = re.findall(r"(grpcio-tools|grpclib|mypy-protobuf) (\d[\w.]*\w)", file.readline())
    assert pairs, f"{name} does not say in its first line what made it"
    return pairs


def installed(tool: str) -> str | None:
    try:
        return version(tool)
    except PackageNotFoundError:
        return None
