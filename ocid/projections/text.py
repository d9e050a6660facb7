"""Ids, times, sizes and foreign text as people read them. Pure."""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from typing import Final

SHORT_ID: Final = 12  # characters of an id that are enough for people
_HEX: Final = frozenset("0123456789abcdef")
_S: Final = 1_000_000_000
_AGES: Final = ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_SIZES: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def clean(text: str) -> str:
    """Return *text* with everything replaced that could move a cursor, hide text, or break a line."""
    return (
        text
        if text.isprintable()
        else "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    )


def short(name: str) -> str:
    """Shorten an id or digest for a table; texts that are neither stay."""
    digits = name.removeprefix("sha256:")
    return digits[:SHORT_ID] if len(digits) in (32, 64) and set(digits) <= _HEX else name


def short_reference(reference: str) -> str:
    """Shorten the digest of an image reference: "registry/path@sha256:44136fa355b3"."""
    name, _, digest = reference.rpartition("@")
    return f"{name}@sha256:{short(digest)}" if name and short(digest) != digest else short(reference)


def time_text(at_ns: int) -> str:
    """Write a time as RFC 3339 in UTC with milliseconds; one that no calendar has as its number."""
    second = _second_text(at_ns // _S)
    return f"{second}.{at_ns % _S // 1_000_000:03d}Z" if second else f"@{at_ns}"


def exact_time_text(at_ns: int) -> str:
    """Write a time as RFC 3339 in UTC with nanoseconds; one that no calendar has as its number."""
    second = _second_text(at_ns // _S)
    return f"{second}.{at_ns % _S:09d}Z" if second else f"@{at_ns}"


@functools.lru_cache(maxsize=1024)  # records of one second come one after the other
def _second_text(at: int) -> str:
    """Write a time in seconds; "" for one that no calendar has."""
    try:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return ""


def age(at_ns: int, now_ns: int) -> str:
    """Write how long ago something was: "3d", "5h"; two units below ten of the larger one."""
    seconds = max((now_ns - at_ns) // _S, 0)
    for index, (size, unit) in enumerate(_AGES):
        if seconds >= size:
            whole, rest = divmod(seconds, size)
            if whole < 10 and index + 1 < len(_AGES) and (smaller := rest // _AGES[index + 1][0]):
                return f"{whole}{unit}{smaller}{_AGES[index + 1][1]}"
            return f"{whole}{unit}"
    return "0s"


def size(count: int) -> str:
    """Write a number of bytes: "512 B", "1.5 GiB"."""
    amount = float(count)
    for unit in _SIZES:
        if amount < 1024 or unit == _SIZES[-1]:
            return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("unreachable")
