"""TOML files against a tree of frozen structs: read, checked key by key, merged, with the source of every value.

Knows nothing of what the values mean; that is ``ocid.config``. Files are hostile input: their size is limited, and
whatever is in them ends in a tree of the wanted shape or in one ``InvalidRequest`` that names file and key.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import inspect

from ocid.errors import InvalidRequest

FILE_BYTES_MAX: Final = 1 << 20
DROP_INS_MAX: Final = 256
_SHOWN_CHARS_MAX: Final = 80  # of a refused value

Key = tuple[str, ...]


class Tree:
    """Values from several sources, a later one winning key by key; lists are taken as a whole.

    Args:
        shape: the struct that the whole of a file must look like.
    """

    def __init__(self, shape: type[msgspec.Struct]) -> None:
        self._shape = inspect.type_info(shape)
        self.values: dict[str, Any] = {}
        self.sources: dict[Key, str] = {}  # of every value and table that is there, the last one to touch it

    def add(self, tree: dict[str, Any], source: str) -> None:
        """Take the values of *tree*, which come from *source*.

        Raises:
            InvalidRequest: a key is unknown or a value has the wrong type.
        """
        _merge(self.values, self._checked(tree, self._shape, (), source), (), source, self.sources)

    def source(self, at: Key) -> str | None:
        """Return where the value at *at*, or the nearest one around it, came from; None for nowhere."""
        return next((self.sources[at[:end]] for end in range(len(at), 0, -1) if at[:end] in self.sources), None)

    def _checked(self, value: Any, wanted: inspect.Type, at: Key, source: str) -> Any:
        """Return *value* after checking that it has the shape that is *wanted*."""
        if isinstance(wanted, inspect.StructType | inspect.DictType) and not isinstance(value, dict):
            raise refusal(source, at, f"wanted a table, is {shown(value)}")
        if isinstance(wanted, inspect.StructType):
            kinds = {field.encode_name: field.type for field in wanted.fields}
            for key in value:
                if key not in kinds:
                    raise refusal(source, (*at, key), f"no such key{self._nearest(key, list(kinds), at)}")
            return {key: self._checked(inner, kinds[key], (*at, key), source) for key, inner in value.items()}
        if isinstance(wanted, inspect.DictType):
            return {key: self._checked(inner, wanted.value_type, (*at, key), source) for key, inner in value.items()}
        if isinstance(wanted, inspect.VarTupleType) and isinstance(wanted.item_type, inspect.StructType):
            return self._rows(value, wanted.item_type, at, source)
        try:
            return msgspec.convert(value, _annotation(wanted))
        except (msgspec.ValidationError, OverflowError, ValueError):
            raise refusal(source, at, f"wanted {_words(wanted)}, is {shown(value)}") from None

    def _rows(self, value: Any, wanted: inspect.StructType, at: Key, source: str) -> list[Any]:
        """Return a list of tables after checking each; messages count them from 1."""
        if not isinstance(value, list):
            raise refusal(source, at, f"wanted a list of tables, is {shown(value)}")
        rows = []
        for number, row in enumerate(value, start=1):
            here = (*at, str(number))
            rows.append(self._checked(row, wanted, here, source))
            for field in wanted.fields:
                if field.required and field.encode_name not in row:
                    raise refusal(source, (*here, field.encode_name), f"not set: wanted {_words(field.type)}")
        return rows

    def _nearest(self, key: str, here: list[str], at: Key) -> str:
        """Name the known key that was probably meant: one of the same table, or else of any."""
        key = key[:_SHOWN_CHARS_MAX]
        if close := difflib.get_close_matches(key, here, n=1):
            return f", did you mean {dotted((*at, close[0]))}?"
        anywhere = {name[-1]: name for name in _names(self._shape)}
        if close := difflib.get_close_matches(key, list(anywhere), n=1):
            return f", did you mean {'.'.join(anywhere[close[0]])}?"
        return f", wanted one of {', '.join(sorted(here))}"


def files(path: Path, must_exist: bool) -> list[Path]:
    """Return *path*, if it is there or must be, and the ``*.toml`` of the directory ``<path>.d`` in name order.

    Raises:
        InvalidRequest: the directory cannot be read, or holds too many files.
    """
    directory = Path(f"{path}.d")
    try:
        drop_ins = sorted(entry for entry in directory.iterdir() if entry.suffix == ".toml" and entry.name[0] != ".")
        found = [path, *drop_ins] if must_exist or os.path.lexists(path) else drop_ins
    except (FileNotFoundError, NotADirectoryError):
        found = [path] if must_exist or os.path.lexists(path) else []
    except (OSError, ValueError) as error:
        raise _unreadable(directory, error) from error
    if len(found) > DROP_INS_MAX:
        raise InvalidRequest(f"{str(directory)!r} holds {len(found)} files; the limit is {DROP_INS_MAX}")
    return found


def parse(path: Path) -> dict[str, Any]:
    """Read one TOML file.

    Raises:
        InvalidRequest: it is missing, unreadable, too large, no regular file, or not TOML.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not hold us up
        with open(fd, "rb") as file:
            regular = stat.S_ISREG(os.fstat(fd).st_mode)
            text = file.read(FILE_BYTES_MAX + 1) if regular else b""
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not regular:
        raise InvalidRequest(f"configuration {str(path)!r} is not a regular file")
    if len(text) > FILE_BYTES_MAX:
        raise InvalidRequest(f"configuration {str(path)!r} is larger than {FILE_BYTES_MAX} bytes")
    try:
        return tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path}: not TOML: {error}") from None
    except (RecursionError, ValueError, OverflowError):  # tomllib lets odd dates, numbers and nesting through to these
        raise InvalidRequest(f"{path}: not TOML that ocid reads: nested too deeply, or a value out of range") from None


