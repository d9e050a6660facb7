"""Bad input to a real daemon: each is refused in words, is in the log, leaves nothing, and the daemon serves on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.cri.stubs import api_pb2 as pb
from ocid.events import node as node_events
from tests.host import daemon as host
from tests.host.daemon import IMAGE, Daemon, Kubelet, Stage, wait_for
from tests.host.kubelet import refusal
from tests.host.nodes import SLOW

pytestmark = [pytest.mark.host, pytest.mark.timeout(90 * SLOW)]
stage, kubelet, nothing_leaks = host.stage, host.kubelet, host.nothing_leaks

NO_PROFILE = pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref="/no/such.json")


@pytest.fixture(scope="module")
def daemon(stage: Stage, private_mounts: None) -> Iterator[Daemon]:
    with stage.daemon({"containers": {"create_missing_mounts": False}}) as one:
        with one.client() as cri:
            cri.call("PullImage", image=pb.ImageSpec(image=IMAGE))
        yield one
        one.check_log()


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
