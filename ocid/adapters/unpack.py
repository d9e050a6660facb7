"""Runs the unpack worker: a process of its own for every layer, confined, killed when nobody waits for it any more."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import trio

from ocid import errors
from ocid.errors import EffectFailed, OcidError, tail

PARALLEL: Final = 2  # layers at a time: one is mostly kernel time, so two fill two cores
_ANSWERS: Final[dict[str, type[OcidError]]] = {
    "EffectFailed": errors.EffectFailed,
    "Exhausted": errors.Exhausted,
    "Unsupported": errors.Unsupported,
}


class Unpacked(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker made."""

    size_bytes: int
    inodes: int
    covers_all: bool  # the layer's root is opaque: layers below it do not show


class UnpackLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How large a layer may become. The ratio counts only beyond 256 MiB."""

    bytes_max: int = 64 << 30
    entries_max: int = 4_000_000
    ratio_max: int = 200


class Unpacker:
    """Unpacks layers, a few at a time."""

    def __init__(self, *, limits: UnpackLimits | None = None, parallel: int = PARALLEL) -> None:
        self._limits = limits or UnpackLimits()
        self._slots = trio.CapacityLimiter(parallel)
        self._program = program_of("unpack_worker")

    async def unpack(self, blob: int, packing: str, diff_id: str, into: Path) -> Unpacked:
        """Unpack the blob that is open as descriptor *blob*, at its beginning, into the empty directory *into*.

        Args:
            packing: "gzip", "zstd" or "plain", as ``manifest.compression`` names it.
            diff_id: digest of the archive, which is checked.
        Raises:
            EffectFailed: the archive is another one, is damaged, or has an entry that is refused.
            Exhausted: a limit was passed, or the disk is full.
        """
        async with self._slots:
            done = await run_worker(self.command(blob, packing, diff_id, into), blob)
        return _read(done.stdout, done.stderr, done.returncode)

    def command(self, blob: int, packing: str, diff_id: str, into: Path) -> list[str]:
        """Return the worker's command line. The worker ends when its standard input does."""
        limits = self._limits
        numbers = (blob, os.fstat(blob).st_size, limits.bytes_max, limits.entries_max, limits.ratio_max)
        options = ["-I", "-S", "-c", self._program, os.fspath(into), packing, diff_id]
        return [sys.executable, *options, *(str(number) for number in numbers)]


async def run_worker(words: Sequence[str], blob: int) -> subprocess.CompletedProcess[bytes]:
    """Run a worker that reads the descriptor *blob*. It ends when its standard input does; cancelled, it is killed."""
    line, held = os.pipe()  # the worker ends when *held* is closed, whatever becomes of this process
    try:
        return await trio.run_process(
            list(words),
            stdin=line,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            deliver_cancel=_kill,
            pass_fds=[blob],
            env={"LC_ALL": "C.UTF-8"},
        )
    finally:
        os.close(line)
        os.close(held)


async def _kill(process: trio.Process) -> None:
    process.kill()


def _read(answer: bytes, complaint: bytes, status: int) -> Unpacked:
    size_bytes, inodes, covers_all = (int(number) for number in said_ok(answer, complaint, status).split(" "))
    return Unpacked(size_bytes=size_bytes, inodes=inodes, covers_all=bool(covers_all))


def said_ok(answer: bytes, complaint: bytes, status: int) -> str:
    """Return what a worker said after "ok".

    Raises:
        OcidError: it said something else.
    """
    word, _, rest = answer.decode("utf-8", "replace").partition(" ")
    if word == "ok":
        return rest
    if word in _ANSWERS:
        raise _ANSWERS[word](rest)
    last_words = tail(complaint).splitlines()[-1:] or ["no reason given"]
    raise EffectFailed(f"unpack worker ended with status {status}: {last_words[0]}")


def program_of(module: str) -> str:
    """Return what the worker's interpreter runs: it finds this package and its few libraries, and nothing else."""
    places = [str(Path(__file__).resolve().parents[2])]
    for library in ("zstandard", "isal"):
        found = importlib.util.find_spec(library)
        if found is not None and found.origin is not None:
            place = str(Path(found.origin).resolve().parents[1])
            if place not in places:
                places.append(place)
    return f"import sys; sys.path[:0] = {places!r}\nfrom ocid.adapters.{module} import main; main()"
