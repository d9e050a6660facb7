"""The check of pages: it says what lmdb's own check says, to the word, and sees good leaves quicker."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from ocid.events.envelope import DAEMON
from ocid.ids import StreamId
from ocid.journal import pages
from ocid.journal.pending import prepare
from ocid.journal.store import Store
from ocid.journal.structure import DATA
from tests.journal.helpers import BOOT, fact

verifier: Any = pytest.importorskip("lmdb.verify", reason="needs lmdb 3, which brings the check of pages")

PAGE = 4096
LEAF = 0x02
CHANGES = 600


def log(directory: Path, documents: int = 1) -> None:
    """Records, several a page, their indexes, and documents of less and of more than a page."""
    with Store(directory, boot_id=BOOT, map_bytes=64 << 20) as store:
        for first in range(0, 300, 100):
            batch = [
                prepare(
                    StreamId(f"pod/{seq}"), 0, [fact(seq)], DAEMON, [b"%d" % seq * (1 + 997 * (seq % 3))] * documents
                )
                for seq in range(first, first + 100)
            ]
            store.append_batch(batch, 60 * 10**9, 1)


def other(directory: Path) -> None:
    """What the log has not: keys in another order, several values of a key, in sub-pages and trees of their own."""
    directory.mkdir()
    with lmdb.open(str(directory), max_dbs=9, map_size=64 << 20) as env:
        plain = env.open_db(b"plain")
        numbers = env.open_db(b"numbers", integerkey=True)
        reverse = env.open_db(b"reverse", reverse_key=True)
        several = env.open_db(b"several", dupsort=True)
        fixed = env.open_db(b"fixed", dupsort=True, dupfixed=True, integerdup=True)
        for first in range(0, 600, 200):
            with env.begin(write=True) as txn:
                for n in range(first, first + 200):
                    txn.put(b"%d" % n, b"v" * (n % 90), db=plain)
                    txn.put(struct.pack("=Q", n), b"n", db=numbers)
                    txn.put(b"%d" % n, b"r", db=reverse)
                    txn.put(b"k%d" % (n % 3 if n % 2 else n), b"%d" % n, db=several)
                    txn.put(b"k%d" % (n % 5 if n % 2 else n), struct.pack("=Q", n), db=fixed)
                for n in range(first, first + 200, 3):
                    txn.delete(b"%d" % n, db=plain)


def said(directory: Path) -> list[str]:
    """What the library says without our short way."""
    try:
        return list(verifier.verify(str(directory / DATA), subdir=False))
    except verifier.VerifyError as error:
        return [str(error)]


def leaves(content: bytes) -> list[int]:
    """The places of leaf pages; of those that are free by now, too."""
    found = range(2 * PAGE, len(content), PAGE)
    return [at for at in found if struct.unpack_from("=H", content, at + 10)[0] == LEAF]


def spots(content: bytes, random_: random.Random) -> int:
    """Return a place in the file, mostly one that says where something is."""
    page = random_.choice(leaves(content))
    lower = struct.unpack_from("=H", content, page + 12)[0]
    node = struct.unpack_from("=H", content, page + random_.randrange(16, max(lower, 18), 2))[0]
    places = [page + random_.randrange(16), page + random_.randrange(16, max(lower, 17))]
    places += [
        page + min(node + random_.randrange(8), PAGE - 1),
        page + min(node + 8 + random_.randrange(30), PAGE - 1),
    ]
    return random_.choice([*places, random_.randrange(len(content))])


@pytest.mark.parametrize("make", [log, other])
def test_it_says_what_the_library_says(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "log")
    assert pages.faults_of_pages(tmp_path / "log") == said(tmp_path / "log") == []
    content = (tmp_path / "log" / DATA).read_bytes()
    harmed = tmp_path / "harmed"
    harmed.mkdir()
    random_ = random.Random(11)
    found: dict[str, int] = {}
    for _ in range(CHANGES):
        at = spots(content, random_)
        byte = random_.choice([0, 1, 0xFF, content[at] ^ 1 << random_.randrange(8)])
        (harmed / DATA).write_bytes(content[:at] + bytes([byte]) + content[at + 1 :])
        faults = said(harmed)
        assert pages.faults_of_pages(harmed) == faults, f"byte {at} of {DATA} made {byte:#x}"
        for kind in ("out of order", "out of bounds", "overruns page", "mp_lower/mp_upper", "walked"):
            found[kind] = found.get(kind, 0) + any(kind in fault for fault in faults)
        found["none"] = found.get("none", 0) + (not faults)
    assert min(found.values()) > 0, found


def test_a_short_file_is_no_page(tmp_path: Path) -> None:
    log(tmp_path / "log")
    content = (tmp_path / "log" / DATA).read_bytes()
    for size in (0, 1, 15, 100, PAGE, 2 * PAGE, 3 * PAGE + 11, len(content) // 2, len(content) - PAGE):
        (tmp_path / "log" / DATA).write_bytes(content[:size])
        faults = said(tmp_path / "log")
        assert faults
        assert pages.faults_of_pages(tmp_path / "log") == faults


def test_good_leaves_go_the_short_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the library name its parts otherwise, this fails, rather than every check of a log being slow."""
    log(tmp_path / "log", documents=0)
    whole = verifier._Verifier._walk_leaf
    long: list[int] = []

    def counting(self: Any, tree: dict[str, Any], number: int, page: bytes) -> None:
        long.append(number)
        whole(self, tree, number, page)

    monkeypatch.setattr(verifier._Verifier, "_walk_leaf", counting)
    said(tmp_path / "log")
    every = len(long)
    long.clear()
    assert pages.faults_of_pages(tmp_path / "log") == []
    assert every > 15
    assert len(long) < every / 3


def test_a_library_with_other_parts_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log(tmp_path / "log")
    monkeypatch.delattr(verifier, "_Verifier")
    monkeypatch.setattr(verifier, "verify", lambda path, subdir: ["as ever"])
    assert pages.faults_of_pages(tmp_path / "log") == ["as ever"]
