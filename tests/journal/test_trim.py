"""A trimmed log: what lives is all there, what is left can be proven, and what should be left and is not is a fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ocid.domain import merkle
from ocid.domain.retention import decode_kept, encode_kept
from ocid.errors import InvalidRequest
from ocid.events import codec, image
from ocid.ids import ImageId, digest_of
from ocid.journal import trim
from ocid.journal.blocks import BLOCK
from ocid.journal.environment import U64
from ocid.journal.reader import Reader
from ocid.journal.seals import check_seals
from ocid.journal.verify import verify
from ocid.projections.retention import cited
from ocid.projections.view import View
from tests.fakes import lives
from tests.fakes.declared import exec_requested
from tests.fakes.lives import BOOT, KUBELET, Life
from tests.fakes.trimming import ENDED, begun, churn, everything, planned, seal, trim_log, view_of


def state(view: View) -> dict[str, object]:
    """What a view says, but for peers that nothing cites."""
    folds = {name: {key: row.state for key, row in fold.rows.items()} for name, fold in view.living()}
    return folds | {"started": view.node.started, "key": view.sealing.key, "origin": view.sealing.origin}


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    life = begun(tmp_path / "log")
    yield life
    life.store.close()


@pytest.mark.parametrize("seed", range(4))
def test_what_stays_folds_to_the_same_and_can_be_proven(life: Life, seed: int) -> None:
    churn(life, seed + 2, 60)
    before, root = view_of(everything(life.store)), life.store.root(life.store.last_seq())
    size = life.store.last_seq()

    kept = trim_log(life, 3 * BLOCK)

    assert 0 < len(kept) < 2 * BLOCK
    assert [seq for seq, _ in life.store.records(1, 4096) if seq <= 3 * BLOCK] == sorted(kept)
    assert state(view_of(everything(life.store))) == state(before)
    assert verify(life.store).fault is None
    assert life.store.root(size) == root
    assert not check_seals(life.store).faults
    for seq in kept:
        ((_, record),) = life.store.records(seq, 1)
        proof = merkle.inclusion_proof(seq - 1, size, life.store.subtree)
        assert merkle.inclusion_root(codec.hash_of(record), seq - 1, size, proof) == root


def test_it_goes_on_growing_and_being_trimmed(life: Life) -> None:
    churn(life, 2, 60)
    for round_, through in enumerate((BLOCK, 3 * BLOCK, 4 * BLOCK), start=3):
        trim_log(life, through)
        churn(life, round_, 30)
        seal(life)
        assert verify(life.store).fault is None
    life.store.close()
    again = lives.Store(life.store.directory, boot_id=BOOT)
    life.store = again
    churn(life, 9, 30)

    assert verify(again).fault is None
    assert again.root(again.last_seq()) == again.head().root()
    assert again.trimmed()[0] == 4 * BLOCK


def test_what_ended_since_goes_with_the_next_trimming(life: Life) -> None:
    first = trim_log(life, 2 * BLOCK)
    living = list(view_of(everything(life.store)).pods.rows)
    for name in living:
        life.write(f"pod/{name}", lives.pod.Removed())
    churn(life, 2, 60)

    second = trim_log(life, 3 * BLOCK)

    assert len([seq for seq in second if seq <= 2 * BLOCK]) < len(first)
    assert verify(life.store).fault is None


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5, 9])
def test_one_that_was_cut_off_goes_on(life: Life, stop_after: int) -> None:
    kept = trim_log(life, 2 * BLOCK, limit=50, stop_after=stop_after)
    assert verify(life.store).fault is None
    life.store.close()
    life.store = lives.Store(life.store.directory, boot_id=BOOT)

    assert verify(life.store).fault is None
    for _ in trim.steps(life.store, 2 * BLOCK, kept, 50):
        pass

    assert [seq for seq, _ in life.store.records(1, 4096) if seq <= 2 * BLOCK] == sorted(kept)
    assert verify(life.store).fault is None


def _edit(db: bytes, change: Callable[[Reader, object, object], None]) -> Callable[[Reader], None]:
    def edit(reader: Reader) -> None:
        with reader._env.begin(db=reader._db[db], write=True) as txn:
            change(reader, txn, reader._db[db])

    return edit


def _remove_kept(reader: Reader, txn: object, _: object) -> None:
    seq = next(each.seq for each in reader.read(1) if each.stream.startswith("pod/"))
    assert txn.delete(U64.pack(seq))  # type: ignore[attr-defined]


TAMPERED = {
    "a record that stayed is removed": (_edit(b"ev", _remove_kept), "was not trimmed"),
    "the hashes of a block are removed": (
        _edit(b"lf", lambda r, txn, _: txn.delete(U64.pack(r.thinned()[0]))),
        "the hashes of the records beside it are missing",
    ),
    "the hashes of a block are others": (
        _edit(b"lf", lambda r, txn, _: txn.put(U64.pack(r.thinned()[0]), bytes(BLOCK * 32))),
        "is not the one whose hash was kept",
    ),
    "the hashes of a block are too few": (
        _edit(b"lf", lambda r, txn, _: txn.put(U64.pack(r.thinned()[0]), b"x")),
        "the hashes of block",
    ),
    "more is said to be trimmed": (
        _edit(b"mk", lambda _, txn, __: txn.put(b"trimmed", U64.pack(3 * BLOCK) + bytes(32))),
        "nothing in it says so",
    ),
    "nothing is said to be trimmed": (
        _edit(b"mk", lambda _, txn, __: txn.delete(b"trimmed")),
        "missing",
    ),
    "another hash is said to be the last one's": (
        _edit(b"mk", lambda _, txn, __: txn.put(b"trimmed", U64.pack(2 * BLOCK) + bytes(32))),
        "another hash for the last record",
    ),
    "the node of a block is removed": (
        _edit(b"mt", lambda _, txn, __: txn.delete(b"\x08" + U64.pack(0))),
        "tree",
    ),
    "a summary is removed": (
        _edit(b"bk", lambda r, txn, _: txn.delete(U64.pack(r.thinned()[0]))),
        "has no summary",
    ),
}


@pytest.mark.parametrize(("tamper", "said"), TAMPERED.values(), ids=TAMPERED.keys())
def test_what_should_be_left_and_is_not_is_a_fault(life: Life, tamper: Callable[[Reader], None], said: str) -> None:
    trim_log(life, 2 * BLOCK)
    assert verify(life.store).fault is None

    tamper(life.store)

    fault = verify(life.store).fault
    assert fault is not None
    assert said in fault.what


def test_the_hash_of_a_record_outlives_it_beside_what_stays(life: Life) -> None:
    leaves = [codec.hash_of(record) for _, record in life.store.records(1, 2 * BLOCK)]
    kept = trim_log(life, 2 * BLOCK)
    gone = next(seq for seq in range(1, 2 * BLOCK) if seq not in kept)

    assert life.store.at([gone]) == []
    assert life.store.subtree(0, gone - 1) == leaves[gone - 1]


def test_a_block_that_is_empty_is_known_by_its_hash_alone(life: Life) -> None:
    for name in view_of(everything(life.store)).pods.rows:
        life.write(f"pod/{name}", lives.pod.Removed())
    for name in view_of(everything(life.store)).containers.rows:
        life.write(f"container/{name}", lives.container.Removed())
    for number in range(7):
        life.write("catalog/images", image.ImageRemoved(image_id=ImageId(f"sha256:{number:064x}")))
    life.write("catalog/images", image.LayersCollected(layers=1))
    for number in range(BLOCK):
        life.write(f"exec/{number:032x}", exec_requested(f"{number:032x}", container_id="c"), ENDED)
    last = life.store.last_seq() // BLOCK * BLOCK

    trim_log(life, last)

    empty = [block for block in range(last // BLOCK) if life.store.leaves(block) is None]
    assert empty
    assert verify(life.store).fault is None
    with pytest.raises(codec.Damaged, match="was trimmed"):
        life.store.subtree(0, empty[0] * BLOCK)


def test_documents_that_nothing_cites_go_and_those_that_came_again_stay(life: Life) -> None:
    store = life.store
    life.write("exec/d1", exec_requested("d1", container_id="c"), context=KUBELET, documents=(b"old", b"again"))
    store.watch_documents(watch=True)
    life.write("exec/d2", exec_requested("d2", container_id="c"), context=KUBELET, documents=(b"again",))
    digests = [bytes.fromhex(digest_of(each).removeprefix("sha256:")) for each in (b"old", b"again")]

    assert store.drop_documents(digests) == 1
    store.watch_documents(watch=False)

    assert store.document(digest_of(b"again")) == b"again"
    with pytest.raises(AssertionError):
        store.drop_documents(digests)


def test_what_records_cite_is_found_in_their_bytes() -> None:
    first, second = digest_of(b"1"), digest_of(b"2")
    texts = [f"x{first}y".encode(), f'"{second}"'.encode(), b"sha256:" + b"g" * 64, b"sha256:12"]

    assert cited(texts) == {bytes.fromhex(each.removeprefix("sha256:")) for each in (first, second)}


@pytest.mark.parametrize("document", [b"", b"\xc1", b"\x91\xa1x", b"\x81\x01\x02"])
def test_a_document_of_what_stays_that_is_none_is_damage(document: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode_kept(document)


def test_what_stays_comes_back_from_its_document() -> None:
    for seqs in (set(), {1}, {5, 3, 1000, 999}):
        assert decode_kept(encode_kept(seqs)) == seqs


@pytest.mark.parametrize("before", [0, 1, 5])
def test_a_log_that_is_trimmed_while_it_is_checked_is_not_damaged(life: Life, before: int) -> None:
    churn(life, 2, 60)
    _, steps = planned(life, 3 * BLOCK)
    for _ in range(before):
        next(steps)

    report = verify(life.store, part_records=BLOCK, progress=lambda _: next(steps, None))

    assert report.fault is None
    assert next(steps, None) is None, "all of it went on meanwhile"
    assert verify(life.store).fault is None


@pytest.mark.parametrize("tamper", ["a record that stayed is removed", "a summary is removed"])
def test_damage_is_found_while_somebody_writes(life: Life, tamper: str) -> None:
    trim_log(life, 2 * BLOCK)
    TAMPERED[tamper][0](life.store)
    number = iter(range(10**6))

    def writes(_: object) -> None:
        life.write(f"exec/{next(number):032x}", exec_requested(container_id="c"), ENDED)

    report = verify(life.store, part_records=BLOCK, progress=writes)

    assert report.fault is not None
    assert TAMPERED[tamper][1] in report.fault.what
