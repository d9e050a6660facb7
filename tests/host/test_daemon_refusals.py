"""Bad input to a real daemon: each is refused in words, is in the log, leaves nothing, and the daemon serves on."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.cri.stubs import api_pb2 as pb
from ocid.events import image as image_events, node as node_events, pod as pod_events
from tests import images
from tests.host import daemon as host
from tests.host.daemon import GONE, IMAGE, Daemon, Kubelet, Stage, wait_for
from tests.host.nodes import SLOW
from tests.registry import registry

pytestmark = [pytest.mark.host, pytest.mark.timeout(90 * SLOW)]
stage, kubelet, nothing_leaks = host.stage, host.kubelet, host.nothing_leaks

SOON = """
import ocid.adapters.conmon, ocid.adapters.registry, ocid.adapters.network
ocid.adapters.conmon.CREATE_S = 2.0
ocid.adapters.registry.BACK_OFF_S = (0.01,)
ocid.adapters.network.Networks.__init__.__kwdefaults__["plugin_timeout_s"] = 1.5
"""
NO_PROFILE = pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref="/no/such.json")
RUNTIME = """#!/bin/sh
# an OCI runtime that cannot create containers
for word in "$@"; do
  case "$word" in
    create) {how} ;;
    --version|features|state|delete|kill) exec runc "$@" ;;
  esac
done
exec runc "$@"
"""


def program(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


@pytest.fixture(scope="module")
def daemon(stage: Stage, private_mounts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with narrow limits, short patience, and OCI runtimes that do not do their work."""
    scratch = tmp_path_factory.mktemp("runtimes")
    failing = program(scratch / "failing", RUNTIME.format(how="echo 'the runtime refuses' >&2; exit 1"))
    hanging = program(scratch / "hanging", RUNTIME.format(how="exec sleep 987"))
    config = {
        "images": {"no_progress_timeout_s": 1, "layer_bytes_max": 16 << 20, "layer_entries_max": 1000},
        "containers": {"create_missing_mounts": False},
        "runtime.handlers.failing": {"path": failing},
        "runtime.handlers.hanging": {"path": hanging},
    }
    with stage.daemon(config, prelude=SOON) as one:
        with one.client() as cri:
            cri.call("PullImage", image=pb.ImageSpec(image=IMAGE))
        yield one
        one.check_log()


def refusal(call: Callable[[], Any]) -> GRPCError:
    with pytest.raises(GRPCError) as error:
        call()
    return error.value


def refused_events(daemon: Daemon, seq: int) -> list[node_events.RequestRefused]:
    return [one.event for one in daemon.events(seq + 1) if isinstance(one.event, node_events.RequestRefused)]


# --- malformed requests ----------------------------------------------------------------------------------------------

Refused = tuple[Any, Status, str]  # request, code, what the message says


def check_refusals(daemon: Daemon, kubelet: Kubelet, rpc: str, table: list[Refused], *, recorded: bool = True) -> None:
    """Every request of *table* must be refused so, and be in the log."""
    wrong = []
    for request, code, words in table:
        seq = daemon.last_seq()
        try:
            wrong.append((words, f"accepted: {kubelet.call(rpc, request)}"))
            continue
        except GRPCError as error:
            said = error.message or ""
            if error.status is not code or words not in said:
                wrong.append((words, f"{error.status}: {said}"))
        events = refused_events(daemon, seq)
        if recorded and [(one.rpc, one.message) for one in events] != [(rpc, said[:1000])]:
            wrong.append((words, f"in the log: {events}"))
    assert not wrong, "\n".join(f"{words!r}: {what}" for words, what in wrong)
    kubelet.call("Status")


