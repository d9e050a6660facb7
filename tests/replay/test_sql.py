"""``ocid-replay sql``: a table of the log, and nothing else for a query to reach."""

from __future__ import annotations

import datetime
import decimal
import importlib.util
import json
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from ocid_replay import sql
from ocid_replay.__main__ import main
from ocid_replay.sql_table import COLUMNS

from ocid.events.base import REGISTRY, Opaque
from tests.fakes.incidents import DROPPED, SHELL, SHOP, write_incident
from tests.fakes.lives import Life

EAST = datetime.timezone(datetime.timedelta(hours=1))
Run = Callable[..., tuple[int, str, str]]
with_duckdb = pytest.mark.skipif(
    importlib.util.find_spec("duckdb") is None,
    reason="DuckDB (70 MB) is an optional extra that is not installed here: pip install 'duckdb>=1.2,<3'",
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("incident") / "log"
    write_incident(path)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], directory: Path) -> Run:
    """Return what runs a query in this process: exit code, output, errors."""

    def run_it(*arguments: object, log: Path = directory) -> tuple[int, str, str]:
        code = main(["sql", "--log", str(log), *map(str, arguments)], guard=lambda work: work())
        return code, *capsys.readouterr()

    return run_it


def test_without_duckdb_it_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise ImportError

    monkeypatch.setattr(sql.importlib, "import_module", missing)
    assert run("SELECT 1") == (
        5, "", "ocid-replay: sql needs DuckDB, which is not installed here: pip install 'duckdb>=1.2,<3'\n",
    )  # fmt: skip


def test_columns_can_be_listed_without_a_log_or_duckdb(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("--columns", log=tmp_path / "none")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == [name for name, _ in COLUMNS]


@with_duckdb
def test_every_record_is_a_row(run: Run) -> None:
    rows = [json.loads(line) for line in run("-o", "jsonl")[1].splitlines()]
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    assert list(rows[0]) == [name for name, _ in COLUMNS]
    assert rows[0]["time"] == "2025-11-24T04:00:00.000000Z"
    shell = next(row for row in rows if row["name"] == SHELL and row["type"] == "session.opened")
    assert (shell["pod_id"], shell["container_id"]) == (SHOP, DROPPED)


@with_duckdb
def test_questions_of_the_incident(run: Run) -> None:
    query = (
        "SELECT seq, peer_login_uid AS login, payload->>'argv_brief' AS argv FROM events "
        "WHERE type = 'session.requested' AND peer_login_uid IS NOT NULL"
    )
    assert run(query, "-o", "json")[0] == 0
    found = json.loads(run(query, "-o", "json")[1])
    assert found["columns"] == ["seq", "login", "argv"]
    assert [(row["login"], row["argv"][:4]) for row in found["rows"]] == [(1004, "sh -")]
    assert run("SELECT count(*) AS n FROM events", "--type", "container.exited")[1].split() == ["n", "7"]


@with_duckdb
@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("selec", "syntax error"),
        ("SELECT 1; SELECT 2", "wanted one SELECT"),
        ("DROP TABLE events", "wanted one SELECT"),
        ("COPY events TO '/tmp/never.csv'", "wanted one SELECT"),
        ("ATTACH '/tmp/never.db'", "wanted one SELECT"),
        ("INSTALL httpfs", "wanted one SELECT"),
        ("SET memory_limit='1TB'", "wanted one SELECT"),
        ("SELECT * FROM nothing", "nothing does not exist"),
        ("SELECT * FROM read_csv('/etc/passwd')", "disabled by configuration"),
        ("SELECT * FROM read_text('/proc/self/environ')", "disabled by configuration"),
        ("SELECT * FROM glob('/*')", "disabled by configuration"),
        ("SELECT * FROM '/etc/passwd'", "does not exist"),
        ("SELECT 1) TO '/tmp/never.csv' --", "syntax error"),
        ("SELECT error('\x1b[2J\nfake')", "\N{REPLACEMENT CHARACTER}[2J"),
        ("SELECT * FROM args", "args does not exist"),  # no variable of ours is a table
    ],
)
def test_what_is_no_query_of_the_table_is_refused_in_one_line(run: Run, query: str, said: str) -> None:
    code, out, err = run(query)
    assert (code, out) == (64, "")
    assert said in err
    assert err.count("\n") == 1
    assert err.strip().isprintable()


