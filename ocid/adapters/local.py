"""What the core has of this machine and this process: clocks, random ids, the node's salt, secrets in memory."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SALT_BYTES: Final = 32


class SystemClock:
    """The host's clocks."""

    def wall_ns(self) -> int:
        return time.time_ns()

    def boot_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class SecretsInMemory:
    """Secret values between a request and the bundle that needs them; never anywhere else."""

    def __init__(self) -> None:
        self._kept: dict[str, Mapping[int, bytes]] = {}

    def keep(self, owner: str, values: Mapping[int, bytes]) -> None:
        if values:
            self._kept[owner] = dict(values)

    def take(self, owner: str) -> Mapping[int, bytes] | None:
        return self._kept.get(owner)

    def drop(self, owner: str) -> None:
        self._kept.pop(owner, None)


def new_id(digits: int) -> str:
    """Return so many random hex digits."""
    return secrets.token_hex(digits // 2)


def node_salt(root: Path) -> bytes:
    """Return the node's redaction salt, made at the first start. It stays out of the log, mode 0600."""
    path = root / "redaction.salt"
    try:
        salt = path.read_bytes()
        if len(salt) == SALT_BYTES:
            return salt
    except FileNotFoundError:
        pass
    salt = secrets.token_bytes(SALT_BYTES)
    temporary = path.with_suffix(".new")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(salt)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    return salt
