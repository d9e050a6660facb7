"""What the daemon does for itself now and then: snapshots, and letting go of memory that it only looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import trio

from ocid.journal import residence
from ocid.journal.writer import Writer
from ocid.projections.view import View, schema_hash

SNAPSHOT: Final = "view"
SNAPSHOT_EVENTS: Final = 20_000  # a start folds at most about so many events beyond its snapshot
SNAPSHOT_CHECK_S: Final = 30.0


async def keep(view: View, writer: Writer, log_directory: Path) -> None:
    """Let go of the log's pages, and take a snapshot when there is enough to shorten, until cancelled."""
    newest = view.seq
    while True:
        await trio.sleep(SNAPSHOT_CHECK_S)
        residence.let_go(log_directory)
        if view.seq - newest >= SNAPSHOT_EVENTS:
            newest = view.seq
            await snapshot(view, writer)


async def snapshot(view: View, writer: Writer) -> None:
    """Keep the view as it is."""
    await writer.put_snapshot(SNAPSHOT, bytes.fromhex(schema_hash()), view.seq, view.snapshot())
