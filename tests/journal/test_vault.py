"""Pods' confidential texts on disk: kept encrypted, cited by commitment, erased for good with every proof as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocid.domain.confidential import Beside, Confidential, Erasure
from ocid.errors import Erased, NotFound
from ocid.events.codec import Damaged
from ocid.events.envelope import DAEMON
from ocid.ids import PodId
from ocid.journal import salvage, vault
from ocid.journal.pending import prepare
from ocid.journal.store import Store
from ocid.journal.verify import verify
from tests.journal.helpers import BOOT, A, fact

POD, OTHER = PodId("a" * 64), PodId("b" * 64)
SALT = bytes(range(32))
CANARY = b"c4nary-sings"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path, boot_id=BOOT, map_bytes=64 << 20)
    yield store
    store.close()


def put(store: Store, version: int, *documents: Beside) -> None:
    store.append_batch([prepare(A, version, [fact(version)], DAEMON, documents)], 1, 1)


def confided(text: bytes, pod: PodId = POD, salt: bytes = SALT) -> Confidential:
    return Confidential(pod, salt, text)


@pytest.mark.parametrize("size", [0, 1, 3000, 100_000])
def test_a_text_comes_back_by_its_commitment(store: Store, size: int) -> None:
    one = confided(os.urandom(size))
    put(store, 0, one)

    assert store.document(one.digest) == one.text
    assert store.confidential(one.digest) == one
    assert store.confidences(POD) == 1
    assert verify(store).documents == 1


def test_what_is_there_already_is_kept_once(store: Store) -> None:
    for version in range(3):
        put(store, version, confided(b"probe"), confided(b"probe", salt=bytes(32)))

    assert store.confidences(POD) == 2
    with store._reading() as txn:
        assert txn.stat(store._db[vault.NAME])["entries"] == 1 + 2 * 2


def test_no_text_is_in_the_file(store: Store) -> None:
    put(store, 0, confided(CANARY), confided(CANARY * 1000))

    assert CANARY not in (store.directory / "data.mdb").read_bytes()


def test_an_erased_text_says_by_which_record_and_everything_stays_provable(store: Store) -> None:
    one, large, other = confided(b"one"), confided(b"large" * 5000), confided(b"one", OTHER, bytes(32))
    put(store, 0, one, large, other)
    root = store.root(1)
    put(store, 1, Erasure(POD))

    with pytest.raises(Erased, match=f"document {one.digest} was erased .* of pod 'a+'; record 2 says why"):
        store.document(one.digest)
    assert store.document(other.digest) == b"one"
    assert store.root(1) == root
    report = verify(store)
    assert (report.fault, report.documents) == (None, 1)
    while store.sweep_erased(1):
        pass
    assert (store.confidences(POD), store.confidences(OTHER)) == (0, 1)
    with pytest.raises(Erased) as caught:
        store.document(large.digest)
    assert (caught.value.seq, caught.value.pod_id) == (2, POD)
    assert verify(store).documents == 1


def test_the_key_goes_with_the_commit_and_the_texts_after_it(store: Store) -> None:
    put(store, 0, *(confided(str(number).encode()) for number in range(5)))
    put(store, 1, Erasure(POD))

    with store._reading() as txn:
        assert txn.get(POD.encode() + b"\0", db=store._db[vault.NAME]) is None
    assert [store.sweep_erased(2) for _ in range(4)] == [2, 2, 1, 0]


def test_an_erased_pod_is_told_nothing_any_more(store: Store) -> None:
    put(store, 0, confided(b"one"))
    put(store, 1, Erasure(POD))
    late = confided(b"late")
    put(store, 2, late)

    with pytest.raises(Erased):
        store.document(late.digest)
    store.sweep_erased(100)
    with store._reading() as txn:
        assert txn.get(POD.encode() + b"\0", db=store._db[vault.NAME]) is None


def test_pods_are_found_by_the_beginning_of_their_ids(store: Store) -> None:
    put(store, 0, confided(b"1"), confided(b"2"), confided(b"3", OTHER))

    assert store.confiding_pods("", 9) == [POD, OTHER]
    assert store.confiding_pods("", 1) == [POD]
    assert store.confiding_pods("bb", 9) == [OTHER]
    assert store.confiding_pods("c", 9) == []


@pytest.mark.parametrize("harm", ["flipped", "exchanged", "missing", "key missing"])
def test_harm_is_found(store: Store, harm: str) -> None:
    one, two = confided(b"one"), confided(b"two")
    put(store, 0, one, two)
    prefix = POD.encode() + b"\0"
    key, other = (prefix + bytes.fromhex(each.digest[7:]) for each in (one, two))
    with store._env.begin(db=store._db[vault.NAME], write=True) as txn:
        raw = txn.get(key)
        assert raw is not None
        match harm:
            case "flipped":
                txn.put(key, raw[:-1] + bytes([raw[-1] ^ 1]))
            case "exchanged":
                txn.put(key, txn.get(other) or b"")
            case "missing":
                txn.delete(key)
            case "key missing":
                txn.delete(prefix)

    with pytest.raises(Damaged, match=f"confidential document {one.digest}"):
        store.document(one.digest)
    fault = verify(store).fault
    assert fault is not None
    assert "confidential document" in fault.what


def test_a_commitment_that_no_pod_has_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        store.document(confided(b"unknown").digest)


def test_texts_are_salvaged_from_a_file_without_its_tree(store: Store) -> None:
    small, large = confided(b"small"), confided(b"large" * 5000, OTHER)
    put(store, 0, small, large, b"plain")

    assert salvage.confidences_of(store.directory) == {small.digest: small, large.digest: large}
    assert list(salvage.documents_of(store.directory).values()) == [b"plain"]


def test_a_strangers_rows_are_damage_and_no_bug(store: Store) -> None:
    one = confided(b"one")
    put(store, 0, one)
    commitment = bytes.fromhex(one.digest[7:])
    for rows in (
        {b"\0" + commitment: b"\xff\xfe"},
        {b"\0" + commitment: b"\xff", b"\xff\0": b"short", b"\xff\0" + commitment: b""},
        {b"\0" + commitment: b"\xff", b"\xff\0": bytes(32), b"\xff\0" + commitment: bytes(99)},
        {b"\0nonsense": b"\xff"},
    ):
        with store._env.begin(db=store._db[vault.NAME], write=True) as txn:
            for key, value in rows.items():
                txn.put(key, value)
        assert store.confiding_pods("", 9)
        fault = verify(store).fault
        assert fault is not None
        assert "confidential document" in fault.what
