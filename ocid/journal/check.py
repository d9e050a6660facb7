"""``python -m ocid.journal.check DIRECTORY``: the whole check of a log, in a process that may die of it.

Prints one JSON object a line: how far the records are good, about every thousand records, and at the end the report.
A damaged file can kill whoever maps it; what was printed until then still counts. Nothing is written to the log.
"""

from __future__ import annotations

import sys
from pathlib import Path

import lmdb
import lmdb.verify
import msgspec

from ocid.errors import NotFound, OcidError
from ocid.journal.reader import Reader
from ocid.journal.salvage import salvage
from ocid.journal.structure import DAMAGE, DATA
from ocid.journal.verify import Fault, Report, verify


def main(directory: Path) -> None:
    """Check the pages without LMDB, then the records: through LMDB if the pages are right, page by page if not."""
    try:
        faults: list[str] = list(lmdb.verify.verify(str(directory / DATA), subdir=False))  # type: ignore[no-untyped-call]
    except (lmdb.verify.VerifyError, OSError) as error:
        faults = [str(error)]
    if faults:
        report = salvage(directory)
        report.fault = Fault(0, f"the pages are damaged: {'; '.join(faults[:3])}")
    else:
        report = _check_records(directory)
    _print(report)


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
