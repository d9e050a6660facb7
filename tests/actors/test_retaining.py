"""The log kept within bounds beside its writers: what is archived and trimmed, when, and what a death leaves to do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from ocid.actors import retaining
from ocid.actors.retaining import Bounds, Retainer
from ocid.actors.sealing import Sealer
from ocid.adapters.planner import HostPlanner
from ocid.errors import EffectFailed
from ocid.events.envelope import DAEMON
from ocid.events.log import LOG, Archived, ArchiveRemoved, Trimmed
from ocid.events.node import NODE, Stopped
from ocid.ids import digest_of
from ocid.journal import archive
from ocid.journal.blocks import BLOCK
from ocid.journal.looking import look
from ocid.journal.seals import check_seals
from ocid.journal.store import Store
from ocid.journal.verify import verify
from ocid.journal.writer import Writer
from ocid.projections.view import View
from tests.fakes.signers import FakeSigners
from tests.journal.helpers import BOOT, ROOT

DAY_NS = 86_400 * 10**9
NONE = Bounds(max_bytes=0, max_age_days=0, archives_max_bytes=0)


class SetClock:
    """Implements ``Clock``: stands still until it is set."""

    now_ns = 1000 * DAY_NS

    def wall_ns(self) -> int:
        return self.now_ns

    def boot_ns(self) -> int:
        return self.now_ns


class Life:
    """One life of a daemon that has nothing but a log."""

    def __init__(self, root: Path, limits: Bounds, clock: SetClock) -> None:
        (root / "log").mkdir(exist_ok=True)
        self.store = Store(root / "log", boot_id=BOOT, map_bytes=256 << 20)
        self.clock = clock
        self.journal = Writer(self.store, clock)
        view = View(self.store.document)
        for envelope in self.journal.replay():
            view.apply(envelope)
        self.journal.subscribe(view.apply)
        self.sealer = Sealer(self.journal, view.sealing, FakeSigners(), origin="ocid/node/0123456789ab")
        self.planner = HostPlanner(root / "log", root / "archive", root)
        self.retainer = Retainer(self.journal, self.journal, self.sealer, self.planner, limits, clock)

    async def write(self, count: int, reason: str = "x" * 200) -> None:
        version = self.store.version(NODE)
        for start in range(0, count, 200):
            events = [Stopped(reason=reason)] * min(200, count - start)
            await self.journal.append(NODE, version, events, DAEMON)
            version += len(events)
        await self.sealer.seal("time")

    def told(self, kind: type) -> Sequence[object]:
        return [each.event for each in self.journal.read_stream(LOG) if isinstance(each.event, kind)]


@asynccontextmanager
async def living(root: Path, limits: Bounds = NONE, clock: SetClock | None = None) -> AsyncIterator[Life]:
    life = Life(root, limits, clock or SetClock())
    async with trio.open_nursery() as nursery:
        await nursery.start(life.journal.run)
        await life.sealer.begin()
        yield life
        nursery.cancel_scope.cancel()
    life.store.close()


def intact(root: Path) -> None:
    with look(root / "log") as reader:
        assert verify(reader).fault is None
        assert not check_seals(reader).faults


async def test_what_is_old_is_archived_and_goes(tmp_path: Path) -> None:
    clock = SetClock()
    async with living(tmp_path, Bounds(max_bytes=0, max_age_days=10, archives_max_bytes=0), clock) as life:
        await life.write(3 * BLOCK)
        clock.now_ns += 9 * DAY_NS
        await life.write(BLOCK)
        await life.retainer.look()
        assert not life.told(Trimmed)
        clock.now_ns += 2 * DAY_NS
        await life.retainer.look()
        (trimmed,), (archived,) = life.told(Trimmed), life.told(Archived)
        assert isinstance(trimmed, Trimmed)
        assert isinstance(archived, Archived)
        assert (trimmed.through, trimmed.reason) == (3 * BLOCK, "age")
        size = (await trio.Path(archived.file).stat()).st_size
        assert (archived.first, archived.last, archived.bytes) == (1, 3 * BLOCK, size)
        assert life.store.records(1, 1)[0][0] < BLOCK, "who founded the log stays"
        assert trimmed.left == len([seq for seq, _ in life.store.records(1) if seq <= 3 * BLOCK]) < 10
        await life.retainer.look()
        assert len(life.told(Trimmed)) == 1, "once is enough"
        await life.sealer.seal("stop")
    intact(tmp_path)
    (tmp_path / "unpacked").mkdir()
    archive.unpack(Path(archived.file), tmp_path / "unpacked")
    with look(tmp_path / "unpacked") as reader:
        assert verify(reader).fault is None
        assert len(reader.records(1, BLOCK)) == BLOCK


async def test_what_is_too_much_goes_and_the_file_stays_as_large(tmp_path: Path) -> None:
    limits = Bounds(max_bytes=600_000, max_age_days=0, archives_max_bytes=30_000)
    sizes = []
    async with living(tmp_path, limits) as life:
        for round_ in range(12):
            await life.write(4 * BLOCK, reason=f"{round_} " * 60)
            await life.retainer.look()
            sizes.append((tmp_path / "log" / "data.mdb").stat().st_size)
            assert life.store.used_bytes() < 650_000, "pages that are half empty count, too"
        assert all(each.reason == "size" for each in life.told(Trimmed))  # type: ignore[attr-defined]
        removed = life.told(ArchiveRemoved)
        left = await life.planner.archives()
        assert removed
        assert sum(each.bytes for each in left) <= 30_000 or len(left) == 1
        await life.sealer.seal("stop")
    assert sizes[-1] <= 1.25 * sizes[5], f"the file grows: {sizes}"
    intact(tmp_path)


async def test_a_reader_that_stands_still_holds_nothing_up(tmp_path: Path) -> None:
    """An exporter whose pipe nobody empties: the file stays as small, and what it missed is said."""
    limits = Bounds(max_bytes=600_000, max_age_days=0, archives_max_bytes=1)
    words = [sys.executable, "-m", "tools.replay", "export", "--follow", "--log", str(tmp_path / "log")]
    sizes = []
    async with living(tmp_path, limits) as life, trio.open_nursery() as nursery:
        await life.write(4 * BLOCK)
        start = partial(trio.run_process, words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        exporter = await nursery.start(start)
        async with exporter.stdout, exporter.stderr:
            first = await exporter.stdout.receive_some(1)
            for round_ in range(8):
                await life.write(4 * BLOCK, reason=f"{round_} " * 60)
                await life.retainer.look()
                sizes.append((tmp_path / "log" / "data.mdb").stat().st_size)
            assert exporter.returncode is None, "it stands, and is not gone"
            with trio.fail_after(60):
                out = first + b"".join([piece async for piece in exporter.stdout])
                err = b"".join([piece async for piece in exporter.stderr])
                await exporter.wait()
    assert sizes[-1] <= 1.25 * sizes[3], f"the file grows: {sizes}"
    seqs = [json.loads(line)["seq"] for line in out.splitlines()]
    assert seqs == list(range(1, len(seqs) + 1)), "what it did export has no gap"
    assert b"left the log before they were exported" in err
    assert exporter.returncode == 7


async def test_nothing_unsigned_goes(tmp_path: Path) -> None:
    clock = SetClock()
    async with living(tmp_path, Bounds(max_bytes=0, max_age_days=1, archives_max_bytes=0), clock) as life:
        await life.write(BLOCK)
        await life.journal.append(NODE, BLOCK, [Stopped(reason="x")] * (BLOCK - 1), DAEMON)
        clock.now_ns += 5 * DAY_NS
        await life.retainer.look()
        assert [each.through for each in life.told(Trimmed)] == [BLOCK]  # type: ignore[attr-defined]


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
async def test_a_trimming_that_a_death_cut_short_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    clock = SetClock()
    limits = Bounds(max_bytes=0, max_age_days=10, archives_max_bytes=0)

    class Death(Exception):
        pass

    async with living(tmp_path, limits, clock) as life:
        await life.write(3 * BLOCK)
        clock.now_ns += 20 * DAY_NS
        left, step = [steps], life.journal.step

        async def dying(each: object) -> bool:
            if not left[0]:
                raise Death
            left[0] -= 1
            return await step(each)  # type: ignore[arg-type]

        monkeypatch.setattr(life.journal, "step", dying)
        with pytest.raises(Death):
            await life.retainer.look()
        await life.sealer.seal("stop")
    intact(tmp_path)
    async with living(tmp_path, limits, clock) as life:
        with trio.move_on_after(1):
            await life.retainer.run()
        (trimmed,) = life.told(Trimmed)
        assert isinstance(trimmed, Trimmed)
        assert trimmed.left == len([seq for seq, _ in life.store.records(1) if seq <= 3 * BLOCK])
        await life.sealer.seal("stop")
    intact(tmp_path)


async def test_what_cannot_be_archived_is_not_trimmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retaining, "PERIOD_S", 0.01)
    clock = SetClock()
    (tmp_path / "archive").write_text("no directory")
    async with living(tmp_path, Bounds(max_bytes=0, max_age_days=1, archives_max_bytes=0), clock) as life:
        await life.write(3 * BLOCK)
        clock.now_ns += 5 * DAY_NS
        with pytest.raises(EffectFailed, match="planning to trim the log"):
            await life.retainer.look()
        with trio.move_on_after(2):
            await life.retainer.run()
        assert not life.told(Trimmed)
        assert len(life.store.records(1, BLOCK)) == BLOCK


async def test_a_plan_that_is_none_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr("ocid.adapters.planner.command.run", run)
    planner = HostPlanner(tmp_path / "log", None, tmp_path)
    with pytest.raises(EffectFailed, match="cannot be read"):
        await planner.plan(BLOCK)
    (tmp_path / "trim-plan").write_bytes(b"\xc1")
    with pytest.raises(EffectFailed, match="cannot be read"):
        await planner.plan(BLOCK)
    assert await planner.archives() == []


async def test_a_log_that_lost_what_was_to_stay_is_not_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with living(tmp_path) as life:
        await life.write(BLOCK)
        gone = Trimmed(through=BLOCK, kept=digest_of(b"nowhere"), left=1, reason="age")
        await life.sealer.record(gone)
        with trio.move_on_after(0.2):
            await life.retainer.run()
        assert len(life.store.records(1, BLOCK)) == BLOCK
    assert "the log was not trimmed" in caplog.text
