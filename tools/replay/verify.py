"""``ocid-replay verify``: whether the log is what was written, and how far it can be trusted if not."""

from __future__ import annotations

import argparse
from pathlib import Path

from ocid import tables
from ocid.errors import EffectFailed, NotFound
from ocid.events.codec import NO_HASH
from ocid.journal import opening, structure
from ocid.journal.looking import look
from ocid.journal.verify import Report, verify

from .exits import DAMAGED, FAILED, NO_LOG, OK
from .reading import log_directory


def run(args: argparse.Namespace) -> int:
    """Check the whole log and print what was found."""
    directory = log_directory(args)
    report, genesis = examine(directory)
    code = exit_code(report)
    if args.output == "json":
        tables.json({"log": str(directory), "exit_code": code, "genesis": genesis.hex(), **facts(report)})
    else:
        for line in text(directory, report, genesis):
            tables.line(line)
    return code


def examine(directory: Path) -> tuple[Report, bytes]:
    """Check the pages and what they hold in a child process, and then, where it lived, all again with the documents.

    Returns:
        what was found, and what record 1 cites.
    Raises:
        NotFound: there is no log.
        EffectFailed: it cannot be read.
        Unsupported: it has a format that this build does not read.
    """
    try:
        if not structure.has_data(directory):
            raise NotFound("log", str(directory))
        structure.fault_of(directory)  # refuses foreign formats; the check below finds the rest
    except OSError as error:
        raise EffectFailed(f"the log in {str(directory)!r} cannot be read: {error.strerror}") from error
    report = opening.check_whole(directory)
    if report.fault is not None or report.incomplete:
        return report, NO_HASH
    with look(directory) as reader:
        return verify(reader), reader.genesis()


def exit_code(report: Report) -> int:
    """Return what the report comes to. Pure."""
    if report.fault is not None:
        return DAMAGED
    if report.incomplete:
        return FAILED
    return OK if report.records else NO_LOG


def facts(report: Report) -> dict[str, object]:
    """Return the report as JSON-ready data. Pure."""
    fault = None if report.fault is None else {"seq": report.fault.seq, "what": report.fault.what}
    return {
        "records": report.records,
        "streams": report.streams,
        "documents": report.documents,
        "last_good_seq": report.last_good_seq,
        "last_good_hash": report.last_good_hash.hex(),
        "epoch": report.last_epoch,
        "fault": fault,
        "incomplete": report.incomplete,
        "signed_checkpoints": 0,
    }


def text(directory: Path, report: Report, genesis: bytes) -> list[str]:
    """Return the report as lines. Pure."""
    if report.fault is not None:
        place = f"record {report.fault.seq}: " if report.fault.seq else ""
        return [
            f"DAMAGED: {directory}",
            f"  {place}{report.fault.what}",
            f"  records 1 to {report.last_good_seq} are good; the last one has hash {report.last_good_hash.hex()}",
        ]
    if report.incomplete:
        return [f"NOT CHECKED TO THE END: {directory}", f"  {report.incomplete}"]
    if not report.records:
        return [f"EMPTY: {directory}", "  the log holds no records, so there is nothing to verify"]
    lines = [
        f"OK: {directory}",
        f"  pages whole, {report.records} records hashed and chained, {report.streams} streams without gaps",
        f"  {report.documents} documents have their digests; epoch {report.last_epoch}",
        f"  last record {report.last_good_seq}, hash {report.last_good_hash.hex()}",
        "  no signed checkpoints: nothing is damaged, but somebody who rewrote all of it would not be found out",
        "  unless the hash above was noted elsewhere",
    ]
    if genesis != NO_HASH:
        lines.append(f"  follows a log that was set aside, whose last good hash is {genesis.hex()}")
    return lines
