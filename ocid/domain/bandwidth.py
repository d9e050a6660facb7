"""How fast a pod may talk, from the annotations that Kubernetes has for it. Pure.

Source: Kubernetes "Network Plugins: support traffic shaping"; quantities as in apimachinery resource.Quantity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Final

import msgspec

from ocid.errors import InvalidRequest

RATE_MIN: Final = 1_000  # bits per second, the range that Kubernetes accepts
RATE_MAX: Final = 10**15
BURST_S: Final = 0.05  # of traffic at full rate that passes unhindered on the built-in network
BURST_BYTES_MIN: Final = 128 << 10  # two of the largest packets that a veth pair hands over at once
BURST_BYTES_MAX: Final = 256 << 20
LATENCY_S: Final = 0.025  # of traffic at full rate that may wait; what comes beyond that is dropped

_QUANTITY = re.compile(r"([0-9.]{1,64})(?:[eE]([0-9]{1,2})|(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei))?")
_DECIMAL: Final = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
_BINARY: Final = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60}


class Bandwidth(msgspec.Struct, frozen=True, kw_only=True):
    """Bits per second, as seen from the pod; 0 for no limit."""

    ingress: int = 0
    egress: int = 0


def bandwidth_of(annotations: Mapping[str, str]) -> Bandwidth:
    """Return the limits that a pod's annotations set.

    Raises:
        InvalidRequest: an annotation is no quantity, or out of range.
    """
    rates = {}
    for direction in ("ingress", "egress"):
        text = annotations.get(f"kubernetes.io/{direction}-bandwidth")
        rates[direction] = 0 if text is None else _rate(direction, text)
    return Bandwidth(**rates)


def burst_bytes(rate: int) -> int:
    """Return how many bytes pass unhindered at *rate* bits per second."""
    return min(max(int(rate / 8 * BURST_S), BURST_BYTES_MIN), BURST_BYTES_MAX)


def queue_bytes(rate: int) -> int:
    """Return how many bytes may wait at *rate* bits per second, those of the burst included."""
    return min(burst_bytes(rate) + int(rate / 8 * LATENCY_S), 2 * BURST_BYTES_MAX)


def _rate(direction: str, text: str) -> int:
    """Read a Kubernetes quantity such as ``10M`` as bits per second."""
    match = _QUANTITY.fullmatch(text)
    try:
        number = Decimal(match[1]) if match else Decimal("NaN")
    except InvalidOperation:
        number = Decimal("NaN")
    if match is not None and match[2]:
        number *= Decimal(10) ** int(match[2])
    elif match is not None and match[3]:
        number *= Decimal("0.001") if match[3] == "m" else (_DECIMAL | _BINARY)[match[3]]
    if not number.is_finite() or not RATE_MIN <= number <= RATE_MAX:
        raise InvalidRequest(
            f"{direction} bandwidth {text[:64]!r}: wanted a quantity from 1k to 1P, in bits per second"
        )
    return int(number)
