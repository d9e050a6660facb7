"""``ocid-replay verify``: whether the log is what was written, and how far it can be trusted if not."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ocid import tables
from ocid.domain import note
from ocid.domain.note import Key
from ocid.errors import EffectFailed, InvalidRequest, NotFound
from ocid.events.codec import NO_HASH
from ocid.journal import opening, structure
from ocid.journal.looking import look
from ocid.journal.seals import Seals, check_seals
from ocid.journal.verify import Report
from ocid.projections.text import time_text

from .exits import CONTRADICTED, DAMAGED, FAILED, NO_LOG, OK, UNSIGNED
from .reading import log_directory
from .witness import Kept, witnessed


def run(args: argparse.Namespace) -> int:
    """Check the whole log and print what was found."""
    directory = log_directory(args)
    key, kept = key_of(args.key), None if args.witness is None else witnessed(args.witness)
    report, genesis, seals = examine(directory, key, None if kept is None else kept.notes)
    code = exit_code(report, seals)
    if args.output == "json":
        found = {"log": str(directory), "exit_code": code, "genesis": genesis.hex()}
        of_witness = {} if kept is None else {"witness": {"checkpoints": len(kept.notes), "damaged": kept.damaged}}
        tables.json({**found, **facts(report), "seals": None if seals is None else seal_facts(seals), **of_witness})
    else:
        for line in text(directory, report, genesis, seals) + _damaged_lines(kept):
            tables.line(line)
    return code


def examine(
    directory: Path, key: Key | None = None, witnessed: Sequence[str] | None = None
) -> tuple[Report, bytes, Seals | None]:
    """Check the pages and what they hold in a child process, and then, where it lived, what is signed for.

    Returns:
        what was found, what record 1 cites, and what is signed for; None of a damaged log.
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
    report = opening.check_whole(directory, documents=True)
    if report.fault is not None or report.incomplete:
        return report, NO_HASH, None
    with look(directory) as reader:
        return report, reader.genesis(), check_seals(reader, key=key, witnessed=witnessed)


def key_of(text: str) -> Key | None:
    """Read ``--key``: a key, or a file with one.

    Raises:
        InvalidRequest: it is neither.
    """
    if not text:
        return None
    if "+" not in text or "/" in text.partition("+")[0][:1]:
        try:
            with Path(text).open(encoding="utf-8") as file:
                text = file.readline(4096)
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"--key {text!r} is no key, and no file that can be read: {error}") from error
    return note.key_of(text)


def exit_code(report: Report, seals: Seals | None = None) -> int:
    """Return what the report comes to. Pure."""
    if report.fault is not None:
        return DAMAGED
    if report.incomplete:
        return FAILED
    if not report.records:
        return NO_LOG
    if seals is None or not seals.faults:
        return OK
    return CONTRADICTED if seals.checkpoints or any(fault.seq for fault in seals.faults) else UNSIGNED


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
    }


def seal_facts(seals: Seals) -> dict[str, object]:
    """Return what is signed for as JSON-ready data. Pure."""
    return {
        "origin": seals.origin,
        "key": seals.key,
        "key_trusted": seals.trusted,
        "checkpoints": seals.checkpoints,
        "signed_records": seals.size,
        "root": seals.root.hex(),
        "unsigned_records": seals.unsigned,
        "witnessed_records": seals.witnessed,
        "faults": [{"seq": fault.seq, "what": fault.what} for fault in seals.faults],
    }


def text(directory: Path, report: Report, genesis: bytes, seals: Seals | None = None) -> list[str]:
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
    code = exit_code(report, seals)
    word = {OK: "OK", CONTRADICTED: "NOT THE LOG THAT WAS SIGNED FOR"}.get(code, "NOT SIGNED")
    lines = [
        f"{word}: {directory}",
        f"  pages whole, {report.records} records hashed and chained, {report.streams} streams without gaps",
        f"  {report.documents} documents have their digests; epoch {report.last_epoch}",
        f"  last record {report.last_good_seq}, hash {report.last_good_hash.hex()}",
        *([] if seals is None else _seal_lines(seals)),
    ]
    if genesis != NO_HASH:
        lines.append(f"  follows a log that was set aside, whose last good hash is {genesis.hex()}")
    return lines


def _damaged_lines(kept: Kept | None) -> list[str]:
    """Say what a witness kept and nobody can read."""
    if kept is None or not kept.damaged:
        return []
    return [f"  the witness has {kept.damaged} damaged checkpoints beside {len(kept.notes)} whole ones: passed over"]


def _seal_lines(seals: Seals) -> list[str]:
    """Say what is signed for, what is not, and on whose word."""
    lines = [f"  {f'record {fault.seq}: ' if fault.seq else ''}{fault.what}" for fault in seals.faults]
    if not seals.checkpoints:
        return lines
    lines += [
        f"  {seals.checkpoints} checkpoints of {seals.origin} are right; "
        f"the last, of {time_text(seals.wall_ns)}, covers {seals.size} records",
        f"  its root is {seals.root.hex()}",
        f"  after it, {seals.unsigned} {'records are' if seals.unsigned != 1 else 'record is'} not signed for yet",
        f"  key {seals.key}",
    ]
    if not seals.trusted:
        lines.append("  nobody but the log says that this is its key: give --key to have it checked")
    if seals.witnessed:
        lines.append(f"  a witness saw the first {seals.witnessed} records as they are")
    else:
        lines.append("  no witness was asked: whoever has the key could have rewritten all of it; give --witness")
    return lines
