"""Opening the log at the daemon's start: who may, where, and what happens when it is damaged.

A damaged log never keeps a node from booting. It is set aside, whole, and a new one begins that cites the last record
known to be good; the daemon then rebuilds what it knows from what is running, and says so.

How much is checked depends on how the last life ended:

* Always, without LMDB: both meta pages and the length of the file (under 1 ms).
* It stopped, or was killed in this boot: hashes and chain of the newest 20,000 records (about 50 ms). A killed process
  leaves the kernel's copy of the file complete, so there is nothing to find but what rotted, and the newest pages are
  the ones written last. Whoever reads an older record checks its hash then.
* The power went, the log came from elsewhere, the daemon before died while opening it or called it suspect, or the
  length is wrong: every page and every record, in a child process, because damaged pages can kill whoever maps them.
  This takes seconds for a million records, and follows minutes of booting.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

import ocid
from ocid.errors import EffectFailed, NotFound, tail
from ocid.events.codec import NO_HASH
from ocid.journal import filesystem, structure
from ocid.journal.environment import MAP_BYTES
from ocid.journal.owner import LastLife, Owner
from ocid.journal.parts import Fault
from ocid.journal.reader import Reader
from ocid.journal.store import Store
from ocid.journal.verify import Report, verify

TAIL_RECORDS: Final = 20_000
CHECK_S_MAX: Final = 600.0  # for the whole check; 100 M records would need longer, and no quota allows them

_DEADLY: Final = (signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
_NO_DATABASES: Final = Fault(0, "the databases are missing")
_decode_report = msgspec.json.Decoder(Report).decode


class Quarantined(msgspec.Struct, frozen=True):
    """A log that was set aside. The facts of ``node.log_quarantined``."""

    path: Path
    reason: str
    last_good_seq: int
    last_good_hash: bytes


class Opened:
    """The log of this life of the daemon, and what opening it brought to light."""

    def __init__(self, store: Store, owner: Owner, warnings: list[str], quarantined: Quarantined | None) -> None:
        self.store = store
        self.warnings = warnings
        self.quarantined = quarantined
        self.last_life = owner.last_life
        self._owner = owner

    @property
    def after_clean_stop(self) -> bool:
        """Whether the daemon before this one stopped on purpose."""
        return self.last_life is LastLife.STOPPED

    @property
    def rebooted(self) -> bool:
        """Whether the machine has booted since the daemon before this one opened the log."""
        return self.store.last_boot_id not in ("", self.store.boot_id)

    def settled(self) -> None:
        """Say that the daemon has read what it needs of the log and serves. Dying before means a whole check next."""
        self._owner.note_open()

    def suspect(self) -> None:
        """Ask for a whole check at the next start, because a record turned out to be damaged. The daemon ends then."""
        self._owner.note_opening()

    def close(self, *, stopped_at_ns: int | None = None) -> None:
        """Close the log and let go of it; *stopped_at_ns*, wall clock, says that the daemon stops on purpose."""
        self.store.close(stopped_at_ns=stopped_at_ns)
        self._owner.release(clean=stopped_at_ns is not None)


def open_or_quarantine(directory: Path, *, boot_id: str, map_bytes: int = MAP_BYTES) -> Opened:
    """Open the log in *directory* for writing, making it if need be; set a damaged one aside and begin another.

    Blocks for as long as the checks take; see above. Call ``Opened.settled`` once the daemon serves.

    Args:
        directory: where the log is; made 0700, with files 0600.
        boot_id: /proc/sys/kernel/random/boot_id.
        map_bytes: address space to reserve.
    Raises:
        Unavailable: another daemon has it open; the message has its pid.
        Unsupported: the file system cannot hold it, or a newer ocid wrote it.
        EffectFailed: the kernel refused.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        warnings = filesystem.admit(directory)
        owner = Owner(directory, boot_id)
    except OSError as error:
        raise EffectFailed(f"cannot make the log in {str(directory)!r}: {error}") from error
    quarantined = None
    epoch = 0
    try:
        report = examine(directory, owner)
        if report.incomplete:
            warnings.append(f"the log in {str(directory)!r} could not be checked: {report.incomplete}")
        if report.fault is not None:
            quarantined, owner = _set_aside(directory, boot_id, owner, report)
            epoch = report.last_epoch
        elif (directory / structure.MENDED).exists():
            (directory / structure.MENDED).rename(directory / structure.DATA)
            _sync_directory(directory)
            warnings.append(f"the log in {str(directory)!r} had lost free pages at its end; all records are there")
        owner.note_opening()
        genesis = quarantined.last_good_hash if quarantined else NO_HASH
        store = Store(directory, boot_id=boot_id, map_bytes=map_bytes, genesis=genesis, epoch_before=epoch)
    except BaseException:
        owner.release(clean=False)
        raise
    return Opened(store, owner, warnings, quarantined)


