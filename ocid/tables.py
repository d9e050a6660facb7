"""What the command-line tools print: tables for people, JSON for programs, times and sizes that read well.

Text that came from outside (labels, error messages, file names) cannot drive the terminal: control characters are
replaced. On a terminal headings are bold and columns are cut to fit; anywhere else the text is plain and whole.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

SHORT_ID: Final = 12  # characters of an id in a table
_PLAIN_WIDTH: Final = 100_000  # columns where nothing must be cut
_S: Final = 1_000_000_000
_AGES: Final = ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_SIZES: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def console() -> Console:
    """Return where to print: standard output, with colours only when it is a terminal."""
    terminal = sys.stdout.isatty()
    return Console(
        file=sys.stdout, force_terminal=terminal, no_color=not terminal, width=None if terminal else _PLAIN_WIDTH,
        highlight=False, markup=False, emoji=False, soft_wrap=not terminal,
    )  # fmt: skip


def show(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table with headings. The last column takes what space there is left."""
    screen = console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False, header_style="bold")
    for column in columns:
        last = column == columns[-1]
        table.add_column(column, no_wrap=not last or not screen.is_terminal, overflow="fold" if last else "ellipsis")
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    if screen.is_terminal:
        screen.print(table)
        return
    with screen.capture() as captured:  # rich pads the last column; plain text does without
        screen.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def line(text: str) -> None:
    """Print one line, at once."""
    sys.stdout.write(f"{clean(text)}\n")
    sys.stdout.flush()


def json(value: Any) -> None:
    """Print *value* as JSON for programs, indented."""
    text = msgspec.json.format(msgspec.json.encode(value, order="deterministic"), indent=2)
    sys.stdout.write(text.decode() + "\n")


def json_line(value: Any) -> None:
    """Print *value* as one line of JSON, at once."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def clean(text: str) -> str:
    """Return *text* with everything replaced that could move a cursor, hide text, or break a line."""
    return (
        text
        if text.isprintable()
        else "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    )


def short(name: str) -> str:
    """Shorten an id or digest for a table; texts that are neither stay."""
    digits = name.removeprefix("sha256:")
    is_id = len(digits) in (32, 64) and all(char in "0123456789abcdef" for char in digits)
    return digits[:SHORT_ID] if is_id else name


def time_text(at_ns: int) -> str:
    """Write a time as RFC 3339 in UTC with milliseconds; one that no calendar has as its number."""
    try:
        at = datetime.fromtimestamp(at_ns // _S, UTC)
    except (ValueError, OverflowError, OSError):
        return f"@{at_ns}"
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at_ns % _S // 1_000_000:03d}Z"


def exact_time_text(at_ns: int) -> str:
    """Write a time as RFC 3339 in UTC with nanoseconds; one that no calendar has as its number."""
    text = time_text(at_ns)
    return text if text.startswith("@") else f"{text[:-5]}.{at_ns % _S:09d}Z"


def age(at_ns: int, now_ns: int) -> str:
    """Write how long ago something was: "3d", "5h"; two units below ten of the larger one."""
    seconds = max((now_ns - at_ns) // _S, 0)
    for index, (size, unit) in enumerate(_AGES):
        if seconds >= size:
            whole, rest = divmod(seconds, size)
            if whole < 10 and index + 1 < len(_AGES) and (smaller := rest // _AGES[index + 1][0]):
                return f"{whole}{unit}{smaller}{_AGES[index + 1][1]}"
            return f"{whole}{unit}"
    return "0s"


def size(count: int) -> str:
    """Write a number of bytes: "512 B", "1.5 GiB"."""
    amount = float(count)
    for unit in _SIZES:
        if amount < 1024 or unit == _SIZES[-1]:
            return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("unreachable")
