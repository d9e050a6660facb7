"""``python -m ocid.journal.check DIRECTORY``: the whole check of a log, in a process that may die of it.

Prints one JSON object a line: how far the records are good, about every thousand records, and at the end the report.
A damaged file can kill whoever maps it; what was printed until then still counts. Nothing is written to the log.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import lmdb
import msgspec

from ocid.errors import NotFound, OcidError
from ocid.journal.environment import MAP_BYTES, open_environment
from ocid.journal.reader import Reader
from ocid.journal.salvage import salvage
from ocid.journal.structure import DAMAGE, DATA, MENDED, fault_of
from ocid.journal.verify import Fault, Report, verify


def main(directory: Path) -> None:
    """Check the pages without LMDB, then the records: through LMDB if the pages are right, page by page if not."""
    faults = _check_pages(directory)
    if faults:
        report = salvage(directory)
        report.fault = Fault(0, f"the pages are damaged: {'; '.join(faults[:3])}")
    else:
        report = _check_records(directory)
        if report.fault is None and not report.incomplete and fault_of(directory) is not None:
            report.incomplete = _copy_living(directory)
    _print(report)


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


def _check_pages(directory: Path) -> list[str]:
    """Return what is wrong with the file's pages. Before lmdb 3, which brings this check, only ends are seen."""
    try:
        verifier = importlib.import_module("lmdb.verify")
    except ImportError:
        fault = fault_of(directory)
        return [] if fault is None else [fault]
    try:
        return list(verifier.verify(str(directory / DATA), subdir=False))
    except (verifier.VerifyError, OSError) as error:
        return [str(error)]


def _check_records(directory: Path) -> Report:
    try:
        with Reader(directory) as reader:
            return verify(reader, documents=False, progress=_print)
    except NotFound:
        return Report(fault=Fault(0, "the databases are missing"))
    except DAMAGE as error:
        return Report(fault=Fault(0, str(error)))
    except (lmdb.Error, OcidError) as error:
        return Report(incomplete=str(error))


def _print(report: Report) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
