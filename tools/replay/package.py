"""A package of evidence: a tar file with the digests of all that is in it, made once and never changed."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, Self

from ocid.errors import EffectFailed

from .outputs import Whole

SUMS: Final = "SHA256SUMS"
MODE: Final = 0o600
_COPY_BYTES: Final = 1 << 20


class Package:
    """A package that is being made; it appears under its name, with mode 0600, when it is finished."""

    def __init__(self, path: Path) -> None:
        """Begin one.

        Raises:
            EffectFailed: it cannot be written.
        """
        self._path = path
        self._sums: dict[str, str] = {}
        self._at = int(time.time())
        try:
            self._output = Whole(path)
        except OSError as error:
            raise EffectFailed(f"{str(path)!r} cannot be written: {error.strerror}") from error
        self._measured = _Measured(self._output)
        self._gzip = gzip.GzipFile(fileobj=self._measured, mode="wb", compresslevel=6, mtime=self._at, filename="")
        self._tar = tarfile.open(fileobj=self._gzip, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by finish

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._output.close()

    def add(self, name: str, content: bytes) -> None:
        """Put one file in."""
        self._put(name, io.BytesIO(content), len(content), hashlib.sha256(content).hexdigest())

    @contextmanager
    def file(self, name: str) -> Iterator[IO[bytes]]:
        """Return something to write a file's content to, which is put in afterwards."""
        with tempfile.TemporaryFile(dir=self._path.parent) as file:
            yield file
            size = file.tell()
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            self._put(name, file, size, digest)

    def sums(self) -> str:
        """Put the list of digests in, and return its own. Only what is added after it is not in it."""
        content = "".join(f"{digest}  {name}\n" for name, digest in self._sums.items()).encode()
        self.add(SUMS, content)
        return self._sums[SUMS]

    def finish(self) -> tuple[str, int]:
        """Let it appear, durably, and return its sha256 and its bytes.

        Raises:
            EffectFailed: it cannot be written.
        """
        self._tar.close()
        self._gzip.close()
        self._output.finish()
        return self._measured.hash.hexdigest(), self._measured.bytes

    def _put(self, name: str, content: IO[bytes], size: int, digest: str) -> None:
        assert name not in self._sums, f"{name!r} is in the package already"
        member = tarfile.TarInfo(name)
        member.size, member.mtime, member.mode = size, self._at, MODE
        self._tar.addfile(member, content)
        self._sums[name] = digest


class _Measured(io.RawIOBase):
    """Hands on what is written, and hashes and counts it."""

    def __init__(self, output: Whole) -> None:
        self._output = output
        self.hash = hashlib.sha256()
        self.bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        piece = bytes(data)
        self._output.write(piece)
        self.hash.update(piece)
        self.bytes += len(piece)
        return len(piece)
