"""Wishes for erasure as files that root alone can write: ``ROOT/erase/<pod id>.json``."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Final

import msgspec

from ocid.adapters import durable
from ocid.errors import EffectFailed
from ocid.ids import PodId
from ocid.ports.erasures import REASON_CHARS_MAX, ErasureWish

log = logging.getLogger(__name__)

DIRECTORY: Final = "erase"
NO_LOGIN: Final = 2**32 - 1

_AT_ONCE: Final = 64
_BYTES_MAX: Final = 4096
_NAME: Final = re.compile(r"([0-9a-f]{64})\.json")
_decode = msgspec.json.Decoder(ErasureWish).decode


class ErasureFiles:
    """Implements the port ``ErasureWishes`` on a directory, which need not be there."""

    def __init__(self, root: Path) -> None:
        self._directory = root / DIRECTORY

    def pending(self) -> list[ErasureWish]:
        """See ``ErasureWishes.pending``. What is no wish is deleted, and the daemon's messages say so."""
        try:
            names = sorted(os.listdir(self._directory))
        except OSError:
            return []
        found = []
        for name in [name for name in names if _NAME.fullmatch(name)][:_AT_ONCE]:
            path = self._directory / name
            try:
                wish = _decode(_read(path))
            except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
                log.error("%r is no wish for erasure and was deleted: %s", str(path), error)
                path.unlink(missing_ok=True)
                continue
            if name == f"{wish.pod_id}.json" and 0 < len(wish.reason) <= REASON_CHARS_MAX:
                found.append(wish)
            else:
                log.error("%r names another pod, or no reason, and was deleted", str(path))
                path.unlink(missing_ok=True)
        return found

    def settle(self, pod_id: PodId) -> None:
        """See ``ErasureWishes.settle``."""
        (self._directory / f"{pod_id}.json").unlink(missing_ok=True)


def wish_erasure(root: Path, pod_id: PodId, reason: str) -> Path:
    """Ask the daemon, or the next one, to erase a pod's confidential documents, and return the file that says so.

    It is gone when the wish was granted or refused.

    Raises:
        EffectFailed: it cannot be written.
    """
    directory = root / DIRECTORY
    path = directory / f"{pod_id}.json"
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        _write(path, msgspec.json.encode(ErasureWish(pod_id=pod_id, reason=reason, login_uid=_login_uid())))
    except OSError as error:
        raise EffectFailed(f"the wish for erasure {str(path)!r} cannot be written: {error.strerror}") from error
    return path


def _write(path: Path, content: bytes) -> None:
    """Make a file whole or not at all; a wish about the same pod that is there already gives way."""
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)
    part.rename(path)
    durable.sync_directory(path.parent)


def _read(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.read(fd, _BYTES_MAX)
    finally:
        os.close(fd)


def _login_uid() -> int:
    try:
        return int(Path("/proc/self/loginuid").read_text())
    except (OSError, ValueError):
        return NO_LOGIN
