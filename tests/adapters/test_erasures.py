"""Wishes for erasure in files: what one process writes, the daemon reads; what is no wish hurts nobody."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ocid.adapters.erasures import ErasureFiles, wish_erasure
from ocid.errors import EffectFailed
from ocid.ids import PodId

POD, OTHER = PodId("a" * 64), PodId("b" * 64)


def test_a_wish_is_there_until_it_is_settled(tmp_path: Path) -> None:
    files = ErasureFiles(tmp_path)
    assert files.pending() == []

    path = wish_erasure(tmp_path, POD, "why")
    wish_erasure(tmp_path, OTHER, "why not")
    wish_erasure(tmp_path, OTHER, "because")

    assert [(one.pod_id, one.reason) for one in files.pending()] == [(POD, "why"), (OTHER, "because")]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    files.settle(POD)
    files.settle(POD)
    assert [one.pod_id for one in files.pending()] == [OTHER]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        b"\xff" * 5000,
        b'{"pod_id": "%s", "reason": "", "login_uid": 1}' % POD.encode(),
        b'{"pod_id": "%s", "reason": "x", "login_uid": 1}' % OTHER.encode(),
        b'{"pod_id": "%s", "reason": "%s", "login_uid": 1}' % (POD.encode(), b"x" * 300),
    ],
)
def test_what_is_no_wish_is_deleted(tmp_path: Path, content: bytes) -> None:
    path = wish_erasure(tmp_path, POD, "why")
    path.write_bytes(content)

    assert ErasureFiles(tmp_path).pending() == []
    assert not path.exists()


def test_a_link_is_no_wish(tmp_path: Path) -> None:
    path = wish_erasure(tmp_path, POD, "why")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")

    assert ErasureFiles(tmp_path).pending() == []
    assert (tmp_path / "elsewhere").exists()


def test_a_wish_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "erase").write_bytes(b"")

    with pytest.raises(EffectFailed, match="cannot be written"):
        wish_erasure(tmp_path, POD, "why")
