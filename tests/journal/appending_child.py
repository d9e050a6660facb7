"""Run by tests: appends from ten tasks to the log in argv[1] for ever, and prints each acknowledged seq and version."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import trio

from ocid.events.envelope import DAEMON
from ocid.ids import StreamId
from ocid.journal.opening import open_or_quarantine
from ocid.journal.writer import Writer
from tests.journal.helpers import BOOT, RealClock, fact


async def main(directory: Path) -> None:
    opened = open_or_quarantine(directory, boot_id=BOOT)
    assert opened.quarantined is None
    writer = Writer(opened.store, RealClock())

    async def actor(number: int) -> None:
        stream = StreamId(f"pod/{os.getpid()}-{number}")
        version = 0
        while True:
            for envelope in await writer.append(stream, version, [fact(version), fact("b")], DAEMON, [b"%d" % version]):
                version = envelope.version
                os.write(1, f"{envelope.seq} {stream} {version}\n".encode())

    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        opened.settled()
        for number in range(10):
            nursery.start_soon(actor, number)


trio.run(main, Path(sys.argv[1]))
