"""What witnesses over the network have in common: whom TLS trusts, and the bearer token."""

from __future__ import annotations

import os
import re
import ssl
import stat
from pathlib import Path
from typing import Final

import trio

from ocid.errors import EffectFailed

_TOKEN_BYTES_MAX: Final = 8192
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 section 2.1


class Trust:
    """The client's side of TLS. Kept once made, for reading the system's authorities takes tens of milliseconds."""

    def __init__(self, ca_file: str) -> None:
        """*ca_file* is a PEM file, "" for the system's authorities."""
        self._ca_file = ca_file
        self._context: ssl.SSLContext | None = None

    async def context(self) -> ssl.SSLContext:
        """Return it.

        Raises:
            EffectFailed: the file is missing or holds something else.
        """
        if self._context is None:
            self._context = await trio.to_thread.run_sync(_context, self._ca_file, abandon_on_cancel=True)
        return self._context

    def forget(self) -> None:
        """Read the authorities anew the next time: a certificate was refused, and they may have been replaced."""
        self._context = None


def _context(ca_file: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:  # ssl.SSLError is one
        raise EffectFailed(f"ca_file {ca_file!r} cannot be used: {error.strerror or 'it is no PEM file'}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def read_token(path: Path) -> str:
    """Read a bearer token from a file that its owner alone can read.

    Raises:
        EffectFailed: it is no such file, or holds no token; the message never quotes it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid()):
                raise EffectFailed(f"token_file {str(path)!r} must be a file that root alone can read: chmod 600")
            content = os.read(descriptor, _TOKEN_BYTES_MAX + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise EffectFailed(f"token_file {str(path)!r} cannot be read: {error.strerror}") from None
    token = content.decode("latin-1").strip()
    if len(content) > _TOKEN_BYTES_MAX or not _TOKEN.fullmatch(token):
        raise EffectFailed(
            f"token_file {str(path)!r} holds no bearer token (RFC 6750) of at most {_TOKEN_BYTES_MAX} bytes"
        )
    return token
