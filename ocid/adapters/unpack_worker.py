"""The unpack worker: one process per layer, which reads a blob and writes a directory, shut into that directory.

Started by ``ocid.adapters.unpack`` as ``python -I -S -c``, so that nothing of the environment reaches it. It gets the
blob as an open descriptor, answers one line on standard output, and ends when standard input does: with the daemon.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from contextlib import suppress

from ocid.adapters import confine
from ocid.adapters.unpack_tree import Tree
from ocid.domain import archive, tar
from ocid.errors import EffectFailed, OcidError

TYPE_CHECKING = False  # as in typing, whose import takes longer than all others here together
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Final

_READ_BYTES: Final = 256 << 10  # of the blob at a time
_PIECE_BYTES: Final = 1 << 20  # of the archive at a time
_ZSTD_WINDOW_MAX: Final = 128 << 20  # RFC 8878 asks for 8 MiB; "--long" of zstd makes 128
_GZIP: Final = 31  # zlib: gzip header and trailer
_GZIP_MAGIC: Final = b"\x1f\x8b"
KEPT: Final = (
    confine.CAP_CHOWN, confine.CAP_DAC_OVERRIDE, confine.CAP_FOWNER, confine.CAP_FSETID,
    confine.CAP_MKNOD, confine.CAP_SETFCAP, confine.CAP_SYS_ADMIN,
)  # fmt: skip


class Blob:
    """The decompressed stream of a blob: hashed, and checked against the limits, as it is read."""

    def __init__(self, descriptor: int, packing: str, size_bytes: int, limits: archive.Limits) -> None:
        self._hash = hashlib.sha256()
        self._size_bytes = size_bytes
        self._stream_bytes = 0
        self._limits = limits
        self._pieces = {"gzip": _gunzip, "zstd": _unzstd, "plain": _plain}[packing](descriptor)

    def read(self) -> bytes:
        """Return the next piece, ``b""`` at the end."""
        piece = next(self._pieces, b"")
        if piece:
            self._hash.update(piece)
            self._stream_bytes += len(piece)
            self._limits.check_stream(self._stream_bytes, self._size_bytes)
        return piece

    def digest(self) -> str:
        """Return the digest of all that was read."""
        return "sha256:" + self._hash.hexdigest()


def _plain(descriptor: int) -> Iterator[bytes]:
    while piece := os.read(descriptor, _PIECE_BYTES):
        yield piece


def _gunzip(descriptor: int) -> Iterator[bytes]:
    """Decompress gzip members one after the other; anything else behind them is refused."""
    zlib: Any = sys.modules.get("isal.isal_zlib") or sys.modules["zlib"]
    member = zlib.decompressobj(_GZIP)
    rest = b""
    while True:
        raw = rest or os.read(descriptor, _READ_BYTES)
        if not raw:
            if not member.eof:
                raise EffectFailed("layer blob is cut off: the gzip stream has no end")
            return
        if member.eof:
            if len(raw) < len(_GZIP_MAGIC):
                raw += os.read(descriptor, _READ_BYTES)
            if not raw.startswith(_GZIP_MAGIC):
                raise EffectFailed("layer blob has data after the end of its gzip stream: refused")
            member = zlib.decompressobj(_GZIP)
        try:
            piece = member.decompress(raw, _PIECE_BYTES)
        except zlib.error as error:
            raise EffectFailed(f"layer blob is no good gzip stream: {error}") from error
        rest = member.unused_data if member.eof else member.unconsumed_tail
        if piece:
            yield piece


def _unzstd(descriptor: int) -> Iterator[bytes]:
    zstandard: Any = sys.modules["zstandard"]
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX)
    with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
        stream = decompressor.stream_reader(file, read_size=_READ_BYTES, read_across_frames=True)
        try:
            while piece := stream.read(_PIECE_BYTES):
                yield piece
        except zstandard.ZstdError as error:
            raise EffectFailed(f"layer blob is no good zstd stream: {error}") from error


def load(packing: str) -> None:
    """Import the decompressor: nothing can be imported any more once the process is shut in."""
    if packing == "zstd":
        __import__("zstandard")
    elif packing == "gzip":
        __import__("zlib")
        with suppress(ImportError):
            __import__("isal.isal_zlib")  # takes half the time of zlib where it is installed


def unpack(blob: Blob, diff_id: str, limits: archive.Limits) -> Tree:
    """Unpack *blob* into the current directory and check that the archive is the one that *diff_id* names."""
    reader = tar.Reader(blob.read)
    tree = Tree(limits)
    while (entry := reader.next()) is not None:
        tree.add(entry, reader)
    if blob.digest() != diff_id:
        raise EffectFailed(f"layer unpacks to {blob.digest()}, its image says {diff_id}: refused; push the image again")
    tree.finish()
    return tree


def main() -> None:
    """Do the job that the command line describes, answer, and end."""
    directory, packing, diff_id, *numbers = sys.argv[1:]
    descriptor, blob_bytes, bytes_max, entries_max, ratio_max = (int(number) for number in numbers)
    limits = archive.Limits(bytes_max=bytes_max, entries_max=entries_max, ratio_max=ratio_max)
    try:
        load(packing)
        confine.shut_in(directory, KEPT, bytes_max)
        threading.Thread(target=end_with_daemon, daemon=True).start()
        tree = unpack(Blob(descriptor, packing, blob_bytes, limits), diff_id, limits)
        answer = f"ok {tree.size_bytes} {tree.inodes} {int(tree.covers_all)}"
    except OcidError as error:
        answer = f"{type(error).__name__} {error.message}"
    except MemoryError:
        answer = "Exhausted layer needs more than 1 GiB of memory to unpack: refused"
    os.write(1, answer.encode("utf-8", "replace"))
    os._exit(0)  # not a moment for tidying up threads that may wait for each other


def end_with_daemon() -> None:
    """End this process when standard input ends."""
    while os.read(0, 1):
        pass
    os._exit(3)
