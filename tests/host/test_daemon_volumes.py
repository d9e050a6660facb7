"""Image volumes of a real daemon: what a container sees of them, and that they outlive what they must."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.adapters import mounts
from ocid.cri.stubs import api_pb2 as pb
from tests import images
from tests.host import daemon as host
from tests.host.daemon import Daemon, Kubelet, Stage, refused, wait_for
from tests.host.nodes import SLOW
from tests.images import archive, directory, member, symlink

pytestmark = [pytest.mark.host, pytest.mark.timeout(90 * SLOW)]
stage, daemon, kubelet, nothing_leaks = host.stage, host.daemon, host.kubelet, host.nothing_leaks

NAME = "docker.io/test/pages:1"
PAGES = archive(
    directory("site"),
    member("site/index.html", b"hello\n", mode=0o644),
    member("site/tool", b"#!/bin/sh\necho ran\n", mode=0o755),
    symlink("site/out", "/etc/passwd"),
)


@pytest.fixture
def pages(stage: Stage, daemon: Daemon, kubelet: Kubelet) -> Iterator[str]:
    """An image of one layer, pulled; its id."""
    stage.registry.put("test/pages", "1", images.image([PAGES]))
    yield kubelet.call("PullImage", image=pb.ImageSpec(image=NAME)).image_ref
    kubelet.remove_everything()
    kubelet.call("RemoveImage", image=pb.ImageSpec(image=NAME))
    wait_for(lambda: not daemon.view().catalog.rows["images"].state.collect, "its layers are collected")


def volume(image: str, path: str = "/pages", **fields: str) -> pb.Mount:
    return pb.Mount(container_path=path, readonly=True, image=pb.ImageSpec(image=image), **fields)


def test_an_image_is_read_and_executed_but_not_written(daemon: Daemon, kubelet: Kubelet, pages: str) -> None:
    pod_id = kubelet.run_pod()
    wanted = [volume(pages), volume(NAME, "/index", image_sub_path="site/index.html")]
    container_id = kubelet.start(pod_id, "sleep", "1000", mounts=wanted)
    assert kubelet.sh(container_id, "cat /pages/site/index.html /index") == "hello\nhello"
    for script, says in (
        ("touch /pages/site/new", b"Read-only file system"),
        ("echo >/index", b"Read-only file system"),
        ("mount -o remount,rw /pages", b"ermission denied"),
        ("/pages/site/tool", b"ran"),
        ("cat /pages/site/out", b"root"),
    ):
        done = kubelet.exec(container_id, "sh", "-c", script)
        assert says in done.stderr + done.stdout, (script, done)
    assert [one.image.image_ref for one in kubelet.status(container_id).mounts] == [pages, pages]
    below = [one for one in mounts.targets_below(str(daemon.run / "containers")) if "/images/" in one]
    assert [Path(one).name for one in below] == ["1", "0"]

    kubelet.call("StopContainer", container_id=container_id, timeout=0)
    wait_for(
        lambda: not mounts.targets_below(str(daemon.run / "containers")), "images are unmounted with the container"
    )


def test_layers_stay_while_a_container_has_the_image(daemon: Daemon, kubelet: Kubelet, pages: str) -> None:
    pod_id = kubelet.run_pod()
    container_id = kubelet.start(pod_id, "sleep", "1000", mounts=[volume(pages)])
    before = set(os.listdir(daemon.root / "layers"))
    kubelet.call("RemoveImage", image=pb.ImageSpec(image=NAME))
    assert not kubelet.call("ImageStatus", image=pb.ImageSpec(image=NAME)).HasField("image")
    daemon.kill()
    daemon.start()
    assert kubelet.sh(container_id, "cat /pages/site/index.html") == "hello"
    assert set(os.listdir(daemon.root / "layers")) == before
    assert [one.image.image_ref for one in kubelet.status(container_id).mounts] == [pages]
    kubelet.call("RemoveContainer", container_id=container_id)
    wait_for(lambda: len(os.listdir(daemon.root / "layers")) < len(before), "the layer goes with its last user")


def test_what_cannot_be_mounted_is_refused_as_the_kubelet_expects(daemon: Daemon, kubelet: Kubelet, pages: str) -> None:
    pod_id = kubelet.run_pod()
    for mount, status, says in (
        (
            volume("docker.io/test/none:1"),
            Status.UNKNOWN,
            "ImageVolumeMountFailed: mount of image 'docker.io/test/none:1'",
        ),
        (volume(pages, image_sub_path="no/such"), Status.UNKNOWN, "ImageVolumeMountFailed: mount of image"),
        (volume(pages, image_sub_path="../.."), Status.INVALID_ARGUMENT, "config.mounts[0].image_sub_path"),
        (volume(pages, host_path="/tmp"), Status.INVALID_ARGUMENT, "config.mounts[0].host_path"),
        (pb.Mount(container_path="/x", image=pb.ImageSpec(image=pages)), Status.INVALID_ARGUMENT, "readonly is false"),
    ):
        with pytest.raises(GRPCError) as error:
            kubelet.create(pod_id, "true", mounts=[mount])
        assert refused(error)[0] is status
        assert refused(error)[1].startswith(says) or says == "readonly is false" in refused(error)[1]
    wait_for(lambda: not mounts.targets_below(str(daemon.run / "containers")), "nothing stays mounted")
