"""Wishes for erasure: granted once the pod is gone, refused before, and finished by the next life of the daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from ocid.actors.erasing import Eraser
from ocid.actors.salts import Salts
from ocid.actors.sealing import Sealer
from ocid.domain.confidential import Confidential
from ocid.errors import Erased
from ocid.events import log as events
from ocid.events.envelope import DAEMON
from ocid.events.log import LOG
from ocid.events.node import NODE, Stopped
from ocid.ids import PodId, stream
from ocid.journal.memory import Disk, MemoryLog, memory_journal
from ocid.journal.writer import Writer
from ocid.ports.erasures import ErasureWish
from ocid.projections.view import View
from tests.actors.test_sealing import ORIGIN, TrioClock
from tests.fakes.declared import container_declared, pod_declared
from tests.fakes.signers import FakeSigners

POD, OTHER = PodId("a" * 64), PodId("b" * 64)
TEXT, KEPT = Confidential(POD, bytes(32), b"text"), Confidential(OTHER, bytes(32), b"kept")


class FakeWishes:
    def __init__(self, *pods: PodId) -> None:
        self.asked = [ErasureWish(pod_id=pod, reason="a request", login_uid=1004) for pod in pods]

    def pending(self) -> list[ErasureWish]:
        return list(self.asked)

    def settle(self, pod_id: PodId) -> None:
        self.asked = [one for one in self.asked if one.pod_id != pod_id]


@asynccontextmanager
async def erasing(wishes: FakeWishes, *there: PodId, salts: Salts | None = None) -> AsyncIterator[Writer]:
    """A log with a text of each pod, and an eraser at work on it."""
    writer = memory_journal(MemoryLog(Disk()), TrioClock())
    view = View(writer.document)
    writer.subscribe(view.apply)
    sealer = Sealer(writer, view.sealing, FakeSigners(), origin=ORIGIN)
    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        await sealer.begin()
        await writer.append(NODE, 0, [Stopped(reason="")], DAEMON, [TEXT, KEPT])
        for pod_id in there:
            await writer.append(stream("pod", pod_id), 0, [pod_declared(pod_id)], DAEMON)
        nursery.start_soon(Eraser(writer, sealer, wishes, salts or Salts(), view).run)
        await trio.sleep(5)
        yield writer
        nursery.cancel_scope.cancel()


def erasures(writer: Writer) -> list[events.Erased]:
    return [one.event for one in writer.read_stream(LOG) if isinstance(one.event, events.Erased)]


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    trio.run(scenario, clock=MockClock(autojump_threshold=0))


def test_the_texts_of_a_pod_that_is_gone_are_erased() -> None:
    async def scenario() -> None:
        wishes = FakeWishes(POD)
        async with erasing(wishes) as writer:
            assert erasures(writer) == [events.Erased(pod_id=POD, entries=1, reason="a request", login_uid=1004)]
            seq = next(one.seq for one in writer.read_stream(LOG) if isinstance(one.event, events.Erased))
            with pytest.raises(Erased, match=f"record {seq} says why"):
                writer.document(TEXT.digest)
            assert writer.document(KEPT.digest) == b"kept"
            assert wishes.asked == []

    run(scenario)


@pytest.mark.parametrize(("wanted", "said"), [(POD, "still on this node"), (PodId("c" * 64), "has no confidential")])
def test_what_is_refused_is_said_and_forgotten(wanted: PodId, said: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        wishes = FakeWishes(wanted)
        async with erasing(wishes, POD) as writer:
            assert erasures(writer) == []
            assert writer.document(TEXT.digest) == b"text"
            assert wishes.asked == []

    run(scenario)
    assert said in caplog.text


def test_nothing_is_erased_while_a_container_of_the_pod_is_left(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        wishes = FakeWishes()
        async with erasing(wishes) as writer:
            declared = container_declared(pod_id=POD)
            await writer.append(stream("container", "c1"), 0, [declared], DAEMON)
            wishes.asked = FakeWishes(POD).asked
            await trio.sleep(5)
            assert erasures(writer) == []

    run(scenario)
    assert "still on this node" in caplog.text


def test_the_salts_of_what_was_erased_are_forgotten() -> None:
    salts, made = Salts(), iter(bytes([number]) * 32 for number in range(9))
    first = salts.confide(POD, b"x", lambda: next(made))
    assert salts.confide(POD, b"x", lambda: next(made)) == first
    assert salts.confide(OTHER, b"x", lambda: next(made)).salt != first.salt

    async def scenario() -> None:
        async with erasing(FakeWishes(POD), salts=salts):
            pass

    run(scenario)
    assert salts.confide(POD, b"x", lambda: next(made)).salt != first.salt
    assert salts.confide(OTHER, b"x", lambda: next(made)).salt == bytes([1]) * 32
