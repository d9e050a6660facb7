"""The grammar of the commands of ``ocid-replay`` that answer questions."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

Command = Callable[[str, str], argparse.ArgumentParser]
Filters = Callable[[argparse.ArgumentParser], None]

OUTPUTS: Final = ("table", "json", "jsonl")
MOMENT: Final = "a seq, or a time: RFC 3339, 'now', or so long ago: 90s, 15m, 2h, 3d"
CHARS_MAX: Final = 4096  # of anything typed
QUERY_CHARS_MAX: Final = 65_536
ROWS_MAX: Final = 10_000_000


def add(command: Command, filters: Filters) -> None:
    """Add the commands.

    Args:
        command: adds one, by its name and what it is for.
        filters: adds the filters of ``timeline``.
    """
    for build in (_why_died, _lineage, _state_at, _diff, _stats, _fold):
        build(command)
    for build_filtered in (_who_did, _execs, _recovery, _orphans, _peers, _sql):
        build_filtered(command, filters)


def _why_died(command: Command) -> None:
    died = command("why-died", "Say why a container died: verdict, confidence, evidence, and what is not known.")
    died.add_argument("container", type=_text, metavar="CONTAINER", help="id, beginning of it, name, or POD/NAME")
    died.epilog = "exit code 0 also for a container that has not died: the answer says so"
    output(died)


def _who_did(command: Command, filters: Filters) -> None:
    did = command("who-did", "Say who is behind records of some kinds, also of what the daemon did by itself later.")
    did.add_argument("event_type", type=_text, nargs="+", metavar="EVENT-TYPE", help="such as image.removed, or a glob")
    filters(did)
    output(did)


def _state_at(command: Command) -> None:
    state = command("state-at", "Show the pods, containers and images that were there at a moment.")
    state.add_argument("moment", type=_text, metavar="TIME|SEQ", help=MOMENT)
    state.add_argument("--inspect", type=_text, metavar="ID", help="one of them in full, with its documents; as JSON")
    output(state)


def _diff(command: Command) -> None:
    diff = command("diff", "Show what was added, removed and changed between two moments, by whom, in which records.")
    diff.add_argument("first", type=_text, metavar="T1", help=MOMENT)
    diff.add_argument("second", type=_text, metavar="T2", help="likewise")
    output(diff)


def _execs(command: Command, filters: Filters) -> None:
    execs = command("execs", "List every command, attach and port-forward, with its caller and what came of it.")
    filters(execs)
    output(execs)


def _lineage(command: Command) -> None:
    lineage = command("lineage", "Say where what a container runs came from, from the reference to the specification.")
    lineage.add_argument("container", type=_text, metavar="CONTAINER", help="id, beginning of it, name, or POD/NAME")
    output(lineage)


def _recovery(command: Command, _: Filters) -> None:
    output(command("recovery", "List what each start of the daemon found and did."))


def _orphans(command: Command, filters: Filters) -> None:
    orphans = command("orphans", "List what was found that nothing named, or that was gone or left without our doing.")
    filters(orphans)
    output(orphans)


def _peers(command: Command, _: Filters) -> None:
    peers = command("peers", "List who has used the socket, what they changed, and who of them is not the usual one.")
    peers.epilog = "the usual one is the executable and uid that the log's first pod was asked for by"
    output(peers)


def _stats(command: Command) -> None:
    output(command("stats", "Count the records by kind, with their bytes and rates."))


def _fold(command: Command) -> None:
    fold = command("fold", "Fold the log to a state and print its digest.")
    fold.add_argument(
        "--twice", action="store_true", help="in several ways; exit code 9 unless all come to the same state"
    )
    fold.add_argument("--seq", type=_seq, default=0, metavar="SEQ", help="up to this record; the last one by default")
    output(fold)


def _sql(command: Command, filters: Filters) -> None:
    sql = command("sql", "Ask the table 'events' in SQL. Needs DuckDB: pip install 'duckdb>=1.2,<3'.")
    sql.add_argument(
        "query", type=_query, nargs="?", default="SELECT * FROM events ORDER BY seq", metavar="QUERY",
        help="one SELECT; all of the table by default",
    )  # fmt: skip
    sql.add_argument("--parquet", type=_text, metavar="FILE", help="write the result there instead")
    sql.add_argument(
        "--rows", type=_rows, default=10_000, metavar="N", help="print at most so many rows; 10000 by default"
    )
    sql.add_argument("--columns", action="store_true", help="print the columns of the table and their types instead")
    filters(sql)
    output(sql)


def output(parser: argparse.ArgumentParser) -> None:
    """Add the choice of what the answer looks like."""
    parser.add_argument(
        "-o",
        "--output",
        choices=OUTPUTS,
        default="table",
        help="table for people, json for one document, or jsonl for an object a line",
    )


def _text(text: str) -> str:
    if not text.strip() or len(text) > CHARS_MAX:
        raise argparse.ArgumentTypeError(f"wanted 1 to {CHARS_MAX} characters, not {len(text.strip())}")
    return text


def _query(text: str) -> str:
    if not text.strip() or len(text) > QUERY_CHARS_MAX:
        raise argparse.ArgumentTypeError(f"wanted 1 to {QUERY_CHARS_MAX} characters of SQL, not {len(text.strip())}")
    return text


def _seq(text: str) -> int:
    return _whole(text, 1 << 63, "seq")


def _rows(text: str) -> int:
    return _whole(text, ROWS_MAX + 1, "number of rows")


def _whole(text: str, below: int, what: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:20]) < below:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no {what}: wanted a whole number from 1")
    return int(text)
