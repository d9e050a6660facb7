"""The caller's own trace: W3C trace context as the log keeps it. Pure.

A client that traces sends ``traceparent`` with its call. The log keeps trace id, the id of the caller's span, and the
flags, so that what a call led to is found from the caller's traces, and they from it. Nothing of ``tracestate`` is
kept: it holds whatever vendors put there. A trace is a claim of the client, no proof of anything.

Source: W3C Trace Context, "traceparent Header".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

HEADER: Final = "traceparent"
BYTES: Final = 25  # trace id 16, parent id 8, flags 1

_VERSION: Final = "00-"
_FORM: Final = re.compile(r"00-([0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})")
_NO_TRACE: Final = "0" * 32
_NO_PARENT: Final = "0" * 16


def parse(values: Sequence[object]) -> str:
    """Return the trace that the headers *values* tell, or "": "<32 hex digits>-<16 hex digits>-<2 hex digits>".

    Exactly one header of version 00, as the standard writes it, is taken. All else (another version, other letters,
    spaces, zero ids, two headers) is as if there were none, as the standard wants it: a trace that is broken is no
    reason to refuse a call.
    """
    if len(values) != 1 or not isinstance(values[0], str):
        return ""
    found = _FORM.fullmatch(values[0])
    if found is None:
        return ""
    trace_id, parent_id, _ = found[1].split("-")
    return "" if trace_id == _NO_TRACE or parent_id == _NO_PARENT else found[1]


def traceparent(trace: str) -> str:
    """Return the header that ``parse`` made *trace* of."""
    return _VERSION + trace


def trace_id(trace: str) -> str:
    """Return the 32 hex digits that name the whole trace; "" for none."""
    return trace.partition("-")[0]


def pack(trace: str) -> bytes:
    """Return *trace* as records hold it: ``BYTES`` bytes, or none for ""."""
    return bytes.fromhex(trace.replace("-", ""))


def unpack(raw: bytes) -> str:
    """Return the trace that a record holds.

    Raises:
        ValueError: it has another length.
    """
    if not raw:
        return ""
    if len(raw) != BYTES:
        raise ValueError(f"a trace has {BYTES} bytes, not {len(raw)}")
    return f"{raw[:16].hex()}-{raw[16:24].hex()}-{raw[24:].hex()}"
