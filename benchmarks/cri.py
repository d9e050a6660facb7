#!/usr/bin/env python3
"""Measure CRI sockets side by side, turn by turn. See README.md in this directory."""

import argparse
import asyncio
import json
import os
import platform
import select
import shlex
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import memory
from grpclib.exceptions import GRPCError, StreamTerminatedError
from kubelet import CONTAINER_RUNNING, DOWN, SECCOMP, TOKEN, UP, Kubelet, Pod, sweep_cgroups
from report import Results, print_table, summary

OPS = ("memory", "version", "status", "pod", "burst", "exec", "list", "stats", "pull", "restart")
FAILURES = (GRPCError, StreamTerminatedError, ConnectionError, TimeoutError, RuntimeError)
BUSYBOX = "registry.k8s.io/e2e-test-images/busybox:1.29-4"
STATS = ("ListContainerStats", "ListPodSandboxStats", "ListPodSandboxMetrics")
BURST = 8  # pods at once
FEW, HELD = 5, 20  # pods before memory is weighed, and further ones


class Benchmark:
    def __init__(self, args: argparse.Namespace, nodes: list[Kubelet], results: Results) -> None:
        self.args, self.nodes, self.results = args, nodes, results
        self.by_name = {node.name: node for node in nodes}
        self.found: dict[tuple[str, str], bool] = {}

    async def run(self) -> None:
        for op in OPS:
            if op in self.args.only:
                say(op)
                await getattr(self, f"op_{op}")()
        if "memory" in self.args.only:
            await self.weigh("memory at rest, at the end")

    # --- Taking turns ---

    async def turns(
        self, op: str, runs: int, step: Callable[[Kubelet, bool], Awaitable[None]], sweep: bool = True
    ) -> None:
        """Let every socket take `runs` turns, after warm-up turns that do not count. Who begins changes every turn.

        A failed turn is reported and does not end the run; after three of them that socket sits this operation out.
        """
        for turn in range(-self.args.warmup, runs):
            first = turn % len(self.nodes)
            for node in self.nodes[first:] + self.nodes[:first]:
                if self.results.failures(op, node.name) >= 3:
                    continue
                try:
                    await step(node, turn >= 0)
                except FAILURES as error:
                    self.results.failed(op, node.name, error)
                    if sweep:
                        await self.recover(node)
                await asyncio.sleep(self.args.settle)

    async def recover(self, node: Kubelet) -> None:
        try:
            await node.sweep()
        except FAILURES as error:
            self.results.failed("clean up", node.name, error)

    @asynccontextmanager
    async def holding(self, op: str, count: int) -> AsyncIterator[dict[str, list[Pod]]]:
        """Pods that stay while something else is measured."""
        pods: dict[str, list[Pod]] = {}
        for node in self.nodes:
            try:
                pods[node.name] = await node.many_up(count)
            except FAILURES as error:
                self.results.failed(op, node.name, error)
                await self.recover(node)
        try:
            yield pods
        finally:
            for node in self.nodes:
                try:
                    await node.many_down(pods.get(node.name, []))
                except FAILURES as error:
                    self.results.failed(op, node.name, error)
                    await self.recover(node)

    async def small(self, op: str, runs: int, call: Callable[[Kubelet, list[Pod]], Awaitable[object]]) -> None:
        async with self.holding(op, 1) as pods:
            await self.calls(op, runs, pods, call)

    async def calls(
        self,
        op: str,
        runs: int,
        pods: dict[str, list[Pod]],
        call: Callable[[Kubelet, list[Pod]], Awaitable[object]],
    ) -> None:
        async def step(node: Kubelet, counts: bool) -> None:
            if node.name in pods:
                began = time.perf_counter()
                await call(node, pods[node.name])
                if counts:
                    self.results.add(op, node.name, since(began))

        await self.turns(op, runs, step, sweep=False)  # the pods are held for more turns

    # --- Operations ---

    async def op_version(self) -> None:
        await self.small("Version", self.args.runs * 10, lambda node, _: node.version())

    async def op_status(self) -> None:
        await self.small("ContainerStatus", self.args.runs * 10, lambda node, pods: node.status(pods[0]))

    async def op_exec(self) -> None:
        await self.small("ExecSync true", self.args.runs, lambda node, pods: node.exec_true(pods[0]))

    async def op_pod(self) -> None:
        async def step(node: Kubelet, counts: bool) -> None:
            pod = await node.up()
            await node.ready(pod)
            await node.down(pod)
            if counts:
                self.results.add("pod up", node.name, pod.took(*UP))
                for name in UP:
                    self.results.add(f"  {name}", node.name, pod.ms[name])
                self.results.add("pod down", node.name, pod.took(*DOWN))
                for name in DOWN:
                    self.results.add(f"  {name}", node.name, pod.ms[name])

        await self.turns("pod", self.args.runs, step)

    async def op_burst(self) -> None:
        async def step(node: Kubelet, counts: bool) -> None:
            began = time.perf_counter()
            pods = await asyncio.gather(*(node.up() for _ in range(BURST)))
            up = since(began)
            for pod in pods:
                await node.ready(pod)
            began = time.perf_counter()
            await asyncio.gather(*(node.down(pod) for pod in pods))
            if counts:
                self.results.add(f"{BURST} pods at once, up", node.name, up)
                self.results.add(f"{BURST} pods at once, down", node.name, since(began))

        await self.turns("burst", max(3, self.args.runs // 4), step)

    async def op_list(self) -> None:
        for count in self.args.many:
            async with self.holding(f"list of {count}", count) as pods:
                runs = self.args.runs * 5
                await self.calls(f"ListContainers of {count}", runs, pods, lambda node, _: node.list_containers())
                await self.calls(f"ListPodSandbox of {count}", runs, pods, lambda node, _: node.list_pods())

    async def op_stats(self) -> None:
        for count in self.args.many:
            async with self.holding(f"stats of {count}", count) as pods:
                await asyncio.sleep(2)  # a runtime that samples in the background has something to tell by then
                for rpc in STATS:
                    able = {node.name: pods[node.name] for node in self.nodes if node.name in pods}
                    for node in self.nodes:
                        if node.name in able and not await node.has_rpc(rpc):
                            say(f"  {node.name} has no {rpc}")
                            del able[node.name]
                    await self.calls(f"{rpc} of {count}", self.args.runs, able, lambda node, _, rpc=rpc: node.ask(rpc))  # type: ignore[misc]

    async def op_pull(self) -> None:
        for ref in self.args.pull:
            wrote: dict[str, list[tuple[int, int]]] = {}

            async def step(node: Kubelet, counts: bool, ref: str = ref, wrote: dict = wrote) -> None:  # type: ignore[type-arg]
                self.found.setdefault((node.name, ref), await node.has(ref))
                await node.remove_image(ref)
                store = await node.store()
                before = await settled(store)
                began = time.perf_counter()
                await node.pull(ref)
                took = since(began)
                os.sync()
                after = usage(store)
                if counts:
                    self.results.add(f"pull {ref}", node.name, took)
                    wrote.setdefault(node.name, []).append((after[0] - before[0], after[1] - before[1]))

            await self.turns(f"pull {ref}", max(3, self.args.runs // 4), step)
            for name, sizes in wrote.items():
                blocks, inodes = zip(*sizes, strict=True)
                mib, files = statistics.median(blocks) / 2**20, statistics.median(inodes)
                say(f"  {name} wrote {mib:.0f} MiB and {files:.0f} files")
                if min(blocks) < statistics.median(blocks) / 2:
                    say(f"  {name}: one pull wrote only {min(blocks) >> 20} MiB: it may not have begun from nothing")

    async def op_memory(self) -> None:
        await self.weigh("memory at rest")
        async with self.holding("memory", FEW) as few:
            await asyncio.sleep(1)
            before = {name: self.pss(self.by_name[name], pods) for name, pods in few.items()}
            async with self.holding("memory", HELD) as more:
                await asyncio.sleep(1)
                for name in before.keys() & more.keys():
                    grown = self.pss(self.by_name[name], few[name] + more[name]) - before[name]
                    self.results.add("memory, each further pod", name, grown / HELD, "MiB")

    async def weigh(self, operation: str) -> None:
        await asyncio.sleep(1)
        for node in self.nodes:
            try:
                self.results.add(operation, node.name, self.pss(node, []), "MiB")
            except FAILURES as error:
                self.results.failed(operation, node.name, error)

    def pss(self, node: Kubelet, pods: list[Pod]) -> float:
        ids = {pod.sandbox for pod in pods} | {pod.container for pod in pods}
        own = memory.own_processes(node.daemon_pid(), node.path, ids, TOKEN)
        total = memory.pss_mib(own)
        names = ", ".join(f"{n} {name}" for name, n in Counter(process.name for process in own).items())
        say(f"  {node.name}, {len(pods)} pods: {names}: {total:.1f} MiB")
        return total

    async def op_restart(self) -> None:
        count = self.args.many[0]
        async with self.holding("restart", count if self.args.restart_cmd else 0) as pods:
            for node in self.nodes:
                command = self.args.restart_cmd.get(node.name)
                if command and node.name in pods:
                    for _ in range(max(3, self.args.runs // 4)):
                        try:
                            took = await restart(node, command, count)
                        except FAILURES as error:
                            self.results.failed("restart", node.name, error)
                            break
                        self.results.add(f"kill -9 to serving {count} pods", node.name, took)


async def restart(node: Kubelet, command: str, count: int) -> float:
    """From the start of the restart command until ListContainers shows every container running again."""
    pidfd = os.pidfd_open(node.daemon_pid())
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        await asyncio.to_thread(select.select, [pidfd], [], [], 10)
    finally:
        os.close(pidfd)
    node.close()
    began = time.perf_counter()
    # The command may start the daemon and end, or be the daemon itself; then it outlives the benchmark.
    quiet = asyncio.subprocess.DEVNULL
    await asyncio.create_subprocess_exec(*shlex.split(command), stdin=quiet, stdout=quiet, start_new_session=True)
    running = 0
    while since(began) < 60_000:
        node.connect()
        with suppress(*FAILURES):
            running = sum(item.state == CONTAINER_RUNNING for item in await node.list_containers())
            if running >= count:
                return since(began)
        node.close()
        await asyncio.sleep(0.005)
    node.connect()
    raise TimeoutError(f"60 s after `{command}` {running} of {count} containers run")


def since(began: float) -> float:
    return (time.perf_counter() - began) * 1e3


def usage(path: str) -> tuple[int, int]:
    stat = os.statvfs(path)
    return (stat.f_blocks - stat.f_bfree) * stat.f_frsize, stat.f_files - stat.f_ffree


async def settled(path: str) -> tuple[int, int]:
    """Wait until deleted layers have left the disk: a runtime may free them after it has answered."""
    os.sync()
    last, still = usage(path), 0
    for _ in range(100):
        await asyncio.sleep(0.1)
        now = usage(path)
        still = still + 1 if abs(now[0] - last[0]) < 1 << 20 else 0
        last = now
        if still >= 5:
            break
    return last


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- Start and end ---


async def measure(args: argparse.Namespace) -> int:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)  # type: ignore[union-attr]
    scratch = Path(tempfile.mkdtemp(prefix="cri-benchmark-"))
    results = Results()
    nodes = [Kubelet(name, path, handler_of(args, name), scratch, args.seccomp) for name, path in args.sockets.items()]
    had: dict[tuple[str, str], bool] = {}
    bench = Benchmark(args, nodes, results)
    versions = {}
    try:
        for node in nodes:
            try:
                versions[node.name] = await node.greet()
                if left := await node.sweep():
                    say(f"{node.name}: removed {left} pods that an earlier run left behind")
                had[node.name, args.image] = await node.has(args.image)
                await node.use(args.image)
            except (*FAILURES, OSError) as error:
                say(f"{node.name} at {node.path} cannot be measured: {error}")
                return 1
            say(f"{node.name}: {versions[node.name]} at {node.path}, handler {node.handler or '(default)'}")
        if "memory" in args.only:
            say("memory: " + memory.RULE.format(token=TOKEN))
        await bench.run()
    except asyncio.CancelledError:
        say("interrupted; removing what was made here, then the results so far")
        return 130
    finally:
        await asyncio.shield(asyncio.ensure_future(clean_up(nodes, had | bench.found, results)))
        shutil.rmtree(scratch, ignore_errors=True)
        report(args, results, versions)
    return 1 if results.errors else 0


async def clean_up(nodes: Iterable[Kubelet], had: dict[tuple[str, str], bool], results: Results) -> None:
    """Leave every socket as it was found: no pods of ours, no images that were not there before, no cgroups."""
    for node in nodes:
        try:
            for _ in range(10):  # a call that was given up may still be making a pod
                await asyncio.sleep(0.3)
                if not await node.sweep():
                    break
            for (name, ref), before in had.items():
                if name == node.name and before != await node.has(ref):
                    await (node.pull(ref) if before else node.remove_image(ref))
        except (*FAILURES, OSError) as error:
            results.failed("clean up", node.name, error)
            say(f"{node.name}: cleaning up failed: {error}")
        node.close()
    sweep_cgroups()


def report(args: argparse.Namespace, results: Results, versions: dict[str, str]) -> None:
    names = list(args.sockets)
    rows = summary(results, names, args.baseline)
    errors = [{"operation": o, "socket": s, "error": e, "times": n} for (o, s, e), n in results.errors.items()]
    machine = {"kernel": platform.release(), "cpus": os.cpu_count(), "load": os.getloadavg()}
    if args.output == "json":
        facts = {"machine": machine, "versions": versions, "baseline": args.baseline}
        json.dump({**facts, "results": rows, "errors": errors}, sys.stdout, indent=1)
        print()
        return
    who = "; ".join(f"{name} is {version}" for name, version in versions.items())
    print(f"\n{machine['cpus']} CPUs, Linux {machine['kernel']}; {who}")
    if rows:
        print_table(rows, names, args.baseline)
    for error in errors:
        print(f"FAILED {error['times']} x: {error['operation']} on {error['socket']}: {error['error']}")


def pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def counts(text: str) -> list[int]:
    return [int(word) for word in words(text)]


def handler_of(args: argparse.Namespace, name: str) -> str:
    plain = [value for value in args.handler if "=" not in value]
    named = dict(pair(value) for value in args.handler if "=" in value)
    return named.get(name, plain[-1] if plain else "")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("sockets", nargs="+", type=pair, metavar="NAME=SOCKET", help="a CRI socket under a name")
    add("--runs", type=int, default=20, help="turns per socket (default 20); small calls take more, heavy ones fewer")
    add("--warmup", type=int, default=2, help="turns that do not count (default 2)")
    add("--settle", type=float, default=0.02, help="seconds of rest after each turn (default 0.02)")
    add("--only", type=words, default=[*OPS], metavar="OP,…", help=f"any of {', '.join(OPS)}")
    add("--image", default=BUSYBOX, help=f"what the pods run; needs sh, sleep and true (default {BUSYBOX})")
    add("--pull", type=words, default=[], metavar="REF,…", help="images whose pull is measured (default none)")
    add("--many", type=counts, default=[30], metavar="N,…", help="how many pods a list is measured with (default 30)")
    add("--handler", action="append", default=[], metavar="[NAME=]HANDLER", help="runtime handler, of all or of one")
    add("--seccomp", choices=SECCOMP, default=SECCOMP[0], help="profile; the first is what kubelets send by default")
    add("--restart-cmd", action="append", type=pair, default=[], metavar="NAME=COMMAND", help="how to start it again")
    add("--baseline", default="", metavar="NAME", help="the socket that ratios refer to (default: the last one)")
    add("-o", "--output", choices=("table", "json"), default="table")
    args = parser.parse_args()
    args.sockets, args.restart_cmd = dict(args.sockets), dict(args.restart_cmd)
    args.baseline = args.baseline or (list(args.sockets)[-1] if len(args.sockets) > 1 else "")
    known: dict[str, Iterable[str]] = {"operation": OPS, "socket": args.sockets}
    for what, given in (("operation", args.only), ("socket", [args.baseline, *args.restart_cmd])):
        for name in given:
            if name and name not in known[what]:
                parser.error(f"unknown {what} {name!r}; known are {', '.join(known[what])}")
    if os.geteuid() != 0:
        parser.error("run it as root: it makes cgroups and reads other processes' memory, as a kubelet does")
    return args


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(measure(arguments())))
    except KeyboardInterrupt:
        sys.exit(130)
