"""The key that signs for the log, in real files."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ocid.adapters import keys
from ocid.adapters.keys import KeyFiles
from ocid.journal.signatures import verifies


def test_a_first_key_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    first = KeyFiles(tmp_path / "keys")
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "keys" / "current.pem").stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["current.pem"]
    assert KeyFiles(tmp_path / "keys").current().public == first.current().public
    assert first.successor() is None


def test_what_it_signs_verifies(tmp_path: Path) -> None:
    signer = KeyFiles(tmp_path / "keys").current()
    signature = signer.sign(b"message")
    assert verifies(signer.public, b"message", signature)
    assert not verifies(signer.public, b"massage", signature)
    assert not verifies(signer.public, b"message", signature[:-1])
    assert not verifies(bytes(31), b"message", signature)


def test_a_successor_takes_its_place(tmp_path: Path) -> None:
    files = KeyFiles(tmp_path)
    before = files.current().public
    made = keys.make(tmp_path / keys.NEXT)
    with pytest.raises(FileExistsError):
        keys.make(tmp_path / keys.NEXT)
    successor = files.successor()
    assert successor is not None
    assert successor.public == made.public != before
    files.advance()
    assert files.current().public == made.public
    assert files.successor() is None
    assert KeyFiles(tmp_path).current().public == made.public


@pytest.mark.parametrize("how", ["garbage", "empty", "readable", "link", "directory"])
def test_a_key_that_cannot_be_trusted_is_set_aside(tmp_path: Path, how: str) -> None:
    directory = tmp_path / "keys"
    before = KeyFiles(directory).current().public
    path = directory / keys.CURRENT
    if how in ("garbage", "empty"):
        path.write_bytes(b"garbage" if how == "garbage" else b"")
    elif how == "readable":
        path.chmod(0o644)
    else:
        path.unlink()
        if how == "directory":
            path.mkdir()
        else:
            path.symlink_to(tmp_path / "elsewhere")
    files = KeyFiles(directory)
    assert files.current().public != before
    assert len(files.warnings) == 1
    assert "another one was made" in files.warnings[0]
    assert (directory / "current.unusable").is_symlink() or (directory / "current.unusable").exists()
    assert KeyFiles(directory).warnings == []
    assert KeyFiles(directory).current().public == files.current().public
