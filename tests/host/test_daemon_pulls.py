"""Bad images, bad registries and full disks: a pull is refused in words, is in the log, and leaves nothing."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.cri.stubs import api_pb2 as pb
from ocid.events import image as image_events
from tests import images
from tests.host import daemon as host
from tests.host.daemon import GONE, IMAGE, Daemon, Kubelet, Stage, wait_for
from tests.host.kubelet import refusal
from tests.host.nodes import SLOW
from tests.registry import registry

pytestmark = [pytest.mark.host, pytest.mark.timeout(90 * SLOW)]
stage, kubelet, nothing_leaks = host.stage, host.kubelet, host.nothing_leaks

SOON = """
import ocid.adapters.registry
ocid.adapters.registry.BACK_OFF_S = (0.01,)
"""
OUTSIDE = Path("/tmp/ocid-escaped")
UNREACHABLE = "RegistryUnavailable: "  # the kubelet looks for this at the beginning of the message


@pytest.fixture(scope="module")
def daemon(stage: Stage, private_mounts: None) -> Iterator[Daemon]:
    """A daemon with narrow limits and short patience."""
    limits = {"no_progress_timeout_s": 1, "layer_bytes_max": 16 << 20, "layer_entries_max": 1000}
    with stage.daemon({"images": limits}, prelude=SOON) as one:
        with one.client() as cri:
            cri.call("PullImage", image=pb.ImageSpec(image=IMAGE))
        yield one
        one.check_log()


def pull(kubelet: Kubelet, name: str, auth: pb.AuthConfig | None = None, wait_s: float = 30) -> str:
    request = pb.PullImageRequest(image=pb.ImageSpec(image=name))
    if auth is not None:
        request.auth.CopyFrom(auth)
    return str(kubelet.call("PullImage", request, wait_s=wait_s).image_ref)


def forget(daemon: Daemon, kubelet: Kubelet, built: images.BuiltImage) -> None:
    """Remove an image and wait until its layers are gone."""
    kubelet.call("RemoveImage", image=pb.ImageSpec(image=built.image_id))
    hexes = {one.chain_id.removeprefix("sha256:") for one in built.layers}
    wait_for(lambda: not hexes & set(os.listdir(daemon.root / "layers")), "its layers go")


def check_bad_pull(daemon: Daemon, kubelet: Kubelet, name: str, code: Status, *words: str) -> str:
    """A pull must fail so, be in the log, and leave nothing."""
    seq, layers = daemon.last_seq(), set(os.listdir(daemon.root / "layers"))
    error = refusal(lambda: pull(kubelet, name))
    said = error.message or ""
    assert error.status is code, said
    assert [word for word in words if word not in said] == [], said
    failed = [one.event for one in daemon.events(seq + 1) if isinstance(one.event, image_events.PullFailed)]
    assert [one.message for one in failed] == [said.removeprefix("RegistryUnavailable: ")]
    assert not kubelet.call("ImageStatus", image=pb.ImageSpec(image=name)).HasField("image")
    wait_for(lambda: not os.listdir(daemon.root / "staging"), "nothing stays in staging")
    assert set(os.listdir(daemon.root / "layers")) == layers
    assert not OUTSIDE.exists()
    kubelet.call("Status")
    return said


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (images.escaping_symlink(), "out"),
        (images.archive(images.member("../../../../../../tmp/ocid-escaped", b"x")), "ocid-escaped"),
        (images.archive(images.member("/tmp/ocid-escaped", b"x")), "has an absolute path"),
        (images.archive(images.member("a/../../../../../../../tmp/ocid-escaped", b"x")), "ocid-escaped"),
        (images.archive(images.hardlink("x", "../../../../../../etc/passwd")), "etc/passwd"),
        (images.archive(images.symlink("x", "/etc"), images.hardlink("y", "x/passwd")), "'y'"),
        (images.archive(images.whiteout("../../../../../../tmp/x")), ""),
        (images.archive(images.member(".wh...", b"")), ""),
    ],
    ids=[
        "symlink",
        "dots",
        "absolute",
        "inner dots",
        "hard link",
        "hard link by symlink",
        "whiteout",
        "whiteout of ..",
    ],
)
def test_layers_that_escape(daemon: Daemon, stage: Stage, kubelet: Kubelet, raw: bytes, words: str) -> None:
    name = stage.registry.put("bad/escape", "1", images.image([raw]))
    check_bad_pull(daemon, kubelet, name, Status.UNKNOWN, words)


def test_bombs(daemon: Daemon, stage: Stage, kubelet: Kubelet) -> None:
    large = images.archive(images.member("zeros", bytes(64 << 20)))
    name = stage.registry.put("bad/bomb", "bytes", images.image([large]))
    check_bad_pull(daemon, kubelet, name, Status.RESOURCE_EXHAUSTED, str(16 << 20))
    many = images.archive(*(images.member(f"f{number}") for number in range(2000)))
    name = stage.registry.put("bad/bomb", "entries", images.image([many]))
    check_bad_pull(daemon, kubelet, name, Status.RESOURCE_EXHAUSTED, "1000")
    sparse = images.member("sparse", b"")[0]
    sparse.size = 1 << 50
    raw = sparse.tobuf() + bytes(1024)
    name = stage.registry.put("bad/bomb", "header", images.image([raw]))
    check_bad_pull(daemon, kubelet, name, Status.UNKNOWN, "'sparse' has size 1125899906842624")


def test_manifests_that_lie(daemon: Daemon, stage: Stage, kubelet: Kubelet) -> None:
    server, built = stage.registry, images.image([images.files(hello=os.urandom(50_000))], packings=[""])
    document = json.loads(built.manifest)
    for tag, key, value in (
        ("short", "size", document["layers"][0]["size"] - 1),
        ("long", "size", document["layers"][0]["size"] + 1),
        ("huge", "size", 1 << 60),
        ("negative", "size", -1),
        ("text", "size", "many"),
        ("digest", "digest", "sha256:" + "0" * 64),
        ("no digest", "digest", "../../../etc/passwd"),
        ("type", "mediaType", "application/x-nonsense"),
    ):
        server.put("bad/lies", "good", built)
        lying = json.dumps({**document, "layers": [{**document["layers"][0], key: value}]}).encode()
        server.put_manifest("bad/lies", tag.replace(" ", "-"), lying, built.media_type)
        name = f"{server.host}/bad/lies:{tag.replace(' ', '-')}"
        error = refusal(lambda name=name: pull(kubelet, name))  # type: ignore[misc]
        assert error.status in (Status.UNKNOWN, Status.NOT_FOUND, Status.INVALID_ARGUMENT, Status.UNIMPLEMENTED), tag
        assert error.message, tag
    other = images.image([images.files(hello=b"something else")])
    config = json.loads(built.config)
    config["rootfs"]["diff_ids"] = json.loads(other.config)["rootfs"]["diff_ids"]
    raw = json.dumps(config).encode()
    server.blobs[images.digest_of(raw)] = raw
    descriptor = {**document["config"], "digest": images.digest_of(raw), "size": len(raw)}
    server.put_manifest("bad/lies", "diff", json.dumps({**document, "config": descriptor}).encode(), built.media_type)
    check_bad_pull(daemon, kubelet, f"{server.host}/bad/lies:diff", Status.UNKNOWN, "its image says")
    name = server.put("bad/lies", "blob", built)
    server.blobs[built.layers[0].blob] = os.urandom(built.layers[0].size_bytes)
    check_bad_pull(daemon, kubelet, name, Status.UNKNOWN, built.layers[0].blob, "refused")


@pytest.mark.parametrize("part", ["/manifests/", "/blobs/"])
def test_a_registry_that_hangs(daemon: Daemon, kubelet: Kubelet, part: str) -> None:
    with registry() as server:
        built = images.image([images.files(hello=os.urandom(20_000))], packings=[""])
        name = server.put("team/app", "v1", built)
        server.misdeeds[part] = [("hang", 10)] * 50
        began = time.monotonic()
        check_bad_pull(daemon, kubelet, name, Status.UNKNOWN, UNREACHABLE, server.host, "try again later")
        assert time.monotonic() - began < 8 * SLOW
        server.stop.set()
        server.misdeeds.clear()
        assert pull(kubelet, name)
        forget(daemon, kubelet, built)


def test_reads_do_not_wait_for_a_pull_that_hangs(daemon: Daemon, kubelet: Kubelet) -> None:
    with registry() as server:
        name = server.put("team/app", "v1", images.image([images.files(hello=os.urandom(20_000))]))
        server.misdeeds["/manifests/"] = [("hang", 10)] * 50
        pulling = kubelet.begin("PullImage", image=pb.ImageSpec(image=name))
        time.sleep(0.1)
        began = time.monotonic()
        for rpc in ("ListPodSandbox", "ListContainers", "ListImages", "Status", "ImageFsInfo"):
            kubelet.call(rpc, wait_s=2)
        kubelet.end_pod(kubelet.run_pod())
        assert time.monotonic() - began < 2 * SLOW
        assert UNREACHABLE in (refusal(lambda: pulling.result(20)).message or "")
        server.stop.set()


def test_registries_that_refuse(daemon: Daemon, kubelet: Kubelet) -> None:
    built = images.image([images.files(hello=b"x")])
    alice, mallory = (pb.AuthConfig(username=one, password="s3cret-canary-1") for one in ("alice", "mallory"))
    with registry() as server:
        name = server.put("team/app", "v1", built)
        server.basic = "alice", "s3cret-canary-1"
        check_bad_pull(daemon, kubelet, name, Status.UNKNOWN, server.host, "401", "check the pull secret")
        error = refusal(lambda: pull(kubelet, name, mallory))
        assert "401" in (error.message or "")
        assert "canary" not in (error.message or "")
        assert pull(kubelet, name, alice) == built.image_id
        forget(daemon, kubelet, built)
        server.basic = None
        missing = f"{server.host}/no/such:image"
        check_bad_pull(daemon, kubelet, missing, Status.NOT_FOUND, missing)
        server.misdeeds["/manifests/"] = [("status", 500)] * 20
        check_bad_pull(daemon, kubelet, name, Status.UNKNOWN, UNREACHABLE, server.host, "500", "try again later")
        server.misdeeds["/manifests/"] = [("status", 403)] * 20
        check_bad_pull(daemon, kubelet, name, Status.UNKNOWN, server.host, "403")
        server.misdeeds["/manifests/"] = [("garbage", None)] * 20
        check_bad_pull(daemon, kubelet, name, Status.UNKNOWN, UNREACHABLE, server.host)
        gone = server.host
    check_bad_pull(daemon, kubelet, f"{gone}/team/app:v1", Status.UNKNOWN, UNREACHABLE, gone)


def test_an_image_without_a_command(daemon: Daemon, stage: Stage, kubelet: Kubelet) -> None:
    built = images.image([images.files(hello=b"x")])
    name = stage.registry.put("test/no-command", "1", built)
    image = pull(kubelet, name)
    pod_id = kubelet.run_pod()
    error = refusal(lambda: kubelet.create(pod_id, image=image))
    assert "command" in (error.message or "")
    assert error.status is Status.INVALID_ARGUMENT
    wait_for(lambda: not daemon.view().containers.rows, "nothing needs its layers")
    forget(daemon, kubelet, built)


# --- full disks ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(private_mounts: None, tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    image, place = tmp_path / "disk.img", tmp_path / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", str(image)], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=False, capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no loop devices here: {mounted.stderr.decode()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-R", str(place)], check=True)


def use_up(kubelet: Kubelet) -> None:
    """Write many events: the log's file has room for a few."""
    for _ in range(200):
        kubelet.end_pod(kubelet.run_pod())


