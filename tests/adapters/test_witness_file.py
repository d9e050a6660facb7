"""Checkpoints in a file: what is written, when, into which files, and what an interruption leaves."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import trio

from ocid.adapters import witness_file
from ocid.adapters.witness_file import FileWitness, append
from ocid.errors import EffectFailed
from tests.fakes.witnesses import checkpoint

A, B, C = checkpoint(1), checkpoint(2), checkpoint(3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kept"


def read(path: Path) -> str:
    return path.read_text()


async def test_one_after_the_other_for_their_owner_alone(path: Path) -> None:
    witness = FileWitness("file", path)
    for note in (A, B, C):
        await witness.keep(note)
    assert read(path) == A + B + C
    assert os.stat(path).st_mode & 0o777 == 0o600


async def test_a_file_that_was_rotated_is_left_alone(path: Path, tmp_path: Path) -> None:
    witness = FileWitness("file", path)
    await witness.keep(A)
    os.rename(path, tmp_path / "kept.1")
    await witness.keep(B)
    assert (read(tmp_path / "kept.1"), read(path)) == (A, B)
    os.truncate(path, 0)  # logrotate's copytruncate
    await witness.keep(C)
    assert read(path) == C


def test_what_is_torn_is_closed_and_not_taken_back(path: Path) -> None:
    path.write_text(A + B[:30])
    path.chmod(0o600)
    append(path, C.encode())
    assert path.read_text() == A + B[:30] + "\n" + C


def test_it_is_synced_before_it_counts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, int]] = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append((os.readlink(f"/proc/self/fd/{fd}"), path.stat().st_size))
    )
    append(path, A.encode())
    append(path, B.encode())
    assert synced == [
        (str(path), len(A.encode())),
        (str(path.parent), len(A.encode())),
        (str(path), len((A + B).encode())),
    ]

    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(EffectFailed, match="Input/output error"):
        append(path, C.encode())


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_refused(path: Path, mode: int) -> None:
    path.write_text("")
    path.chmod(mode)
    with pytest.raises(EffectFailed, match="others than root can write"):
        append(path, A.encode())
    assert path.read_text() == ""
    path.chmod(0o644)
    append(path, A.encode())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_a_file_of_somebody_else_is_refused(path: Path) -> None:
    path.write_text("")
    os.chown(path, 65534, 65534)
    with pytest.raises(EffectFailed, match="chown it to root"):
        append(path, A.encode())
    path.unlink()
    os.chown(path.parent, 65534, 65534)
    with pytest.raises(EffectFailed, match="can put files into"):
        append(path, A.encode())


def test_what_is_no_plain_file_is_refused(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("x\n")
    path.symlink_to(target)
    with pytest.raises(EffectFailed, match="symbolic link"):
        append(path, A.encode())
    path.unlink()
    os.link(target, path)
    with pytest.raises(EffectFailed, match="regular file with one name"):
        append(path, A.encode())
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(EffectFailed, match="regular file with one name"):
        append(path, A.encode())
    path.unlink()
    path.mkdir()
    with pytest.raises(EffectFailed, match="Is a directory"):
        append(path, A.encode())
    with pytest.raises(EffectFailed, match="No such file"):
        append(tmp_path / "none" / "kept", A.encode())
    assert target.read_text() == "x\n"


def test_a_directory_that_others_can_write_is_refused(path: Path) -> None:
    path.parent.chmod(0o777)
    with pytest.raises(EffectFailed, match="can put files into"):
        append(path, A.encode())
    path.parent.chmod(0o1777)  # as /tmp: nobody can replace another's file
    append(path, A.encode())


def test_a_full_disk_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, raw: write(fd, raw[:10]))
    with pytest.raises(EffectFailed, match="is the disk full"):
        append(path, A.encode())
    monkeypatch.undo()
    append(path, B.encode())
    assert path.read_text() == A[:10] + "\n" + B


async def test_a_mount_that_hangs_holds_one_thread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, calls = threading.Event(), []

    def hung(*arguments: object) -> None:
        calls.append(arguments)
        assert hangs.wait(10)

    monkeypatch.setattr(witness_file, "append", hung)
    witness = FileWitness("file", path)
    try:
        for _ in range(3):
            with trio.move_on_after(0.05) as scope:
                await witness.keep(A)
            assert scope.cancelled_caught
        assert len(calls) == 1
    finally:
        hangs.set()
