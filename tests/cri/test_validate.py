"""Each refusal names its field; what the kubelet and critest send passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import text_format

from ocid.cri import validate
from ocid.cri.stubs import api_pb2 as pb
from ocid.errors import InvalidRequest

POD = """
    config { metadata { name: "web-0" uid: "u" namespace: "prod" } hostname: "web-0" log_directory: "/var/log/pods/x"
             port_mappings { container_port: 80 host_port: 8080 } port_mappings { container_port: 81 }
             linux { sysctls { key: "net.core.somaxconn" value: "1" } } }
"""
CONTAINER = """
    pod_sandbox_id: "p"
    config { metadata { name: "main" } image { image: "sha256:feed" } log_path: "main/0.log" command: "sh"
             envs { key: "A" value: "1" } mounts { container_path: "/d" host_path: "/h" }
             devices { host_path: "/dev/fuse" permissions: "rw" } }
"""
USERNS = "userns_options { uids { host_id: 65536 length: 65536 } gids { host_id: 65536 length: 65536 } }"


def _pod(text: str) -> pb.RunPodSandboxRequest:
    request = text_format.Parse(POD, pb.RunPodSandboxRequest())
    request.MergeFrom(text_format.Parse(text, pb.RunPodSandboxRequest()))
    return request


def _container(text: str) -> pb.CreateContainerRequest:
    request = text_format.Parse(CONTAINER, pb.CreateContainerRequest())
    request.MergeFrom(text_format.Parse(text, pb.CreateContainerRequest()))
    return request


def _security(text: str) -> str:
    return f"config {{ linux {{ security_context {{ {text} }} }} }}"


def _mount(text: str) -> str:
    return f"config {{ mounts {{ {text} }} }}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        'config { hostname: "" }',
        _security(f"namespace_options {{ pid: CONTAINER {USERNS} }}"),
        _security("namespace_options { network: NODE ipc: NODE pid: NODE userns_options { mode: NODE } }"),
        _security("run_as_user { value: 0 } run_as_group { value: 0 }"),
    ],
)
def test_good_pods_pass(text: str) -> None:
    request = _pod(text)
    if "network: NODE" in text:
        request.config.linux.sysctls.clear()
    validate.run_pod_sandbox(request)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("config { hostname: '" + "h" * 65 + "' }", "hostname"),
        ("config { hostname: 'a\\000b' }", "config.hostname holds a NUL"),
        ("config { annotations { key: 'k' value: 'a\\000' } }", "annotations"),
        ("config { annotations { key: 'k' value: '" + "v" * (1 << 20) + "' } }", "annotations"),
        ("config { log_directory: 'logs' }", "log_directory"),
        ("config { log_directory: '/a/../b' }", "log_directory"),
        ("config { port_mappings { container_port: 0 host_port: 1 } }", r"port_mappings\[2\].container_port"),
        ("config { port_mappings { container_port: 1 host_port: 65536 } }", "host_port"),
        ("config { port_mappings { container_port: -1 } }", "container_port"),
        (_security("namespace_options { network: CONTAINER }"), "network"),
        (_security("namespace_options { network: NODE }"), "'net.core.somaxconn' needs a pod's own net namespace"),
        (_security("namespace_options { ipc: TARGET }"), "ipc"),
        (_security("namespace_options { pid: TARGET }"), "pid"),
        (_security("namespace_options { userns_options { mode: CONTAINER } }"), "userns_options.mode"),
        (_security("namespace_options { userns_options { mode: TARGET } }"), "userns_options.mode"),
        (_security("namespace_options { userns_options { } }"), "uids has 0"),
        (_security("namespace_options { userns_options { mode: NODE uids { length: 1 } } }"), "mode is NODE"),
        (_security("namespace_options { userns_options { uids { length: 1 } uids { length: 1 } } }"), "uids has 2"),
        (_security("namespace_options { userns_options { uids { container_id: 1 length: 5 } } }"), "container id 0"),
        (_security("namespace_options { userns_options { uids { host_id: 9 length: 4294967295 } } }"), "past the last"),
        (_security("run_as_group { value: 1 }"), "run_as_group"),
        (_security("run_as_user { value: -1 }"), "run_as_user"),
        (_security("supplemental_groups: -1"), "supplemental_groups"),
        ("config { linux { sysctls { key: '../x' value: '1' } } }", "sysctls"),
    ],
)  # fmt: skip
def test_bad_pods_are_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        validate.run_pod_sandbox(_pod(text))


@pytest.mark.parametrize("field", ["name", "uid", "namespace"])
def test_a_pod_needs_its_whole_key(field: str) -> None:
    request = _pod("")
    request.config.metadata.ClearField(field)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=f"config.metadata.{field} is empty"):
        validate.run_pod_sandbox(request)
    request.config.ClearField("metadata")
    with pytest.raises(InvalidRequest, match=r"config.metadata is missing"):
        validate.run_pod_sandbox(request)
    with pytest.raises(InvalidRequest, match="config is missing"):
        validate.run_pod_sandbox(pb.RunPodSandboxRequest())


@pytest.mark.parametrize(
    "text",
    [
        "",
        _mount("container_path: '/i' image { image: 'x' } readonly: true image_sub_path: 'a/b'"),
        _mount("container_path: '/r' host_path: '/h' readonly: true recursive_read_only: true"),
        _mount("container_path: '/r' host_path: '/h' image { }"),
        _security("run_as_username: 'app' run_as_group { value: 1 }"),
        _security("namespace_options { pid: TARGET target_id: 'c' }"),
        _security("capabilities { add_capabilities: 'ALL' drop_capabilities: 'net_raw' }"),
        "config { linux { resources { cpu_quota: -1 cpu_period: 100000 cpuset_cpus: '0-2,7' } } }",
        "config { linux { resources { unified { key: 'memory.high' value: 'max' } } } }",
    ],
)  # fmt: skip
def test_good_containers_pass(text: str) -> None:
    validate.create_container(_container(text))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("config { log_path: '../x' }", "log_path"),
        ("config { log_path: '/x' }", "log_path"),
        ("config { args: 'a\\000' }", r"config.args\[0\] holds a NUL"),
        ("config { args: '" + "a" * 131072 + "' }", "131072 bytes"),
        ("config { envs { key: 'A=B' } }", r"envs\[1\].key"),
        ("config { envs { } }", r"envs\[1\].key is empty"),
        ("config { envs { key: 'A' value: '\\000' } }", r"envs\[1\].value"),
        ("config { devices { host_path: 'x' } }", "host_path"),
        ("config { devices { host_path: '/x' permissions: 'rx' } }", "permissions"),
        (_mount("container_path: 'd' host_path: '/h'"), "container_path"),
        (_mount("container_path: '/a/../d' host_path: '/h'"), "container_path"),
        (_mount("container_path: '/' host_path: '/h'"), "below the root"),
        (_mount("container_path: '/a'"), "host_path"),
        (_mount("container_path: '/a' host_path: '/h' image_sub_path: 'x'"), "image_sub_path"),
        (_mount("container_path: '/i' image { image: 'x' }"), "readonly"),
        (_mount("container_path: '/i' host_path: '/h' image { image: 'x' } readonly: true"), "host_path"),
        (_mount("container_path: '/i' image { image: 'x' } readonly: true image_sub_path: '../b'"), "image_sub_path"),
        (_mount("container_path: '/r' host_path: '/h' recursive_read_only: true"), "readonly"),
        (_mount("container_path: '/r' host_path: '/h' readonly: true recursive_read_only: true "
                "propagation: PROPAGATION_HOST_TO_CONTAINER"), "PROPAGATION_PRIVATE"),
        (_mount("container_path: '/r' host_path: '/h' readonly: true recursive_read_only: true "
                "propagation: PROPAGATION_BIDIRECTIONAL"), "PROPAGATION_PRIVATE"),
        (_security("run_as_group { value: 1 }"), "run_as_group"),
        (_security("run_as_user { value: 4294967296 }"), "run_as_user"),
        (_security("namespace_options { pid: TARGET }"), "target_id"),
        (_security("capabilities { add_capabilities: 'FLY' }"), "FLY"),
        (_security("masked_paths: 'proc'"), "masked_paths"),
        ("config { linux { resources { cpu_period: 5 } } }", "cpu_period"),
        ("config { linux { resources { cpu_quota: -2 } } }", "cpu_quota"),
        ("config { linux { resources { cpu_shares: -2 } } }", "cpu_shares"),
        ("config { linux { resources { oom_score_adj: 1001 } } }", "oom_score_adj"),
        ("config { linux { resources { cpuset_cpus: 'all' } } }", "cpuset_cpus"),
        ("config { linux { resources { hugepage_limits { page_size: 'big' } } } }", "page_size"),
        ("config { linux { resources { unified { key: '../x' } } } }", "unified"),
        ("config { linux { security_context { privileged: true } } } sandbox_config { }", "privileged"),
    ],
)  # fmt: skip
def test_bad_containers_are_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        validate.create_container(_container(text))


def test_unknown_enum_values_are_refused_by_path() -> None:
    request = _container("")
    request.config.mounts[0].propagation = 7  # type: ignore[assignment]
    with pytest.raises(InvalidRequest, match=r"config.mounts\[0\].propagation has value 7"):
        validate.create_container(request)


@pytest.mark.parametrize("field", ["pod_sandbox_id", "config"])
def test_a_container_needs_pod_and_config(field: str) -> None:
    request = _container("")
    request.ClearField(field)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=field):
        validate.create_container(request)


@pytest.mark.parametrize(
    ("check", "request_", "says"),
    [
        (validate.exec_sync, pb.ExecSyncRequest(container_id="c", cmd=["x"], timeout=5), None),
        (validate.exec_sync, pb.ExecSyncRequest(cmd=["x"]), "container_id"),
        (validate.exec_sync, pb.ExecSyncRequest(container_id="c"), "cmd"),
        (validate.exec_sync, pb.ExecSyncRequest(container_id="c", cmd=["a", "b\0"]), "NUL"),
        (validate.exec_sync, pb.ExecSyncRequest(container_id="c", cmd=["x"], timeout=-1), "timeout"),
        (validate.exec_stream, pb.ExecRequest(container_id="c", cmd=["x"], tty=True, stdout=True), None),
        (validate.exec_stream, pb.ExecRequest(container_id="c", cmd=["x"], tty=True, stderr=True), "tty"),
        (validate.exec_stream, pb.ExecRequest(container_id="c", cmd=["x"]), "stdin"),
        (validate.attach, pb.AttachRequest(container_id="c", stdout=True), None),
        (validate.attach, pb.AttachRequest(container_id="c"), "stdin"),
        (validate.port_forward, pb.PortForwardRequest(pod_sandbox_id="p", port=[80]), None),
        (validate.port_forward, pb.PortForwardRequest(pod_sandbox_id="p", port=[0]), "port"),
        (validate.port_forward, pb.PortForwardRequest(port=[1]), "pod_sandbox_id"),
        (validate.update_container_resources, pb.UpdateContainerResourcesRequest(container_id="c"), "linux"),
        (validate.checkpoint_container, pb.CheckpointContainerRequest(container_id="c", location="/a"), None),
        (validate.checkpoint_container, pb.CheckpointContainerRequest(container_id="c", location="a"), "location"),
        (validate.image, pb.ImageSpec(image="busybox"), None),
        (validate.image, pb.ImageSpec(), "image"),
        (validate.container_id, "", "container_id"),
        (validate.pod_id, "x" * 300, "pod_sandbox_id"),
    ],
)  # fmt: skip
def test_other_requests(check: Callable[[Any], None], request_: Any, says: str | None) -> None:
    if says is None:
        check(request_)
    else:
        with pytest.raises(InvalidRequest, match=says):
            check(request_)


@pytest.mark.parametrize(("seconds", "grace"), [(-5, 0), (0, 0), (30, 30), (2**62, validate.TIMEOUT_S_MAX)])
def test_a_stop_is_never_refused(seconds: int, grace: int) -> None:
    assert validate.stop_timeout(seconds) == grace
