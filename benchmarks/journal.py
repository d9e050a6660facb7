"""What the journal does on this machine: ``python -m benchmarks.journal``, see ``--help``.

Prints durable events per second and the time to acknowledge one from 1, 10 and 100 actors, then how fast a log of N
events is replayed, verified and checked before use. Read the numbers as ratios: the disk decides the first, the CPU the
others. ``--fold`` names a callable that takes an envelope, such as a projection's ``apply``.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import lmdb.verify
import trio

from ocid.events import codec, container
from ocid.events.base import REGISTRY, Event
from ocid.events.envelope import Context, Envelope
from ocid.ids import StreamId
from ocid.journal import salvage, structure
from ocid.journal.pending import prepare
from ocid.journal.reader import Reader
from ocid.journal.store import Store
from ocid.journal.verify import verify
from ocid.journal.writer import Writer

verify_pages: Callable[..., list[str]] = lmdb.verify.verify
BOOT = "8d2f6c1e-0b7a-4c55-9a3e-5f10c2d4e6b8"
CONTEXT = Context(who=3, correlation="0123456789abcdef", cause=17)
EVENT = container.Created(pid=4711, start_ticks=123456)


class HostClock:
    """The host's clocks."""

    def wall_ns(self) -> int:
        """See ``ocid.ports.Clock``."""
        return time.time_ns()

    def boot_ns(self) -> int:
        """See ``ocid.ports.Clock``."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@contextmanager
def directory(parent: Path) -> Iterator[Path]:
    """Make a directory for a log and remove it afterwards."""
    path = Path(tempfile.mkdtemp(prefix="ocid-journal-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path)


async def appending(path: Path, actors: int, total: int) -> tuple[float, list[float]]:
    """Append *total* events from so many tasks at once; return events per second and each one's latency in s."""
    store = Store(path, boot_id=BOOT)
    writer = Writer(store, HostClock())
    writer.subscribe(lambda _: None)
    latencies: list[float] = []

    async def actor(number: int) -> None:
        stream = StreamId(f"container/{number:064x}")
        for version in range(total // actors):
            begun = time.perf_counter()
            await writer.append(stream, version, (EVENT,), CONTEXT)
            latencies.append(time.perf_counter() - begun)

    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        begun = time.perf_counter()
        async with trio.open_nursery() as tasks:
            for number in range(actors):
                tasks.start_soon(actor, number)
        took = time.perf_counter() - begun
        nursery.cancel_scope.cancel()
    store.close()
    return len(latencies) / took, sorted(latencies)


def fill(path: Path, total: int) -> None:
    """Write a log of *total* events: streams of 50, as a node's containers have them."""
    store = Store(path, boot_id=BOOT)
    events = [EVENT] * 50
    for start in range(0, total, 5000):
        batch = [
            prepare(StreamId(f"container/{number:064x}"), 0, events, CONTEXT)
            for number in range(start // 50, min(start + 5000, total) // 50)
        ]
        store.append_batch(batch, time.time_ns(), 1)
    store.close()


def replay(path: Path, fold: Callable[[Envelope], object]) -> int:
    """Decode everything and hand it to *fold*."""
    count = 0
    with Reader(path) as reader:
        while chunk := reader.read(count + 1):
            for envelope in chunk:
                fold(envelope)
            count += len(chunk)
    return count


def trivial() -> Callable[[Envelope], object]:
    """Return a fold that counts events by type."""
    counts: dict[str, int] = dict.fromkeys(REGISTRY, 0)

    def apply(envelope: Envelope) -> None:
        counts[envelope.type] += 1

    return apply


def measure(what: str, unit: str, count: int, function: Callable[[], object]) -> None:
    """Print how many of *count* per second *function* does."""
    begun = time.perf_counter()
    function()
    took = time.perf_counter() - begun
    print(f"{what:<42} {count / took:>12,.0f} {unit}/s   {took:8.3f} s")


def codec_costs(event: Event) -> None:
    """Print what one record costs."""
    header = (
        1,
        StreamId("container/" + "0" * 64),
        1,
        event.TYPE,
        1,
        1,
        1,
        bytes(16),
        1,
        3,
        "0" * 16,
        17,
        "",
        bytes(32),
    )
    record, _ = codec.seal(header, codec.payload_of(event))
    count = 100_000
    measure(
        "encode and hash", "records", count, lambda: [codec.seal(header, codec.payload_of(event)) for _ in range(count)]
    )
    measure("check hash and decode", "records", count, lambda: [codec.decode(record) for _ in range(count)])
    measure("decode the header alone", "records", count, lambda: [codec.header_of(record) for _ in range(count)])


def main() -> None:
    """Run it all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000, help="size of the log to replay and verify")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="on the disk to measure")
    parser.add_argument("--fold", help="MODULE:NAME of a callable that takes an envelope")
    asked = parser.parse_args()
    fold = trivial()
    if asked.fold:
        module, _, name = asked.fold.partition(":")
        fold = getattr(importlib.import_module(module), name)

    codec_costs(EVENT)
    for actors, total in ((1, 2000), (10, 10_000), (100, 40_000)):
        with directory(asked.dir) as path:
            rate, latencies = trio.run(appending, path, actors, total)
            p50, p99 = (latencies[len(latencies) * part // 100] * 1e3 for part in (50, 99))
        print(f"append, {actors:>3} actors {rate:>35,.0f} events/s   p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    with directory(asked.dir) as path:
        fill(path, asked.events)
        size = (path / structure.DATA).stat().st_size
        print(f"log of {asked.events:,} events: {size / 2**20:,.0f} MiB, {size / asked.events:,.0f} bytes an event")
        measure("replay: check, decode, fold", "events", asked.events, lambda: replay(path, fold))
        with Reader(path) as reader:
            measure("verify: hashes, chain, streams, index", "events", asked.events, lambda: verify(reader))
        measure("quick look at the file", "looks", 1, lambda: structure.fault_of(path))
        measure(
            "structure of all pages, without LMDB",
            "events",
            asked.events,
            lambda: verify_pages(str(path / structure.DATA), subdir=False),
        )
        measure("salvage, without LMDB", "events", asked.events, lambda: salvage.salvage(path))


if __name__ == "__main__":
    main()
