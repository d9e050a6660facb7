"""What the command-line tools print: tables for people, JSON for programs.

Text that came from outside (labels, error messages, file names) cannot drive the terminal: control characters are
replaced. On a terminal headings are bold and columns are cut to fit; anywhere else the text is plain and whole.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ocid.projections.text import clean


def console() -> Console:
    """Return the terminal that standard output is."""
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False)


def show(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table with headings, once all *rows* are there. The last column takes what space there is left."""
    cleaned = [tuple(clean(cell) for cell in row) for row in rows]
    if not sys.stdout.isatty():
        widths = [max(map(cell_len, column)) for column in zip(columns, *cleaned, strict=True)]
        stream(tuple(zip(columns, widths, strict=True)), cleaned)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False, header_style="bold")
    for column in columns:
        last = column == columns[-1]
        table.add_column(column, no_wrap=not last, overflow="fold" if last else "ellipsis")
    for row in cleaned:
        table.add_row(*map(Text, row))
    console().print(table)


def stream(columns: Sequence[tuple[str, int]], rows: Iterable[Sequence[str]], *, at_once: bool = False) -> None:
    """Print headings, and rows as they come; a longer cell than its column's width moves the rest of its line.

    Args:
        columns: heading and width of each.
        rows: may be endless.
        at_once: flush after each row.
    """
    widths = [width for _, width in columns]
    sys.stdout.write(_padded([heading for heading, _ in columns], widths))
    for row in rows:
        sys.stdout.write(_padded([clean(cell) for cell in row], widths))
        if at_once:
            sys.stdout.flush()


def _padded(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip() + "\n"


def line(text: str) -> None:
    """Print one line, at once."""
    sys.stdout.write(f"{clean(text)}\n")
    sys.stdout.flush()


def json(value: Any) -> None:
    """Print *value* as JSON for programs, indented."""
    text = msgspec.json.format(msgspec.json.encode(value, order="deterministic"), indent=2)
    sys.stdout.write(text.decode() + "\n")


def json_lines(values: Iterable[Any], *, at_once: bool = False) -> None:
    """Print each of *values*, which may be endless, as one line of JSON; flush after each if *at_once*."""
    encode = msgspec.json.Encoder().encode
    for value in values:
        sys.stdout.write(encode(value).decode() + "\n")
        if at_once:
            sys.stdout.flush()
