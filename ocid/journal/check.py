"""``python -m ocid.journal.check DIRECTORY``: the whole check of a log, in processes that may die of it.

Prints one JSON object a line: how far the records are good, part by part, and at the end the report. A damaged file can
kill whoever maps it; what was printed until then still counts. Nothing is written to the log.

The pages, and the records in parts, are checked beside each other by as many processes as there are processors. Where
one of these dies, everything is gone over once more in one process, so that what comes before the deadly place counts.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Final

import lmdb
import msgspec

from ocid.errors import NotFound, OcidError
from ocid.journal import parts
from ocid.journal.environment import MAP_BYTES, open_environment
from ocid.journal.pages import faults_of_pages
from ocid.journal.parts import Fault, Part
from ocid.journal.reader import Reader
from ocid.journal.salvage import salvage
from ocid.journal.structure import DAMAGE, DATA, MENDED, commits, fault_of
from ocid.journal.verify import Checked, Report, verify
from ocid.lifeline import end_with_parent

PART_RECORDS: Final = 16_384  # for one process at once: about 100 ms
WORKERS_MAX: Final = 8
COMMIT_S: Final = 0.1  # for a commit that was under way to be done
SMALL_BYTES: Final = 16 << 20  # a log up to this size is checked before other processes have begun

_reader: list[Reader] = []  # of a process that checks parts


def main(directory: Path, *, documents: bool) -> None:
    """Check the pages without LMDB, and the records: through LMDB if the pages are right, page by page if not."""
    gc.disable()  # nothing here makes cycles, and looking for them takes a tenth of the time
    workers = min(len(os.sched_getaffinity(0)), WORKERS_MAX)
    report: Report | None = None
    if workers > 1 and (directory / DATA).stat().st_size > SMALL_BYTES:
        report = together(directory, workers, documents)
    if report is None:
        report = alone(directory, documents)
    if report.fault is None and not report.incomplete and fault_of(directory) is not None:
        report.incomplete = _copy_living(directory)
    _print(report)


def alone(directory: Path, documents: bool) -> Report:
    faults = check_pages(directory)
    return _salvaged(directory, faults) if faults else _check_records(directory, documents)


def together(directory: Path, workers: int, documents: bool) -> Report | None:
    """Check pages and records beside each other, in *workers* processes; None when one died, or there can be none."""
    context = multiprocessing.get_context("fork")  # before this process opens the log
    try:
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent, initargs=(os.getpid(),))
        pages = pool.submit(check_pages, directory)
    except (OSError, NotImplementedError, ImportError):
        return None  # no semaphores on this host, or no processes are left
    with pool:
        try:
            report = _check_records(directory, documents, lambda wanted: _checked(pool, workers, directory, wanted))
            faults = pages.result()
        except BrokenProcessPool:
            return None
        finally:
            pool.shutdown(cancel_futures=True)
    return _salvaged(directory, faults) if faults else report


def _checked(
    pool: ProcessPoolExecutor, workers: int, directory: Path, wanted: Iterable[tuple[int, int]]
) -> Iterator[Part]:
    """Yield what the processes find of the parts, in their order; a few are always under way."""
    under_way: list[Future[Part]] = []
    try:
        for first_seq, last_seq in wanted:
            under_way.append(pool.submit(_check_part, directory, first_seq, last_seq))
            if len(under_way) > 2 * workers:
                yield under_way.pop(0).result()
        while under_way:
            yield under_way.pop(0).result()
    finally:
        for each in under_way:
            each.cancel()


def _check_part(directory: Path, first_seq: int, last_seq: int) -> Part:
    if not _reader:
        _reader.append(Reader(directory))
    return parts.check_part(_reader[0], first_seq, last_seq)


def _copy_living(directory: Path) -> str:
    """Copy what is readable of a log that lost only free pages at its end: LMDB dies of these when it writes.

    Returns what kept it from doing so, "" when the copy is there for the daemon to take.
    """
    copy = directory / MENDED
    try:
        copy.unlink(missing_ok=True)
        environment = open_environment(directory, readonly=True, map_bytes=MAP_BYTES)
        with copy.open("xb") as file:
            copy.chmod(0o600)
            environment.copyfd(file.fileno(), compact=True)
            os.fsync(file.fileno())
    except (lmdb.Error, OSError, OcidError) as error:
        copy.unlink(missing_ok=True)
        return f"its end is lost, and it cannot be copied: {error}"
    return ""


def check_pages(directory: Path) -> list[str]:
    """Return what is wrong with the file's pages.

    Of a log that is being written, pages are used again while they are read, and look wrong. Then it is kept from that
    by a reader that stands still for as long as another look takes; a daemon has the file open, so it is no stranger's.
    """
    before = commits(directory)
    faults = faults_of_pages(directory)
    if not faults:
        return []
    time.sleep(COMMIT_S)
    if commits(directory) == before:
        return faults
    try:
        environment = open_environment(directory, readonly=True, map_bytes=MAP_BYTES)
    except (lmdb.Error, OcidError):
        return faults
    with environment, environment.begin():
        return faults_of_pages(directory)


def _salvaged(directory: Path, faults: list[str]) -> Report:
    report = salvage(directory)
    report.fault = Fault(0, f"the pages are damaged: {'; '.join(faults[:3])}")
    return report


def _check_records(directory: Path, documents: bool, checked: Checked | None = None) -> Report:
    size = PART_RECORDS if checked else parts.CHUNK_RECORDS
    try:
        with Reader(directory) as reader:
            return verify(reader, documents=documents, progress=_print, checked=checked, part_records=size)
    except NotFound:
        return Report(fault=Fault(0, "the databases are missing"))
    except DAMAGE as error:
        return Report(fault=Fault(0, str(error)))
    except (lmdb.Error, OcidError) as error:
        return Report(incomplete=str(error))


def _print(report: Report) -> None:
    os.write(1, msgspec.json.encode(report) + b"\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m ocid.journal.check", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--documents", action="store_true", help="also recompute the digest of every document")
    parser.add_argument("--parent", type=int, help="the process to end with: nobody else reads what is printed")
    asked = parser.parse_args()
    if asked.parent is not None:
        end_with_parent(asked.parent)
    main(asked.directory, documents=asked.documents)
