"""What a log that was trimmed, or an archive, can no longer say: so that no answer passes for a whole one."""

from __future__ import annotations

import sys

from ocid.errors import InvalidRequest
from ocid.events.log import LOG, Trimmed
from ocid.journal.reader import Reader
from ocid.projections.selection import Selection


def require_state(reader: Reader, seq: int) -> None:
    """See that the log has all that was there after record *seq*.

    What was gone when the log was trimmed is missing from before then. An archive has the records of its own range
    only, and what was there when that began is in the archives before it.

    Raises:
        InvalidRequest: it has not.
    """
    through = reader.trimmed()[0]
    if not through:
        return
    if reader.meta("archive") is not None:
        raise InvalidRequest(
            f"this archive begins with record {through + 1}, and does not say what was there before it: ask the log "
            "itself, or the archive that begins with record 1"
        )
    said = [each for each in reader.read_stream(LOG) if isinstance(each.event, Trimmed)]
    told = [each.seq for each in said if isinstance(each.event, Trimmed) and each.event.through == through]
    whole_from = told[-1] if told else reader.last_seq()
    if seq < whole_from:
        raise InvalidRequest(
            f"the log was trimmed up to record {through}, so it says what was there from record {whole_from} on, and "
            "no longer what was there before; the archive that begins with record 1 says it of its own time"
        )


def note(reader: Reader, selection: Selection | None = None) -> None:
    """Say on standard error, before an answer from many records, that some that it may want were trimmed."""
    through = reader.trimmed()[0]
    if not through:
        return
    if selection is not None and (
        selection.from_seq > through or (selection.since_ns and reader.seq_at(selection.since_ns) > through)
    ):
        return
    if reader.meta("archive") is not None:
        text = f"this archive has the records from {through + 1} on"
    else:
        text = f"records up to {through} were trimmed, but for those still needed: the archives have all of them"
    sys.stderr.write(f"ocid-replay: note: {text}\n")