def changed(message: Any, **fields: Any) -> Any:
    """Return a copy of a message with other fields; None clears one. ``a__b`` is the field ``b`` of the field ``a``."""
    copy = type(message)()
    copy.CopyFrom(message)
    for path, value in fields.items():
        *parents, name = path.split("__")
        inner = copy
        for parent in parents:
            inner = getattr(inner, parent)
        inner.ClearField(name)
        if isinstance(value, dict):
            getattr(inner, name).update(value)
        elif isinstance(value, list):
            getattr(inner, name).extend(value)
        elif hasattr(value, "DESCRIPTOR"):
            getattr(inner, name).CopyFrom(value)
        elif value is not None:
            setattr(inner, name, value)
    return copy


def test_malformed_pods(daemon: Daemon, kubelet: Kubelet) -> None:
    good = kubelet.pod_config()
    options = "linux__security_context__namespace_options__"
    bad = Status.INVALID_ARGUMENT
    table: list[Refused] = [(pb.RunPodSandboxRequest(), bad, "config is missing")]
    for fields, code, words in (
        ({"metadata": None}, bad, "config.metadata is missing"),
        ({"metadata__name": ""}, bad, "config.metadata.name is empty"),
        ({"metadata__uid": ""}, bad, "config.metadata.uid is empty"),
        ({"metadata__namespace": ""}, bad, "config.metadata.namespace is empty"),
        ({"metadata__name": "x" * 5000}, bad, "config.metadata.name is 5000 bytes, the limit is 253"),
        ({"metadata__name": "a\0b"}, bad, "config.metadata.name holds a NUL byte"),
        ({"log_directory": "relative"}, bad, "config.log_directory is 'relative', wanted an absolute path"),
        ({"log_directory": "/a/../b"}, bad, "config.log_directory is '/a/../b'"),
        ({"log_directory": "/a\0b"}, bad, "config.log_directory holds a NUL byte"),
        ({"log_directory": "/" + "x" * 5000}, bad, "config.log_directory is 5001 bytes"),
        ({"hostname": "h" * 65}, bad, "config.hostname is 65 bytes, the limit is 64"),
        ({"labels": {"x": "y" * 2_000_000}}, bad, "size of config.labels"),
        ({"annotations": {"x": "a\0"}}, bad, "config.annotations['x'] holds a NUL byte"),
        ({f"{options}network": pb.CONTAINER}, bad, "network is CONTAINER, wanted POD or NODE"),
        ({f"{options}network": 99}, bad, "network has value 99, which CRI v1 does not know"),
        ({f"{options}pid": pb.TARGET}, bad, "pid is TARGET, which only a container can have"),
        ({f"{options}ipc": -1}, bad, "ipc has value -1"),
        ({"linux__sysctls": {"kernel.pid_max": "9"}}, bad, "kernel.pid_max"),
        ({"linux__sysctls": {"../../x": "9"}}, bad, "'../../x'"),
        ({"linux__cgroup_parent": "/../../etc"}, bad, "'/../../etc'"),
        ({"port_mappings": [pb.PortMapping(container_port=80, host_port=70000)]}, bad, "host_port is 70000"),
        ({"port_mappings": [pb.PortMapping(container_port=0, host_port=80)]}, bad, "container_port is 0"),
    ):
        table.append((pb.RunPodSandboxRequest(config=changed(good, **fields)), code, words))
    unknown = pb.RunPodSandboxRequest(config=good, runtime_handler="gvisor")
    table.append((unknown, bad, "runtime handler 'gvisor' is not configured: have '', "))
    users = pb.UserNamespace(mode=pb.POD, uids=[pb.IDMapping(host_id=1 << 20, length=65536)])
    users.gids.extend(users.uids)
    config = changed(good, **{f"{options}userns_options": users})
    table.append((pb.RunPodSandboxRequest(config=config), Status.UNIMPLEMENTED, "user namespaces: "))
    check_refusals(daemon, kubelet, "RunPodSandbox", table)
    assert not daemon.view().pods.rows


