"""The CRI socket: who may connect, and what is replaced to make it."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from ocid.cri.server import bind
from ocid.errors import AlreadyExists


def test_owner_and_group_may_connect(tmp_path: Path) -> None:
    path = tmp_path / "run" / "ocid.sock"  # the directory is made
    with bind(path):
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_what_a_dead_daemon_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "ocid.sock"
    bind(path).close()
    assert path.is_socket()

    with bind(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_living_daemon_keeps_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "ocid.sock"
    with bind(path):
        inode = path.stat().st_ino
        with pytest.raises(AlreadyExists, match="another daemon listens"):
            bind(path)
        assert path.stat().st_ino == inode


@pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "ocid.sock"
    match kind:
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case _:
            path.symlink_to("nowhere")
    before = path.lstat()

    with pytest.raises(AlreadyExists, match=r"ocid\.sock' is there and is no socket"):
        bind(path)

    assert path.lstat().st_ino == before.st_ino
    assert kind != "file" or path.read_text() == "precious"
