"""The indexes say what the records say, whatever is appended and however; and one that does not is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, strategies as st

from ocid.events import codec, exec as execution
from ocid.journal import blocks, indexing
from ocid.journal.blocks import BLOCK, Summary
from ocid.journal.environment import U64, child_key, name_key
from ocid.journal.indexes import SEQS_MAX
from ocid.journal.reader import Reader
from ocid.journal.verify import verify
from tests.fakes import lives
from tests.fakes.declared import exec_requested
from tests.fakes.lives import APP, BOOT, HOG, IMAGE, JOB, REFERENCE, WEB, Life

ENDED = execution.Finished(exit_code=0, timed_out=False, took_ms=1, stdout_bytes=0, stderr_bytes=0)


@pytest.fixture
def life(tmp_path: Path) -> Life:
    """Two blocks and a bit."""
    life = Life(tmp_path / "log")
    lives.write_begin(life)
    lives.write_web(life)
    lives.write_job(life)
    for number in range(BLOCK):
        life.write(f"exec/{number:032x}", exec_requested(f"{number:032x}", container_id=HOG), ENDED)
    return life


def test_names_and_children(life: Life) -> None:
    store = life.store

    assert [stream for _, stream in store.named("prod/web")] == [f"pod/{WEB}"]
    assert [stream for _, stream in store.named("web")] == [f"pod/{WEB}"]
    assert [stream for _, stream in store.named("app")] == [f"container/{APP}"]
    assert [stream.split("/")[0] for _, stream in store.named(REFERENCE)] == ["pull"]
    assert {stream.split("/")[0] for _, stream in store.named(IMAGE)} == {"pull", "container"}
    assert store.named("we") == store.named("") == store.named("web\0") == []
    assert {stream for _, stream in store.children(f"pod/{JOB}")} >= {f"container/{HOG}"}
    assert len(store.children(f"container/{HOG}")) == BLOCK
    assert store.children("pod/") == []
    assert store.streams("pod/a", 9) == [f"pod/{WEB}", f"pod/{JOB}"]
    assert store.streams("pod/a", 1) == [f"pod/{WEB}"]
    assert store.version(f"exec/{1:032x}") == 2
    assert store.version("exec/zz") == 0
    assert store.seqs(f"pod/{WEB}") == [each.seq for each in life.envelopes if each.stream == f"pod/{WEB}"]
    assert verify(store).fault is None


def test_a_long_name_is_found_and_another_is_not() -> None:
    long = "n" * 5000
    assert name_key(long) != name_key(long + "n")
    assert len(name_key(long)) + 8 < 511
    assert b"\0" not in name_key(long)[:-1]


def test_a_block_goes_on_after_a_restart(life: Life) -> None:
    life.store.close()
    again = lives.Store(life.store.directory, boot_id=BOOT)
    life.store = again
    for number in range(BLOCK, 2 * BLOCK):
        life.write(f"exec/{number:032x}", exec_requested(f"{number:032x}", container_id=HOG), ENDED)

    assert len(again.summaries(0)) == again.last_seq() // BLOCK == 4
    assert verify(again).fault is None
    again.close()


def test_an_append_that_failed_leaves_no_trace(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(codec, "seal", lambda *_: (_ for _ in ()).throw(lmdb.MapFullError("full")))
        with pytest.raises(lmdb.MapFullError):
            life.store._append([lives.prepare("exec/zz", 0, [ENDED], lives.Context(who=77))], 1, 1)
    for number in range(BLOCK, 2 * BLOCK):
        life.write(f"exec/{number:032x}", exec_requested(f"{number:032x}", container_id=HOG), ENDED)

    assert verify(life.store).fault is None
    assert not any(77 in summary.whos for _, summary in life.store.summaries(0))


def _put(db: bytes, key: bytes, value: bytes) -> Callable[[Reader], None]:
    def put(reader: Reader) -> None:
        with reader._env.begin(db=reader._db[db], write=True) as txn:
            assert txn.put(key, value)

    return put


def _delete(db: bytes, find: Callable[[Reader], bytes]) -> Callable[[Reader], None]:
    def delete(reader: Reader) -> None:
        with reader._env.begin(db=reader._db[db], write=True) as txn:
            assert txn.delete(find(reader))

    return delete


def _web(reader: Reader) -> bytes:
    return name_key("prod/web") + U64.pack(reader.named("prod/web")[0][0])


def _child(reader: Reader) -> bytes:
    return child_key(f"pod/{WEB}") + U64.pack(reader.children(f"pod/{WEB}")[0][0])


TAMPERED = {
    "a name hidden": (_delete(b"ix", _web), "the index of names does not have what it says"),
    "a child hidden": (_delete(b"ix", _child), "the index of names does not have what it says"),
    "a name made up": (_put(b"ix", name_key("evil") + U64.pack(5), b"pod/x"), "the index of names has"),
    "a summary hidden": (_delete(b"bk", lambda _: U64.pack(0)), "the summary of its block says something else"),
    "a summary changed": (
        _put(b"bk", U64.pack(1), Summary(1, 2, {"pod.ready"}, {0}).encode()),
        "the summary of its block says something else",
    ),
    "a summary made up": (_put(b"bk", U64.pack(7), Summary(1, 2, set(), set()).encode()), "3 blocks have a summary"),
}


@pytest.mark.parametrize(("tamper", "said"), TAMPERED.values(), ids=TAMPERED.keys())
def test_an_index_that_lies_is_a_fault(life: Life, tamper: Callable[[Reader], None], said: str) -> None:
    tamper(life.store)

    fault = verify(life.store).fault

    assert fault is not None
    assert said in fault.what


def test_a_summary_that_is_none_is_damage() -> None:
    for stored in (b"", b"\0" * 15, b"\0" * 16, b"\0" * 16 + b"\x92\x91\xa2\xff\xfe\x90", b"\0" * 16 + b"\xc1"):
        with pytest.raises(codec.Damaged):
            blocks.decode(stored)


@given(st.lists(st.tuples(st.text(max_size=5), st.integers(0, 1 << 62), st.integers(0, 1 << 62)), min_size=1))
def test_summaries_come_back(rows: list[tuple[str, int, int]]) -> None:
    summary = Summary()
    for kind, who, wall_ns in rows:
        summary.add(kind, who, wall_ns)

    assert blocks.decode(summary.encode()) == summary
    assert summary.first_ns == min(at for _, _, at in rows)


def test_long_streams_are_read_in_several_transactions(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ocid.journal.indexes.SEQS_MAX", 3)
    assert SEQS_MAX > 3
    assert life.store.seqs(f"pod/{WEB}") == [each.seq for each in life.envelopes if each.stream == f"pod/{WEB}"]


def test_only_events_that_say_so_have_entries(life: Life) -> None:
    for envelope in life.envelopes:
        made = indexing.entries(envelope.event, envelope.stream, envelope.seq)
        assert bool(made) == (envelope.type.endswith((".declared", ".requested", ".resolved"))), envelope.type
