"""``ocid-replay sql``: the log as a table for DuckDB, which may touch nothing else.

The records go through memory files, never through a disk. Before the query runs, everything but the table is taken from
DuckDB: files, network, extensions, its own settings. Only the one Parquet file that was asked for may be written.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from ocid import tables
from ocid.errors import EffectFailed, Exhausted, InvalidRequest, TimedOut, Unsupported
from ocid.journal.looking import look, peers
from ocid.projections.text import clean

from .exits import OK
from .lookup import Stored
from .reading import log_directory, selected, selection_of
from .sql_table import COLUMNS, Families, row

BATCH_ROWS: Final = 16_384
MEMORY_BYTES_MAX: Final = 4 << 30
THREADS_MAX: Final = 2
QUERY_S_MAX: Final = 600.0
CELL_CHARS_MAX: Final = 10_000
_ERROR_CHARS_MAX: Final = 300


class QueryRefused(InvalidRequest):
    """It is no query, or not one that may be asked."""


def run(args: argparse.Namespace) -> int:
    """Print or write what ``args.query`` finds."""
    if args.columns:
        tables.show(("COLUMN", "TYPE"), COLUMNS)
        return OK
    duckdb = _duckdb()
    query = one_select(duckdb, args.query)
    with look(log_directory(args)) as reader:
        peer, families = peers(reader), Families(Stored(reader))
        database = connect(duckdb)
        fill(database, (row(each, families, peer) for each in selected(reader, selection_of(args))))
    if args.parquet:
        _write(duckdb, database, query, Path(args.parquet))
        return OK
    _lock(database, "")
    names, found, more = _ask(duckdb, database, query, args.rows)
    _show(args.output, names, found, more)
    if more:
        sys.stdout.flush()
        sys.stderr.write(f"ocid-replay: only the first {args.rows} rows are shown: raise --rows, or ask for less\n")
    return OK


def _duckdb() -> Any:
    try:
        return importlib.import_module("duckdb")
    except ImportError:
        raise Unsupported("sql needs DuckDB, which is not installed here: pip install 'duckdb>=1.2,<3'") from None


def one_select(duckdb: Any, query: str) -> str:
    """Return the one SELECT that *query* is.

    Raises:
        QueryRefused: it is something else, or more than that.
    """
    try:
        statements = duckdb.extract_statements(query)
    except duckdb.Error as error:
        raise QueryRefused(f"query: {_first_line(error)}") from None
    if len(statements) != 1 or statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise QueryRefused("query: wanted one SELECT, and nothing else: the log cannot be changed")
    text: str = statements[0].query
    return text.strip().rstrip(";")


def connect(duckdb: Any) -> Any:
    """Return an empty database in memory that spills nothing to disk and looks at none of our variables."""
    memory = min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2, MEMORY_BYTES_MAX)
    settings = {
        "memory_limit": f"{memory >> 20}MiB",
        "threads": str(THREADS_MAX),
        "temp_directory": "",
        "python_enable_replacements": "false",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
    }
    return duckdb.connect(":memory:", config=settings)


def fill(database: Any, rows: Iterable[dict[str, Any]]) -> None:
    """Make the table ``events`` of *rows*.

    Raises:
        Exhausted: they do not fit in memory.
    """
    columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS)
    database.execute(f"CREATE TABLE events ({columns})")
    read = ", ".join(f"{name}: '{kind}'" for name, kind in COLUMNS if name != "time")
    taken = ", ".join("make_timestamp_ns(wall_ns)" if name == "time" else name for name, _ in COLUMNS)
    insert = f"INSERT INTO events SELECT {taken} FROM read_json(?, format='newline_delimited', columns={{{read}}})"  # noqa: S608 our own names
    iterator = iter(rows)
    encoder = msgspec.json.Encoder()
    while batch := list(islice(iterator, BATCH_ROWS)):
        descriptor = os.memfd_create("events")
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(encoder.encode_lines(batch))
            database.execute(insert, [f"/proc/self/fd/{descriptor}"])
        except Exception as error:
            if type(error).__name__ == "OutOfMemoryException":
                raise Exhausted("the records do not fit in memory: narrow them with filters such as --since") from None
            raise
        finally:
            os.close(descriptor)


def _lock(database: Any, path: str) -> None:
    """Take everything but the table, and the file *path* where there is one, from the database. For good."""
    if path:
        quoted = path.replace("'", "''")
        database.execute(f"SET allowed_paths=['{quoted}']")
    database.execute("SET enable_external_access=false")
    database.execute("SET lock_configuration=true")


def _ask(duckdb: Any, database: Any, query: str, rows: int) -> tuple[list[str], list[Sequence[Any]], bool]:
    """Return the names of columns, at most *rows* rows, and whether there are more."""
    with _Limit(duckdb, database):
        database.execute(query)
        names = unique([column[0] for column in database.description or ()])
        found = database.fetchmany(rows + 1)
    return names, found[:rows], len(found) > rows


def _write(duckdb: Any, database: Any, query: str, path: Path) -> None:
    """Write what the query finds to *path*, whole or not at all.

    Raises:
        EffectFailed: it cannot be written.
    """
    made = path.absolute().with_name(f".{path.name}.{os.getpid()}")
    os.umask(0o077)
    try:
        os.close(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    except OSError as error:
        raise EffectFailed(f"{str(path)!r} cannot be written: {error.strerror}") from error
    try:
        _lock(database, str(made))
        quoted = str(made).replace("'", "''")
        with _Limit(duckdb, database):
            database.execute(f"COPY (\n{query}\n) TO '{quoted}' (FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false)")
        with open(made, "rb") as file:
            os.fsync(file.fileno())
        os.replace(made, path)
    except OSError as error:
        raise EffectFailed(f"{str(path)!r} cannot be written: {error.strerror}") from error
    finally:
        made.unlink(missing_ok=True)


class _Limit:
    """Ends a query that takes too long, and makes one line of each of its errors."""

    def __init__(self, duckdb: Any, database: Any) -> None:
        self._duckdb = duckdb
        self._timer = threading.Timer(QUERY_S_MAX, database.interrupt)

    def __enter__(self) -> None:
        self._timer.daemon = True
        self._timer.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._timer.cancel()
        duckdb = self._duckdb
        if isinstance(error, duckdb.InterruptException):
            raise TimedOut(f"the query took more than {QUERY_S_MAX:.0f} s") from None
        if isinstance(error, duckdb.OutOfMemoryException):
            raise Exhausted("the query needs more memory than it may have: ask for less, or narrow it with filters")
        if isinstance(error, duckdb.IOException):
            raise EffectFailed(f"query: {_first_line(error)}") from None
        if isinstance(error, duckdb.Error):
            raise QueryRefused(f"query: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    return clean(str(error).strip().partition("\n")[0])[:_ERROR_CHARS_MAX]


def unique(names: Sequence[str]) -> list[str]:
    """Give columns of the same name different ones: "a", "a_2". Pure."""
    found: list[str] = []
    for name in names:
        number = 1
        made = name
        while made in found:
            number += 1
            made = f"{name}_{number}"
        found.append(made)
    return found


def _show(output: str, names: list[str], found: list[Sequence[Any]], more: bool) -> None:
    if output == "table":
        tables.show(names, ([_cell(value) for value in each] for each in found))
        return
    objects = _objects(names, found)
    if output == "jsonl":
        tables.json_lines(objects)
    else:
        tables.json({"columns": names, "rows": list(objects), "more": more})


def _objects(names: list[str], found: Iterable[Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for each in found:
        yield {name: ready(value) for name, value in zip(names, each, strict=True)}


def _cell(value: Any) -> str:
    made = ready(value)
    text = "" if made is None else made if isinstance(made, str) else msgspec.json.encode(made).decode()
    return text if len(text) <= CELL_CHARS_MAX else f"{text[:CELL_CHARS_MAX]}…"


def ready(value: Any) -> Any:
    """Make a value that DuckDB returns fit for JSON; times are RFC 3339 in UTC. Pure."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case datetime.datetime():
            at = value if value.tzinfo is None else value.astimezone(datetime.UTC).replace(tzinfo=None)
            return f"{at.isoformat(timespec='microseconds')}Z"
        case bytes():
            return value.hex()
        case dict():
            return {str(key): ready(inner) for key, inner in value.items()}
        case list() | tuple() | set():
            return [ready(inner) for inner in value]
        case _:
            return str(value)
