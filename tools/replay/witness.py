"""Finding checkpoints in what witnesses kept: plain notes, lines of syslog, lines of OTLP in JSON, in any mixture.

A witness is no database: its file may begin or end in the middle of something, and hold what others wrote. Whole
checkpoints are found in any case; what looks like one and is damaged is counted.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from ocid.domain import note
from ocid.domain.witness import MARK
from ocid.errors import EffectFailed, InvalidRequest

FILE_BYTES_MAX: Final = 64 << 20
_NOTE_LINES_MAX: Final = 64
_SYSLOG: Final = re.compile(rf"\b{MARK} size=[0-9]+ note=([A-Za-z0-9_=-]*)")
_SIGNS: Final = "— "  # em dash and space begin a signature's line


class Kept(msgspec.Struct, frozen=True):
    """What one witness kept."""

    notes: list[str]
    damaged: int = 0  # pieces that look like checkpoints, and are none


def witnessed(files: Sequence[str]) -> Kept:
    """Read the checkpoints of all ``--witness`` files; one that has none is asked in vain, and that is found later.

    Raises:
        EffectFailed: a file cannot be read, or is too large.
    """
    found = [kept_in(_read(name)) for name in files]
    once = dict.fromkeys(one for kept in found for one in kept.notes)  # what was not confirmed is sent again
    return Kept(list(once), sum(kept.damaged for kept in found))


def kept_in(text: str) -> Kept:
    """Find the checkpoints in what a witness kept. Pure."""
    plain: list[str] = []
    candidates: list[str] = []
    for line in text.split("\n"):
        if MARK in line and (packed := _SYSLOG.findall(line)):
            candidates += map(_unpacked, packed)
        elif line.startswith("{"):
            candidates += _of_otlp(line)
        else:
            plain.append(line)
    pieces = note.split("\n".join(plain))
    candidates += (_end_of(piece) for piece in pieces if _is_signed(piece))
    notes = [one for one in candidates if _is_checkpoint(one)]
    return Kept(notes, len(candidates) - len(notes))


def _read(name: str) -> str:
    try:
        with Path(name).open(encoding="utf-8", errors="replace") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise EffectFailed(f"--witness {name!r} cannot be read: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:
        raise EffectFailed(f"--witness {name!r} is larger than {FILE_BYTES_MAX >> 20} MiB: give it in parts")
    return content


def _is_checkpoint(text: str) -> bool:
    try:
        note.checkpoint_of(note.parse(text).text)
    except InvalidRequest:
        return False
    return True


def _is_signed(piece: str) -> bool:
    return any(line.startswith(_SIGNS) for line in piece.splitlines())


def _end_of(piece: str) -> str:
    """Return the last note of a piece that may begin with the rest of one that was never written to its end.

    The text of a checkpoint begins with the log's name, and the log's own key has that name, too.
    """
    lines = piece.split("\n")[-_NOTE_LINES_MAX:]
    names = {line.removeprefix(_SIGNS).partition(" ")[0] for line in lines if line.startswith(_SIGNS)}
    first = next((number for number in reversed(range(len(lines))) if lines[number] in names), None)
    return piece if first is None else "\n".join(lines[first:])


def _unpacked(packed: str) -> str:
    try:
        return base64.b64decode(packed, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        return ""  # which is no checkpoint


class _Body(msgspec.Struct):
    stringValue: str = ""


class _Record(msgspec.Struct):
    body: _Body = msgspec.field(default_factory=_Body)


class _Scope(msgspec.Struct):
    logRecords: list[_Record] = []


class _Resource(msgspec.Struct):
    scopeLogs: list[_Scope] = []


class _Request(msgspec.Struct):
    resourceLogs: list[_Resource] = []


def _of_otlp(line: str) -> Iterator[str]:
    """Yield the bodies of log records that are signed notes. Collectors put records of many senders into one line."""
    try:
        request = msgspec.json.decode(line, type=_Request)
    except (msgspec.MsgspecError, RecursionError):
        return
    for resource in request.resourceLogs:
        for scope in resource.scopeLogs:
            yield from (one.body.stringValue for one in scope.logRecords if f"\n\n{_SIGNS}" in one.body.stringValue)
