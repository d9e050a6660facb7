"""Containers that go on from a checkpoint, through a whole daemon with real runc and CRIU; skipped, with the reason,
where CRIU cannot work."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ocid.cri.stubs import api_pb2 as pb
from tests.host import daemon as host
from tests.host.daemon import IMAGE, Daemon, Kubelet, Stage, log_lines, wait_for

pytestmark = [pytest.mark.host, pytest.mark.timeout(120)]
stage, kubelet, nothing_leaks = host.stage, host.kubelet, host.nothing_leaks

SCRIPT = (
    "rm /etc/group; rm -r /tmp; mkdir /tmp; echo x > /tmp/new; ln -s new /tmp/link; echo w > /.wh.passwd; "
    "i=0; while true; do i=$((i+1)); echo $i > /count; echo $i; sleep 0.05; done"
)
BACKGROUND = "container_of_checkpoint"


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
    checkpointed(kubelet, place)
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
    pod = kubelet.run_pod()
    one = kubelet.create(pod, "sh", "-c", "exit 7", image=str(archive), labels={"mine": "new"}, name="again")
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
    assert status.image.image.startswith("docker.io/test/busybox")
    assert status.log_path.endswith("again/0.log")
    assert kubelet.sh(one, "cat /tmp/link /.wh.passwd") == "x\nw"
    assert kubelet.sh(one, "test ! -e /etc/group && cat /etc/passwd | wc -l") == "2"
    assert int(kubelet.sh(one, "cat /count") or 0) >= seen[-1]
    assert not (daemon.root / "containers" / one / "restore").exists()
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
    again = kubelet.start(kubelet.run_pod(), image=str(second))
    wait_for(lambda: len(numbers(kubelet.status(again))) > 2, "it counts on")
    assert kubelet.sh(again, "test ! -e /etc/group && cat /tmp/new") == "x"
