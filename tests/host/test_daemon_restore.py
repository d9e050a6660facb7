"""Containers that go on from a checkpoint, through a whole daemon with real runc and CRIU; skipped, with the reason,
where CRIU cannot work."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.cri.stubs import api_pb2 as pb
from tests import images
from tests.host import daemon as host
from tests.host.daemon import IMAGE, Daemon, Kubelet, Stage, log_lines, refused, wait_for

pytestmark = [pytest.mark.host, pytest.mark.timeout(120)]
stage, kubelet, nothing_leaks = host.stage, host.kubelet, host.nothing_leaks

SCRIPT = (
    "rm /etc/group; rm -r /tmp; mkdir /tmp; echo x > /tmp/new; ln -s new /tmp/link; echo w > /.wh.passwd; "
    "i=0; while true; do i=$((i+1)); echo $i > /count; echo $i; sleep 0.05; done"
)
LIMIT_FILES = ("memory.max", "memory.limit_in_bytes")


@pytest.fixture(scope="session")
def criu() -> None:
    """Skips where CRIU cannot work."""
    path = shutil.which("criu")
    if path is None:
        pytest.skip("criu is not installed")
    done = subprocess.run([path, "check"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"criu check: {done.stderr.strip().splitlines()[-1]}")


@pytest.fixture(scope="module")
def daemon(criu: None, stage: Stage, private_mounts: None) -> Iterator[Daemon]:
    """The module's daemon, which restores."""
    with stage.daemon({"checkpoint": {"restore": True}}) as one:
        with one.client() as cri:
            cri.call("PullImage", image=pb.ImageSpec(image=IMAGE))
        yield one
        one.check_log()


@pytest.fixture
def archive(kubelet: Kubelet, tmp_path: Path) -> Path:
    """An archive of a container that counts; that container is gone."""
    place = tmp_path / "one.tar"
    checkpointed(kubelet, place, annotations={"kept": "old", "given": "old", "io.kubernetes.pod.x": "old"})
    return place


def checkpointed(kubelet: Kubelet, place: Path, script: str = SCRIPT, **fields: Any) -> None:
    pod = kubelet.run_pod()
    one = kubelet.start(pod, "sh", "-c", script, **fields)
    log = Path(kubelet.status(one).log_path)
    wait_for(lambda: log.exists() and len(log_lines(log)) > 4, "it counts")
    kubelet.call("CheckpointContainer", container_id=one, location=str(place), timeout=60)
    kubelet.end_pod(pod)


def numbers(status: pb.ContainerStatus) -> list[int]:
    return [int(text) for _, _, text in log_lines(Path(status.log_path)) if text.isdigit()]