@with_duckdb
def test_rows_are_limited_and_that_is_said(run: Run) -> None:
    code, out, err = run("SELECT seq FROM events ORDER BY 1", "--rows", 3)
    assert (code, out.split()) == (0, ["seq", "1", "2", "3"])
    assert "only the first 3 rows" in err


@with_duckdb
def test_a_query_that_takes_too_long_or_too_much_is_ended(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "QUERY_S_MAX", 0.2)
    code, _, err = run("SELECT count(*) FROM range(10000000000) a, range(10000000) b WHERE a.range % 7 = b.range % 5")
    assert code == 1
    assert "took more than" in err
    monkeypatch.setattr(sql, "QUERY_S_MAX", 60.0)
    monkeypatch.setattr(sql, "MEMORY_BYTES_MAX", 64 << 20)
    code, _, err = run("SELECT list(range) FROM range(100000000)")
    assert code == 1
    assert "needs more memory" in err


@with_duckdb
def test_parquet_holds_what_the_query_finds(run: Run, tmp_path: Path) -> None:
    import duckdb

    target = tmp_path / "it's.parquet"
    target.write_text("before")
    assert run("SELECT seq, type, time FROM events -- all", "--parquet", target)[:2] == (0, "")
    quoted = str(target).replace("'", "''")
    count, first = duckdb.sql(f"SELECT count(*), min(time) FROM '{quoted}'").fetchall()[0]
    assert count > 90
    assert first == datetime.datetime(2025, 11, 24, 4)
    assert target.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


@with_duckdb
def test_parquet_that_cannot_be_written_leaves_what_was_there(run: Run, tmp_path: Path) -> None:
    code, _, err = run("--parquet", tmp_path / "no" / "x.parquet")
    assert (code, "cannot be written" in err) == (1, True)
    kept = tmp_path / "kept.parquet"
    kept.write_text("before")
    assert run("SELECT nothing FROM events", "--parquet", kept)[0] == 64
    assert kept.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["kept.parquet"]


@with_duckdb
def test_foreign_records_are_rows_too(run: Run, tmp_path: Path) -> None:
    life = Life(tmp_path / "log")
    hostile = {"a": "\0\x1b[2J\u202e", "b": b"\xff", "c": [1 << 63, -1, 1.5, None], "d": {"e": "'; DROP TABLE events"}}
    life.write("later/x", Opaque(type="later.kind", type_version=9, payload=msgspec.msgpack.encode(hostile)))
    life.write("later/x", Opaque(type="later.kind", type_version=9, payload=b"\xc1"))
    life.now_ns = 1 << 62  # a clock that went far ahead, and back
    life.write("pod/x", REGISTRY["pod.lost"](reason="\x1b[2J\nfake line\r\u202e"))
    life.now_ns = 10**9
    life.write("pod/x", REGISTRY["pod.stopped"]())
    life.store.close()
    code, out, err = run("SELECT * FROM events ORDER BY seq", log=tmp_path / "log")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 5
    assert out.replace("\n", "").isprintable()
    code, out, _ = run("SELECT payload->>'payload_hex' AS hex FROM events WHERE seq = 2", log=tmp_path / "log")
    assert out.split() == ["hex", "c1"]


@pytest.mark.parametrize(
    ("value", "made"),
    [
        (None, None),
        (datetime.datetime(2026, 1, 2, 3, 4, 5, 6), "2026-01-02T03:04:05.000006Z"),
        (datetime.datetime(2026, 1, 2, 3, tzinfo=EAST), "2026-01-02T02:00:00.000000Z"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (b"\x00\xff", "00ff"),
        ({1: [decimal.Decimal("1.5")]}, {"1": ["1.5"]}),
        (uuid.UUID(int=0), "00000000-0000-0000-0000-000000000000"),
    ],
)  # fmt: skip
def test_values_are_fit_for_json(value: object, made: object) -> None:
    assert sql.ready(value) == made


def test_columns_of_one_name_are_told_apart() -> None:
    assert sql.unique(["a", "b", "a", "a_2", "a"]) == ["a", "b", "a_2", "a_2_2", "a_3"]


ABSURD = [("",), ("x" * 70_000,), ("SELECT 1", "--rows", "0"), ("SELECT 1", "--parquet", "")]


@pytest.mark.parametrize("arguments", ABSURD)
def test_absurd_queries_are_usage_errors(run: Run, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as left:
        run(*arguments)
    assert left.value.code == 64