def test_malformed_containers(daemon: Daemon, kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    good = kubelet.container_config("sleep", "1")
    security, resources = "linux__security_context__", "linux__resources__"
    mount = pb.Mount(container_path="/x", host_path="/tmp")
    bad = Status.INVALID_ARGUMENT
    table: list[Refused] = [
        (pb.CreateContainerRequest(pod_sandbox_id=pod_id), bad, "config is missing"),
        (pb.CreateContainerRequest(config=good), bad, "pod_sandbox_id is empty"),
        (pb.CreateContainerRequest(pod_sandbox_id="x" * 5000, config=good), bad, "pod_sandbox_id is 5000 bytes"),
    ]
    for fields, code, words in (
        ({"metadata": None}, bad, "config.metadata is missing"),
        ({"metadata__name": ""}, bad, "config.metadata.name is empty"),
        ({"image": None}, bad, "config.image is missing"),
        ({"image__image": "no/such:image"}, Status.NOT_FOUND, "image 'no/such:image' not found"),
        ({"log_path": "../../etc/x"}, bad, "config.log_path is '../../etc/x', wanted a relative path without '..'"),
        ({"log_path": "/etc/x"}, bad, "config.log_path is '/etc/x'"),
        ({"command": ["a\0b"]}, bad, "config.command[0] holds a NUL byte"),
        ({"command": ["x" * 200_000]}, bad, "has a word of 200000 bytes"),
        ({"args": ["x" * 1000] * 3000}, bad, "the limit is 2097152"),
        ({"envs": [pb.KeyValue(key="A=B")]}, bad, "wanted a name without '='"),
        ({"envs": [pb.KeyValue(key="A", value=b"\0")]}, bad, "config.envs[0].value of 'A' holds a NUL byte"),
        ({"envs": [pb.KeyValue(value=b"x")]}, bad, "config.envs[0].key is empty"),
        ({"mounts": [changed(mount, container_path="x")]}, bad, "config.mounts[0].container_path is 'x'"),
        ({"mounts": [changed(mount, container_path="/")]}, bad, "wanted a path below the root"),
        ({"mounts": [changed(mount, container_path="/a/../..")]}, bad, "wanted an absolute path without '..'"),
        ({"mounts": [changed(mount, host_path="")]}, bad, "config.mounts[0].host_path is ''"),
        ({"mounts": [changed(mount, propagation=9)]}, bad, "propagation has value 9"),
        ({"mounts": [changed(mount, recursive_read_only=True)]}, bad, "wanted readonly beside it"),
        ({"mounts": [changed(mount, host_path="/no/such/path")]}, bad, "'/no/such/path' does not exist"),
        (
            {"mounts": [pb.Mount(container_path="/x", image=pb.ImageSpec(image="a:b"), readonly=True)]},
            Status.UNKNOWN,
            "ImageVolumeMountFailed: mount of image 'a:b' at '/x': image 'a:b' not found",
        ),
        ({"CDI_devices": [pb.CDIDevice(name="a.b/c=d")]}, bad, "CDI device 'a.b/c=d' is in no specification"),
        ({"CDI_devices": [pb.CDIDevice(name="a.b")]}, bad, "'a.b', wanted 'vendor/class=device'"),
        ({"devices": [pb.Device(host_path="/dev/no-such", permissions="rwm")]}, bad, "'/dev/no-such' does not exist"),
        ({"devices": [pb.Device(host_path="/dev/null/x")]}, bad, "'/dev/null/x' cannot exist on this host"),
        ({"devices": [pb.Device(host_path="/etc/passwd")]}, bad, "'/etc/passwd' is no device node"),
        ({"mounts": [changed(mount, host_path="/etc/passwd/x")]}, bad, "'/etc/passwd/x' does not exist"),
        ({f"{security}seccomp": NO_PROFILE}, bad, "host file '/no/such.json' does not exist"),
        ({"devices": [pb.Device(host_path="/dev/null", permissions="rwx")]}, bad, "permissions is 'rwx'"),
        ({f"{resources}oom_score_adj": 5000}, bad, "oom_score_adj is 5000, wanted -1000 to 1000"),
        ({f"{resources}cpuset_cpus": "many"}, bad, "cpuset_cpus is 'many'"),
        ({f"{resources}cpu_period": 1}, bad, "cpu_period is 1, wanted"),
        ({f"{security}capabilities": pb.Capability(add_capabilities=["FLY"])}, bad, "FLY"),
        ({f"{security}run_as_group": pb.Int64Value(value=5)}, bad, "wanted run_as_user or run_as_username"),
        ({f"{security}run_as_user": pb.Int64Value(value=-1)}, bad, "run_as_user is -1"),
        ({f"{security}masked_paths": ["proc/x"]}, bad, "masked_paths is 'proc/x'"),
        ({f"{security}namespace_options__pid": pb.TARGET}, bad, "wanted target_id beside it"),
        ({f"{security}privileged": True}, bad, "but the pod is not privileged"),
    ):
        config = changed(good, **fields)
        request = pb.CreateContainerRequest(pod_sandbox_id=pod_id, config=config, sandbox_config=kubelet.pods[pod_id])
        table.append((request, code, words))
    check_refusals(daemon, kubelet, "CreateContainer", table)
    wait_for(lambda: not daemon.view().containers.rows, "nothing of them is left")


def test_malformed_others(daemon: Daemon, kubelet: Kubelet) -> None:
    container_id = kubelet.start(kubelet.run_pod(), "sleep", "1000")
    bad = Status.INVALID_ARGUMENT
    for rpc, field in (
        ("StopPodSandbox", "pod_sandbox_id"),
        ("RemovePodSandbox", "pod_sandbox_id"),
        ("StartContainer", "container_id"),
        ("StopContainer", "container_id"),
        ("RemoveContainer", "container_id"),
        ("ReopenContainerLog", "container_id"),
    ):
        check_refusals(daemon, kubelet, rpc, [(getattr(pb, f"{rpc}Request")(), bad, f"{field} is empty")])
    for rpc, field in (("PodSandboxStatus", "pod_sandbox_id"), ("ContainerStatus", "container_id")):
        empty = getattr(pb, f"{rpc}Request")()
        check_refusals(daemon, kubelet, rpc, [(empty, bad, f"{field} is empty")], recorded=False)
    check_refusals(
        daemon,
        kubelet,
        "ExecSync",
        [
            (pb.ExecSyncRequest(cmd=["true"]), bad, "container_id is empty"),
            (pb.ExecSyncRequest(container_id=container_id), bad, "cmd is empty"),
            (pb.ExecSyncRequest(container_id=container_id, cmd=["a\0"]), bad, "cmd holds a NUL byte"),
            (pb.ExecSyncRequest(container_id=container_id, cmd=["true"], timeout=-1), bad, "timeout is -1"),
            (pb.ExecSyncRequest(container_id=container_id, cmd=["x" * 200_000]), bad, "a word of 200000 bytes"),
        ],
    )
    references = ("", "upper/CASE:x", "a b", "x@sha256:short", "a" * 600, "http://x/y", "x:", "e" * 64, "a\0b")
    table = [(pb.PullImageRequest(image=pb.ImageSpec(image=one)), bad, "") for one in references]
    check_refusals(daemon, kubelet, "PullImage", table)
    check_refusals(daemon, kubelet, "RemoveImage", [(pb.RemoveImageRequest(), bad, "image.image is empty")])
    check_refusals(daemon, kubelet, "ImageStatus", [(pb.ImageStatusRequest(), bad, "is empty")], recorded=False)


# --- images ----------------------------------------------------------------------------------------------------------

OUTSIDE = Path("/tmp/ocid-escaped")
UNREACHABLE = "RegistryUnavailable: "  # the kubelet looks for this at the beginning of the message


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


# --- plugins and runtimes --------------------------------------------------------------------------------------------

PLUGIN = """#!/bin/sh
cat >/dev/null
here=$(dirname "$0")
echo "$CNI_COMMAND" >>"$here/calls"
if [ -e "$here/$CNI_COMMAND-hangs" ]; then exec sleep 876; fi
if [ -e "$here/$CNI_COMMAND-fails" ]; then
  echo '{"cniVersion": "1.0.0", "code": 11, "msg": "no address for you", "details": "pool empty"}'
  exit 1
fi
if [ "$CNI_COMMAND" = ADD ]; then
  echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.9.8.7/24"}]}'
fi
"""


@pytest.fixture
def with_plugin(stage: Stage, private_mounts: None) -> Iterator[tuple[Daemon, Path]]:
    """A daemon whose CNI plugin does what files beside it say."""
    with stage.daemon(start=False, prelude=SOON) as one:
        plugins = one.directory / "plugins"
        one.config["network"] = {"cni_bin_dirs": [str(plugins)]}
        plugins.mkdir()
        program(plugins / "moody", PLUGIN)
        (one.directory / "net.d").mkdir()
        network = {"cniVersion": "1.0.0", "name": "moody-net", "plugins": [{"type": "moody"}]}
        (one.directory / "net.d" / "10.conflist").write_text(json.dumps(network))
        one.start()
        yield one, plugins
        one.check_log()


@pytest.mark.parametrize(
    ("mood", "code", "words"),
    [
        ("ADD-fails", Status.UNAVAILABLE, ("moody-net", "moody", "no address for you", "pool empty")),
        ("ADD-hangs", Status.UNAVAILABLE, ("moody-net", "moody", "did not end within 1.5 s")),
    ],
)
def test_plugins_that_cannot_add(with_plugin: tuple[Daemon, Path], mood: str, code: Status, words: tuple[str]) -> None:
    one, plugins = with_plugin
    (plugins / mood).touch()
    with one.client() as cri:
        kubelet = Kubelet(cri, one.directory, one.cgroup_parent)
        config = kubelet.pod_config()
        error = refusal(lambda: kubelet.run_pod(config))
        assert error.status is code
        assert [word for word in words if word not in (error.message or "")] == [], error.message
        failed = [each.event for each in one.events() if isinstance(each.event, pod_events.Failed)]
        assert [each.step for each in failed] == ["Attach"]
        one.assert_no_leaks()
        assert "DEL" in (plugins / "calls").read_text().split()
        (plugins / mood).unlink()
        (plugins / "calls").unlink()
        pod_id = kubelet.run_pod(config)
        assert kubelet.pod_status(pod_id).network.ip == "10.9.8.7"
        kubelet.end_pod(pod_id)
        assert (plugins / "calls").read_text().split() == ["ADD", "DEL"]


@pytest.mark.parametrize("mood", ["DEL-fails", "DEL-hangs"])
def test_plugins_that_cannot_delete(with_plugin: tuple[Daemon, Path], mood: str) -> None:
    """StopPodSandbox says so and goes on trying; the pod stays listed until it comes through."""
    one, plugins = with_plugin
    with one.client() as cri:
        kubelet = Kubelet(cri, one.directory, one.cgroup_parent)
        pod_id = kubelet.run_pod()
        (plugins / mood).touch()
        error = refusal(lambda: kubelet.call("StopPodSandbox", pod_sandbox_id=pod_id))
        assert error.status is Status.UNAVAILABLE
        assert "it is being tried again" in (error.message or "")
        assert kubelet.pod_status(pod_id).state == pb.SANDBOX_NOTREADY
        assert "pod.effect_failed" in one.types()
        one.kill()
        one.start()
        (plugins / mood).unlink()
        wait_for(lambda: "pod.stopped" in one.types(), "the plugin's DEL comes through")
        kubelet.end_pod(pod_id)


@pytest.mark.parametrize(("handler", "words"), [("failing", "the runtime refuses"), ("hanging", "no answer in 2 s")])
def test_runtimes_that_cannot_create(daemon: Daemon, kubelet: Kubelet, handler: str, words: str) -> None:
    pod_id = kubelet.run_pod(handler=handler)
    seq = daemon.last_seq()
    container_id = kubelet.create(pod_id, "sleep", "1000")
    error = refusal(lambda: kubelet.call("StartContainer", container_id=container_id))
    assert words in (error.message or "")
    assert container_id in (error.message or "")
    status = kubelet.status(container_id)
    assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 128, "StartError")
    assert words in status.message
    assert status.finished_at > 0
    assert {"container.create_failed", "node.request_refused"} <= set(daemon.types(seq + 1))
    assert not [one for one in daemon._processes() if "987" in one]
    kubelet.call("RemoveContainer", container_id=container_id)
    second = kubelet.create(pod_id, "sleep", "1000", attempt=1)
    began = time.monotonic()
    kubelet.call("RemoveContainer", container_id=second)
    assert time.monotonic() - began < 5 * SLOW
    kubelet.end_pod(pod_id)
    daemon.assert_no_leaks()
    kubelet.end_pod(kubelet.run_pod())


