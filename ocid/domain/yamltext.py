"""YAML that people and vendors write, read with limits. Pure.

Only what JSON could say: mappings with strings as keys, lists, strings, numbers, true, false and null. Aliases,
anchors, tags and several documents are refused: they make files explode, or mean more than they show. Scalars are read
as YAML 1.2 does, besides ``0644``, which is octal as in YAML 1.1, so that ``on``, ``1:30`` and ``2026-01-01`` stay
strings. Events of the parser are put together here, without recursion; no object of a YAML library is ever built.

Source: YAML 1.2.2, chapter 10.3 (core schema).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import yaml

DEPTH_MAX: Final = 32
EVENTS_MAX: Final = 200_000  # some 1 MiB of an ordinary file

_INT: Final = re.compile(r"[-+]?[0-9]{1,20}")
_OCTAL: Final = re.compile(r"0o?[0-7]{1,20}")
_HEX: Final = re.compile(r"0x[0-9a-fA-F]{1,16}")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]{1,40}|[0-9]{1,40}(?:\.[0-9]{0,40})?)(?:[eE][-+]?[0-9]{1,3})?")
_WORDS: Final[dict[str, bool | None]] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_STRING_TAG: Final = "tag:yaml.org,2002:str"
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same events; libyaml is ten times as fast


class _Open:
    """A mapping or list that has not ended yet."""

    def __init__(self, value: dict[str, Any] | list[Any]) -> None:
        self.value = value
        self.key: str | None = None  # of a mapping: the key whose value is next


def decode(raw: bytes, bytes_max: int) -> Any:
    """Return what a YAML document says, as ``json.loads`` would; None for an empty one.

    Raises:
        ValueError: it is too large, no YAML, or goes beyond what JSON could say; the message has the line.
    """
    if len(raw) > bytes_max:
        raise ValueError(f"{len(raw)} bytes of YAML, the limit is {bytes_max}")
    try:
        return _built(yaml.parse(raw.decode("utf-8"), Loader=_LOADER))
    except yaml.YAMLError as error:
        raise ValueError(f"no YAML: {' '.join(str(error).split())[:200]}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"no UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise ValueError("nested too deep") from None


def _built(events: Iterator[Any]) -> Any:
    """Put the events of one document together."""
    top = _Open([])
    stack = [top]
    documents = 0
    for count, event in enumerate(events):
        line = event.start_mark.line + 1
        if count == EVENTS_MAX:
            raise ValueError(f"line {line}: more than {EVENTS_MAX} parts")
        if getattr(event, "anchor", None) is not None:
            raise ValueError(f"line {line}: anchors and aliases are not read")
        match event:
            case yaml.DocumentStartEvent():
                documents += 1
                if documents > 1:
                    raise ValueError(f"line {line}: wanted one document")
            case yaml.ScalarEvent():
                _add(stack[-1], _scalar(event, line, as_key=_wants_key(stack[-1])), line)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                _no_tag(event, line)
                if len(stack) > DEPTH_MAX:
                    raise ValueError(f"line {line}: nested deeper than {DEPTH_MAX}")
                opened = _Open({} if isinstance(event, yaml.MappingStartEvent) else [])
                _add(stack[-1], opened.value, line)
                stack.append(opened)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                stack.pop()
    assert isinstance(top.value, list)
    return top.value[0] if top.value else None


def _wants_key(open_one: _Open) -> bool:
    return isinstance(open_one.value, dict) and open_one.key is None


def _add(open_one: _Open, value: Any, line: int) -> None:
    if isinstance(open_one.value, list):
        open_one.value.append(value)
    elif open_one.key is not None:
        open_one.value[open_one.key] = value
        open_one.key = None
    elif not isinstance(value, str):
        raise ValueError(f"line {line}: wanted a string as key")
    elif value in open_one.value:
        raise ValueError(f"line {line}: the key {value[:100]!r} is there twice")
    else:
        open_one.key = value


def _no_tag(event: Any, line: int) -> None:
    if event.tag is not None and not event.implicit:
        raise ValueError(f"line {line}: the tag {event.tag[:100]!r} is not read")


def _scalar(event: Any, line: int, *, as_key: bool) -> Any:
    text: str = event.value
    if not text.isascii():
        text.encode()  # half a character, which an escape can write, is a ValueError
    if event.tag == _STRING_TAG:
        return text
    if event.tag is not None:
        raise ValueError(f"line {line}: the tag {event.tag[:100]!r} is not read")
    if as_key or event.style:  # quoted, or a block
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _HEX.fullmatch(text):
        return int(text, 16)
    if len(text) > 1 and _OCTAL.fullmatch(text):
        return int(text.replace("o", ""), 8)
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
