"""What a process runs, hashed: the very file, within limits, and no descriptor left."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ocid.cri import executable
from ocid.cri.executable import Executable, measure

SLEEP = os.path.realpath(shutil.which("sleep") or "/bin/sleep")
Run = Callable[[Path], Executable]


@pytest.fixture
def held() -> Iterator[Run]:
    """Return what runs a program and holds its file; at the end, the programs are gone and no descriptor is left."""
    before = set(os.listdir("/proc/self/fd"))
    children: list[subprocess.Popen[bytes]] = []

    def run(path: Path) -> Executable:
        children.append(subprocess.Popen([path, "60"]))
        found = Executable.of(children[-1].pid)
        assert found is not None
        return found

    yield run
    for child in children:
        child.kill()
        child.wait()
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return Path(shutil.copy(SLEEP, tmp_path / "program"))


def sha256(path: Path | str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_the_hash_of_what_runs(held: Run, program: Path) -> None:
    found = measure(held(program), {})

    assert (found.sha256, found.size_bytes, found.reason) == (sha256(program), program.stat().st_size, "")


@pytest.mark.parametrize("name", ["deleted", "replaced"])
def test_the_file_that_runs_and_not_what_has_its_name_now(held: Run, program: Path, name: str) -> None:
    expected, one = sha256(program), held(program)
    program.unlink()
    if name == "replaced":
        program.write_bytes(b"another program")

    assert measure(one, {}).sha256 == expected


def test_the_file_of_a_process_that_is_gone(held: Run, program: Path) -> None:
    child = subprocess.Popen([program, "60"])
    one = Executable.of(child.pid)
    child.kill()
    child.wait()

    assert one is not None
    assert measure(one, {}).sha256 == sha256(program)
    assert Executable.of(child.pid) is None


def test_a_hash_that_is_known_is_not_made_again(held: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the file system says of the file: the distribution's own programs have not changed for long."""
    first = measure(held(Path(SLEEP)), {})
    assert first.key is not None
    monkeypatch.setattr(os, "readv", None)

    assert measure(held(Path(SLEEP)), {first.key: first.sha256}) == first


def test_a_file_that_has_just_changed_is_not_remembered(held: Run, program: Path) -> None:
    """It may change again within the same tick of the clock."""
    assert measure(held(program), {}).key is None


def test_changed_while_it_was_read(held: Run, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = held(program)
    real = os.readv

    def readv(fd: int, buffers: list[memoryview]) -> int:
        os.utime(fd)
        return real(fd, buffers)

    monkeypatch.setattr(os, "readv", readv)
    time.sleep(0.02)  # a tick of the file system's clock

    found = measure(one, {})
    assert (found.sha256, found.key) == ("", None)
    assert found.reason == "it changed while it was read"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [("BYTES_MAX", 1000, "it is larger than"), ("SECONDS_MAX", -1, "it took longer than")],
)
def test_limits(held: Run, program: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: int, reason: str) -> None:
    monkeypatch.setattr(executable, name, value)

    found = measure(held(program), {})
    assert found.sha256 == ""
    assert found.reason.startswith(reason)
    assert found.size_bytes == program.stat().st_size


def test_one_taker(held: Run, program: Path) -> None:
    one = held(program)
    other = one.moved()
    one.close()

    assert one.take() == -1
    assert measure(other, {}).sha256
    assert measure(other, {}).reason == "it was let go before it could be read"