def test_a_handler_that_is_no_program(stage: Stage, private_mounts: None, tmp_path: Path) -> None:
    """The daemon does not start, and says which handler it is."""
    for path in (str(tmp_path / "missing"), program(tmp_path / "nonsense", "#!/bin/sh\necho what; exit 3\n")):
        with stage.daemon({"runtime.handlers.odd": {"path": path}}, start=False) as one:
            one.start(ready=False)
            assert one.keeper.ended(one.pid, 20) not in (None, 0)
            assert path in one.said() or "'odd'" in one.said()
            assert "Traceback" not in one.said()
            assert not one.socket.exists()


# --- programs and files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("/no/such/program", "no such file"),
        ("not-on-path", "not-on-path"),
        ("/bin/closed", "permission denied"),
        ("/bin/garbage", "exec format error"),
        ("/bin/orphan", "no such file"),
    ],
)
def test_commands_that_cannot_run(daemon: Daemon, kubelet: Kubelet, command: str, words: str) -> None:
    pod_id, seq = kubelet.run_pod(), daemon.last_seq()
    container_id = kubelet.create(pod_id, command)
    error = refusal(lambda: kubelet.call("StartContainer", container_id=container_id))
    assert words in (error.message or "").lower()
    status = kubelet.status(container_id)
    assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 128, "StartError")
    assert words in status.message.lower()
    types = set(daemon.types(seq + 1))
    assert types & {"container.create_failed", "container.start_failed"}
    assert "node.request_refused" in types
    again = refusal(lambda: kubelet.call("StartContainer", container_id=container_id))
    assert again.message == error.message


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


