"""The whole check in several processes: it finds what one process finds, and outlives those that die of a log."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ocid.domain import merkle
from ocid.errors import tail
from ocid.events import codec
from ocid.events.envelope import DAEMON
from ocid.ids import StreamId
from ocid.journal import check, opening, parts, structure
from ocid.journal.blocks import BLOCK
from ocid.journal.environment import U64, name_key
from ocid.journal.parts import Fault
from ocid.journal.pending import prepare
from ocid.journal.reader import Reader
from ocid.journal.store import Store
from ocid.journal.verify import Report, verify
from tests.fakes.declared import pod_declared
from tests.journal.helpers import BOOT, ROOT, fact

RECORDS = 5 * BLOCK + 77
PART = 2 * BLOCK
STREAMS = 9


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed log of a few parts, whose streams reach over all of them; written in two lives."""
    tmp_path = tmp_path_factory.mktemp("log")
    random_ = random.Random(7)
    versions: dict[StreamId, int] = {}
    for upto in (RECORDS // 2, RECORDS):
        store = Store(tmp_path, boot_id=BOOT, map_bytes=64 << 20)
        batch = []
        for seq in range(store.last_seq(), upto):
            stream = StreamId(f"pod/{random_.randrange(STREAMS)}")
            version = versions.get(stream, 0)
            declared = pod_declared(f"{seq:064x}", name=f"p{seq}")
            event = declared if not seq % 50 else fact(seq)
            batch.append(prepare(stream, version, [event], DAEMON, [b"%d" % (seq % 20)]))
            versions[stream] = version + 1
        store.append_batch(batch, 60 * 10**9, 1)
        store.close()
    return tmp_path


@pytest.fixture
def directory(written: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(written, tmp_path / "log")
    return tmp_path / "log"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "PART_RECORDS", PART)
    monkeypatch.setattr(check, "SMALL_BYTES", 0)


Edit = Callable[[Reader, Any], None]


def resealed(seq: int, field: str, change: Callable[[object], object]) -> Edit:
    """Write another header to a record, with a hash that is right."""

    def edit(reader: Reader, txn: Any) -> None:
        record = txn.get(U64.pack(seq), db=reader._db[b"ev"])
        assert record is not None
        header = msgspec.structs.asdict(codec.header_of(record))
        header[field] = change(header[field])
        payload = codec.payload_of(codec.decode(record).event)
        txn.put(U64.pack(seq), codec.seal(tuple(header.values())[:-1], payload)[0], db=reader._db[b"ev"])

    return edit


def deleted(database: bytes, key: bytes) -> Edit:
    def edit(reader: Reader, txn: Any) -> None:
        assert txn.delete(key, db=reader._db[database])

    return edit


def hidden(seq: int) -> Edit:
    """Take a record out of the index of streams."""

    def edit(reader: Reader, txn: Any) -> None:
        record = txn.get(U64.pack(seq), db=reader._db[b"ev"])
        assert record is not None
        header = codec.header_of(record)
        assert txn.delete(f"{header.stream}\0".encode() + U64.pack(header.version), db=reader._db[b"st"])

    return edit


def flipped(reader: Reader, txn: Any) -> None:
    key = U64.pack(PART + 5)
    record = txn.get(key, db=reader._db[b"ev"])
    assert record is not None
    txn.put(key, record[:60] + bytes([record[60] ^ 1]) + record[61:], db=reader._db[b"ev"])


def other_document(reader: Reader, txn: Any) -> None:
    with txn.cursor(reader._db[b"dc"]) as cursor:
        assert cursor.first()
        txn.put(cursor.key(), b"another", db=reader._db[b"dc"])


def other_node(reader: Reader, txn: Any) -> None:
    txn.put(b"\x08" + U64.pack(3), bytes(32), db=reader._db[b"mt"])


def rewritten_with_node(reader: Reader, txn: Any) -> None:
    """Rewrite the last record of a part, and the hash of its block in the tree."""
    resealed(PART, "correlation", lambda _: "x")(reader, txn)
    leaves = [codec.hash_of(txn.get(U64.pack(seq), db=reader._db[b"ev"])) for seq in range(PART - BLOCK + 1, PART + 1)]
    txn.put(b"\x08" + U64.pack(PART // BLOCK - 1), merkle.subtree_of(leaves), db=reader._db[b"mt"])


HARM: dict[str, tuple[Edit, int, str]] = {
    "a record flipped": (flipped, PART + 5, "does not have the hash"),
    "a record missing": (deleted(b"ev", U64.pack(PART + 9)), PART + 9, "the record is missing"),
    "the first of a part missing": (deleted(b"ev", U64.pack(PART + 1)), PART + 1, "the record is missing"),
    "the last of a part missing": (deleted(b"ev", U64.pack(PART)), PART, "the record is missing"),
    "a record rewritten": (resealed(700, "correlation", lambda _: "x"), 701, "does not cite the one before it"),
    "a record that cites nothing": (resealed(PART + 1, "prev_hash", lambda _: b""), PART + 1, "does not cite the one"),
    "the last of a part rewritten": (rewritten_with_node, PART + 1, "does not cite the one before it"),
    "a version within a part": (resealed(PART + 300, "version", lambda was: was + 3), PART + 300, " goes from version"),
    "a version at a part's begin": (resealed(PART + 1, "version", lambda was: was + 3), PART + 1, " goes from version"),
    "an epoch": (resealed(PART + 1, "epoch", lambda was: was + 2), PART + 1, "the epoch goes from 1 to 3"),
    "an epoch that goes back": (resealed(RECORDS, "epoch", lambda was: was - 1), RECORDS, "the epoch goes from 2 to 1"),
    "the index of streams": (hidden(3 * BLOCK), 3 * BLOCK, "the index of streams says None"),
    "the index of names": (deleted(b"ix", name_key("p600") + U64.pack(601)), 601, "the index of names"),
    "the summary of a block": (deleted(b"bk", U64.pack(2)), 2 * BLOCK + 1, "the summary of its block"),
    "a node of the tree": (other_node, 4 * BLOCK, "the tree has another hash"),
    "a document": (other_document, 0, "has another digest"),
}


def together(directory: Path) -> Report | None:
    return check.together(directory, 2, documents=True)


def test_a_good_log_is_good_however_it_is_divided(directory: Path) -> None:
    with Reader(directory) as reader:
        found = [verify(reader, part_records=size) for size in (BLOCK, PART, 16 * BLOCK)]
    found.append(check.alone(directory, documents=True))
    several = together(directory)
    assert several is not None

    assert several.fault is None
    assert (several.records, several.streams, several.documents, several.last_epoch) == (RECORDS, STREAMS, 20, 2)
    assert all(each == several for each in found)


@pytest.mark.parametrize("harm", HARM)
def test_several_processes_find_what_one_finds(directory: Path, harm: str) -> None:
    edit, seq, what = HARM[harm]
    with Store(directory, boot_id=BOOT, map_bytes=64 << 20) as store, store._env.begin(write=True) as txn:
        edit(store, txn)

    one, several = check.alone(directory, documents=True), together(directory)

    assert several is not None
    assert several.fault is not None
    assert several.fault == one.fault
    assert (several.fault.seq, what in several.fault.what) == (seq, True), several.fault
    if seq:
        assert several.last_good_seq == several.records == seq - 1
        assert several.last_good_hash == one.last_good_hash or one.last_good_seq != several.last_good_seq


def test_where_one_dies_of_it_the_check_goes_on_in_one(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    real, ourselves = parts.check_part, os.getpid()

    def deadly(reader: Reader, first_seq: int, last_seq: int, *, since: int = 0) -> parts.Part:
        if first_seq > PART and os.getpid() != ourselves:
            os.kill(os.getpid(), signal.SIGBUS)
        return real(reader, first_seq, last_seq, since=since)

    monkeypatch.setattr(parts, "check_part", deadly)

    assert together(directory) is None
    capfd.readouterr()
    check.main(directory, documents=False)
    said = [msgspec.json.decode(line, type=Report) for line in capfd.readouterr().out.splitlines()]
    assert (said[-1].records, said[-1].fault) == (RECORDS, None)


def test_where_there_can_be_no_others_one_does_it(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left() -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", none_left)
    assert together(directory) is None


def torn(_: Path) -> list[str]:
    return ["page 9: it is torn"]


def test_damaged_pages_are_said_and_the_records_are_salvaged(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "check_pages", torn)

    report = together(directory)

    assert report is not None
    assert report.fault == Fault(0, "the pages are damaged: page 9: it is torn")
    assert report.last_good_seq == RECORDS


def test_the_processes_end_with_the_one_that_began_them(directory: Path) -> None:
    script = f"""
import os, time
from pathlib import Path
from typing import Any
from ocid.journal import check, parts
check.PART_RECORDS, check.SMALL_BYTES = {PART}, 0
def hangs(*_, **__):
    os.write(1, b"%d\\n" % os.getpid())  # at once: both write
    time.sleep(600)
parts.check_part = hangs
check.together(Path({str(directory)!r}), 2, documents=False)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(2)]
        process.kill()
        pids = {int(line) for line in said}
        until = time.monotonic() + 10
        while any(Path(f"/proc/{pid}/stat").exists() for pid in pids) and time.monotonic() < until:
            time.sleep(0.02)
        left = [pid for pid in pids if Path(f"/proc/{pid}/stat").exists()]
    assert len(pids) == 2
    assert not [pid for pid in left if Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"]


def checks_of(directory: Path) -> list[int]:
    """Return the processes that check a log."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if f"journal.check\0{directory}\0".encode() in Path("/proc", name, "cmdline").read_bytes():
                found.append(int(name))
    return found


def becomes(number: int, directory: Path) -> bool:
    until = time.monotonic() + 30
    while len(checks_of(directory)) != number and time.monotonic() < until:
        time.sleep(0.02)
    return len(checks_of(directory)) == number


def test_a_check_ends_with_who_asked_for_it(directory: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "slow")
    (directory / "data.mdb").unlink()
    (directory / "data.mdb").symlink_to(tmp_path / "slow")  # which nobody ever writes: the check waits for it
    script = (
        f"from pathlib import Path\nfrom ocid.journal import opening\nopening.check_whole(Path({str(directory)!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT) as process:
        try:
            assert becomes(1, directory)  # which has hardly begun: who asked may be gone before it looks
            process.kill()
            assert becomes(0, directory)
        finally:
            for pid in checks_of(directory):
                os.kill(pid, signal.SIGKILL)
            process.kill()


def test_a_reader_of_the_command_is_told_of_documents(directory: Path) -> None:
    with Store(directory, boot_id=BOOT, map_bytes=64 << 20) as store, store._env.begin(write=True) as txn:
        other_document(store, txn)

    assert opening.check_whole(directory).fault is None
    fault = opening.check_whole(directory, documents=True).fault
    assert fault is not None
    assert "has another digest" in tail(fault.what.encode(), 200)


def test_a_log_that_is_being_written_is_not_damaged(directory: Path) -> None:
    """Its pages are used again while they are read."""
    child = [sys.executable, "-m", "tests.journal.appending_child", str(directory)]
    with subprocess.Popen(child, cwd=ROOT, stdout=subprocess.DEVNULL) as writer:
        try:
            before = structure.commits(directory)
            until = time.monotonic() + 30
            while structure.commits(directory) < before + 50 and time.monotonic() < until:
                time.sleep(0.01)
            checks = 0
            while checks < 8 or (structure.commits(directory) < before + 100 and time.monotonic() < until):
                assert check.check_pages(directory) == []
                checks += 1
            assert structure.commits(directory) >= before + 100
            report = together(directory)
        finally:
            writer.kill()
    assert report is not None
    assert (report.fault, report.incomplete) == (None, "")
    assert report.records >= RECORDS
