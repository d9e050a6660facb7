"""The log on disk: files, transactions, the map, and what the clock does to the time index."""

from __future__ import annotations

import hashlib
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import lmdb
import msgspec
import pytest

from ocid.errors import Exhausted, Unsupported
from ocid.events import codec
from ocid.events.codec import Damaged
from ocid.events.envelope import DAEMON
from ocid.ids import Digest, StreamId
from ocid.journal import reader as reader_module
from ocid.journal.blocks import BLOCK
from ocid.journal.opening import open_or_quarantine
from ocid.journal.parts import Fault
from ocid.journal.pending import DOCUMENT_BYTES_MAX, Pending, VersionConflict, prepare
from ocid.journal.store import Store
from ocid.journal.verify import verify
from tests.journal.helpers import BOOT, OTHER_BOOT, A, B, fact

MINUTE = 60 * 10**9


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path, boot_id=BOOT, map_bytes=64 << 20)
    yield store
    store.close()


def put(store: Store, version: int, count: int = 1, wall_ns: int = MINUTE, stream: StreamId = A) -> None:
    events = [fact(number) for number in range(version, version + count)]
    store.append_batch([prepare(stream, version, events, DAEMON)], wall_ns, 1)


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    open_or_quarantine(tmp_path / "root" / "log", boot_id=BOOT).close()

    assert stat.S_IMODE((tmp_path / "root" / "log").stat().st_mode) == 0o700
    for path in (tmp_path / "root" / "log").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_directory_open_to_others_is_closed_to_them(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir(mode=0o755)

    open_or_quarantine(tmp_path / "log", boot_id=BOOT).close()

    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o700


def test_the_format_is_that_of_lmdb_0_9(store: Store) -> None:
    raw = (store.directory / "data.mdb").read_bytes()

    assert raw[16:24] == (0xBEEFC0DE).to_bytes(4, "little") + (1).to_bytes(4, "little")


def test_records_cite_the_one_before(store: Store) -> None:
    put(store, 0, 2)
    put(store, 2)

    records = [record for _, record in store.records(1)]

    cited = [codec.header_of(record).prev_hash for record in records]
    assert cited == [codec.NO_HASH, codec.hash_of(records[0]), codec.hash_of(records[1])]
    assert store.last() == (3, codec.hash_of(records[2]))


def test_a_conflict_undoes_the_whole_batch(store: Store) -> None:
    good = prepare(A, 0, [fact(1)], DAEMON, [b"document"])
    stale = prepare(A, 0, [fact(2)], DAEMON)

    with pytest.raises(VersionConflict, match="'pod/a' is at version 1, not 0") as caught:
        store.append_batch([good, stale], MINUTE, 1)

    assert caught.value.index == 1
    assert store.last() == (0, codec.NO_HASH)
    assert store.read(1) == []
    put(store, 0)
    assert store.last()[0] == 1


def test_epochs_and_boots_are_counted(tmp_path: Path) -> None:
    first = Store(tmp_path, boot_id=BOOT, map_bytes=64 << 20)
    assert (first.epoch, first.last_boot_id, first.last_stop_ns) == (1, "", 0)
    put(first, 0)
    first.close(stopped_at_ns=77)

    second = Store(tmp_path, boot_id=OTHER_BOOT, map_bytes=64 << 20)
    assert (second.epoch, second.last_boot_id, second.last_stop_ns) == (2, BOOT, 77)
    second.close()  # it wrote nothing, so it is missing nowhere

    third = Store(tmp_path, boot_id=OTHER_BOOT, map_bytes=64 << 20)
    assert (third.epoch, third.last_boot_id, third.last_stop_ns) == (2, OTHER_BOOT, 0)
    put(third, 1)
    assert verify(third).last_epoch == 2
    third.close()


def test_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path, boot_id=BOOT, map_bytes=64 << 20)
    with store._env.begin(db=store._db[b"mk"], write=True) as txn:
        txn.put(b"format", b"9")
    store.close()

    with pytest.raises(Unsupported, match="has format b'9'; this build reads b'1': run the ocid that wrote it"):
        open_or_quarantine(tmp_path, boot_id=BOOT)

    assert (tmp_path / "data.mdb").exists()