def test_a_full_disk(stage: Stage, small_disk: Path) -> None:
    """A pull that does not fit fails. A log that cannot be written ends the daemon; with room again all goes on."""
    large = stage.registry.put("test/large", "1", images.image([images.files(large=os.urandom(40 << 20))]))
    with stage.daemon(root=small_disk / "root") as one:
        with one.client() as cri:
            kubelet = Kubelet(cri, one.directory, one.cgroup_parent)
            pull(kubelet, IMAGE)
            pod_id = kubelet.run_pod()
            container_id = kubelet.start(pod_id, "sleep", "1000")
            pid = kubelet.info(container_id)["pid"]
            said = check_bad_pull(one, kubelet, large, Status.RESOURCE_EXHAUSTED)
            assert "full" in said or "No space" in said
            seq = one.last_seq()
            filling = small_disk / "filling"
            with filling.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(bytes(4096)):
                    pass
            with pytest.raises((*GONE, GRPCError)):
                use_up(kubelet)
            code = one.keeper.ended(one.pid, 20)
            assert code not in (None, 0), one.said()
            words = one.said().lower()
            assert any(each in words for each in ("space", "full", "input/output error"))  # LMDB's, of half a write
            assert Path(f"/proc/{pid}").exists()
            filling.unlink()
            one.pid = 0
            one.start()
            assert kubelet.status(container_id).state == pb.CONTAINER_RUNNING
            assert kubelet.info(container_id)["pid"] == pid
            assert one.last_seq() > seq
            kubelet.remove_everything()
            one.assert_no_leaks()
        one.check_log()
        assert one.stop() == 0
