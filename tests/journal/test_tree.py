"""The Merkle tree that grows with the log: whole at every size, after a conflict and in the next life, too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ocid.domain import merkle
from ocid.events import codec
from ocid.events.codec import Damaged
from ocid.events.envelope import DAEMON
from ocid.journal.environment import U64, node_key
from ocid.journal.pending import VersionConflict, prepare
from ocid.journal.reader import Reader
from ocid.journal.store import Store
from tests.journal.helpers import BOOT, A, B, fact

SIZES = (1, 1, 3, 250, 1, 1, 100, 256, 7, 256, 200)  # records of one batch after the other, 1,076 in all


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path, boot_id=BOOT, map_bytes=64 << 20)
    yield store
    store.close()


def put(store: Store, count: int) -> None:
    last = store.last()[0]
    store.append_batch([prepare(A, last, [fact(last + each) for each in range(count)], DAEMON)], 1, 1)


def leaves(store: Reader) -> list[bytes]:
    return [codec.hash_of(record) for _, record in store.records(1)]


def test_the_root_is_that_of_the_records_at_every_size(store: Store) -> None:
    assert store.head().root() == merkle.EMPTY_ROOT
    for count in SIZES:
        put(store, count)
        assert store.head().size == store.last()[0]
        assert store.head().root() == merkle.root_of(leaves(store))
    hashes = leaves(store)
    for size in (0, 1, 2, 255, 256, 257, 511, 512, 513, 1000, len(hashes)):
        assert store.root(size) == merkle.root_of(hashes[:size])


def test_the_next_life_goes_on_with_the_tree(store: Store, tmp_path: Path) -> None:
    for count in SIZES:
        put(store, count)
        head = store.head()
        store.close()
        store = Store(tmp_path, boot_id=BOOT, map_bytes=64 << 20)
        assert (store.head().size, store.head().root()) == (head.size, head.root())
    put(store, 256)
    assert store.head().root() == merkle.root_of(leaves(store))
    store.close()


def test_what_was_undone_is_not_in_the_tree(store: Store) -> None:
    put(store, 250)
    before = store.head()
    with pytest.raises(VersionConflict):
        store.append_batch([prepare(A, 250, [fact(1)] * 10, DAEMON), prepare(B, 7, [fact(2)], DAEMON)], 1, 1)
    assert (store.head().size, store.head().root()) == (250, before.root())
    put(store, 10)
    assert store.head().root() == merkle.root_of(leaves(store))


def test_proofs_are_made_from_what_is_kept(store: Store) -> None:
    for count in SIZES:
        put(store, count)
    size, root, hashes = store.head().size, store.head().root(), leaves(store)
    for index in (0, 1, 255, 256, 300, 1023, 1024, size - 1):
        proof = merkle.inclusion_proof(index, size, store.subtree)
        assert merkle.inclusion_root(hashes[index], index, size, proof) == root
    for first in (1, 255, 256, 257, 900, size):
        proof = merkle.consistency_proof(first, size, store.subtree)
        assert merkle.consistent(first, size, store.root(first), root, proof)


def test_what_is_missing_is_named(store: Store) -> None:
    put(store, 256)
    put(store, 256)
    put(store, 10)
    with store._env.begin(write=True) as txn:
        txn.delete(U64.pack(515), db=store._db[b"ev"])
        txn.delete(node_key(8, 1), db=store._db[b"mt"])
    with pytest.raises(Damaged, match="record 515: the record is missing"):
        store.subtree(3, 64)
    with pytest.raises(Damaged, match="record 257: the tree lacks it"):
        store.root(512)
