"""The unpack worker: blobs that lie, limits, and how far it is shut in."""

# ruff: noqa: ASYNC221, ASYNC240  # tests look at files, and at nothing but the clock of the real world

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from ocid.adapters import unpack_worker
from ocid.adapters.unpack import Unpacker, UnpackLimits
from ocid.domain.archive import Limits
from ocid.errors import EffectFailed, Exhausted
from ocid.ids import digest_of
from tests import images
from tests.host.nodes import SLOW
from tests.host.unpacking import opened, unpack
from tests.images import archive, member

pytestmark = pytest.mark.host

BLOBS = {
    "another archive": (images.files(a=b"1"), gzip.compress(images.files(a=b"2")), "gzip", "its image says"),
    "garbage behind": (images.files(a=b"1"), gzip.compress(images.files(a=b"1")) + b"garbage", "gzip", "after the end"),
    "one byte behind": (images.files(a=b"1"), gzip.compress(images.files(a=b"1")) + b"\x1f", "gzip", "after the end"),
    "cut": (images.files(a=b"1"), gzip.compress(images.files(a=b"1"))[:-5], "gzip", "cut off"),
    "damaged": (images.files(a=b"1"), gzip.compress(images.files(a=b"1"))[:-8] + bytes(8), "gzip", "no good gzip"),
    "not gzip": (images.files(a=b"1"), images.files(a=b"1"), "gzip", "no good gzip"),
    "not zstd": (images.files(a=b"1"), images.files(a=b"1"), "zstd", "no good zstd"),
    "zstd garbage": (
        images.files(a=b"1"),
        images.PACKERS["+zstd"](images.files(a=b"1")) + b"garbage",
        "zstd",
        "no good zstd|its image says",
    ),
    "cut zstd": (images.files(a=b"1"), images.PACKERS["+zstd"](images.files(a=b"1"))[:-9], "zstd", "image says"),
}


@pytest.mark.parametrize("case", BLOBS)
async def test_a_blob_that_is_not_what_it_should_be_is_refused(tmp_path: Path, case: str) -> None:
    raw, blob, packing, words = BLOBS[case]
    with pytest.raises(EffectFailed, match=words):
        await unpack(tmp_path, raw, blob, packing)


async def test_a_decompression_bomb_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(Exhausted, match="decompression bomb"):
        await unpack(tmp_path, b"", images.bomb(400 << 20), "gzip")
    assert sum(path.stat().st_size for path in (tmp_path / "layer").iterdir()) <= 257 << 20


async def test_limits_are_kept(tmp_path: Path) -> None:
    raw = archive(*(member(str(number), b"x" * 1000) for number in range(20)))
    with pytest.raises(Exhausted, match="more than 10 entries"):
        await unpack(tmp_path, raw, limits=UnpackLimits(entries_max=10))
    (tmp_path / "layer").rename(tmp_path / "first")
    with pytest.raises(Exhausted, match="more than 10 entries"):
        await unpack(tmp_path, archive(member("d/" * 20 + "f")), limits=UnpackLimits(entries_max=10))
    (tmp_path / "layer").rename(tmp_path / "second")
    with pytest.raises(Exhausted, match="more than 5000 bytes"):
        await unpack(tmp_path, raw, limits=UnpackLimits(bytes_max=5000))


async def test_a_full_disk_is_said_to_be_full(tmp_path: Path, run_dir: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(run_dir)], check=True)
    (run_dir / "layer").mkdir()
    raw = images.files(big=bytes(range(256)) * 8000)
    with opened(tmp_path / "blob", raw) as descriptor, pytest.raises(Exhausted, match="No space left"):
        await Unpacker().unpack(descriptor, "plain", digest_of(raw), run_dir / "layer")


