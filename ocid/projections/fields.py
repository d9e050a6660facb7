"""Any event as plain data, and as one line, whatever its type. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ocid.events.base import Event, Opaque
from ocid.events.envelope import Envelope
from ocid.projections.text import short

TEXT_CHARS_MAX: Final = 120  # of one field in a line


def plain(envelope: Envelope) -> dict[str, Any]:
    """Return the whole record as JSON-ready data; the event's own fields are under "event"."""
    context = envelope.context
    return {
        "seq": envelope.seq,
        "stream": envelope.stream,
        "version": envelope.version,
        "type": envelope.type,
        "type_version": envelope.type_version,
        "wall_ns": envelope.wall_ns,
        "boot_ns": envelope.boot_ns,
        "boot_id": envelope.boot_id,
        "epoch": envelope.epoch,
        "who": context.who,
        "correlation": context.correlation,
        "cause": context.cause,
        "command_id": context.command_id,
        "trace": context.trace,
        "event": fields(envelope.event),
    }


def fields(event: Event) -> dict[str, Any]:
    """Return the event's own fields as JSON-ready data; those of a type that this build does not know too."""
    if isinstance(event, Opaque):
        try:
            decoded = msgspec.msgpack.decode(event.payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            decoded = None
        return _json_ready(decoded) if isinstance(decoded, dict) else {"payload_hex": event.payload.hex()}
    data = msgspec.to_builtins(event)
    assert isinstance(data, dict)
    return data


def brief(event: Event) -> str:
    """Return the event's fields as one line, ids and long texts cut short, empty ones left out."""
    parts = []
    for name, value in fields(event).items():
        if value is None or value == "" or value == [] or value == ():
            continue
        parts.append(f"{name}={_text(value)}")
    return " ".join(parts)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ",".join(_text(item) for item in value)
    text = short(str(value))
    if len(text) > TEXT_CHARS_MAX:
        text = text[: TEXT_CHARS_MAX - 1] + "…"
    return repr(text) if " " in text else text


def _json_ready(value: Any) -> Any:
    """Make decoded msgpack fit for JSON: keys are texts, bytes are hex."""
    match value:
        case dict():
            return {key if isinstance(key, str) else str(key): _json_ready(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_json_ready(inner) for inner in value]
        case bytes():
            return value.hex()
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)