def test_a_full_map_grows_once(tmp_path: Path) -> None:
    store = Store(tmp_path, boot_id=BOOT, map_bytes=1 << 20)
    documents = [bytes([number]) * 100_000 for number in range(12)]

    store.append_batch([prepare(A, 0, [fact(1)], DAEMON, documents)], MINUTE, 1)

    assert store._env.info()["map_size"] == 2 << 20
    assert verify(store).fault is None
    store.close()


def test_growing_waits_for_readers(tmp_path: Path) -> None:
    store = Store(tmp_path, boot_id=BOOT, map_bytes=1 << 20)
    documents = [bytes([number]) * 100_000 for number in range(12)]
    thread = threading.Thread(
        target=store.append_batch, args=([prepare(A, 0, [fact(1)], DAEMON, documents)], MINUTE, 1)
    )
    with store._reading():
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
    thread.join(10)

    assert store.last()[0] == 1
    store.close()


def test_a_map_that_cannot_grow_enough_is_a_typed_error(tmp_path: Path) -> None:
    store = Store(tmp_path, boot_id=BOOT, map_bytes=256 << 10)

    with pytest.raises(Exhausted, match="is full: 524288 bytes of address space are not enough for one batch more"):
        store.append_batch([prepare(A, 0, [fact(1)], DAEMON, [bytes(1 << 20)])], MINUTE, 1)

    with pytest.raises(AssertionError, match="a commit failed"):
        put(store, 0)
    store.close()
    again = Store(tmp_path, boot_id=BOOT, map_bytes=64 << 20)
    assert again.last()[0] == 0
    put(again, 0)
    again.close()


