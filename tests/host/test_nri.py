"""Plugins at a real daemon: one that connects, one that the daemon starts, and what real containers are then."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.adapters.cgroups import Cgroups
from ocid.cri.stubs import api_pb2 as pb
from ocid.events import container as container_events, node as node_events
from ocid.nri.stubs import nri_pb2
from tests.host import daemon as host
from tests.host.daemon import IMAGE, Daemon, Kubelet, Stage, refused, wait_for
from tests.host.nodes import SLOW
from tests.nri.plugin import Refusal, TestPlugin

pytestmark = [pytest.mark.host, pytest.mark.timeout(90 * SLOW)]
stage, kubelet, nothing_leaks = host.stage, host.kubelet, host.nothing_leaks

ROOT = Path(__file__).parents[2]
STARTED = f"""#!{sys.executable}
import os, socket, sys, trio
sys.path.insert(0, {str(ROOT)!r})
from ocid.nri.stubs import nri_pb2 as pb
from tests.nri.plugin import TestPlugin

def adjust(request):
    words = ",".join(sorted(os.environ)) + " " + os.environ["NRI_PLUGIN_IDX"] + os.environ["NRI_PLUGIN_NAME"]
    env = [pb.KeyValue(key="STARTED_WITH", value=words)]
    return pb.CreateContainerResponse(adjust=pb.ContainerAdjustment(env=env))

async def main():
    sock = trio.socket.from_stdlib_socket(socket.socket(fileno=int(os.environ["NRI_PLUGIN_SOCKET"])))
    await TestPlugin("ignored", "99", CreateContainer=adjust).run(trio.SocketStream(sock))

trio.run(main)
"""


VENDOR = {
    "cdiVersion": "0.6.0",
    "kind": "vendor.com/null",
    "devices": [
        {
            "name": "0",
            "containerEdits": {
                "env": ["FROM_CDI=yes"],
                "deviceNodes": [{"path": "/dev/nri-null", "hostPath": "/dev/null"}],
                "mounts": [{"hostPath": "/proc/sys", "containerPath": "/from/cdi", "options": ["ro"]}],
                "additionalGids": [4567],
            },
        }
    ],
}


@pytest.fixture(scope="module")
def daemon(stage: Stage, private_mounts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with NRI on, and one plugin in its directory."""
    directory = tmp_path_factory.mktemp("nri")
    (directory / "plugins").mkdir()
    plugin = directory / "plugins" / "05-started"
    plugin.write_text(STARTED)
    plugin.chmod(0o755)
    config = {
        "enabled": True,
        "socket": str(directory / "s" / "nri.sock"),
        "plugin_dir": str(directory / "plugins"),
        "config_dir": str(directory / "conf.d"),
        "registration_timeout_s": round(5 * SLOW),
        "request_timeout_s": round(2 * SLOW),
    }
    (directory / "cdi").mkdir()
    (directory / "cdi" / "vendor.json").write_text(json.dumps(VENDOR))
    with stage.daemon({"nri": config, "containers": {"cdi_spec_dirs": [str(directory / "cdi")]}}) as one:
        with one.client() as cri:
            cri.call("PullImage", image=pb.ImageSpec(image=IMAGE))
        yield one
        one.check_log()


@contextmanager
def connected(daemon: Daemon, plugin: TestPlugin) -> Iterator[TestPlugin]:
    """Have *plugin* connected while the block lasts."""
    token: list[Any] = []

    async def main() -> None:
        stream = await trio.open_unix_socket(daemon.config["nri"]["socket"])
        with trio.CancelScope() as scope:
            plugin.token = trio.lowlevel.current_trio_token()
            token.extend((plugin.token, scope))
            async with stream:
                await plugin.run(stream)

    thread = threading.Thread(target=trio.run, args=(main,), daemon=True)
    thread.start()
    try:
        wait_for(lambda: any(name == "Synchronize" for name, _ in plugin.calls), "the plugin is welcomed")
        wait_for(lambda: f"{plugin.index}-{plugin.name}" in joined(daemon), "the log knows of it")
        yield plugin
    finally:
        if thread.is_alive():
            trio.from_thread.run_sync(token[1].cancel, trio_token=token[0])
        thread.join(10)


def joined(daemon: Daemon) -> list[str]:
    return [one.event.plugin for one in daemon.events() if isinstance(one.event, node_events.PluginJoined)]


def adjusting(**fields: Any) -> Callable[[Any], nri_pb2.CreateContainerResponse]:
    adjust = nri_pb2.ContainerAdjustment(**fields)
    return lambda request: nri_pb2.CreateContainerResponse(adjust=adjust)