def examine(directory: Path, owner: Owner) -> Report:
    """Check a locked log as thoroughly as its last life asks for, and return what was found.

    Raises:
        Unsupported: the file has another format than that of LMDB 0.9.
    """
    known = owner.last_life in (LastLife.STOPPED, LastLife.KILLED, LastLife.POWER_LOST)
    if not structure.has_data(directory):
        return Report(fault=Fault(0, "the file is missing or empty") if known else None)
    suspicion = structure.fault_of(directory)
    if suspicion is None and owner.last_life in (LastLife.STOPPED, LastLife.KILLED):
        owner.note_opening()  # in case that LMDB dies of it
        report = _check_tail(directory)
        if report.fault is None:
            return report
        suspicion = report.fault.what
    report = check_whole(directory)
    if report.fault is None and report.incomplete and suspicion:
        report.fault = Fault(0, suspicion)
    if report.fault == _NO_DATABASES and not known:
        report.fault = None  # it died between making the file and making the databases
    return report


def check_whole(directory: Path, *, documents: bool = False) -> Report:
    """Check every page and record in a child process, which a damaged file may kill, and return what it found.

    The log may be anybody's. Its directory must be writable, for LMDB's table of readers. With *documents*, the digest
    of every document is recomputed, too: the daemon does without, since one that rotted is found when it is read.
    """
    path = os.pathsep.join(filter(None, (str(Path(ocid.__file__).parents[1]), os.environ.get("PYTHONPATH"))))
    options = ["--parent", str(os.getpid()), *(["--documents"] if documents else [])]
    fault = None
    incomplete = ""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ocid.journal.check", str(directory), *options],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CHECK_S_MAX,
        )
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
        incomplete = f"the check took longer than {CHECK_S_MAX:g} s"
    else:
        output = done.stdout
        if -done.returncode in _DEADLY:
            fault = Fault(0, f"reading it is deadly ({signal.Signals(-done.returncode).name})")
        elif done.returncode != 0:
            incomplete = f"the check ended with status {done.returncode}: {tail(done.stderr, 500)}"
    reports = [_decode_report(line) for line in output.splitlines(keepends=True) if line.endswith(b"\n")]
    report = max(reversed(reports), key=lambda each: each.last_good_seq, default=Report())  # of equal ones, the last
    report.fault = next((each.fault for each in reports if each.fault is not None), fault)
    report.incomplete = incomplete or (reports[-1].incomplete if reports else "")
    return report


def _check_tail(directory: Path) -> Report:
    """Check the newest records in this process, through a map that is gone afterwards: it would count as our memory."""
    try:
        with Reader(directory) as reader:
            return verify(reader, from_seq=max(1, reader.last_seq() - TAIL_RECORDS + 1), documents=False)
    except NotFound:
        return Report(fault=_NO_DATABASES)
    except structure.DAMAGE as error:
        return Report(fault=Fault(0, str(error)))


def _set_aside(directory: Path, boot_id: str, owner: Owner, report: Report) -> tuple[Quarantined, Owner]:
    """Move the damaged log away, whole, and lock an empty directory in its place."""
    assert report.fault is not None
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = directory.with_name(f"{directory.name}.quarantine-{stamp}")
    count = 1
    while aside.exists():
        count += 1
        aside = directory.with_name(f"{directory.name}.quarantine-{stamp}-{count}")
    try:
        directory.rename(aside)
        directory.mkdir(mode=0o700)
    except OSError:  # the directory is a mount point: keep the log within it
        aside = directory / aside.name
        aside.mkdir(mode=0o700)
        for path in directory.iterdir():
            if path != aside and not path.is_dir():
                path.rename(aside / path.name)
    _sync_directory(directory.parent)
    _sync_directory(directory)
    seq = report.fault.seq
    reason = f"record {seq}: {report.fault.what}" if seq else report.fault.what
    fresh = Owner(directory, boot_id)
    fresh.last_life = owner.last_life
    owner.release(clean=False)
    return Quarantined(aside, reason, report.last_good_seq, report.last_good_hash), fresh


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
