"""The architecture is a test: what may import what, and how long anything may get."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STUBS = {ROOT / "ocid" / name / "stubs" for name in ("cri", "nri")}  # generated
TREES = ("ocid", "tools", "tests", "benchmarks")
FILE_LINES_MAX = {"ocid": 400, "tools": 400, "benchmarks": 400, "tests": 800}
FUNCTION_LINES_MAX = {"ocid": 60, "tools": 60, "benchmarks": 60, "tests": 80}
RATCHET = {  # what is longer all the same; these numbers may shrink, never grow
    "benchmarks/cri.py": 430,
}
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|XX" + r"X|FIX" + r"ME)\b")
PURE = ("events", "domain", "projections")
IMPURE = {"trio", "asyncio", "os", "subprocess", "socket", "time", "random", "lmdb", "pyroute2", "grpclib", "threading"}


def sources(*trees: str) -> Iterator[Path]:
    for tree in trees:
        yield from (path for path in sorted((ROOT / tree).rglob("*.py")) if not STUBS & {*path.parents})


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield name and length of every function, from its first decorator to its last line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            yield node.name, (node.end_lineno or node.lineno) - first + 1


def test_the_import_contracts_hold() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("package", PURE)
def test_the_pure_core_imports_nothing_that_touches_the_world(package: str) -> None:
    """import-linter's contract, read from the source once more: it also sees imports inside functions."""
    for path in sources(f"ocid/{package}"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found = {name.partition(".")[0] for name in names} & IMPURE
            assert not found, f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} imports {found}"


def test_no_file_is_too_long_to_read() -> None:
    lengths = {
        str(path.relative_to(ROOT)): (len(path.read_text(encoding="utf-8").splitlines()), FILE_LINES_MAX[tree])
        for tree in TREES
        for path in sources(tree)
    }
    long = {name: lines for name, (lines, limit) in lengths.items() if lines > RATCHET.get(name, limit)}

    assert not long, f"files over {FILE_LINES_MAX} lines: {long}"
    assert {name for name in RATCHET if lengths[name][0] <= lengths[name][1]} == set(), "take these off the ratchet"


def test_no_function_is_too_long_to_read() -> None:
    long = {
        f"{path.relative_to(ROOT)}: {name}": lines
        for tree in TREES
        for path in sources(tree)
        for name, lines in functions(path)
        if lines > FUNCTION_LINES_MAX[tree]
    }

    assert not long, f"functions over {FUNCTION_LINES_MAX} lines: {long}"


def test_nothing_is_left_for_later_in_the_source() -> None:
    marks = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources(*TREES)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if UNFINISHED.search(line)
    ]

    assert not marks, f"unfinished work is an issue, not a comment: {marks}"


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sources("ocid", "tools")
        if path.name != "__init__.py" and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]

    assert not silent, f"modules without a docstring: {silent}"
