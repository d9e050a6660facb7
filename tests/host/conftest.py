"""Host tests: root, real runc, conmon, mounts, namespaces and cgroups. Each must leave nothing behind."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

import pytest
import trio

from ocid.adapters import linux, mounts, process as processes
from ocid.adapters.cgroups import Cgroups
from ocid.adapters.handlers import HandlerConfig
from ocid.adapters.pause import PauseProcesses
from ocid.adapters.runc import OciRuntime
from ocid.adapters.sandbox import PodSandboxes
from tests.host.support import World, build_rootfs

TOOLS = ("runc", "conmon", "catatonit", "busybox")
CGROUP_PREFIX = f"ocid-test-{os.getpid()}-"  # others may run these tests at the same time
_numbers = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    reason = "needs root" if os.geteuid() else f"needs {', '.join(missing)}" if missing else ""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.host)
            if "stage" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.daemon)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def private_mounts() -> None:
    """Mounts of tests are seen by nobody else; crun is not shown that a controller is in the v2 half of a hybrid."""
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    controllers = "/sys/fs/cgroup/unified/cgroup.controllers"
    if os.path.exists(controllers):
        linux.mount("/dev/null", controllers, None, linux.MS_BIND)


@pytest.fixture(scope="session")
def reaper() -> processes.Reaper:
    return processes.Reaper(grace_s=0)


@pytest.fixture(scope="session")
def rootfs() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="ocid-rootfs-"))
    yield build_rootfs(directory)
    shutil.rmtree(directory)


def _footprint() -> tuple[set[str], set[str], set[str]]:
    """Mounts, which pin network namespaces too, cgroups and descendants of this process."""
    targets = {entry.target for entry in mounts.mountinfo()}
    groups = {
        str(found) for root in set(Cgroups().hierarchies.values()) for found in Path(root).glob(f"{CGROUP_PREFIX}*/**")
    }
    mine = {pid for pid in os.listdir("/proc") if pid.isdigit() and _is_descendant(int(pid))}
    return targets, groups, {f"{pid} {processes.name_of(int(pid))}" for pid in mine}


def _is_descendant(pid: int) -> bool:
    above: int | None = pid
    while above is not None and above > 1:
        above = processes.parent_of(above)
        if above == os.getpid():
            return True
    return False


@pytest.fixture(autouse=True)
def nothing_leaks(reaper: processes.Reaper) -> Iterator[None]:
    """Compare mounts, cgroups and processes before and after."""
    before = _footprint()
    yield
    reaper.sweep()
    after = _footprint()
    for kind, old, new in zip(("mounts", "cgroups", "processes"), before, after, strict=True):
        assert not new - old, f"leaked {kind}: {sorted(new - old)}"


@pytest.fixture(scope="session")
def run_root() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="ocid-t-"))
    yield directory
    mounts.unmount_below(str(directory))
    shutil.rmtree(directory)


@pytest.fixture
def run_dir(run_root: Path, nothing_leaks: None) -> Iterator[Path]:
    directory = run_root / str(next(_numbers))
    directory.mkdir()
    yield directory
    mounts.unmount_below(str(directory))
    shutil.rmtree(directory)


def _subdirectories(directories: Iterable[str]) -> list[str]:
    return [str(found) for top in directories for found in Path(top).glob("*/")]


@pytest.fixture
async def cgroup_parent(nothing_leaks: None) -> AsyncIterator[str]:
    """A parent cgroup of the test's own. It may stay, but empty: what is in it was leaked, and is killed."""
    name = f"/{CGROUP_PREFIX}{next(_numbers)}"
    yield name
    cgroups = Cgroups("cgroupfs")
    leaked = _subdirectories(cgroups.directories(name))
    cgroups.kill(name)
    await cgroups.remove(name)
    assert not leaked


@pytest.fixture(scope="session")
def crun_refusal(private_mounts: None, rootfs: Path) -> str:
    """Why crun cannot run on this host, "" when it can."""
    if shutil.which("crun") is None:
        return "crun is not installed"
    with tempfile.TemporaryDirectory(prefix="ocid-crun-") as directory:
        config = Path(directory, "config.json")
        subprocess.run(["crun", "spec"], cwd=directory, check=True)
        config.write_text(config.read_text().replace('"terminal": true', '"terminal": false'))
        (Path(directory) / "rootfs").symlink_to(rootfs)
        command = ["crun", f"--root={directory}/state", "run", "--bundle", directory, "ocid-test-crun"]
        tried = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        return tried.stderr.strip().splitlines()[-1] if tried.returncode else ""


@pytest.fixture(params=["runc", "crun"])
def handler(request: pytest.FixtureRequest, crun_refusal: str) -> str:
    if request.param == "crun" and crun_refusal:
        pytest.skip(f"crun cannot run here: {crun_refusal}")
    return str(request.param)


@pytest.fixture
async def world(run_dir: Path, cgroup_parent: str, rootfs: Path, handler: str, nursery: trio.Nursery) -> World:
    nursery.start_soon(processes.Reaper().serve)  # as in the daemon: a failed exec's zombie keeps a PID namespace
    cgroups = Cgroups("cgroupfs")
    handlers = {"runc": HandlerConfig(path="runc"), handler: HandlerConfig(path=handler)}
    runtime = await OciRuntime.open(run_dir, cgroups, handlers)
    return World(
        run=run_dir,
        logs=run_dir / "logs",
        rootfs=rootfs,
        cgroup_parent=cgroup_parent,
        cgroups=cgroups,
        runtime=runtime,
        handler=handler,
    )


@pytest.fixture
async def sandboxes(world: World) -> PodSandboxes:
    pause = PauseProcesses(world.run / "runtime-pods", world.runtime, world.cgroups)
    return PodSandboxes(world.run / "pods", world.cgroups, pause)