def test_a_container_is_made_as_a_plugin_wants_and_the_log_says_so(daemon: Daemon, kubelet: Kubelet) -> None:
    plugin = TestPlugin(
        "sample",
        CreateContainer=adjusting(
            env=[{"key": "FROM_PLUGIN", "value": "visible"}, {"key": "API_TOKEN", "value": "canary-plugin"}],
            mounts=[{"destination": "/from/plugin", "type": "bind", "source": "/proc/sys", "options": ["rbind", "ro"]}],
            annotations={"plugin": "sample"},
            linux={"oom_score_adj": {"value": 444}},
            rlimits=[{"type": "RLIMIT_NOFILE", "hard": 99, "soft": 98}],
        ),
    )
    with connected(daemon, plugin):
        pod_id = kubelet.run_pod()
        script = "echo $FROM_PLUGIN $API_TOKEN; cat /from/plugin/kernel/ostype /proc/self/oom_score_adj; ulimit -n"
        container_id = kubelet.start(pod_id, "sh", "-c", f"{script}; sleep 1000")
        log = Path(kubelet.status(container_id).log_path)
        wait_for(lambda: len(host.log_lines(log)) == 4, "it has printed everything")
        assert [text for _, _, text in host.log_lines(log)] == ["visible canary-plugin", "Linux", "444", "98"]
        spec = kubelet.info(container_id)["runtimeSpec"]
        assert spec["annotations"]["plugin"] == "sample"
        kubelet.call("StopContainer", container_id=container_id, timeout=0)
        kubelet.call("RemoveContainer", container_id=container_id)
        kubelet.end_pod(pod_id)

    assert plugin.heard == [
        "RunPodSandbox", "CreateContainer", "ValidateContainerAdjustment", "PostCreateContainer", "StartContainer",
        "PostStartContainer", "StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox",
    ]  # fmt: skip
    assert plugin.message("RunPodSandbox").pod.ips
    assert plugin.message("StartContainer").container.pid > 0
    events = [one.event for one in daemon.events() if one.stream == f"container/{container_id}"]
    kinds = [type(event) for event in events]
    assert kinds.index(container_events.Adjusted) < kinds.index(container_events.Created)
    adjusted = next(event for event in events if isinstance(event, container_events.Adjusted))
    assert adjusted.plugins == ("05-started", "10-sample")
    prepared = next(event for event in events if isinstance(event, container_events.Prepared))
    with daemon.log() as reader:
        spec = reader.document(prepared.spec)
    assert b"FROM_PLUGIN=visible" in spec
    assert b"canary-plugin" not in spec
    assert b"canary-plugin" not in (daemon.root / "log" / "data.mdb").read_bytes()


def test_a_plugin_adds_a_cdi_device(daemon: Daemon, kubelet: Kubelet) -> None:
    made = adjusting(CDI_devices=[{"name": "vendor.com/null=0"}], env=[{"key": "MINE", "value": "too"}])
    with connected(daemon, TestPlugin("cdi", "15", CreateContainer=made)):
        pod_id = kubelet.run_pod()
        script = "echo $FROM_CDI $MINE; cat /from/cdi/kernel/ostype; id -G; echo x > /dev/nri-null && echo written"
        code, output = kubelet.run(pod_id, "sh", "-c", script)
    assert code == 0
    assert output.split()[:3] == ["yes", "too", "Linux"]
    assert "4567" in output.split()
    assert output.split()[-1] == "written"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"CDI_devices": [{"name": "vendor.com/null=9"}]}, "CDI device 'vendor.com/null=9' is in no specification"),
        ({"linux": {"rdt": {"clos_id": {"value": "a/b"}}}}, "RDT class 'a/b'"),
        ({"linux": {"scheduler": {"policy": nri_pb2.SCHED_BATCH, "nice": 30}}}, "nice value 30"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    daemon: Daemon, kubelet: Kubelet, fields: Any, words: str
) -> None:
    pod_id = kubelet.run_pod()
    with connected(daemon, TestPlugin("no", "15", CreateContainer=adjusting(**fields))):
        with pytest.raises(GRPCError) as error:
            kubelet.create(pod_id, "true")
        assert words in refused(error)[1]
        assert not kubelet.call("ListContainers").containers


