"""The counters of this host's own kernel: cgroups of both versions, networks from inside, open files."""

# ruff: noqa: ASYNC220, ASYNC221, ASYNC240, ASYNC251

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ocid.adapters import linux, mounts
from ocid.adapters.cgroups import Cgroups
from ocid.adapters.usage import CgroupUsages
from ocid.adapters.usage_survey import networks
from ocid.ports.usage import SampleOrder

BUSY = """
import os, socket, time
memory = bytearray(32 << 20)
held = [socket.socket() for _ in range(5)]
print("ready", flush=True)
until = time.monotonic() + 0.5
while time.monotonic() < until: pass
time.sleep(100)
"""


def of_version(version: int) -> Cgroups:
    """This host's cgroups as if it had only that version."""
    cgroups = Cgroups("cgroupfs")
    if version == 2:
        if "" not in cgroups.hierarchies:
            pytest.skip("no cgroup v2 hierarchy is mounted")
        cgroups.hierarchies, cgroups.version = {"": cgroups.hierarchies[""]}, 2
    elif "cpuacct" not in cgroups.hierarchies:
        pytest.skip("no cgroup v1 hierarchy is mounted")
    return cgroups


@pytest.fixture(params=[1, 2])
def cgroups(request: pytest.FixtureRequest) -> Cgroups:
    return of_version(request.param)


@pytest.fixture
async def busy(cgroups: Cgroups, cgroup_parent: str) -> AsyncIterator[str]:
    """A cgroup with a process that computes, and holds memory and sockets."""
    path = f"{cgroup_parent}/busy"
    process = subprocess.Popen([sys.executable, "-I", "-c", f"input()\n{BUSY}"], stdin=-1, stdout=-1)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for directory in cgroups.directories(path):
            if "/cpuset/" not in directory:
                os.makedirs(directory)
                Path(directory, "cgroup.procs").write_text(str(process.pid))
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"ready\n"
        yield path
    finally:
        process.kill()
        process.communicate()
        await cgroups.remove(path)


async def test_counters_grow(cgroups: Cgroups, busy: str) -> None:
    usages = CgroupUsages(cgroups)
    before = usages.cgroup(busy)
    time.sleep(0.6)
    after, details = usages.cgroup(busy), usages.details(busy)

    assert before is not None
    assert after is not None
    assert details is not None
    assert before.cpu_ns is not None
    assert after.cpu_ns is not None
    assert after.cpu_ns - before.cpu_ns > 50_000_000
    assert abs((details.user_ns or 0) + (details.system_ns or 0) - after.cpu_ns) < 100_000_000
    if cgroups.version == 1:
        assert (after.memory_bytes or 0) > 32 << 20
        assert (after.rss_bytes or 0) > 30 << 20
        assert (after.page_faults or 0) > 1000
        assert after.memory_limit_bytes is None
        assert (details.max_memory_bytes or 0) >= (after.memory_bytes or 0)
        assert details.oom_kills == 0
    if Path("/proc/pressure/cpu").exists() and "" in cgroups.hierarchies:
        assert after.cpu_pressure is not None
        assert after.cpu_pressure.some is not None
        assert after.memory_pressure is not None
        assert after.io_pressure is not None
    assert usages.process_count(busy) == 1


async def test_a_sample(cgroups: Cgroups, busy: str) -> None:
    usages = CgroupUsages(cgroups)
    order = SampleOrder(
        cpu={"busy": busy, "gone": f"{busy}-gone"},
        networks={"gone": "/run/nothing/here"},
        processes={"busy": busy, "gone": f"{busy}-gone"},
    )
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    taken = await usages.sample(order)

    assert taken.cpu.keys() == taken.processes.keys() == {"busy"}
    assert taken.cpu["busy"].boot_ns >= before
    assert taken.networks == {}
    found = taken.processes["busy"]
    assert (found.processes, found.sockets) == (1, 5)
    assert found.file_descriptors == 8
    assert found.open_files_max == int(subprocess.check_output("ulimit -Sn", shell=True, text=True))


@pytest.fixture
def namespaces(run_dir: Path) -> Iterator[dict[str, str]]:
    """Pinned network namespaces with interfaces of different names."""
    paths = {name: str(run_dir / name) for name in ("one", "two")}
    for name, path in paths.items():
        Path(path).touch()
        script = f"ip link add eth0 type veth peer name {name}x"
        subprocess.run(["unshare", f"--net={path}", "sh", "-c", script], check=True)
    yield paths
    for path in paths.values():
        linux.umount(path, linux.MNT_DETACH)


async def test_networks_are_seen_from_inside(namespaces: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    own = os.readlink("/proc/thread-self/ns/net")
    paths = {**namespaces, "missing": str(tmp_path / "missing"), "file": str(tmp_path / "file")}
    found = networks(paths)

    assert found.keys() == {"one", "two"}
    assert {one.name for one in found["one"]} == {"eth0", "onex"}
    assert {one.name for one in found["two"]} == {"eth0", "twox"}
    assert found["one"][1].tx_bytes == 0
    assert os.readlink("/proc/thread-self/ns/net") == own
    assert not mounts.is_mount(str(tmp_path / "file"))


async def test_a_look_costs_little(cgroups: Cgroups, busy: str) -> None:
    """Far below a millisecond for a container; the bound is generous for machines that do other things, too."""
    usages = CgroupUsages(cgroups)
    usages.cgroup(busy)
    took_s = min(_timed(usages, busy) for _ in range(20))

    assert took_s < 0.003


def _timed(usages: CgroupUsages, path: str) -> float:
    began_s = time.perf_counter()
    usages.cgroup(path)
    return time.perf_counter() - began_s