def test_less_address_space_is_taken_where_there_is_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    really = lmdb.open

    def stingy(path: str, **options: object) -> lmdb.Environment:
        asked.append(options["map_size"])
        if isinstance(options["map_size"], int) and options["map_size"] > 1 << 30:
            raise lmdb.MemoryError(path)
        return really(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(lmdb, "open", stingy)

    store = Store(tmp_path, boot_id=BOOT, map_bytes=4 << 30)
    put(store, 0)
    store.close()

    assert asked == [4 << 30, 2 << 30, 1 << 30]


def test_an_event_or_document_that_is_too_large_is_refused() -> None:
    with pytest.raises(Exhausted, match=r"the record of a 'node.orphan_found' for 'pod/a' would have \d+ bytes"):
        prepare(A, 0, [fact("x" * 3000)], DAEMON)
    with pytest.raises(Exhausted, match="a document for 'pod/a' has 8388609 bytes; the limit is 8388608"):
        prepare(A, 0, [fact(1)], DAEMON, [bytes(DOCUMENT_BYTES_MAX + 1)])


def test_the_largest_record_keeps_the_limit(store: Store) -> None:
    def largest() -> Pending:
        for size in range(2000, 0, -1):
            try:
                return prepare(A, 0, [fact("x" * size)], DAEMON)
            except Exhausted:
                continue
        raise AssertionError("none fits")

    store.append_batch([largest()], 2**63, 2**63)

    ((_, record),) = store.records(1)
    assert codec.RECORD_BYTES_MAX - 120 < len(record) <= codec.RECORD_BYTES_MAX


def test_long_reads_come_in_short_transactions(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for start in range(0, 1000, 200):
        put(store, start, 200)
    monkeypatch.setattr(reader_module, "READ_S_MAX", -1.0)

    assert len(store.records(1)) == 64
    assert [each.version for each in store.read_stream(A)] == list(range(1, 1001))
    store.check_documents()


def test_times_are_found_to_within_a_block_also_after_the_clock_was_set_back(store: Store) -> None:
    for block, minute in enumerate((10, 20, 12, 20)):
        put(store, block * BLOCK, BLOCK, wall_ns=minute * MINUTE)
    put(store, 4 * BLOCK, 3, wall_ns=30 * MINUTE)

    assert store.seq_at(0) == 1
    assert store.seq_at(11 * MINUTE) == BLOCK + 1
    assert store.seq_at(13 * MINUTE) == BLOCK + 1
    assert store.seq_at(21 * MINUTE) == 4 * BLOCK + 1  # what is not complete has no summary
    assert [summary.types for _, summary in store.summaries(2)] == [{"node.orphan_found"}] * 2


def test_a_flipped_byte_is_found_when_it_is_read(store: Store) -> None:
    put(store, 0, 3)
    ((seq, record),) = store.records(2, 1)
    with store._env.begin(db=store._db[b"ev"], write=True) as txn:
        txn.put(seq.to_bytes(8, "big"), record[:50] + bytes([record[50] ^ 1]) + record[51:])

    with pytest.raises(Damaged, match="record 2: the record does not have the hash it carries"):
        store.read(1)
    with pytest.raises(Damaged, match="record 2"):
        store.read_stream(A)
    report = verify(store)
    assert report.fault == Fault(2, "the record does not have the hash it carries")
    assert (report.records, report.last_good_seq) == (1, 1)


def test_a_changed_document_is_found(store: Store) -> None:
    store.append_batch([prepare(A, 0, [fact(1)], DAEMON, [b"one", b"two"])], MINUTE, 1)
    assert verify(store).documents == 2
    key = hashlib.sha256(b"one").digest()
    with store._env.begin(db=store._db[b"dc"], write=True) as txn:
        txn.put(key, b"eno")

    with pytest.raises(Damaged, match="has another digest"):
        store.document(Digest("sha256:" + key.hex()))
    assert verify(store).fault == Fault(0, f"the stored document sha256:{key.hex()} has another digest")


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        ("missing", Fault(2, "the record is missing")),
        ("swapped", Fault(2, "the record says that it is 3")),
        ("rewritten", Fault(3, "the record does not cite the one before it")),
        ("last missing from index", Fault(3, "the index of streams says None for it")),
        ("index too short", Fault(0, "the index of streams has 2 entries for 3 records")),
        ("version", Fault(2, "'pod/a' goes from version 1 to 5")),
        ("epoch", Fault(2, "the epoch goes from 1 to 3")),
        ("first epoch", Fault(1, "the epoch goes from 0 to 2")),
    ],
)
def test_what_verify_finds(store: Store, harm: str, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, 0, 3)
    one, two, three = (record for _, record in store.records(1))
    payload = codec.payload_of(codec.decode(two).event)
    header = list(msgspec.structs.astuple(codec.header_of(two)))
    second = (2).to_bytes(8, "big")
    with store._env.begin(db=store._db[b"ev"], write=True) as txn:
        match harm:
            case "missing":
                txn.delete(second)
            case "swapped":
                txn.put(second, three)
            case "rewritten":  # with another "who", and a hash that is right
                txn.put(second, codec.seal((*header[:9], 99, *header[10:]), payload)[0])
            case "version":
                txn.put(second, codec.seal((*header[:2], 5, *header[3:]), payload)[0])
            case "epoch":
                txn.put(second, codec.seal((*header[:8], 3, *header[9:]), payload)[0])
            case "first epoch":
                first = msgspec.structs.astuple(codec.header_of(one))
                sealed = codec.seal((*first[:8], 2, *first[9:]), codec.payload_of(codec.decode(one).event))
                txn.put((1).to_bytes(8, "big"), sealed[0])
            case "last missing from index":
                txn.delete(b"pod/a\0" + (3).to_bytes(8, "big"), db=store._db[b"st"])
            case "index too short":
                monkeypatch.setattr(store, "index_entries", lambda: 2)

    assert verify(store).fault == fault


def test_a_check_may_begin_anywhere(store: Store) -> None:
    put(store, 0, 5)
    put(store, 0, 5, stream=B)

    report = verify(store, from_seq=4)

    assert report.fault is None
    assert (report.records, report.last_good_seq, report.streams) == (7, 10, 2)
    assert report.last_good_hash == store.last()[1]