def test_logs_that_cannot_be_written(daemon: Daemon, kubelet: Kubelet) -> None:
    in_the_way = daemon.directory / "in-the-way"
    in_the_way.touch()
    seq = daemon.last_seq()
    config = kubelet.pod_config()
    config.log_directory = f"{in_the_way}/logs"
    error = refusal(lambda: kubelet.run_pod(config))
    assert str(in_the_way) in (error.message or "")
    assert "pod.failed" in daemon.types(seq + 1)
    daemon.assert_no_leaks()

    config = kubelet.pod_config()
    pod_id = kubelet.run_pod(config)
    Path(config.log_directory, "main").touch()
    container_id = kubelet.create(pod_id, "sleep", "1000")
    error = refusal(lambda: kubelet.call("StartContainer", container_id=container_id))
    assert f"{config.log_directory}/main" in (error.message or "")
    assert kubelet.status(container_id).reason == "StartError"


def test_no_address_is_left(stage: Stage, private_mounts: None) -> None:
    with stage.daemon(start=False) as one:
        one.config["network"] = {"subnets": [one.subnets[0].replace("/24", "/29")]}
        one.start()
        with one.client() as cri:
            kubelet = Kubelet(cri, one.directory, one.cgroup_parent)
            pods = [kubelet.run_pod() for _ in range(5)]
            error = refusal(kubelet.run_pod)
            assert error.status is Status.RESOURCE_EXHAUSTED
            assert one.subnets[0].removesuffix("0/24") in (error.message or "")
            kubelet.end_pod(pods[0])
            pods[0] = kubelet.run_pod()
            kubelet.remove_everything()
