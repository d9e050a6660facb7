"""Container checkpoints through real runc and CRIU. They are skipped, with the reason, where CRIU cannot work."""

# ruff: noqa: ASYNC240  # a test may look at a file

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from ocid.adapters import archives, checkpoints, mounts, process as processes
from ocid.errors import EffectFailed, InvalidRequest, TimedOut, Unsupported
from ocid.ids import CheckpointId
from ocid.ports import CheckpointOrder, ContainerOrder, Process, Signalled
from tests.host.support import World, container_order, oci_spec
from tests.host.test_containers import until

COUNTING = (
    "i=0; while true; do i=$((i+1)); echo $i > /data/new; /bin/busybox mv /data/new /data/count; "
    "echo $i; sleep 0.02; done"
)
KILL_ALL = Signalled(signal=signal.SIGKILL, everyone=True)
CONFIG = {"id": "c", "name": "app", "rootfsImageName": "reg/app:1", "runtime": "runc"}


@pytest.fixture(scope="session")
def criu_refusal() -> str:
    """Why CRIU cannot work here, "" when it can."""
    criu = shutil.which("criu")
    if criu is None:
        return "criu is not installed"
    done = subprocess.run([criu, "check"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"criu check: {done.stderr.strip().splitlines()[-1]}"


@pytest.fixture
def refusal(handler: str, criu_refusal: str) -> str:
    """Why this handler cannot checkpoint here, "" when it can."""
    return criu_refusal if handler == "runc" else f"{handler} is built without CRIU"


@pytest.fixture
def possible(refusal: str) -> None:
    if refusal:
        pytest.skip(refusal)


@pytest.fixture
def able(possible: None, world: World) -> World:
    return world


@asynccontextmanager
async def living(world: World, script: str = COUNTING) -> AsyncIterator[tuple[ContainerOrder, Process]]:
    """A container on an overlay, as the layer store mounts it, with a mount of its own at /mnt."""
    plain = container_order(world)
    writable = world.run / "writable" / plain.container_id
    order = msgspec.structs.replace(plain, writable=str(writable))
    lower, target = world.run / f"lower-{plain.container_id}", Path(order.bundle, "rootfs")
    shutil.copytree(world.rootfs, lower, symlinks=True)
    for name in ("data", "gone", "mnt", "emptied"):
        (lower / name).mkdir()
    for name in ("gone/file", "emptied/old", "removed"):
        (lower / name).write_text("below")
    for directory in (writable / "upper", writable / "work", target):
        directory.mkdir(parents=True)
    mounts.overlay([lower], writable / "upper", writable / "work", target)
    spec = oci_spec(world, order, "/bin/sh", "-c", script)
    spec["root"] = {"path": str(target), "readonly": False}
    spec["mounts"].append({"destination": "/mnt", "type": "bind", "source": str(world.run), "options": ["rbind"]})
    await world.runtime.write_bundle(order, spec)
    try:
        init = await world.runtime.create(order)
        await world.runtime.start(order)
        yield order, init
    finally:
        await world.runtime.signal(order, init, KILL_ALL)  # which also thaws: a frozen init would never die
        await world.runtime.wait(order, init)
        await world.runtime.delete(order)
        mounts.unmount(str(target))
        assert os.listdir(writable) in (["upper", "work"], ["work", "upper"])


def what(location: Path, **fields: Any) -> CheckpointOrder:
    return CheckpointOrder(
        **{
            "checkpoint_id": CheckpointId("c" * 32),
            "location": str(location),
            "timeout_s": 60,
            "config": CONFIG,
            **fields,
        }
    )


def count(order: ContainerOrder) -> int:
    return int(Path(order.writable, "upper/data/count").read_text() or 0)


async def goes_on(order: ContainerOrder) -> None:
    before = len(Path(order.log_path).read_text().splitlines())
    await until(lambda: len(Path(order.log_path).read_text().splitlines()) > before + 2)


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {one.name: (tar.extractfile(one) or io.BytesIO()).read() if one.isreg() else b"" for one in tar}


async def test_a_checkpoint_has_memory_files_and_log_and_the_container_goes_on(able: World, tmp_path: Path) -> None:
    script = (
        "b=/bin/busybox; $b rm -r /gone /removed /emptied; $b mkdir /emptied; echo new > /emptied/new; "
        "$b ln -s x /data/link;"
    )
    async with living(able, f"{script} {COUNTING}") as (order, init):
        await until(lambda: Path(order.writable, "upper/data/count").exists())
        archive = tmp_path / "one.tar"
        size = await able.runtime.checkpoint(order, what(archive))

        await goes_on(order)
        assert processes.alive(init)
        assert (archive.stat().st_size, archive.stat().st_mode & 0o777) == (size, 0o600)
        assert os.listdir(tmp_path) == ["one.tar"]
        found = members(archive)
        assert {"checkpoint", "stats-dump", "dump.log", "config.dump", "spec.dump", "bind.mounts"} <= found.keys()
        assert {"rootfs-diff.tar", "deleted.files", "container.log"} <= found.keys()
        assert {"checkpoint/inventory.img", "checkpoint/pstree.img"} <= found.keys()
        assert json.loads(found["config.dump"]) == CONFIG
        assert json.loads(found["spec.dump"])["process"]["args"][0] == "/bin/sh"
        (mount,) = json.loads(found["bind.mounts"])
        assert (mount["destination"], mount["file_type"]) == ("/mnt", "directory")
        assert sorted(json.loads(found["deleted.files"])) == ["/emptied/old", "/gone", "/removed"]
        with tarfile.open(fileobj=io.BytesIO(found["rootfs-diff.tar"])) as diff:
            names = set(diff.getnames())
            counted = diff.extractfile("data/count")
            assert counted is not None
            last = int(counted.read() or 0)
        assert {"data", "data/count", "data/link", "emptied", "emptied/new"} <= names
        assert not {"proc", "dev", "mnt", "gone"} & names
        logged = [line.split()[-1] for line in found["container.log"].decode().splitlines()]
        assert int(logged[-1]) in (last, last - 1), "memory, files and log are of one moment"


async def test_a_second_checkpoint_replaces_the_first(able: World, tmp_path: Path) -> None:
    async with living(able) as (order, _):
        await able.runtime.checkpoint(order, what(tmp_path / "one.tar"))
        before = (tmp_path / "one.tar").stat().st_ino
        await able.runtime.checkpoint(order, what(tmp_path / "one.tar", checkpoint_id=CheckpointId("d" * 32)))

        assert (tmp_path / "one.tar").stat().st_ino != before
        await goes_on(order)


async def test_links_on_the_way_are_not_followed(able: World, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real/out.tar").symlink_to(victim)
    async with living(able) as (order, _):
        with pytest.raises(InvalidRequest, match=r"directory .*link' of the archive"):
            await able.runtime.checkpoint(order, what(tmp_path / "link/out.tar"))
        with pytest.raises(InvalidRequest, match="is a directory, wanted the name of a file"):
            await able.runtime.checkpoint(order, what(tmp_path / "real"))
        await able.runtime.checkpoint(order, what(tmp_path / "real/out.tar"))

        assert victim.read_text() == "mine"
        assert not (tmp_path / "real/out.tar").is_symlink()
        await goes_on(order)


@pytest.mark.parametrize("step", ["_freeze", "_dump", "pack"])
async def test_what_fails_or_takes_too_long_leaves_nothing_and_the_container_goes_on(
    able: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    async def hangs(*_: Any) -> None:
        await trio.sleep_forever()

    def waits(*arguments: Any) -> int:
        arguments[-1].wait()
        raise InterruptedError("nobody waits")

    def fails(*_: Any) -> Any:
        raise EffectFailed("no")

    async with living(able) as (order, _):
        for broken, error in ((waits if step == "pack" else hangs, TimedOut), (fails, EffectFailed)):
            with monkeypatch.context() as patch:
                patch.setattr(checkpoints if step == "pack" else checkpoints.Checkpoints, step, broken)
                with pytest.raises(error):
                    await able.runtime.checkpoint(order, what(tmp_path / "one.tar", timeout_s=1))
            assert os.listdir(tmp_path) == []
            await goes_on(order)


async def test_a_checkpoint_that_is_not_waited_for_lets_the_container_go_on(able: World, tmp_path: Path) -> None:
    async with living(able) as (order, init):
        for after_s in (0.0, 0.02, 0.05, 0.1, 0.2):
            with trio.move_on_after(after_s):
                await able.runtime.checkpoint(order, what(tmp_path / "one.tar"))
            await goes_on(order)
            assert processes.alive(init)
            assert set(os.listdir(tmp_path)) <= {"one.tar"}


async def test_what_a_dead_daemon_left_is_cleared_away(able: World, tmp_path: Path) -> None:
    class Died(BaseException):
        pass

    async with living(able) as (order, _):
        order_of = what(tmp_path / "one.tar")
        handler = able.runtime.handler(order.handler)
        work = Path(order.writable, f"checkpoint-{order_of.checkpoint_id}")
        work.mkdir()
        (work / "file").write_text("x")
        half = tmp_path / f".{order_of.checkpoint_id}.half"
        half.write_text("x")
        log = Path(order.bundle, "checkpoint.log")
        await until(lambda: Path(order.writable, "upper/data/count").exists())
        await handler.call("pause", log, "pause", order.container_id)
        before = count(order)
        await trio.sleep(0.1)
        assert count(order) == before

        await able.runtime.abandon_checkpoint(order, order_of.checkpoint_id, order_of.location)
        await able.runtime.abandon_checkpoint(None, order_of.checkpoint_id, order_of.location)
        await goes_on(order)
        assert os.listdir(tmp_path) == []
        assert not work.exists()
        assert not log.exists()


@pytest.fixture
def impossible(refusal: str) -> None:
    if not refusal:
        pytest.skip("this handler can checkpoint here")


async def test_a_runtime_without_checkpoints_says_so(impossible: None, world: World, tmp_path: Path) -> None:
    order = msgspec.structs.replace(container_order(world), writable=str(world.run / "w"))
    with pytest.raises(Unsupported, match=r"no command 'checkpoint'|criu"):
        await world.runtime.checkpoint(order, what(tmp_path / "one.tar"))
    assert os.listdir(tmp_path) == []


def test_attributes_of_the_overlay_stay_out_of_the_archive(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.setxattr(tmp_path / "file", "trusted.overlay.opaque", b"y")
    os.setxattr(tmp_path / "file", "trusted.kept", b"\xff1")

    assert archives._attributes(tmp_path / "file") == {"SCHILY.xattr.trusted.kept": "\udcff1"}
