#!/usr/bin/env python3
"""See whether anybody who reads the log moves the daemon's answers.

usage: sudo .venv/bin/python benchmarks/readers.py /run/ocid/ocid.sock --log /var/lib/ocid/log [--rounds 10]

Turns without readers and turns with them, one after the other: pods up and down, each of which writes some twenty
records to the log, ExecSync of `true`, and ContainerStatus. The readers are an export that follows the log into a file,
one whose pipe nobody empties, one that was stopped by a signal, and a timeline that follows.
"""

import argparse
import asyncio
import contextlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

from kubelet import SECCOMP, Kubelet, Pod, sweep_cgroups

BUSYBOX = "registry.k8s.io/e2e-test-images/busybox:1.29-4"
REPLAY = [str(Path(sys.executable).with_name("ocid-replay"))]
SETTLE_S = 1.5  # for readers to have read what is there


@contextlib.contextmanager
def readers(log: Path, scratch: Path) -> Iterator[None]:
    """Have the log read meanwhile."""
    where = ["--log", str(log)]
    commands = {
        "into a file": ["export", "--follow", "-w", str(scratch / "exported")],
        "into a full pipe": ["export", "--follow"],
        "stopped": ["export", "--follow", "-w", "/dev/null"],
        "timeline": ["timeline", "--follow"],
    }
    running = {
        name: subprocess.Popen(
            [*REPLAY, words[0], *where, *words[1:]], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        for name, words in commands.items()
    }
    try:
        time.sleep(SETTLE_S)
        running["stopped"].send_signal(signal.SIGSTOP)
        yield
        for name, process in running.items():
            if process.poll() is not None:
                raise RuntimeError(f"the reader {name!r} ended with {process.returncode}")
    finally:
        for process in running.values():
            process.kill()
            process.communicate()


Took = dict[str, list[float]]  # call: milliseconds


def nothing() -> Took:
    return {"pod up": [], "pod down": [], "ExecSync": [], "ContainerStatus": []}


async def turn(node: Kubelet, pod: Pod, took: Took, count: int) -> None:
    """Make the calls of one turn."""

    async def timed(name: str, call: Coroutine[Any, Any, Any]) -> Any:
        began = time.perf_counter()
        result = await call
        took[name].append((time.perf_counter() - began) * 1e3)
        return result

    for _ in range(count // 6):
        await timed("pod down", node.down(await timed("pod up", node.up())))
    for _ in range(count):
        await timed("ExecSync", node.exec_true(pod))
    for _ in range(5 * count):
        await timed("ContainerStatus", node.status(pod))


async def measure(args: argparse.Namespace, scratch: Path) -> None:
    node = Kubelet("readers", args.socket, args.handler, scratch, args.seccomp)
    print(f"{await node.greet()} at {node.path}", flush=True)
    await node.use(args.image)
    await node.sweep()
    (pod,) = await node.many_up(1)
    took = {False: nothing(), True: nothing()}
    try:
        await turn(node, pod, nothing(), args.calls)
        for number in range(args.rounds):
            for read in (False, True) if number % 2 else (True, False):
                with readers(args.log, scratch) if read else contextlib.nullcontext():
                    await turn(node, pod, took[read], args.calls)
    finally:
        await node.many_down([pod])
        node.close()
    print("call             readers  calls   p50 ms   p99 ms   max ms")
    for name in took[False]:
        for read in (False, True):
            found = sorted(took[read][name])
            p50, p99 = statistics.median(found), found[len(found) * 99 // 100]
            print(
                f"{name:<16} {'four' if read else 'none':<7} {len(found):>6} {p50:>8.2f} {p99:>8.2f} {found[-1]:>8.2f}"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("socket")
    parser.add_argument("--log", type=Path, required=True, help="directory of the daemon's log")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each kind")
    parser.add_argument(
        "--calls", type=int, default=60, help="ExecSync calls in a turn; five times as many of the other"
    )
    parser.add_argument("--image", default=BUSYBOX)
    parser.add_argument("--handler", default="")
    parser.add_argument("--seccomp", choices=SECCOMP, default=next(iter(SECCOMP)))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ocid-readers-") as scratch:
        try:
            asyncio.run(measure(args, Path(scratch)))
        finally:
            sweep_cgroups()
    return 0


if __name__ == "__main__":
    sys.exit(main())
