"""Network sysctls, as the namespace of the thread that looks has them."""

from __future__ import annotations

from pathlib import Path

_SYSCTLS = Path("/proc/sys/net")


def read(sysctl: str) -> str:
    """Read a sysctl such as ``ipv6/conf/all/forwarding``; "" when the kernel has none."""
    try:
        return (_SYSCTLS / sysctl).read_text().strip()
    except FileNotFoundError:
        return ""


def write(group: str, name: str, key: str, value: str) -> None:
    """Set a sysctl unless it is so; one that the kernel lacks is passed by. Interface names may hold dots."""
    path = _SYSCTLS / group / name / key
    if read(str(path)) not in ("", value):
        path.write_text(value)