def member(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read()


def last_count(archive: Path) -> int:
    """What the container's memory had, give or take the number being written."""
    with tarfile.open(fileobj=io.BytesIO(member(archive, "rootfs-diff.tar"))) as diff:
        file = diff.extractfile("count")
        assert file is not None
        return int(file.read() or 0)


def test_a_container_goes_on_in_another_pod(daemon: Daemon, kubelet: Kubelet, archive: Path) -> None:
    before = last_count(archive)
    pod = kubelet.run_pod(name="new-pod", linux={"sysctls": {"kernel.shm_rmid_forced": "1"}})
    other = kubelet.start(pod, "sleep", "1000", name="other")
    given = {"labels": {"mine": "new"}, "annotations": {"given": "new"}, "name": "again", "memory": 100 << 20}
    one = kubelet.create(pod, "sh", "-c", "exit 7", image=str(archive), **given)
    assert kubelet.status(one).state == pb.CONTAINER_CREATED
    assert not kubelet.info(one)["pid"]
    time.sleep(0.3)
    kubelet.call("StartContainer", container_id=one)

    status = kubelet.status(one)
    assert status.state == pb.CONTAINER_RUNNING
    wait_for(lambda: len(numbers(status)) > 4, "it counts on")
    seen = numbers(status)
    assert before - 1 <= seen[0] <= before + 2
    assert seen == list(range(seen[0], seen[0] + len(seen)))
    assert status.labels["mine"] == "new"
    assert dict(status.annotations) == {"kept": "old", "given": "new"}
    assert status.image.image.startswith("docker.io/test/busybox")
    assert status.log_path.endswith("again/0.log")
    assert kubelet.sh(one, "cat /tmp/link /.wh.passwd") == "x\nw"
    assert kubelet.sh(one, "test ! -e /etc/group && cat /etc/passwd | wc -l") == "2"
    wait_for(lambda: int(kubelet.sh(one, "cat /count") or 0) >= seen[-1], "the file is written, too")
    assert not (daemon.root / "containers" / one / "restore").exists()
    groups = [Path(group) for group in daemon._cgroups() if one in group]
    limits = [file for group in groups for file in group.glob("memory.*") if file.name in LIMIT_FILES]
    assert [int(limit.read_text()) for limit in limits] == [100 << 20]
    for container in (one, other):
        assert kubelet.sh(container, "hostname; cat /etc/hostname") == "new-pod\nnew-pod"
        assert kubelet.sh(container, "cat /proc/sys/kernel/shm_rmid_forced") == "1"
    for kind in ("net", "ipc", "uts", "cgroup"):
        assert kubelet.sh(one, f"readlink /proc/1/ns/{kind}") == kubelet.sh(other, f"readlink /proc/1/ns/{kind}")
    declared = next(row.state for name, row in daemon.view().containers.rows.items() if name == one).declared
    assert declared is not None
    assert declared.restores is not None
    assert (declared.restores.archive, declared.restores.name) == (str(archive), "main")

    kubelet.call("StopContainer", container_id=one, timeout=1)
    assert kubelet.status(one).exit_code == 137


def test_what_is_restored_is_checkpointed_again(kubelet: Kubelet, archive: Path, tmp_path: Path) -> None:
    pod = kubelet.run_pod()
    one = kubelet.start(pod, image=str(archive))
    second = tmp_path / "two.tar"
    kubelet.call("CheckpointContainer", container_id=one, location=str(second), timeout=60)
    kubelet.end_pod(pod)

    assert last_count(second) >= last_count(archive)
    assert [json.loads(member(one, "config.dump"))["restored"] for one in (archive, second)] == [False, True]
    again = kubelet.start(kubelet.run_pod(), image=str(second))
    wait_for(lambda: len(numbers(kubelet.status(again))) > 2, "it counts on")
    assert kubelet.sh(again, "test ! -e /etc/group && cat /tmp/new") == "x"


def test_an_image_holds_a_checkpoint(daemon: Daemon, kubelet: Kubelet, archive: Path) -> None:
    annotations = {"io.kubernetes.cri-o.annotations.checkpoint.name": "main"}
    built = images.image([archive.read_bytes()], annotations=annotations)
    daemon.registry.put("test/held", "1", built)
    name = f"{daemon.registry.host}/test/held:1"
    kubelet.call("PullImage", image=pb.ImageSpec(image=name))
    pod = kubelet.run_pod()
    one = kubelet.start(pod, image=name)

    wait_for(lambda: len(numbers(kubelet.status(one))) > 4, "it counts on")
    assert kubelet.status(one).image.image.startswith("docker.io/test/busybox")
    assert kubelet.sh(one, "test ! -e /etc/group && cat /tmp/link") == "x"
    kubelet.call("RemoveImage", image=pb.ImageSpec(image=name))
    assert kubelet.status(one).state == pb.CONTAINER_RUNNING


def test_mounts_must_be_there_again(kubelet: Kubelet, tmp_path: Path) -> None:
    place, old, new = tmp_path / "one.tar", tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    script = "i=0; while true; do i=$((i+1)); echo $i > /data/count; echo $i; sleep 0.05; done"
    checkpointed(kubelet, place, script, mounts=[pb.Mount(container_path="/data", host_path=str(old))])
    pod = kubelet.run_pod()
    with pytest.raises(GRPCError) as error:
        kubelet.create(pod, image=str(place))
    assert refused(error)[0] is Status.INVALID_ARGUMENT
    assert "mounts that this one lacks: add mounts at '/data'" in refused(error)[1]
    one = kubelet.start(pod, image=str(place), mounts=[pb.Mount(container_path="/data", host_path=str(new))])
    wait_for(lambda: (new / "count").exists(), "it counts in the new directory")
    assert kubelet.status(one).state == pb.CONTAINER_RUNNING


def test_its_end_is_seen(kubelet: Kubelet, tmp_path: Path) -> None:
    script = "i=0; while test $i -lt 30; do i=$((i+1)); echo $i; sleep 0.05; done; echo over; exit 7"
    checkpointed(kubelet, tmp_path / "one.tar", script, tty=True)
    one = kubelet.start(kubelet.run_pod(), image=str(tmp_path / "one.tar"), tty=True)

    status = kubelet.exited(one)
    assert (status.exit_code, status.reason) == (7, "Error")
    assert [text for _, _, text in log_lines(Path(status.log_path))][-2:] == ["30", "over"]


def test_a_restore_that_takes_too_long_leaves_nothing(stage: Stage, archive: Path) -> None:
    prelude = "from ocid.adapters import restores; restores.RESTORE_S = 0.05"
    with stage.daemon({"checkpoint": {"restore": True}}, prelude=prelude) as hasty, hasty.client() as cri:
        cri.call("PullImage", image=pb.ImageSpec(image=IMAGE))
        one = Kubelet(cri, hasty.directory, hasty.cgroup_parent)
        made = one.create(one.run_pod(), image=str(archive))
        with pytest.raises(GRPCError) as error:
            cri.call("StartContainer", container_id=made)
        assert refused(error)[0] is Status.UNAVAILABLE
        assert "no answer in 0.05 s" in refused(error)[1]
        wait_for(lambda: not [group for group in hasty._cgroups() if made in group], "nothing of it is left")
        one.remove_everything()
        hasty.assert_no_leaks()


def test_images_that_criu_cannot_restore_fail_the_start(daemon: Daemon, kubelet: Kubelet, archive: Path) -> None:
    broken = archive.with_name("broken.tar")
    with tarfile.open(archive) as source, tarfile.open(broken, "w") as target:
        for one in source:
            content = source.extractfile(one).read() if one.isreg() else b""  # type: ignore[union-attr]
            if one.name == "checkpoint/pstree.img":
                content = content[: len(content) // 2]
            one.size = len(content)
            target.addfile(one, io.BytesIO(content))
    made = kubelet.create(kubelet.run_pod(), image=str(broken))
    with pytest.raises(GRPCError) as error:
        kubelet.call("StartContainer", container_id=made)
    print(refused(error))
    assert f"restore of container '{made}': " in refused(error)[1]
    status = kubelet.status(made)
    assert (status.state, status.reason, status.exit_code) == (pb.CONTAINER_EXITED, "StartError", 128)


def test_one_that_never_starts_leaves_nothing(kubelet: Kubelet, archive: Path) -> None:
    one = kubelet.create(kubelet.run_pod(), image=str(archive))
    kubelet.call("StopContainer", container_id=one, timeout=5)

    status = kubelet.status(one)
    assert (status.state, status.exit_code) == (pb.CONTAINER_EXITED, 137)
    assert not Path(status.log_path).exists()


def test_a_runtime_that_cannot_says_so_before_anything_is_made(kubelet: Kubelet, archive: Path) -> None:
    if shutil.which("crun") is None:
        pytest.skip("crun is not installed")
    pod = kubelet.run_pod(handler="crun")
    with pytest.raises(GRPCError) as error:
        kubelet.create(pod, image=str(archive))
    assert refused(error)[0] is Status.UNIMPLEMENTED
    assert "has no command 'checkpoint'" in refused(error)[1]


def test_it_is_switched_off_unless_the_configuration_says_otherwise(stage: Stage, archive: Path) -> None:
    with stage.daemon() as plain, plain.client() as cri:
        one = Kubelet(cri, plain.directory, plain.cgroup_parent)
        pod = one.run_pod()
        with pytest.raises(GRPCError) as error:
            one.create(pod, image=str(archive))
        assert refused(error)[0] is Status.UNIMPLEMENTED
        assert "set restore = true in [checkpoint]" in refused(error)[1]
        one.remove_everything()
        plain.assert_no_leaks()


def test_a_restore_whose_monitor_dies_with_the_daemon_is_not_repeated(
    daemon: Daemon, kubelet: Kubelet, archive: Path
) -> None:
    pod = kubelet.run_pod()
    one = kubelet.create(pod, image=str(archive))
    kubelet.begin("StartContainer", container_id=one)
    wait_for(lambda: monitors(daemon, one), "its monitor is there")
    daemon.kill()
    for pid in monitors(daemon, one):
        os.kill(pid, signal.SIGKILL)
    daemon.start()
    with daemon.client() as cri:
        later = Kubelet(cri, daemon.directory, daemon.cgroup_parent)
        status = later.exited(one)
        assert (status.reason, status.exit_code) == ("StartError", 128)
        assert "is not tried again, for it may have run: create it anew" in status.message
        again = later.start(pod, image=str(archive), attempt=1)
        wait_for(lambda: len(numbers(later.status(again))) > 2, "another one counts on")
        later.end_pod(pod)


def monitors(daemon: Daemon, container_id: str) -> list[int]:
    return [int(found.split()[0]) for found in daemon._processes() if f"-c {container_id} " in found]


@pytest.mark.parametrize("after_ms", [0, 5, 15, 30, 60, 90, 120, 160, 220, 300, 400])
def test_killed_while_it_restores(daemon: Daemon, kubelet: Kubelet, archive: Path, after_ms: int) -> None:
    """It runs, once, and is watched; or it ended, nothing of it runs, and another one can be made."""
    pod = kubelet.run_pod()
    one = kubelet.create(pod, image=str(archive))
    kubelet.begin("StartContainer", container_id=one)
    time.sleep(after_ms / 1000)
    daemon.kill()
    daemon.start()
    with daemon.client() as cri:
        later = Kubelet(cri, daemon.directory, daemon.cgroup_parent)
        try:
            cri.call("StartContainer", container_id=one)
        except GRPCError as error:
            print(after_ms, error)
        wait_for(lambda: later.status(one).state != pb.CONTAINER_CREATED, "it is decided", 30)
        status = later.status(one)
        print(after_ms, pb.ContainerState.Name(status.state), status.message)
        if status.state == pb.CONTAINER_EXITED:
            assert status.reason == "StartError"
            assert "create it anew" in status.message
            wait_for(lambda: not [group for group in daemon._cgroups() if one in group], "nothing of it is left")
            one = later.start(pod, image=str(archive), attempt=1)
        before = len(numbers(later.status(one)))
        wait_for(lambda: len(numbers(later.status(one))) > before + 2, "it counts on")
        seen = numbers(later.status(one))
        assert seen == list(range(seen[0], seen[0] + len(seen))), "it ran once"
        later.call("StopContainer", container_id=one, timeout=0)
        assert later.status(one).exit_code == 137
        later.end_pod(pod)
    kinds = [event.type for event in daemon.events() if event.stream == f"container/{one}"]
    assert kinds.count("container.started") == 1
