"""Archives: what was written comes back as a log that can be checked and proven; anything else is told apart."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given, strategies as st

from ocid.domain import merkle
from ocid.errors import NotFound, Unsupported
from ocid.events import codec
from ocid.ids import digest_of
from ocid.journal import archive
from ocid.journal.blocks import BLOCK
from ocid.journal.looking import look
from ocid.journal.reader import Reader
from ocid.journal.seals import check_seals
from ocid.journal.verify import verify
from tests.fakes.declared import exec_requested
from tests.fakes.lives import Life
from tests.journal.test_trim import churn, life, seal, trim_log

__all__ = ["life"]


def unpacked(path: Path, directory: Path) -> Reader:
    directory.mkdir()
    archive.unpack(path, directory)
    return look(directory)


@pytest.fixture
def files(life: Life, tmp_path: Path) -> list[Path]:
    """Two archives, one after the other, the log trimmed between them."""
    churn(life, 2, 60)
    paths = [tmp_path / f"{number}{archive.SUFFIX}" for number in (1, 2)]
    seal(life)
    archive.write(life.store, 1, 2 * BLOCK, paths[0])
    trim_log(life, 2 * BLOCK)
    seal(life)
    archive.write(life.store, 2 * BLOCK + 1, 3 * BLOCK, paths[1])
    return paths


def test_what_was_archived_is_a_log(life: Life, files: list[Path], tmp_path: Path) -> None:
    originals = dict(life.store.records(2 * BLOCK + 1, BLOCK))
    for number, path in enumerate(files):
        with unpacked(path, tmp_path / f"log{number}") as reader:
            assert path.stat().st_mode & 0o777 == 0o600
            assert verify(reader).fault is None
            seals = check_seals(reader)
            assert not seals.faults
            assert seals.checkpoints
            assert seals.size >= (number + 2) * BLOCK
            last = (number + 2) * BLOCK
            first = 1 if number == 0 else 2 * BLOCK + 1
            assert [seq for seq, _ in reader.records(first, last - first + 1)] == list(range(first, last + 1))
            ((_, record),) = reader.records(last - 5, 1)
            assert number == 0 or record == originals[last - 5]
            proof = merkle.inclusion_proof(last - 6, seals.size, reader.subtree)
            assert merkle.inclusion_root(codec.hash_of(record), last - 6, seals.size, proof) == seals.root
            assert reader.document(digest_of(b"config 3")) == b"config 3" if number == 0 else True


def test_what_is_not_cited_and_what_is_confidential_stays_out(life: Life, tmp_path: Path) -> None:
    life.write("exec/d1", exec_requested("d1", container_id="c"), documents=(b"cited by nobody",))
    while life.store.last_seq() < 5 * BLOCK:
        churn(life, 7, 20)
    archive.write(life.store, 1, 4 * BLOCK, tmp_path / "a")

    with unpacked(tmp_path / "a", tmp_path / "log2") as reader, pytest.raises(NotFound):
        reader.document(digest_of(b"cited by nobody"))


# --- hostile ones ----------------------------------------------------------------------------------------------------


def frames_of(path: Path) -> list[Any]:
    with path.open("rb") as file:
        raw = zstandard.ZstdDecompressor().stream_reader(file).read()
    found = []
    while raw:
        length = struct.unpack(">I", raw[:4])[0]
        found.append(msgspec.msgpack.decode(raw[4 : 4 + length]))
        raw = raw[4 + length :]
    return found


def packed(frames: list[Any], path: Path, *, honest: bool = True) -> Path:
    """Write *frames*, with an end that fits them."""
    digest, out = hashlib.sha256(), b""
    if honest:
        frames = frames[:-1]
    for frame in frames:
        raw = msgspec.msgpack.encode(frame)
        digest.update(raw)
        out += struct.pack(">I", len(raw)) + raw
    if honest:
        raw = msgspec.msgpack.encode(["e", len(frames), digest.digest()])
        out += struct.pack(">I", len(raw)) + raw
    path.write_bytes(zstandard.ZstdCompressor().compress(out))
    return path


def _record(frames: list[Any], at: int) -> int:
    return [number for number, frame in enumerate(frames) if frame[0] == "r"][at]


def _without(frames: list[Any], at: int) -> list[Any]:
    return frames[:at] + frames[at + 1 :]


HOSTILE: dict[str, tuple[Callable[[list[Any]], list[Any]], bool, str]] = {
    "a record is missing": (lambda f: _without(f, _record(f, -9)), True, "lacks a record"),
    "the first record is missing": (lambda f: _without(f, _record(f, 1)), True, "lacks a record"),
    "the end is missing": (lambda f: f[:-1], False, "ends before its end"),
    "a frame is missing behind the end's back": (
        lambda f: _without(f, _record(f, -9)),
        False,
        "not what|lacks",
    ),
    "a node is missing": (lambda f: _without(f, 1), True, "nodes"),
    "a node is no hash": (lambda f: [f[0], ["n", 0, b"x"], *f[2:]], True, "none of this format"),
    "the hashes of a block are missing": (
        lambda f: [each for each in f if each[0] != "l"],
        True,
        "should not have",
    ),
    "something follows the end": (lambda f: [*f, f[5]], False, "wrong order|not what was written"),
    "it says other records": (lambda f: [[f[0][0], 1, 2**63], *f[1:]], True, "."),
    "it says half a block": (lambda f: [[f[0][0], 5, 300], *f[1:]], True, "no whole blocks"),
    "a frame of another kind": (lambda f: [f[0], ["x", 1], *f[1:]], True, "none of this format"),
    "a frame that is no array": (lambda f: [f[0], {"n": 1}, *f[1:]], True, "none of this format"),
    "no header": (lambda f: f[1:], True, "wrong order"),
    "a changed record": (
        lambda f: [["r", each[1][:-40] + b"?" + each[1][-39:]] if each is f[_record(f, -3)] else each for each in f],
        True,
        "hash",
    ),
}


@pytest.mark.parametrize(("change", "honest", "said"), HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_archive_is_damage(
    files: list[Path], tmp_path: Path, change: Callable[[list[Any]], list[Any]], honest: bool, said: str
) -> None:
    path = packed(change(frames_of(files[1])), tmp_path / "evil", honest=honest)
    (tmp_path / "out").mkdir()

    with pytest.raises(codec.Damaged, match=said):
        archive.unpack(path, tmp_path / "out")


def test_a_newer_format_is_told(files: list[Path], tmp_path: Path) -> None:
    frames = frames_of(files[0])
    path = packed([["ocid-archive-2", *frames[0][1:]], *frames[1:]], tmp_path / "new")
    (tmp_path / "out").mkdir()

    with pytest.raises(Unsupported):
        archive.unpack(path, tmp_path / "out")


@given(st.binary(max_size=200), st.integers(0, 1 << 20))
def test_any_bytes_are_an_archive_or_damage(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int) -> None:
    directory = tmp_path_factory.mktemp("noise")
    raw = zstandard.ZstdCompressor().compress(noise)
    (directory / "a").write_bytes((noise, raw, raw[: at % (len(raw) + 1)])[at % 3])
    (directory / "out").mkdir()

    with pytest.raises(codec.Damaged):
        archive.unpack(directory / "a", directory / "out")


def test_one_that_cannot_be_written_leaves_nothing(life: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ocid.journal.archive.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        archive.write(life.store, 1, BLOCK, tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log"]
