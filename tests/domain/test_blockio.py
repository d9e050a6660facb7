"""Block I/O classes: what a file may say, and what a class comes to on a host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ocid.domain import blockio
from ocid.domain.blockio import Item, classes, oci_block_io
from ocid.errors import InvalidRequest

FILE = b"""
Classes:
  LowPrio:
  - Weight: 80
  - Devices:
    - /dev/sd[a-z]
    - /dev/vda
    ThrottleReadBps: 50M
    ThrottleWriteBps: 10Mi
    ThrottleReadIOPS: 10k
    ThrottleWriteIOPS: "5k"
    Weight: 50
  - Devices: [/dev/disk/by-id/*SSD*]
    ThrottleReadBps: 100M
    ThrottleWriteIOPS: 0
  HighPrio:
  - Weight: 400
  Nothing:
"""
DISKS = {"/dev/sd[a-z]": [(8, 16), (8, 0)], "/dev/vda": [(254, 0)], "/dev/disk/by-id/*SSD*": [(8, 0)]}


def find(patterns: Sequence[str]) -> Sequence[tuple[int, int]]:
    return [one for pattern in patterns for one in DISKS.get(pattern, [])]


def test_a_class_comes_to_limits_of_the_disks_that_are_there():
    known = classes("/etc/b.yaml", FILE)
    assert list(known) == ["LowPrio", "HighPrio", "Nothing"]

    def rates(**by_device: Any) -> list[dict[str, int]]:
        return [
            {"major": int(k[1:].split("_")[0]), "minor": int(k.split("_")[1]), "rate": v} for k, v in by_device.items()
        ]

    assert oci_block_io(known["LowPrio"], find) == {
        "weight": 80,
        "weightDevice": [
            {"major": 8, "minor": 0, "weight": 50},
            {"major": 8, "minor": 16, "weight": 50},
            {"major": 254, "minor": 0, "weight": 50},
        ],
        "throttleReadBpsDevice": rates(d8_0=100_000_000, d8_16=50_000_000, d254_0=50_000_000),
        "throttleWriteBpsDevice": rates(d8_0=10 << 20, d8_16=10 << 20, d254_0=10 << 20),
        "throttleReadIOPSDevice": rates(d8_0=10_000, d8_16=10_000, d254_0=10_000),
        "throttleWriteIOPSDevice": rates(d8_0=0, d8_16=5000, d254_0=5000),
    }
    assert oci_block_io(known["HighPrio"], find) == {"weight": 400}
    assert oci_block_io(known["Nothing"], find) == {}
    assert oci_block_io(known["LowPrio"], lambda _: ()) == {"weight": 80}


def test_json_and_an_empty_file_are_read_too():
    assert classes("/x", b"") == classes("/x", b"Classes: {}") == {}
    assert classes("/x", b'{"Classes": {"a": [{"Weight": "10"}]}}') == {"a": (Item(weight="10"),)}


@pytest.mark.parametrize(
    ("quantity", "rate"), [("1", 1), ("1.5k", 1500), ("0.1", 1), ("2Gi", 2 << 30), ("7E", 7 * 10**18), ("0", 0)]
)
def test_quantities(quantity: str, rate: int):
    (items,) = classes(
        "/x", f"Classes: {{a: [{{Devices: [/dev/vda], ThrottleReadBps: {quantity}}}]}}".encode()
    ).values()
    assert oci_block_io(items, find) == {"throttleReadBpsDevice": [{"major": 254, "minor": 0, "rate": rate}]}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Classes: [", "no YAML"),
        ("- a", "Expected `object`, got `array`"),
        ("classes: {}", "unknown field `classes`"),
        ("Classes: {a: {Weight: 1}}", "Expected `array"),
        ("Classes: {a: [{Weigth: 80}]}", "unknown field `Weigth`"),
        ("Classes: {a: [{Weight: 9}]}", "class 'a': Weight 9: wanted 10 to 1000"),
        ("Classes: {a: [{Weight: 1k1}]}", "class 'a': Weight '1k1'"),
        ("Classes: {a: [{Weight: true}]}", "Expected `int | float | str | null`, got `bool`"),
        ("Classes: {a: [{Weight: -10}]}", "class 'a': Weight '-10'"),
        ("Classes: {a: [{Devices: [/dev/vda], ThrottleReadBps: 10E}]}", "wanted at most"),
        ("Classes: {a: [{ThrottleReadBps: 10}]}", "limits without Devices"),
        ("Classes: {a: [{Devices: [/etc/passwd]}]}", "device '/etc/passwd'"),
        ("Classes: {a: [{Devices: [/dev/../etc/x]}]}", "device '/dev/../etc/x'"),
        ("Classes: {a: [{Devices: ['/dev/**']}]}", "device '/dev/**'"),
        ("Classes: {a: [{Devices: [vda]}]}", "device 'vda'"),
        ("Classes: {a: &x [{Weight: 80}], b: *x}", "anchors and aliases"),
        (f"Classes: {{a: [{'{Weight: 80},' * 65}]}}", "length <= 64"),
        ("Classes: {" + ",".join(f"c{n}: []" for n in range(257)) + "}", "length <= 256"),
        ("#" + "x" * blockio.FILE_BYTES_MAX, "bytes of YAML, the limit is"),
    ],
)
def test_what_is_refused(text: str, fault: str):
    with pytest.raises(InvalidRequest, match=r"block I/O classes in /etc/b\.yaml: ") as refused:
        classes("/etc/b.yaml", text.encode())
    assert fault in refused.value.message
