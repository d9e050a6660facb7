"""The small checks that the validator of OCI specs is made of: each looks at one value and writes down its faults.

A check is a function of the value, the path that leads to it and the list of faults so far. Checks nest as JSON does:
``fields`` looks into an object, ``items`` into an array. What a check is not told of is ignored, for the specification
wants unknown properties ignored.

Source: OCI runtime-spec config.md, "Extensibility".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

import msgspec

SHOWN_MAX: Final = 80  # characters of a value in a message
FAULTS_MAX: Final = 1000  # a spec with more is no spec

INT64: Final = (-(2**63), 2**63 - 1)
UINT16: Final = (0, 2**16 - 1)
UINT32: Final = (0, 2**32 - 1)
UINT64: Final = (0, 2**64 - 1)


class Fault(msgspec.Struct, frozen=True):
    """One thing that is wrong: where, in the spelling of jq without the leading dot, and what."""

    path: str
    message: str


Check = Callable[[object, str, list[Fault]], None]


def fault(faults: list[Fault], path: str, message: str) -> None:
    """Write down a fault, as long as there are not too many."""
    if len(faults) < FAULTS_MAX:
        faults.append(Fault(path or ".", message))


def shown(value: object) -> str:
    """A value as a message quotes it."""
    text = repr(value)
    return text if len(text) <= SHOWN_MAX else text[:SHOWN_MAX] + "…"


def below(path: str, name: str) -> str:
    """The path of a property."""
    plain = name.isascii() and name.replace("_", "a").isalnum()
    step = name if plain else f"[{name!r}]"
    return f"{path}.{step}" if path and plain else path + step


def prefixed(prefix: str, names: str) -> tuple[str, ...]:
    """Each of *names*, which spaces separate, behind *prefix*."""
    return tuple(prefix + name for name in names.split())


# --- shapes ----------------------------------------------------------------------------------------------------------


def fields(optional: Mapping[str, Check], required: Mapping[str, Check] | None = None) -> Check:
    """An object with these properties."""
    needed = required or {}
    known = {**optional, **needed}

    def check(value: object, path: str, faults: list[Fault]) -> None:
        if not isinstance(value, dict):
            return fault(faults, path, f"is {kind(value)}, wanted an object")
        for name in needed:
            if value.get(name) is None:
                fault(faults, below(path, name), "is missing")
        for name, item in value.items():
            if name in known and item is not None:
                known[name](item, below(path, name), faults)
        return None

    return check


def items(each: Check, *, least: int = 0) -> Check:
    """An array of such values, *least* of them at least."""

    def check(value: object, path: str, faults: list[Fault]) -> None:
        if not isinstance(value, list):
            return fault(faults, path, f"is {kind(value)}, wanted an array")
        if len(value) < least:
            fault(faults, path, f"has {len(value)} entries, wanted at least {least}")
        for index, item in enumerate(value):
            each(item, f"{path}[{index}]", faults)
        return None

    return check


def mapping(each: Check) -> Check:
    """An object with any properties, each such a value."""

    def check(value: object, path: str, faults: list[Fault]) -> None:
        if not isinstance(value, dict):
            return fault(faults, path, f"is {kind(value)}, wanted an object")
        for name, item in value.items():
            if not name:
                fault(faults, path, "has an empty key")
            each(item, below(path, str(name)), faults)
        return None

    return check


def also(first: Check, *others: Check) -> Check:
    """All of these checks; the others only where the first finds nothing."""

    def check(value: object, path: str, faults: list[Fault]) -> None:
        before = len(faults)
        first(value, path, faults)
        if len(faults) == before:
            for other in others:
                other(value, path, faults)

    return check


def every(*checks: Check) -> Check:
    """All of these checks, whatever the others find."""

    def check(value: object, path: str, faults: list[Fault]) -> None:
        for one in checks:
            one(value, path, faults)

    return check


def part(value: object, name: str) -> object:
    """A property of what may be no object, None where there is none."""
    return value.get(name) if isinstance(value, dict) else None


# --- values ----------------------------------------------------------------------------------------------------------


def boolean(value: object, path: str, faults: list[Fault]) -> None:
    """True or false."""
    if not isinstance(value, bool):
        fault(faults, path, f"is {kind(value)}, wanted true or false")


def integer(low: int, high: int) -> Check:
    """A whole number within these, both included."""

    def check(value: object, path: str, faults: list[Fault]) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            fault(faults, path, f"is {kind(value)}, wanted a whole number")
        elif not low <= value <= high:
            fault(faults, path, f"is {value}, wanted {low} to {high}")

    return check


def string(value: object, path: str, faults: list[Fault]) -> None:
    """Any text that a C program can take."""
    if not isinstance(value, str):
        fault(faults, path, f"is {kind(value)}, wanted a string")
    elif "\0" in value:
        fault(faults, path, "holds a NUL character")


def word(value: object, path: str, faults: list[Fault]) -> None:
    """A text that is not empty."""
    string(value, path, faults)
    if value == "":
        fault(faults, path, "is empty")


def one_of(known: Collection[str]) -> Check:
    """One of these words."""

    def check(value: object, path: str, faults: list[Fault]) -> None:
        if not isinstance(value, str) or value not in known:
            fault(faults, path, f"is {shown(value)}, wanted one of {', '.join(sorted(known))}")

    return check


def absolute(value: object, path: str, faults: list[Fault]) -> None:
    """An absolute path."""
    string(value, path, faults)
    if isinstance(value, str) and not value.startswith("/"):
        fault(faults, path, f"is {shown(value)}, wanted an absolute path")


def kind(value: object) -> str:
    """What JSON calls a value of that kind."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case int() | float():
            return f"the number {value}"
        case list():
            return "an array"
        case _:
            return "an object"
