"""How a checkpoint is written for those who keep it away from the node: syslog and OTLP. Pure.

A plain file and HTTP take the note as it is. ``ocid-replay verify --witness`` finds the notes in what all
of them keep.

Source: RFC 5424, RFC 6587; OTLP 1.x, JSON encoding, ``opentelemetry.proto.collector.logs.v1``.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Final

import msgspec

from ocid.domain import note as notes
from ocid.errors import EffectFailed

SYSLOG_BYTES_MAX: Final = 2048  # RFC 5424 section 6.1: receivers should take so much
MARK: Final = "ocid-checkpoint"  # begins the message of a checkpoint in syslog
EVENT_NAME: Final = "ocid.checkpoint"  # of a checkpoint in OTLP

_PRIORITY: Final = 13 * 8 + 5  # facility log audit, severity notice
_HOST_CHARS_MAX: Final = 255
_INFO: Final = 9  # SeverityNumber


def size_of(note: str) -> int:
    """Return how many records a checkpoint covers.

    Raises:
        InvalidRequest: it is none.
    """
    return notes.checkpoint_of(notes.parse(note).text).size


def syslog_message(note: str, *, wall_ns: int, host: str, pid: int) -> bytes:
    """Return one message with the whole note: ``ocid-checkpoint size=4096 note=BASE64``.

    The note is in the text and not in structured data, for that is what syslog daemons write to files by default. The
    base64 is that of RFC 4648 section 5, without "/" and "+", so that writers of JSON have nothing to escape.

    Raises:
        EffectFailed: it would be longer than receivers have to take.
    """
    moment = datetime.fromtimestamp(wall_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    stamp = f"{moment}.{wall_ns // 1000 % 10**6:06}Z"
    named = "".join(char for char in host if "!" <= char <= "~")[:_HOST_CHARS_MAX] or "-"
    packed = base64.urlsafe_b64encode(note.encode()).decode()
    text = f"<{_PRIORITY}>1 {stamp} {named} ocid {pid} checkpoint - {MARK} size={size_of(note)} note={packed}"
    message = text.encode()
    if len(message) > SYSLOG_BYTES_MAX:
        raise EffectFailed(f"the checkpoint takes {len(message)} bytes in syslog; the limit is {SYSLOG_BYTES_MAX}")
    return message


def framed(message: bytes) -> bytes:
    """Return a syslog message as it goes over TCP and TLS: RFC 6587 section 3.4.1, octet counting."""
    return b"%d %s" % (len(message), message)


def otlp_request(note: str, *, wall_ns: int, host: str, version: str) -> bytes:
    """Return the checkpoint as an ExportLogsServiceRequest with one LogRecord, whose body is the note."""
    head = notes.checkpoint_of(notes.parse(note).text)
    record = {
        "timeUnixNano": str(wall_ns),
        "observedTimeUnixNano": str(wall_ns),
        "severityNumber": _INFO,
        "severityText": "INFO",
        "eventName": EVENT_NAME,
        "body": {"stringValue": note},
        "attributes": [
            _text("ocid.checkpoint.origin", head.origin),
            {"key": "ocid.checkpoint.size", "value": {"intValue": str(head.size)}},
            _text("ocid.checkpoint.root", head.root.hex()),
        ],
    }
    resource = {"attributes": [_text("service.name", "ocid"), _text("host.name", host)]}
    scope = {"scope": {"name": "ocid", "version": version}, "logRecords": [record]}
    return msgspec.json.encode({"resourceLogs": [{"resource": resource, "scopeLogs": [scope]}]})


def otlp_takes(answer: bytes) -> bool:
    """Say whether the body of a 200 answer means that the record was taken: it is empty, or rejects nothing."""
    if not answer.strip():
        return True
    try:
        partial = msgspec.json.decode(answer, type=_Answer).partialSuccess
        return partial is None or int(partial.rejectedLogRecords) == 0
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False


class _Partial(msgspec.Struct):
    rejectedLogRecords: int | str = 0  # 64-bit integers are strings in protobuf's JSON


class _Answer(msgspec.Struct):
    partialSuccess: _Partial | None = None


def _text(key: str, value: str) -> dict[str, object]:
    return {"key": key, "value": {"stringValue": value}}
