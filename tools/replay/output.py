"""The three forms of an answer: a table or text for people, one JSON document, or JSON lines, for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from ocid import tables


def listed(output: str, name: str, found: Sequence[Any], columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print *found*: as a table of *rows*, as a document that has them under *name*, or each as a line of JSON."""
    if output == "json":
        tables.json({name: found})
    elif output == "jsonl":
        tables.json_lines(found)
    else:
        tables.show(columns, list(rows))


def told(output: str, document: dict[str, Any], lines: Iterable[str]) -> None:
    """Print one answer of many parts: as *lines* of text, as a document, or one part of it a line of JSON."""
    if output == "json":
        tables.json(document)
    elif output == "jsonl":
        tables.json_lines(parts(document))
    else:
        for line in lines:
            tables.line(line)


def parts(document: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Take a document apart: what is no list first, as "summary"; then each member of each list, named after it. Pure.

    The name stands under "part"; a member that has no fields of its own stands under "value".
    """
    plain: dict[str, Any] = msgspec.to_builtins(document)
    yield {"part": "summary"} | {name: value for name, value in plain.items() if not isinstance(value, list | tuple)}
    for name, value in plain.items():
        for member in value if isinstance(value, list | tuple) else ():
            yield {"part": name} | (member if isinstance(member, dict) else {"value": member})


def cited(seqs: Iterable[int]) -> str:
    """Name records: "[22] [23]"."""
    return " ".join(f"[{seq}]" for seq in seqs)
