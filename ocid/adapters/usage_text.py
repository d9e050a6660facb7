"""The kernel's accounting files as numbers. Pure; a line that says nothing known, or is cut short, is passed over.

Source: kernel cgroup-v2.rst; cgroup-v1/{cpuacct,memory,blkio-controller,pids}.rst; psi.rst; proc(5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from ocid.ports.usage import DeviceIo, InterfaceUsage, Pressure, Stalled

UNLIMITED_V1: Final = 1 << 62  # v1 shows "no limit" as the largest page-aligned long, 9223372036854771712
DIGITS_MAX: Final = 20  # of a 64-bit number; longer is no counter
_SHARES_MIN: Final = 2
_NET_FIELDS: Final = 16
INTERFACES_MAX: Final = 64  # of one pod


def whole(word: bytes | None) -> int | None:
    """Return a number that is not negative, or None for what is none."""
    return int(word) if word is not None and word.isdigit() and len(word) <= DIGITS_MAX else None


def single(content: bytes | None) -> int | None:
    """Return the number that a file holds alone; None for "max", -1, and what is no number."""
    return None if content is None else whole(content.strip())


def limit_v1(content: bytes | None) -> int | None:
    """Return a v1 limit in bytes, None for no limit."""
    number = single(content)
    return number if number is not None and number < UNLIMITED_V1 else None


def table(content: bytes | None) -> dict[bytes, bytes]:
    """Return a file of "key value" lines; numbers are looked up with ``whole``."""
    words = (content or b"").split()
    return dict(zip(words[::2], words[1::2], strict=False))


def total(*parts: int | None) -> int | None:
    """Add; None when all parts are unknown."""
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def scaled(number: int | None, factor: int) -> int | None:
    """Multiply what is known."""
    return None if number is None else number * factor


def pressure(content: bytes | None) -> Pressure | None:
    """Read a pressure file: ``some avg10=0.00 avg60=0.00 avg300=0.00 total=0`` and the same for "full"."""
    if not content:
        return None
    found: dict[bytes, Stalled] = {}
    for line in content.split(b"\n"):
        words = line.split()
        if len(words) == 5:
            try:
                ten, sixty, many = (float(word[word.index(b"=") + 1 :]) for word in words[1:4])
                found[words[0]] = Stalled(ten, sixty, many, int(words[4].removeprefix(b"total=")))
            except ValueError:
                continue
    return Pressure(found.get(b"some"), found.get(b"full")) if found else None


def quota_v2(content: bytes | None) -> tuple[int | None, int | None]:
    """Read cpu.max, "max 100000": quota (None for none) and period in µs."""
    words = (content or b"").split()
    return (whole(words[0]), whole(words[1])) if len(words) == 2 else (None, None)


def shares_of_weight(weight: int | None) -> int | None:
    """Return the cpu.shares that cpu.weight stands for, as cAdvisor does: linear, and rounded down."""
    if weight is None or not 1 <= weight <= 10_000:
        return None
    return _SHARES_MIN + (weight - 1) * 262_142 // 9_999


def io_v2(content: bytes | None) -> tuple[DeviceIo, ...]:
    """Read io.stat: ``8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0``."""
    devices = []
    for line in (content or b"").split(b"\n"):
        words = line.split()
        number = _device(words[0]) if words else None
        if number is None:
            continue
        fields = dict(word.split(b"=", 1) for word in words[1:] if b"=" in word)
        counts = [whole(fields.get(key)) for key in (b"rbytes", b"wbytes", b"rios", b"wios")]
        if any(count is not None for count in counts):
            devices.append(_io(number, [count or 0 for count in counts]))
    return tuple(devices)


def io_v1(bytes_content: bytes | None, counts_content: bytes | None) -> tuple[DeviceIo, ...]:
    """Read blkio's service_bytes and serviced: ``8:0 Read 4096`` per device and operation."""
    found: dict[tuple[int, int], list[int]] = {}
    for offset, content in ((0, bytes_content), (2, counts_content)):
        for line in (content or b"").split(b"\n"):
            words = line.split()
            if len(words) != 3 or words[1] not in (b"Read", b"Write"):
                continue
            number, count = _device(words[0]), whole(words[2])
            if number is not None and count is not None:
                found.setdefault(number, [0, 0, 0, 0])[offset + (words[1] == b"Write")] = count
    return tuple(_io(number, counts) for number, counts in found.items())


def _device(word: bytes) -> tuple[int, int] | None:
    major, _, minor = word.partition(b":")
    numbers = whole(major), whole(minor)
    return None if numbers[0] is None or numbers[1] is None else (numbers[0], numbers[1])


def _io(number: tuple[int, int], counts: list[int]) -> DeviceIo:
    read_bytes, write_bytes, reads, writes = counts
    return DeviceIo(
        major=number[0], minor=number[1], read_bytes=read_bytes, write_bytes=write_bytes, reads=reads, writes=writes
    )


def interfaces(content: bytes) -> tuple[InterfaceUsage, ...]:
    """Read /proc/net/dev, without the loopback interface. Whoever may make interfaces in a pod chose their names."""
    found: dict[str, InterfaceUsage] = {}
    for line in content.split(b"\n"):
        raw, colon, rest = line.rpartition(b":")
        numbers = [number for word in rest.split() if (number := whole(word)) is not None]
        name = raw.strip().decode("utf-8", "backslashreplace")
        if not colon or len(numbers) < _NET_FIELDS or name in ("", "lo") or len(found) >= INTERFACES_MAX:
            continue
        rx, tx = numbers[:4], numbers[8:12]
        usage = InterfaceUsage(
            name=name,
            rx_bytes=rx[0],
            rx_packets=rx[1],
            rx_errors=rx[2],
            rx_dropped=rx[3],
            tx_bytes=tx[0],
            tx_packets=tx[1],
            tx_errors=tx[2],
            tx_dropped=tx[3],
        )
        found.setdefault(name, usage)
    return tuple(found.values())


def open_files_max(content: bytes) -> int | None:
    """Return the soft "Max open files" of a /proc/PID/limits; None for "unlimited" and what is not there."""
    for line in content.split(b"\n"):
        if line.startswith(b"Max open files"):
            words = line.split()
            return whole(words[3]) if len(words) > 3 else None
    return None


def first(numbers: Mapping[bytes, bytes], keys: Iterable[bytes]) -> int | None:
    """Return the number under the first of *keys* that is there."""
    return next((number for key in keys if (number := whole(numbers.get(key))) is not None), None)
