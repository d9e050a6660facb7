"""Who collected evidence, where and when: what a chain of custody begins with."""

from __future__ import annotations

import os
import platform
import pwd
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ocid import __version__
from ocid.projections.text import exact_time_text

FORMAT: Final = "ocid-custody-1"
_UNSET: Final = 0xFFFFFFFF  # login uid of a process that no login began; proc(5)


def collected(argv: Sequence[str], sums: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first entry: what was collected, by whom, and what it is known by.

    Args:
        argv: how.
        sums: the sha256 of SHA256SUMS.
        found: what is in it.
    """
    return {
        "action": "collected",
        "at": exact_time_text(time.time_ns()),
        "by": collector(),
        "on": platform.node(),
        "with": f"ocid-replay {__version__}",
        "arguments": list(argv[1:]),
        "sha256sums": sums,
        "contents": dict(found),
    }


def collector() -> dict[str, Any]:
    """Return who runs this: uid, and the login that it began with, which sudo(8) does not change; proc(5)."""
    login = int(_text("/proc/self/loginuid") or _UNSET)
    return {
        "uid": os.getuid(),
        "user": _name(os.getuid()),
        "login_uid": None if login == _UNSET else login,
        "login_user": None if login == _UNSET else _name(login),
        "sudo_user": os.environ.get("SUDO_USER"),  # what sudo(8) says; anybody can set it
    }


def host() -> dict[str, Any]:
    """Return what there is to know of the host that this runs on, which may not be the log's own."""
    name = os.uname()
    return {
        "name": platform.node(),
        "machine_id": _text("/etc/machine-id") or None,
        "boot_id": _text("/proc/sys/kernel/random/boot_id"),
        "kernel": f"{name.sysname} {name.release} {name.version}",
        "architecture": name.machine,
        "system": _system(),
        "time": exact_time_text(time.time_ns()),
        "up_s": round(time.clock_gettime(time.CLOCK_BOOTTIME), 3),
        "security_modules": _text("/sys/kernel/security/lsm") or None,
        "cgroup": "v2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "v1",
        "ocid": __version__,
        "python": platform.python_version(),
    }


def _system() -> str | None:
    """Return what the system calls itself; os-release(5)."""
    with suppress(OSError):
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    return None


def _name(uid: int) -> str | None:
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return None


def _text(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    return ""
