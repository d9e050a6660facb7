"""Pages of the log that were read are let go, and can be read again."""

from __future__ import annotations

from pathlib import Path

from ocid.events import node
from ocid.events.envelope import DAEMON
from ocid.ids import StreamId
from ocid.journal import residence
from ocid.journal.pending import prepare
from ocid.journal.store import Store

BOOT = "8d2f6c1e-0b7a-4c55-9a3e-5f10c2d4e6b8"


def resident_kib(path: Path) -> int:
    """Sum up Rss of the maps of *path*, from /proc/self/smaps."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            ours = line.endswith(str(path))
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


def test_pages_that_were_read_are_let_go(tmp_path: Path) -> None:
    store = Store(tmp_path, boot_id=BOOT, map_bytes=64 << 20)
    event = node.Stopped(reason="x" * 500)
    for version in range(0, 2000, 100):
        store.append_batch([prepare(StreamId("node/self"), version, [event] * 100, DAEMON, ())], 1, 1)
    assert len(store.read(1, 5000)) == 2000
    before = resident_kib(tmp_path / "data.mdb")

    assert residence.let_go(tmp_path) == 64 << 20

    assert before > 500
    assert resident_kib(tmp_path / "data.mdb") < before / 10
    assert len(store.read(1, 5000)) == 2000
    store.close()


def test_a_directory_without_a_log_has_nothing_to_let_go(tmp_path: Path) -> None:
    assert residence.let_go(tmp_path) == 0
