"""The suite runs on the real journal and on the one in memory, and both must pass it all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest
import trio

from ocid.journal.memory import Disk, MemoryLog, memory_journal
from ocid.journal.opening import open_or_quarantine
from ocid.journal.writer import Writer
from tests.journal.helpers import BOOT, FakeClock


class Lives(Protocol):
    """Begins one life of the daemon's journal after the other, on the same disk."""

    def __call__(self) -> AbstractAsyncContextManager[Writer]: ...


@asynccontextmanager
async def running(writer: Writer) -> AsyncIterator[Writer]:
    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        yield writer
        nursery.cancel_scope.cancel()


@pytest.fixture(params=["disk", "memory"])
def lives(request: pytest.FixtureRequest, tmp_path: Path) -> Lives:
    clock = FakeClock()
    disk = Disk()

    @asynccontextmanager
    async def on_disk() -> AsyncIterator[Writer]:
        opened = open_or_quarantine(tmp_path / "log", boot_id=BOOT, map_bytes=64 << 20)
        assert opened.quarantined is None
        try:
            async with running(Writer(opened.store, clock)) as writer:
                opened.settled()
                yield writer
        finally:
            opened.close()

    @asynccontextmanager
    async def in_memory() -> AsyncIterator[Writer]:
        async with running(memory_journal(MemoryLog(disk, boot_id=BOOT), clock)) as writer:
            yield writer

    return on_disk if request.param == "disk" else in_memory


@pytest.fixture
async def journal(lives: Lives) -> AsyncIterator[Writer]:
    async with lives() as writer:
        yield writer
