#!/usr/bin/env python3
"""Probe many containers for a long time, as liveness probes do, and see whether the runtime grows.

usage: sudo .venv/bin/python benchmarks/soak.py /run/ocid/ocid.sock [--containers 100] [--period 1] [--minutes 10]

Every container gets one ExecSync of `true` per period, spread evenly over it, each on time whether the one before it
has ended or not, but never two at once in one container: a probe whose turn comes while the last one runs is counted as
late and left out. Each minute prints what was done and what the runtime's daemon holds. Exit code 1 if a call failed.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import memory
from kubelet import SECCOMP, Kubelet, Pod, sweep_cgroups

BUSYBOX = "registry.k8s.io/e2e-test-images/busybox:1.29-4"


class Probes:
    """All probes of one run."""

    def __init__(self, node: Kubelet, pods: list[Pod], period_s: float) -> None:
        self.node, self.pods, self.period_s = node, pods, period_s
        self.took_ms: list[float] = []
        self.late = 0
        self.errors: list[str] = []

    async def run(self, until: float) -> None:
        await asyncio.gather(*(self._one(pod, number, until) for number, pod in enumerate(self.pods)))

    async def _one(self, pod: Pod, number: int, until: float) -> None:
        due = time.monotonic() + self.period_s * number / len(self.pods)
        while due < until:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            began = time.perf_counter()
            try:
                await self.node.exec_true(pod)
            except Exception as error:
                self.errors.append(f"{type(error).__name__}: {error}"[:200])
            self.took_ms.append((time.perf_counter() - began) * 1e3)
            due += self.period_s
            while due < time.monotonic():
                self.late += 1
                due += self.period_s

    def take(self) -> tuple[list[float], int]:
        taken = sorted(self.took_ms), self.late
        self.took_ms, self.late = [], 0
        return taken


def held(pid: int) -> tuple[float, int, int, int, float]:
    """PSS in MiB, descriptors, threads, children (zombies too), and CPU seconds of a process."""
    own = [one for one in memory.processes().values() if one.parent == pid]
    pss = memory.pss_mib([one for one in memory.processes().values() if one.pid == pid])
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    threads = int(stat[17])
    cpu_s = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    return pss, len(os.listdir(f"/proc/{pid}/fd")), threads, len(own), cpu_s


async def soak(args: argparse.Namespace, scratch: Path) -> int:
    node = Kubelet("soak", args.socket, args.handler, scratch, args.seccomp)
    print(f"{await node.greet()} at {node.path}", flush=True)
    await node.use(args.image)
    await node.sweep()
    pods = await node.many_up(args.containers)
    pid = node.daemon_pid()
    probes = Probes(node, pods, args.period)
    until = time.monotonic() + args.minutes * 60
    print("minute  probes   late  p50 ms  p99 ms  max ms   PSS MiB   fds  threads  children  CPU s", flush=True)
    run = asyncio.create_task(probes.run(until))
    try:
        minute = 0
        while not run.done():
            await asyncio.wait([run], timeout=60)
            minute += 1
            took, late = probes.take()
            if len(took) < 2:
                continue
            pss, fds, threads, children, cpu_s = held(pid)
            p99 = statistics.quantiles(took, n=100)[98]
            print(
                f"{minute:6} {len(took):7} {late:6} {statistics.median(took):7.1f} {p99:7.1f} {took[-1]:7.1f}"
                f" {pss:9.1f} {fds:5} {threads:8} {children:9} {cpu_s:6.1f}",
                flush=True,
            )
        await run
    finally:
        run.cancel()
        with suppress(asyncio.CancelledError):
            await run
        await node.many_down(pods)
        await node.sweep()
        node.close()
    for error in sorted(set(probes.errors)):
        print(f"{probes.errors.count(error)} x {error}")
    return 1 if probes.errors else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("socket")
    parser.add_argument("--containers", type=int, default=100)
    parser.add_argument("--period", type=float, default=1.0, help="seconds between two probes of a container")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--handler", default="")
    parser.add_argument("--image", default=BUSYBOX)
    parser.add_argument("--seccomp", choices=SECCOMP, default=SECCOMP[0])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cri-soak-") as scratch:
        try:
            return asyncio.run(soak(args, Path(scratch)))
        finally:
            sweep_cgroups()


if __name__ == "__main__":
    sys.exit(main())
