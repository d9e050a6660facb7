"""Opening the log after every kind of ending, and what happens to a damaged one."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ocid.errors import Unsupported
from ocid.events import codec
from ocid.events.envelope import DAEMON
from ocid.journal import filesystem, opening
from ocid.journal.opening import Opened, check_whole, open_or_quarantine
from ocid.journal.owner import LastLife
from ocid.journal.pending import prepare
from ocid.journal.reader import Reader
from ocid.journal.verify import verify
from tests.journal.helpers import BOOT, OTHER_BOOT, A, fact

COUNT = 2000


def fill(opened: Opened, start: int = 0, count: int = COUNT) -> None:
    for version in range(start, start + count, 100):
        events = [fact(number) for number in range(version, version + 100)]
        opened.store.append_batch([prepare(A, version, events, DAEMON)], 1, 1)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A log of ``COUNT`` records whose daemon was killed."""
    opened = open_or_quarantine(tmp_path / "log", boot_id=BOOT)
    opened.settled()
    fill(opened)
    opened.close()
    return tmp_path / "log"


@pytest.fixture
def whole_checks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Count the checks that look at everything."""
    asked: list[Path] = []

    def counted(directory: Path) -> object:
        asked.append(directory)
        return check_whole(directory)

    monkeypatch.setattr(opening, "check_whole", counted)
    return asked


def place_of(directory: Path, seq: int) -> int:
    """Return the offset in the file of the stored record *seq*."""
    with Reader(directory) as reader:
        ((found, record),) = reader.records(seq, 1)
    assert found == seq
    raw = (directory / "data.mdb").read_bytes()
    assert raw.count(record) >= 1
    return raw.rindex(record)


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


@pytest.mark.parametrize(
    ("ending", "life", "whole"),
    [
        ("stopped", LastLife.STOPPED, False),
        ("killed", LastLife.KILLED, False),
        ("power lost", LastLife.POWER_LOST, True),
        ("died opening", LastLife.DIED_OPENING, True),
        ("suspect", LastLife.DIED_OPENING, True),
        ("copied", LastLife.NONE, True),
    ],
)
def test_how_the_last_life_ended_decides_what_is_checked(
    directory: Path, whole_checks: list[Path], ending: str, life: LastLife, whole: bool
) -> None:
    opened = open_or_quarantine(directory, boot_id=BOOT)
    whole_checks.clear()
    if ending != "died opening":
        opened.settled()
    if ending == "suspect":
        opened.suspect()
    opened.close(stopped_at_ns=5 if ending == "stopped" else None)
    if ending == "copied":
        (directory / "owner").unlink()

    again = open_or_quarantine(directory, boot_id=OTHER_BOOT if ending == "power lost" else BOOT)
    try:
        assert again.last_life is life
        assert again.quarantined is None
        assert again.after_clean_stop is (ending == "stopped")
        assert again.rebooted is (ending == "power lost")
        assert whole_checks == [directory] * whole
        assert again.store.last()[0] == COUNT
        assert again.warnings == []
    finally:
        again.close()


def test_a_new_log_is_nothing_special(tmp_path: Path, whole_checks: list[Path]) -> None:
    opened = open_or_quarantine(tmp_path / "log", boot_id=BOOT)

    assert (opened.last_life, opened.quarantined, opened.store.last()) == (LastLife.NONE, None, (0, codec.NO_HASH))
    assert (opened.after_clean_stop, opened.rebooted, opened.store.epoch) == (False, False, 1)
    assert whole_checks == []
    opened.close()


def test_dying_before_there_is_a_file_is_no_damage(tmp_path: Path) -> None:
    opened = open_or_quarantine(tmp_path / "log", boot_id=BOOT)
    opened.close()
    (tmp_path / "log" / "data.mdb").unlink()

    again = open_or_quarantine(tmp_path / "log", boot_id=BOOT)

    assert again.quarantined is None
    again.close()


def quarantined(directory: Path, boot_id: str = BOOT) -> tuple[Opened, opening.Quarantined]:
    opened = open_or_quarantine(directory, boot_id=boot_id)
    assert opened.quarantined is not None
    return opened, opened.quarantined


@pytest.mark.parametrize("keep", [0.75, 0.5, 0.2])
def test_a_truncated_file_is_set_aside(directory: Path, keep: float) -> None:
    data = directory / "data.mdb"
    with Reader(directory) as reader:
        hashes = {seq: codec.hash_of(record) for seq, record in reader.records(1)}
    os.truncate(data, int(data.stat().st_size * keep) // 4096 * 4096)
    damaged = data.read_bytes()

    opened, aside = quarantined(directory)
    try:
        assert aside.path.name.startswith("log.quarantine-2")
        assert (aside.path / "data.mdb").read_bytes() == damaged
        assert aside.reason.startswith("the pages are damaged: ")
        assert aside.last_good_hash == hashes.get(aside.last_good_seq, codec.NO_HASH)
        assert aside.last_good_seq > 0 or keep < 0.5
        assert opened.store.epoch == (2 if aside.last_good_seq else 1)
        assert opened.store.last() == (0, aside.last_good_hash)
        assert opened.last_life is LastLife.KILLED
        fill(opened, count=100)
        ((_, first),) = opened.store.records(1, 1)
        assert codec.header_of(first).prev_hash == aside.last_good_hash
        assert verify(opened.store).fault is None
    finally:
        opened.close()

    open_or_quarantine(directory, boot_id=BOOT).close()
    assert len(list(directory.parent.glob("log.quarantine-*"))) == 1


def test_a_flipped_byte_in_a_new_record_is_found_at_the_next_start(directory: Path) -> None:
    flip(directory / "data.mdb", place_of(directory, COUNT - 5) + 60)

    opened, aside = quarantined(directory)
    try:
        assert aside.reason == f"record {COUNT - 5}: the record does not have the hash it carries"
        assert aside.last_good_seq == COUNT - 6
        with Reader(aside.path) as reader:
            ((_, last_good),) = reader.records(COUNT - 6, 1)
        assert aside.last_good_hash == codec.hash_of(last_good)
        assert opened.store.epoch == 2  # goes on after that of the last good record
        fill(opened, count=100)
        assert verify(opened.store).fault is None
    finally:
        opened.close()


@pytest.mark.parametrize("boot_id", [BOOT, OTHER_BOOT])
def test_a_flipped_byte_in_an_old_record_is_found_after_a_power_loss(
    directory: Path, boot_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "TAIL_RECORDS", 100)
    flip(directory / "data.mdb", place_of(directory, 7) + 60)

    opened = open_or_quarantine(directory, boot_id=boot_id)
    opened.close()

    assert (opened.quarantined is not None) is (boot_id == OTHER_BOOT)


def test_calling_the_log_suspect_has_it_checked_and_set_aside(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "TAIL_RECORDS", 100)
    flip(directory / "data.mdb", place_of(directory, 7) + 60)
    opened = open_or_quarantine(directory, boot_id=BOOT)
    opened.settled()
    with pytest.raises(codec.Damaged, match="record 7"):
        opened.store.read(1)
    opened.suspect()
    opened.close()

    again, aside = quarantined(directory)

    assert (aside.last_good_seq, again.store.epoch) == (6, 2)
    again.close()


@pytest.mark.parametrize("harm", ["empty", "missing", "text", "one meta page", "meta zeroed"])
def test_a_file_that_is_no_log_is_set_aside(directory: Path, harm: str) -> None:
    data = directory / "data.mdb"
    match harm:
        case "empty":
            os.truncate(data, 0)
        case "missing":
            data.unlink()
        case "text":
            data.write_bytes(b"not a database\n" * 9000)
        case "one meta page":
            os.truncate(data, 4096)
        case "meta zeroed":
            with data.open("r+b") as file:
                file.write(bytes(4096))

    opened, aside = quarantined(directory)

    assert aside.last_good_seq == (COUNT if harm == "meta zeroed" else 0)  # records outlive the pages that lead to them
    assert aside.reason
    fill(opened, count=100)
    opened.close()


def test_pages_that_would_kill_us_are_found_by_a_child(directory: Path) -> None:
    data = directory / "data.mdb"
    with data.open("r+b") as file:
        file.seek(8 * 4096)
        file.write(os.urandom(4096) * ((data.stat().st_size // 4096) - 8))
    (directory / "owner").write_text(f"1 {BOOT} opening\n")

    opened, aside = quarantined(directory)

    assert aside.reason
    opened.close()


def test_a_log_in_another_lmdb_format_is_refused_and_left_alone(directory: Path) -> None:
    data = directory / "data.mdb"
    with data.open("r+b") as file:
        for page in (0, 1):
            file.seek(page * 4096 + 20)
            file.write((2).to_bytes(4, "little"))

    with pytest.raises(Unsupported, match="the log's file has LMDB format 2"):
        open_or_quarantine(directory, boot_id=BOOT)

    assert data.exists()


def test_a_check_that_cannot_be_done_is_a_warning(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))

    opened = open_or_quarantine(directory, boot_id=OTHER_BOOT)

    assert opened.quarantined is None
    assert opened.warnings == [f"the log in {str(directory)!r} could not be checked: the check ended with status 1: "]
    opened.close()


def test_a_mount_point_keeps_the_damaged_log_inside(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(self: Path, target: Path) -> Path:
        if self == directory:
            raise OSError(16, "Device or resource busy")
        os.rename(self, target)
        return Path(target)

    monkeypatch.setattr(Path, "rename", busy)
    os.truncate(directory / "data.mdb", 4096)

    opened, aside = quarantined(directory)

    assert aside.path.parent == directory
    assert {path.name for path in aside.path.iterdir()} == {"data.mdb", "lock.mdb", "owner"}
    assert opened.store.last()[0] == 0
    opened.close()


@pytest.mark.parametrize(("magic", "name"), [(0x794C7630, "overlay"), (0x6969, "nfs"), (0x65735546, "fuse")])
def test_file_systems_that_cannot_hold_a_log_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, magic: int, name: str
) -> None:
    monkeypatch.setattr(filesystem, "file_system_type", lambda _: magic)

    with pytest.raises(Unsupported, match=rf"log' is on {name}, where .*: put the log on a local ext4"):
        open_or_quarantine(tmp_path / "log", boot_id=BOOT)
    assert list((tmp_path / "log").iterdir()) == []


def test_a_log_in_memory_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "file_system_type", lambda _: 0x01021994)

    opened = open_or_quarantine(tmp_path / "log", boot_id=BOOT)

    (warning,) = opened.warnings
    assert "is on tmpfs: the log, and what it proves, is lost at every reboot" in warning
    opened.close()


def test_the_type_of_a_file_system_is_what_stat_says(tmp_path: Path) -> None:
    said = subprocess.run(["stat", "-f", "-c", "%t", tmp_path], capture_output=True, check=True).stdout

    assert filesystem.file_system_type(tmp_path) == int(said, 16)


@pytest.mark.host
def test_a_real_overlay_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    merged = tmp_path / "merged"
    options = f"lowerdir={tmp_path / 'lower'},upperdir={tmp_path / 'upper'},workdir={tmp_path / 'work'}"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"overlay", os.fsencode(merged), b"overlay", 0, options.encode()) != 0:
        pytest.skip(f"mounting an overlay: {os.strerror(ctypes.get_errno())}")
    try:
        with pytest.raises(Unsupported, match="is on overlay"):
            open_or_quarantine(merged / "log", boot_id=BOOT)
    finally:
        assert libc.umount2(os.fsencode(merged), 2) == 0