def leaves(value: Any, at: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Yield every value below a struct or table that is neither, with its key."""
    if isinstance(value, msgspec.Struct):
        value = {name: getattr(value, name) for name in value.__struct_fields__}
    if not isinstance(value, dict):
        yield at, value
        return
    for key, inner in value.items():
        yield from leaves(inner, (*at, key))


def dotted(at: Key) -> str:
    """Write a key as TOML does."""
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{_clean(part)}"' for part in at)


def refusal(source: str, at: Key, problem: str) -> InvalidRequest:
    """Return the error about one value."""
    return InvalidRequest(f"{source}: {dotted(at) or 'the file'}: {problem}")


def shown(value: Any) -> str:
    """Return *value* as a message can hold it, whatever it is."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "a list"
    try:
        return f"'{_clean(value)}'" if isinstance(value, str) else _clean(str(value))
    except ValueError:  # an integer of more digits than Python prints
        return "a number out of range"


# --- inside ----------------------------------------------------------------------------------------------------------


def _names(shape: inspect.Type, at: Key = ()) -> Iterator[Key]:
    """Yield the key of everything that *shape* can hold, with NAME for what the operator names."""
    if isinstance(shape, inspect.StructType):
        for field in shape.fields:
            yield (*at, field.encode_name)
            yield from _names(field.type, (*at, field.encode_name))
    elif isinstance(shape, inspect.DictType):
        yield from _names(shape.value_type, (*at, "NAME"))
    elif isinstance(shape, inspect.VarTupleType):
        yield from _names(shape.item_type, at)


def _annotation(wanted: inspect.Type) -> Any:
    match wanted:
        case inspect.StrType():
            return str
        case inspect.BoolType():
            return bool
        case inspect.IntType(ge=ge, le=le):
            return Annotated[int, msgspec.Meta(ge=ge, le=le)]
        case inspect.LiteralType(values=values):
            return Literal[values]
        case inspect.VarTupleType(item_type=item):
            return tuple[_annotation(item), ...]  # type: ignore[misc]
        case inspect.TupleType(item_types=items):
            return tuple[tuple(_annotation(item) for item in items)]  # type: ignore[misc]
        case _:
            raise AssertionError(f"no way to check a {wanted}")


def _words(wanted: inspect.Type) -> str:
    match wanted:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType(ge=ge, le=le):
            return f"a whole number from {ge} to {le}"
        case inspect.LiteralType(values=values):
            return " or ".join(f'"{value}"' for value in values)
        case inspect.VarTupleType():
            return "a list of strings"
        case inspect.TupleType(item_types=items):
            return f"a list of {len(items)}, each {_words(items[0])}"
        case _:
            return "a string"


def _merge(into: dict[str, Any], tree: dict[str, Any], at: Key, source: str, sources: dict[Key, str]) -> None:
    for key, value in tree.items():
        sources[*at, key] = source
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value, (*at, key), source, sources)
        else:
            into[key] = value


def _unreadable(path: Path, error: Exception) -> InvalidRequest:
    reason = getattr(error, "strerror", None) or error
    return InvalidRequest(f"configuration {str(path)!r} cannot be read: {reason}")


def _clean(text: str) -> str:
    short = text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}…"
    return "".join(char if char.isprintable() else "?" for char in short)


def path_problems(at: Key, path: str) -> Iterator[tuple[Key, str]]:
    """Yield what keeps *path*, the value at *at*, from being an absolute path."""
    absolute = path.startswith("/") and not path.startswith("//")  # normpath leaves two slashes, as POSIX has it
    if not absolute or not path.isprintable() or os.path.normpath(path) != path:
        yield at, f"wanted an absolute path without '.', '..' or a slash too many, is {shown(path)}"


def is_url(text: str) -> bool:
    """Say whether *text* is a plain http or https URL."""
    try:
        url = urllib.parse.urlsplit(text)
        named = bool(url.hostname) and url.port != 0
    except ValueError:
        return False
    plain = text.isprintable() and " " not in text and not url.query and not url.fragment
    return named and plain and url.scheme in ("http", "https")
