"""The key that signs for the log, in files that root alone can read.

``current.pem`` signs; ``next.pem``, where somebody made one, follows it. Both are PKCS #8 (RFC 5958) in PEM, and not
encrypted: the daemon must start without anybody there. What protects a log from root on the node is a checkpoint kept
elsewhere.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from ocid.errors import EffectFailed, WrongState

CURRENT: Final = "current.pem"
NEXT: Final = "next.pem"
_BYTES_MAX: Final = 4096


class Ed25519Signer:
    """Implements the port ``Signer``."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """See ``ocid.ports.Signer.sign``."""
        return self._key.sign(message)


class KeyFiles:
    """Implements the port ``Signers`` on a directory."""

    def __init__(self, directory: Path) -> None:
        """Open the keys in *directory*, making it and a first key where there is none.

        A key that cannot be used, or that others can read, never keeps a node from booting: it is set aside, another
        one is made, and ``warnings`` says so. The log will say it, too.

        Raises:
            EffectFailed: no key can be made.
        """
        self._directory = directory
        self.warnings: list[str] = []
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            self._current = self._first()
        except OSError as error:
            raise EffectFailed(f"the log's key in {str(directory)!r} cannot be made: {error.strerror}") from error

    def current(self) -> Ed25519Signer:
        """See ``ocid.ports.Signers.current``."""
        return self._current

    def successor(self) -> Ed25519Signer | None:
        """See ``ocid.ports.Signers.successor``. A file that is no key has no turn."""
        try:
            return _read(self._directory / NEXT)
        except EffectFailed:
            return None

    def advance(self) -> None:
        """See ``ocid.ports.Signers.advance``."""
        successor = self.successor()
        assert successor is not None
        (self._directory / NEXT).rename(self._directory / CURRENT)
        _sync(self._directory)
        self._current = successor

    def _first(self) -> Ed25519Signer:
        path = self._directory / CURRENT
        try:
            found = _read(path)
        except EffectFailed as error:
            path.replace(path.with_suffix(".unusable"))
            self.warnings.append(f"{error}; another one was made")
            found = None
        return make(path) if found is None else found


def make_successor(directory: Path) -> Ed25519Signer:
    """Make the key that is to follow the one in *directory*.

    Raises:
        WrongState: there is one already.
        EffectFailed: it cannot be written.
    """
    try:
        return make(directory / NEXT)
    except FileExistsError as error:
        raise WrongState("the log's next key", str(directory / NEXT), wants="absent", is_now="there") from error
    except OSError as error:
        raise EffectFailed(f"the log's next key in {str(directory)!r} cannot be made: {error.strerror}") from error


def make(path: Path) -> Ed25519Signer:
    """Make a key and write it to a file that only its owner can read, whole or not at all.

    Raises:
        OSError: the file is there already, or cannot be made.
    """
    key = Ed25519PrivateKey.generate()
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(part, path)  # unlike rename(2) it replaces nothing
    finally:
        part.unlink()
    _sync(path.parent)
    return Ed25519Signer(key)


def _read(path: Path) -> Ed25519Signer | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EffectFailed(f"the log's key {str(path)!r} cannot be opened: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077 or status.st_uid != os.geteuid():
            raise EffectFailed(f"the log's key {str(path)!r} must be a file that its owner alone can read: chmod 600")
        content = os.read(descriptor, _BYTES_MAX)
    finally:
        os.close(descriptor)
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as error:
        raise EffectFailed(
            f"the log's key {str(path)!r} is no key in PEM: move it away to have another made"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise EffectFailed(f"the log's key {str(path)!r} is no Ed25519 key")
    return Ed25519Signer(key)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