def test_the_oci_runtime_must_know_what_plugins_set(daemon: Daemon, kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    said = subprocess.run(["runc", "features"], capture_output=True, text=True, check=True).stdout
    version = json.loads(said)["annotations"]["org.opencontainers.runc.version"]
    knows = tuple(map(int, version.split(".")[:2]))
    batch = adjusting(linux={"scheduler": {"policy": nri_pb2.SCHED_BATCH}})
    with connected(daemon, TestPlugin("batch", "15", CreateContainer=batch)):
        if knows >= (1, 2):  # 1.1 passes over it, whatever it says
            code, output = kubelet.run(pod_id, "sh", "-c", "grep ^policy /proc/self/sched")
            assert (code, output.split()[-1]) == (0, "3")
        else:
            with pytest.raises(GRPCError) as error:
                kubelet.create(pod_id, "true")
            assert "scheduler, which an OCI runtime must know version 1.1" in refused(error)[1]


def test_a_plugin_of_the_directory_is_started_with_its_socket_and_name(daemon: Daemon, kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    code, output = kubelet.run(pod_id, "sh", "-c", "echo $STARTED_WITH")

    assert code == 0
    names = set(output.split()[0].split(",")) - {"LC_CTYPE"}  # which Python itself may set
    assert names == {"NRI_PLUGIN_IDX", "NRI_PLUGIN_NAME", "NRI_PLUGIN_SOCKET"}
    assert output.split()[1] == "05started"


def test_a_refusal_leaves_nothing_and_names_the_plugin(daemon: Daemon, kubelet: Kubelet) -> None:
    def refuse(request: Any) -> Any:
        raise Refusal("not here")

    with connected(daemon, TestPlugin("no", "20", CreateContainer=refuse, RunPodSandbox=refuse)):
        with pytest.raises(GRPCError) as error:
            kubelet.run_pod()
        assert refused(error) == (Status.UNKNOWN, refused(error)[1])
        assert "plugin 20-no refuses RunPodSandbox: not here" in refused(error)[1]
        assert not kubelet.call("ListPodSandbox").items, "when the error is told, the pod is gone"
    pod_id = kubelet.run_pod()
    with connected(daemon, TestPlugin("no", "20", CreateContainer=refuse)):
        with pytest.raises(GRPCError) as error:
            kubelet.create(pod_id, "true")
        assert "plugin 20-no refuses CreateContainer: not here" in refused(error)[1]
        assert not kubelet.call("ListContainers").containers


def test_a_plugin_that_comes_late_learns_what_lives(daemon: Daemon, kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    container_id = kubelet.start(pod_id, "sleep", "1000")
    with connected(daemon, TestPlugin("late", "30")) as plugin:
        told = plugin.message("Synchronize")

    assert [pod.id for pod in told.pods] == [pod_id]
    assert [(one.id, one.state) for one in told.containers] == [(container_id, nri_pb2.CONTAINER_RUNNING)]
    assert list(told.containers[0].args) == ["sleep", "1000"]


def test_one_that_says_nothing_any_more_delays_and_then_is_cut_off(daemon: Daemon, kubelet: Kubelet) -> None:
    async def sleep(request: Any) -> Any:
        await trio.sleep_forever()

    pod_id = kubelet.run_pod()
    with connected(daemon, TestPlugin("mute", "40", CreateContainer=sleep)):
        began = time.monotonic()
        assert kubelet.run(pod_id, "true")[0] == 0
        assert 2 <= time.monotonic() - began < 6 * SLOW
        left = [one.event for one in daemon.events() if isinstance(one.event, node_events.PluginLeft)]
        assert (left[-1].plugin, left[-1].reason) == ("40-mute", f"no answer to CreateContainer in {2 * SLOW:g} s")


def test_after_a_crash_of_the_daemon_its_plugins_are_there_before_anything_is_made(
    daemon: Daemon, kubelet: Kubelet
) -> None:
    pod_id = kubelet.run_pod()
    before = joined(daemon).count("05-started")
    daemon.kill()
    daemon.start()
    code, output = kubelet.run(pod_id, "sh", "-c", "echo $STARTED_WITH")

    assert (code, output.split()[1]) == (0, "05started")
    assert joined(daemon).count("05-started") == before + 1
    assert json.loads(kubelet.call("Status", verbose=True).info["config"])["nri"]["enabled"]


# --- containers that exist -------------------------------------------------------------------------------------------

MIB = 1 << 20


def kernel_has(kubelet: Kubelet, container_id: str, controller: str, file: str) -> int:
    inner = kubelet.info(container_id)["runtimeSpec"]["linux"]["cgroupsPath"]
    return int(Path(f"/sys/fs/cgroup/{controller}{inner}/{file}").read_text())


@pytest.fixture
def version_1() -> None:
    cgroups = Cgroups()
    if cgroups.version != 1 or not {"memory", "cpu", "pids"} <= set(cgroups.hierarchies):
        pytest.skip(f"reads the files of cgroup version 1; here is {cgroups.version}: {sorted(cgroups.hierarchies)}")


def test_a_plugin_changes_an_update_and_the_kernel_has_it(daemon: Daemon, kubelet: Kubelet, version_1: None) -> None:
    def half(request: Any) -> nri_pb2.UpdateContainerResponse:
        quota = {"quota": {"value": request.linux_resources.cpu.quota.value // 2}}
        resources = {"cpu": quota, "pids": {"limit": 77}, "memory": {"reservation": {"value": 16 * MIB}}}
        mine = nri_pb2.ContainerUpdate(container_id=request.container.id, linux={"resources": resources})
        return nri_pb2.UpdateContainerResponse(update=[mine])

    made = adjusting(linux={"resources": {"cpu": {"shares": {"value": 345}}}})
    with connected(daemon, TestPlugin("half", "50", CreateContainer=made, UpdateContainer=half)) as plugin:
        pod_id = kubelet.run_pod()
        container_id = kubelet.start(pod_id, "sleep", "1000")
        limits = pb.LinuxContainerResources(cpu_quota=50_000, cpu_period=100_000, memory_limit_in_bytes=64 * MIB)
        kubelet.call("UpdateContainerResources", container_id=container_id, linux=limits)

        found = {
            "cpu.cfs_quota_us": kernel_has(kubelet, container_id, "cpu", "cpu.cfs_quota_us"),
            "cpu.shares": kernel_has(kubelet, container_id, "cpu", "cpu.shares"),
            "memory.limit_in_bytes": kernel_has(kubelet, container_id, "memory", "memory.limit_in_bytes"),
            "memory.soft_limit_in_bytes": kernel_has(kubelet, container_id, "memory", "memory.soft_limit_in_bytes"),
            "pids.max": kernel_has(kubelet, container_id, "pids", "pids.max"),
        }
        assert found == {
            "cpu.cfs_quota_us": 25_000,
            "cpu.shares": 345,  # as made: the kubelet has said nothing of them
            "memory.limit_in_bytes": 64 * MIB,
            "memory.soft_limit_in_bytes": 16 * MIB,
            "pids.max": 77,
        }
        shown = kubelet.status(container_id).resources.linux
        assert (shown.cpu_quota, shown.cpu_shares, shown.memory_limit_in_bytes) == (25_000, 345, 64 * MIB)
        spec = kubelet.info(container_id)["runtimeSpec"]["linux"]["resources"]
        assert (spec["cpu"]["quota"], spec["pids"]["limit"]) == (25_000, 77)
        told = plugin.message("PostUpdateContainer").container.linux.resources
        assert (told.cpu.quota.value, told.cpu.shares.value, told.pids.limit) == (25_000, 345, 77)
        kubelet.end_pod(pod_id)
    events = [one.event for one in daemon.events() if one.stream == f"container/{container_id}"]
    adjusted = next(event for event in events if isinstance(event, container_events.UpdateAdjusted))
    assert (adjusted.plugins, adjusted.count) == (("50-half",), 3)
    assert "cpu_quota=25000" in adjusted.brief


def test_a_plugin_changes_and_ends_containers_by_itself(daemon: Daemon, kubelet: Kubelet, version_1: None) -> None:
    with connected(daemon, TestPlugin("boss", "60")) as one:
        pod_id = kubelet.run_pod()
        first, second = (kubelet.start(pod_id, "sleep", "1000", name=name) for name in ("first", "second"))

        updates = [
            nri_pb2.ContainerUpdate(container_id=name, linux={"resources": {"cpu": {"shares": {"value": 222}}}})
            for name in (first, "none")
        ]
        evict = [nri_pb2.ContainerEviction(container_id=second, reason="too loud")]
        request = nri_pb2.UpdateContainersRequest(update=updates, evict=evict)
        answer = trio.from_thread.run(one.call, "UpdateContainers", request, trio_token=one.token)
        failed = nri_pb2.UpdateContainersResponse.FromString(answer.payload).failed
        assert [update.container_id for update in failed] == ["none"]
        assert kernel_has(kubelet, first, "cpu", "cpu.shares") == 222
        assert kubelet.status(first).resources.linux.cpu_shares == 222
        status = kubelet.status(second)
        assert (status.state, status.exit_code) == (pb.CONTAINER_EXITED, 137)
        kubelet.end_pod(pod_id)
    stop = next(
        event.event
        for event in daemon.events()
        if event.stream == f"container/{second}" and isinstance(event.event, container_events.StopRequested)
    )
    assert (stop.plugin, stop.reason) == ("60-boss", "too loud")
