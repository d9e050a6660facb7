"""Block I/O classes: weights and limits by name, as a file of the node's operator defines them. Pure.

The file is YAML as goresctrl has it, which other CRI runtimes read, too::

    Classes:
      slow:
      - Weight: 80                            # of all devices that no item names
      - Devices: [/dev/sd[a-z], /dev/vda]     # paths or shell patterns below /dev
        ThrottleReadBps: 50M                  # bytes, or operations, in a second
        ThrottleWriteIOPS: 5k
        Weight: 50

A later item wins for the devices that both name, value by value.

Source: goresctrl doc/blockio.md; OCI config-linux.md "Block IO"; Kubernetes "Quantity".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Final

import msgspec

from ocid.domain import yamltext
from ocid.errors import InvalidRequest

FILE_BYTES_MAX: Final = 256 << 10
CLASSES_MAX: Final = 256
ITEMS_MAX: Final = 64  # of one class
PATTERNS_MAX: Final = 64  # of one item
DEVICES_MAX: Final = 512  # of one item, after its patterns were looked up
WEIGHTS: Final = (10, 1000)  # the kernel's range
RATE_MAX: Final = (1 << 63) - 1

_QUANTITY: Final = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?)(k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")
_FACTORS: Final = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18,
    "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60,
}  # fmt: skip
_THROTTLES: Final = {
    "throttle_read_bps": "throttleReadBpsDevice",
    "throttle_write_bps": "throttleWriteBpsDevice",
    "throttle_read_iops": "throttleReadIOPSDevice",
    "throttle_write_iops": "throttleWriteIOPSDevice",
}

Numbers = tuple[int, int]  # major and minor of a block device
Find = Callable[[Sequence[str]], Sequence[Numbers]]  # the whole disks that patterns name on this host
Quantity = str | int | float | None


class Item(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", forbid_unknown_fields=True):
    """One item of a class. Without devices it is about those that no other item names, and has a weight alone."""

    devices: Annotated[tuple[str, ...], msgspec.Meta(max_length=PATTERNS_MAX)] | None = None
    weight: Quantity = None
    throttle_read_bps: Quantity = None
    throttle_write_bps: Quantity = None
    throttle_read_iops: Quantity = msgspec.field(default=None, name="ThrottleReadIOPS")
    throttle_write_iops: Quantity = msgspec.field(default=None, name="ThrottleWriteIOPS")


Items = Annotated[tuple[Item, ...], msgspec.Meta(max_length=ITEMS_MAX)]


class _File(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", forbid_unknown_fields=True):
    classes: Annotated[dict[str, Items | None], msgspec.Meta(max_length=CLASSES_MAX)] = {}


def classes(path: str, raw: bytes) -> Mapping[str, tuple[Item, ...]]:
    """Read all classes of the file at *path*.

    Raises:
        InvalidRequest: it is no such file; the message has its path, and the class.
    """
    try:
        file = msgspec.convert(yamltext.decode(raw, FILE_BYTES_MAX) or {}, type=_File)
    except ValueError as error:
        raise InvalidRequest(f"block I/O classes in {path}: {error}") from None
    found = {name: items or () for name, items in file.classes.items()}
    for name, items in found.items():
        for item in items:
            try:
                _check(item)
            except ValueError as error:
                raise InvalidRequest(f"block I/O classes in {path}: class {name[:100]!r}: {error}") from None
    return found


def oci_block_io(items: Sequence[Item], find: Find) -> dict[str, object]:
    """Return the OCI ``linux.resources.blockIO`` of a class; what names no device of this host comes to nothing."""
    found: dict[str, object] = {}
    weights: dict[Numbers, int] = {}
    rates: dict[str, dict[Numbers, int]] = {key: {} for key in _THROTTLES.values()}
    for item in items:
        weight = _number("Weight", item.weight)
        if item.devices is None:
            found |= {} if weight is None else {"weight": weight}
            continue
        for numbers in find(item.devices):
            if weight is not None:
                weights[numbers] = weight
            for field, key in _THROTTLES.items():
                rate = _number(field, getattr(item, field))
                if rate is not None:
                    rates[key][numbers] = rate
    if weights:
        found["weightDevice"] = [
            {"major": major, "minor": minor, "weight": weight} for (major, minor), weight in sorted(weights.items())
        ]
    for key, by_device in rates.items():
        if by_device:
            found[key] = [
                {"major": major, "minor": minor, "rate": rate} for (major, minor), rate in sorted(by_device.items())
            ]
    return found


def _check(item: Item) -> None:
    """Look at what no type can say.

    Raises:
        ValueError: it cannot be.
    """
    weight = _number("Weight", item.weight)
    if weight is not None and not WEIGHTS[0] <= weight <= WEIGHTS[1]:
        raise ValueError(f"Weight {weight}: wanted {WEIGHTS[0]} to {WEIGHTS[1]}")
    rates = [_number(field, getattr(item, field)) for field in _THROTTLES]
    if item.devices is None and any(rate is not None for rate in rates):
        raise ValueError("limits without Devices: wanted the devices that they are for")
    for pattern in item.devices or ():
        parts = pattern.split("/")
        if not pattern.startswith("/dev/") or ".." in parts or "**" in pattern or "\0" in pattern:
            raise ValueError(f"device {pattern[:100]!r}: wanted a path or pattern below /dev, without '..' and '**'")


def _number(name: str, quantity: Any) -> int | None:
    """Read a Kubernetes quantity; parts of one count as one more."""
    if quantity is None or quantity == "":
        return None
    match = _QUANTITY.fullmatch(str(quantity))
    if match is None or isinstance(quantity, bool):
        raise ValueError(f"{name} {str(quantity)[:40]!r}: wanted a number, with k, M, G, Ki, Mi or the like behind it")
    exact = Decimal(match[1]) * _FACTORS[match[2] or ""]
    value = int(exact) + (exact != int(exact))
    if value > RATE_MAX:
        raise ValueError(f"{name} {quantity!r}: wanted at most {RATE_MAX}")
    return value
