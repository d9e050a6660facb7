"""What integrity costs: ``python -m benchmarks.integrity``, see ``--help``.

Appends durable events from 100 actors, in pairs of runs: as the daemon does, and with a log that proves nothing, where
records bear a constant instead of their hash, no Merkle tree grows, and nothing is signed. Both commit the same bytes,
but for the tree's kept nodes. A checkpoint is signed every 4,096 records, as in the daemon.
"""

from __future__ import annotations

import argparse
import statistics
import timeit
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.journal import appending, directory
from ocid.domain.merkle import Frontier
from ocid.events import codec

ACTORS: Final = 100
SEAL_RECORDS: Final = 4096


class _NoHash:
    def digest(self) -> bytes:
        return codec.NO_HASH


@contextmanager
def nothing_proven() -> Iterator[None]:
    """Let the log hash nothing meanwhile."""
    sha256, append = codec._sha256, Frontier.append
    no_hash = _NoHash()
    codec._sha256 = lambda _: no_hash  # type: ignore[assignment]
    Frontier.append = lambda _, __: ()  # type: ignore[method-assign]
    try:
        yield
    finally:
        codec._sha256, Frontier.append = sha256, append  # type: ignore[method-assign]


def measure(parent: Path, events: int, *, proven: bool) -> float:
    """Return durable events per second."""
    key = Ed25519PrivateKey.generate()
    with directory(parent) as path:
        if proven:
            rate, _ = trio.run(appending, path, ACTORS, events)
            signs_s = _signing_s(key) * events / SEAL_RECORDS
            return events / (events / rate + signs_s)
        with nothing_proven():
            return trio.run(appending, path, ACTORS, events)[0]


def _signing_s(key: Ed25519PrivateKey) -> float:
    """Return the time of one signature over a checkpoint."""
    return min(timeit.repeat(lambda: key.sign(b"x" * 120), number=20, repeat=3)) / 20


def main() -> None:
    """Run the pairs and print what they say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000, help="in each run")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="on the disk to measure")
    asked = parser.parse_args()
    ratios, rates = [], []
    measure(asked.dir, asked.events // 4, proven=True)
    for number in range(asked.pairs):
        order = (True, False) if number % 2 else (False, True)
        found = {proven: measure(asked.dir, asked.events, proven=proven) for proven in order}
        ratios.append(1 - found[True] / found[False])
        rates.append(found[True])
        print(f"pair {number + 1:>2}: {found[True]:>9,.0f} proven, {found[False]:>9,.0f} not, {ratios[-1]:.1%} lost")
    quarters = statistics.quantiles(ratios, n=4)
    cost, rate = statistics.median(ratios), statistics.median(rates)
    print(f"integrity costs {cost:.1%} of the throughput, which is then {rate:,.0f} durable events/s")
    print(f"(median of {asked.pairs} pairs; quartiles {quarters[0]:.1%} and {quarters[2]:.1%})")


if __name__ == "__main__":
    main()
