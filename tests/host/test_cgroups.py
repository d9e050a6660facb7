"""The cgroups of this host, and the second version where it is mounted beside the first."""

# ruff: noqa: ASYNC240

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import trio

from ocid.adapters import command, process as processes
from ocid.adapters.cgroups import Cgroups
from ocid.errors import EffectFailed, Unavailable
from tests.host.nodes import SLOW


@pytest.fixture
def second_version() -> Cgroups:
    cgroups = Cgroups()
    if "" not in cgroups.hierarchies:
        pytest.skip("no cgroup v2 hierarchy is mounted")
    cgroups.version = 2
    cgroups.hierarchies = {"": cgroups.hierarchies[""]}
    return cgroups


def test_systemd_names_mean_directories() -> None:
    cgroups = Cgroups()
    cgroups.hierarchies = {"": "/sys/fs/cgroup"}

    (directory,) = cgroups.directories("kubepods-burstable-podabc.slice:ocid:77")
    assert directory == (
        "/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podabc.slice/ocid-77.scope"
    )
    with pytest.raises(AssertionError):
        cgroups.directories("/")
    with pytest.raises(AssertionError):
        cgroups.directories("/a/../..")


async def test_a_whole_tree_is_killed_and_removed(second_version: Cgroups, cgroup_parent: str) -> None:
    (top,) = second_version.directories(f"{cgroup_parent}/x")
    os.makedirs(f"{top}/inner/deep")
    sleepers = [subprocess.Popen(["/bin/sleep", "100"]) for _ in range(3)]  # noqa: ASYNC220
    for sleeper, below in zip(sleepers, ("", "/inner", "/inner/deep"), strict=True):
        _put(f"{top}{below}", sleeper.pid)

    assert second_version.processes(f"{cgroup_parent}/x") == {sleeper.pid for sleeper in sleepers}
    with pytest.raises(Unavailable, match="busy"):
        await second_version.remove(f"{cgroup_parent}/x", 0.01)
    second_version.kill(f"{cgroup_parent}/x")
    assert [sleeper.wait() for sleeper in sleepers] == [-9] * 3
    await second_version.remove(f"{cgroup_parent}/x")
    await second_version.remove(f"{cgroup_parent}/x")
    second_version.kill(f"{cgroup_parent}/x")
    assert not os.path.exists(top)


async def test_a_zombie_of_another_cgroup_is_an_orphan(second_version: Cgroups, cgroup_parent: str) -> None:
    """A container's process may be in the host's PID namespace; a program of ours may be waited for by somebody."""
    (top,) = second_version.directories(f"{cgroup_parent}/x")
    os.makedirs(top)
    theirs, ours = (subprocess.Popen(["/bin/sleep", "100"]) for _ in range(2))  # noqa: ASYNC220
    try:
        _put(top, theirs.pid)
        theirs.kill()
        await zombie(theirs.pid)

        assert processes.reap_orphans() is None
        assert processes.start_ticks(theirs.pid) is None

        ours.kill()
        await zombie(ours.pid)
        assert processes.reap_orphans() == ours.pid
        assert ours.wait() == -9
    finally:
        for one in (theirs, ours):
            one.kill()
            one.wait()
        await second_version.remove(f"{cgroup_parent}/x")


async def test_a_cgroup_below_is_thawed_too(second_version: Cgroups, cgroup_parent: str) -> None:
    """Under systemd, crun freezes a cgroup of its own below the scope."""
    (top,) = second_version.directories(f"{cgroup_parent}/x")
    os.makedirs(f"{top}/container")
    sleeper = subprocess.Popen(["/bin/sleep", "100"])  # noqa: ASYNC220
    try:
        _put(f"{top}/container", sleeper.pid)
        Path(top, "container", "cgroup.freeze").write_text("1")
        second_version.thaw(f"{cgroup_parent}/x")
        assert Path(top, "container", "cgroup.freeze").read_text() == "0\n"
        second_version.thaw(f"{cgroup_parent}/nothing")
    finally:
        sleeper.kill()
        sleeper.wait()
        await second_version.remove(f"{cgroup_parent}/x")


async def zombie(pid: int) -> None:
    with trio.fail_after(5 * SLOW):
        while not processes.is_zombie(pid):  # noqa: ASYNC110 - waiting for it would reap it
            await trio.sleep(0.01)


def _put(directory: str, pid: int) -> None:
    Path(directory, "cgroup.procs").write_text(str(pid))


async def test_parents_are_made_once_and_removed_only_when_empty(cgroup_parent: str, tmp_path: Path) -> None:
    cgroups = Cgroups("cgroupfs")
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    cgroups.ensure_parent(f"{cgroup_parent}/pod", mine)
    cgroups.ensure_parent(f"{cgroup_parent}/pod", theirs)

    assert not theirs.exists()
    inner = [f"{directory}/in-use" for directory in cgroups.directories(f"{cgroup_parent}/pod")]
    for directory in inner:
        os.mkdir(directory)
    cgroups.remove_made(mine)
    assert all(os.path.isdir(directory) for directory in inner)
    for directory in inner:
        os.rmdir(directory)
    cgroups.remove_made(mine)
    assert not any(os.path.exists(directory) for directory in cgroups.directories(cgroup_parent))


async def test_a_tool_is_run_with_its_words_bounded() -> None:
    done = await command.run(["cat"], doing="copy", timeout_s=5, stdin=b"words")
    assert (done.exit_code, done.stdout) == (0, b"words")
    with pytest.raises(EffectFailed, match="copy: exit code 3: why"):
        await command.run(["sh", "-c", "echo why >&2; exit 3"], doing="copy", timeout_s=5)
    with pytest.raises(EffectFailed, match="no-such-tool"):
        await command.run(["no-such-tool"], doing="x", timeout_s=5)
    with pytest.raises(Unavailable, match=r"no answer in 0\.1 s"):
        await command.run(["sleep", "9.75"], doing="nap", timeout_s=0.1)
    assert processes.find_by_argument("9.75") == []
    much = await command.run(["head", "-c", "3000000", "/dev/zero"], doing="x", timeout_s=5)
    assert len(much.stdout) == command.OUTPUT_BYTES_MAX
    environment = await command.run(["env"], doing="x", timeout_s=5)
    assert sorted(line.split(b"=")[0] for line in environment.stdout.splitlines()) == [b"LANG", b"PATH"]


async def test_a_cancelled_tool_is_dead_and_reaped() -> None:
    with trio.move_on_after(0.05):
        await command.run(["sleep", "9.5"], doing="nap", timeout_s=5)
    assert processes.find_by_argument("9.5") == []


async def test_a_tool_gets_default_signals() -> None:
    done = await command.run(["grep", "SigIgn", "/proc/self/status"], doing="x", timeout_s=5)
    assert int(done.stdout.split()[1], 16) & 0x7FFFFFFF == 0  # 32 and up are the C library's own