@pytest.mark.parametrize("library", ["zlib", "isal.isal_zlib"])
@pytest.mark.parametrize("case", ["good", "zeros", "members", *(name for name in BLOBS if "zstd" not in name)])
async def test_gzip_is_read_alike_by_either_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, case: str
) -> None:
    pytest.importorskip(library)
    if library == "zlib":
        monkeypatch.delitem(sys.modules, "isal.isal_zlib", raising=False)
    raw = bytes(5_000_000) if case == "zeros" else b"abc" * 200_000
    blob = gzip.compress(raw[:1000]) + gzip.compress(raw[1000:]) if case == "members" else gzip.compress(raw)
    raw, blob, _, words = BLOBS.get(case, (raw, blob, "", ""))
    with opened(tmp_path / "blob", blob) as descriptor:
        stream = unpack_worker.Blob(descriptor, "gzip", len(blob), Limits())
        if words and case != "another archive":
            with pytest.raises(EffectFailed, match=words):
                read_all(stream)
        else:
            assert read_all(stream) == (raw if not words else gzip.decompress(blob))
            assert stream.digest() == digest_of(gzip.decompress(blob))


def read_all(stream: unpack_worker.Blob) -> bytes:
    pieces = []
    while piece := stream.read():
        assert len(piece) <= 1 << 20
        pieces.append(piece)
    return b"".join(pieces)


# --- the worker ------------------------------------------------------------------------------------------------------


@contextmanager
def waiting_worker(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that waits for a blob that never comes."""
    os.mkfifo(tmp_path / "blob")
    (tmp_path / "layer").mkdir()
    descriptor = os.open(tmp_path / "blob", os.O_RDWR)
    command = Unpacker().command(descriptor, "plain", digest_of(b""), tmp_path / "layer")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[descriptor]) as process:
        try:
            yield process
        finally:
            process.kill()
            os.close(descriptor)


async def confined(process: subprocess.Popen[bytes]) -> dict[str, str]:
    """Return the worker's /proc status, once it has shut itself in."""
    with trio.fail_after(10 * SLOW):
        while True:
            status = Path(f"/proc/{process.pid}/status").read_text()
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            if fields["NoNewPrivs"] == "1" and fields["Threads"] != "1":
                return fields
            await trio.sleep(0.01)


async def test_the_worker_is_shut_into_the_layer_with_few_rights(tmp_path: Path) -> None:
    with waiting_worker(tmp_path) as process:
        status = await confined(process)
        allowed = sum(1 << number for number in (0, 1, 3, 4, 21, 27, 31))
        for name in ("CapPrm", "CapEff", "CapBnd"):
            assert int(status[name], 16) & ~allowed == 0
        assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
        assert os.readlink(f"/proc/{process.pid}/root") == str(tmp_path / "layer")
        assert os.readlink(f"/proc/{process.pid}/cwd") == str(tmp_path / "layer")
        assert len(os.listdir(f"/proc/{process.pid}/fd")) == 4  # three streams and the blob


async def test_the_worker_ends_with_the_daemon(tmp_path: Path) -> None:
    with waiting_worker(tmp_path) as process:
        await confined(process)
        assert process.stdin is not None
        process.stdin.close()
        with trio.fail_after(5 * SLOW):
            assert await trio.to_thread.run_sync(process.wait) == 3


async def test_a_cancelled_unpack_kills_the_worker_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "blob")
    (tmp_path / "layer").mkdir()
    descriptor = os.open(tmp_path / "blob", os.O_RDWR)
    began = trio.current_time()
    with trio.move_on_after(0.3) as scope:
        await Unpacker().unpack(descriptor, "plain", digest_of(b""), tmp_path / "layer")
    os.close(descriptor)
    assert scope.cancelled_caught
    assert trio.current_time() - began < 2 * SLOW


async def test_a_worker_that_crashes_says_so(tmp_path: Path) -> None:
    (tmp_path / "layer").mkdir()
    with opened(tmp_path / "blob", b"") as descriptor, pytest.raises(EffectFailed, match=r"worker ended.*KeyError"):
        await Unpacker().unpack(descriptor, "nonsense", digest_of(b""), tmp_path / "layer")
