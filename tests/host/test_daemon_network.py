"""The network of real daemons: host ports, limits and CNI over kills, reboots and configurations that come and go."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.adapters import mounts
from ocid.cri.stubs import api_pb2 as pb
from ocid.events import node as node_events, pod as pod_events
from tests.host import daemon as host
from tests.host.cnifixtures import FAKE
from tests.host.daemon import Daemon, Kubelet, Stage, refused, wait_for
from tests.host.nodes import SLOW

pytestmark = [pytest.mark.host, pytest.mark.timeout(120 * SLOW)]
stage, daemon, kubelet, nothing_leaks = host.stage, host.daemon, host.kubelet, host.nothing_leaks

HTTPD = ("sh", "-c", "mkdir -p /www; echo $HOSTNAME > /www/name; exec httpd -f -p 80 -h /www")
BOOT = "import ocid.main, pathlib; ocid.main.BOOT_ID = pathlib.Path({path!r})"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def published(host_port: int, **fields: Any) -> list[pb.PortMapping]:
    return [pb.PortMapping(protocol=pb.TCP, container_port=80, host_port=host_port, **fields)]


def fetched(host_port: int, address: str = "127.0.0.1") -> str:
    """Return the name of the pod that answers at a host port, or the error."""
    try:
        with socket.create_connection((address, host_port), timeout=2) as client:
            client.settimeout(2)
            client.sendall(b"GET /name HTTP/1.0\r\n\r\n")
            answer = b""
            while piece := client.recv(4096):
                answer += piece
    except OSError as error:
        return str(error)
    return answer.decode().splitlines()[-1]


def rules(daemon: Daemon) -> str:
    command = ["nft", "list", "table", "inet", f"ocid_{daemon.bridge}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout


def events(daemon: Daemon, kind: type) -> list[Any]:
    return [one.event for one in daemon.events() if isinstance(one.event, kind)]


def network_ready(kubelet: Kubelet) -> tuple[bool, str]:
    conditions = {one.type: one for one in kubelet.call("Status").status.conditions}
    return conditions["NetworkReady"].status, conditions["NetworkReady"].message


# --- the built-in network --------------------------------------------------------------------------------------------


def test_host_ports_outlive_the_daemon_and_go_with_their_pods(daemon: Daemon, kubelet: Kubelet):
    number = free_port()
    pod_id = kubelet.run_pod(name="web", port_mappings=published(number))
    kubelet.start(pod_id, *HTTPD)
    wait_for(lambda: fetched(number) == "web", "the pod answers")
    daemon.kill()
    assert fetched(number) == "web"
    stray = f'add element inet ocid_{daemon.bridge} ports4 {{ tcp . 9 comment "dead" : 10.1.1.1 . 9 }}'
    subprocess.run(["nft", "-f", "-"], input=stray, text=True, check=True, timeout=20)

    daemon.start()

    assert fetched(number) == "web"
    assert "dead" not in rules(daemon)
    with pytest.raises(GRPCError) as error:
        kubelet.run_pod(name="late", port_mappings=published(number))
    assert refused(error)[0] is Status.ALREADY_EXISTS
    assert f"{number}/tcp is taken by pod {pod_id[:13]}" in refused(error)[1]
    assert fetched(number) == "web"
    kubelet.end_pod(pod_id)
    assert "refused" in fetched(number)
    wait_for(lambda: str(number) not in rules(daemon), "the host port is gone")


def test_a_limited_pod_leaves_nothing(daemon: Daemon, kubelet: Kubelet):
    limits = {"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "20M"}
    pod_id = kubelet.run_pod(annotations=limits)
    shown = subprocess.run(["tc", "qdisc", "show"], capture_output=True, text=True, check=True, timeout=20).stdout
    assert "rate 10Mbit" in shown
    assert "rate 20Mbit" in shown
    kubelet.end_pod(pod_id)
    daemon.assert_no_leaks()
    with pytest.raises(GRPCError) as error:
        kubelet.run_pod(annotations={"kubernetes.io/egress-bandwidth": "very fast"})
    assert refused(error)[0] is Status.INVALID_ARGUMENT
    assert "egress bandwidth 'very fast'" in refused(error)[1]


# --- CNI -------------------------------------------------------------------------------------------------------------


class FakeNetwork:
    """A network of one plugin of our own making, for a daemon."""

    def __init__(self, daemon: Daemon, directory: Path) -> None:
        self.bin = directory
        self.conf = daemon.directory / "net.d"
        plugin = self.bin / "fake"
        plugin.write_text(FAKE.format(name="fake", directory=self.bin))
        plugin.chmod(0o755)

    def configure(self, version: str) -> None:
        self.conf.mkdir(exist_ok=True)
        document = {"cniVersion": version, "name": "testnet", "plugins": [{"type": "fake"}]}
        temporary = self.conf / "new"
        temporary.write_text(json.dumps(document))
        temporary.rename(self.conf / "10-test.conflist")

    def task(self, command: str, script: str) -> None:
        (self.bin / f"fake.{command}").write_text(script)

    def calls(self) -> list[str]:
        """Return "<command> <plugin> netns=[…]" of each call since the last time."""
        path = self.bin / "calls"
        text = path.read_text() if path.exists() else ""
        path.write_text("")
        return [" ".join(line.split()[:3]) for line in text.splitlines()]


@contextlib.contextmanager
def cni_daemon(stage: Stage, tmp_path: Path, version: str) -> Iterator[tuple[Daemon, Kubelet, FakeNetwork]]:
    boot = tmp_path / "boot_id"
    boot.write_text("00000000-0000-4000-8000-000000000001")
    config = {"network": {"cni_bin_dirs": [str(tmp_path)]}}
    with stage.daemon(config, prelude=BOOT.format(path=str(boot)), start=False) as one:
        network = FakeNetwork(one, tmp_path)
        network.configure(version)
        one.start()
        with one.client() as cri:
            yield one, Kubelet(cri, one.directory, one.cgroup_parent), network


def test_after_a_reboot_every_attachment_gets_its_del_at_once(
    stage: Stage, private_mounts: None, tmp_path: Path
) -> None:
    with cni_daemon(stage, tmp_path, "1.0.0") as (daemon, kubelet, network):
        pod_id = kubelet.run_pod()
        assert kubelet.addresses(pod_id) == ["10.9.0.7"]
        assert [call.split()[0] for call in network.calls()] == ["ADD"]
        daemon.kill()
        (tmp_path / "boot_id").write_text("00000000-0000-4000-8000-000000000002")
        mounts.unmount_below(str(daemon.run))

        daemon.start()

        wait_for(lambda: events(daemon, pod_events.NetworkDetached), "the network is detached")
        assert network.calls() == ["DEL fake netns=[]"]
        told = json.loads((tmp_path / "fake.DEL.stdin").read_text())
        assert told["prevResult"]["ips"] == [{"address": "10.9.0.7/16"}]
        (lost,) = events(daemon, pod_events.Lost)
        assert lost.network_gone
        status = kubelet.pod_status(pod_id)
        assert (status.state, status.network.ip) == (pb.SANDBOX_NOTREADY, "")
        kubelet.end_pod(pod_id)
        assert network.calls() == []


def test_what_a_check_finds_is_told_and_the_pod_lives_on(stage: Stage, private_mounts: None, tmp_path: Path) -> None:
    with cni_daemon(stage, tmp_path, "0.4.0") as (daemon, kubelet, network):
        pod_id = kubelet.run_pod()
        network.task("CHECK", """echo '{"code": 100, "msg": "no route"}'; exit 1\n""")
        daemon.kill()
        daemon.start()
        wait_for(lambda: events(daemon, node_events.NetworkFaulty), "the fault is told")
        (fault,) = events(daemon, node_events.NetworkFaulty)
        assert fault.pod_id == pod_id
        assert fault.message == "CNI network 'testnet': plugin 'fake' failed to CHECK: no route [code 100]"
        assert kubelet.pod_status(pod_id).state == pb.SANDBOX_READY
        kubelet.end_pod(pod_id)


def test_what_no_stream_names_is_freed_and_gc_told_who_is_left(
    stage: Stage, private_mounts: None, tmp_path: Path
) -> None:
    with cni_daemon(stage, tmp_path, "1.1.0") as (daemon, kubelet, network):
        pod_id = kubelet.run_pod()
        daemon.kill()
        ours = daemon.root / "cni" / f"{pod_id}.json"
        stranger = "f" * 64
        ours.with_name(f"{stranger}.json").write_bytes(ours.read_bytes())
        network.calls()

        daemon.start()

        assert [call.split()[0] for call in network.calls()][:2] == ["DEL", "GC"]
        told = json.loads((tmp_path / "fake.GC.stdin").read_text())
        assert told["cni.dev/valid-attachments"] == [{"containerID": pod_id, "ifname": "eth0"}]
        wait_for(lambda: events(daemon, node_events.OrphanFound), "the orphan is told")
        orphan = node_events.OrphanFound(kind="network attachment", name=stranger, action="removed")
        assert events(daemon, node_events.OrphanFound) == [orphan]
        kubelet.end_pod(pod_id)


def test_readiness_follows_the_configuration_and_the_status_of_plugins(
    stage: Stage, private_mounts: None, tmp_path: Path
) -> None:
    with cni_daemon(stage, tmp_path, "1.1.0") as (_, kubelet, network):
        wait_for(lambda: network_ready(kubelet)[0], "the network is ready")
        network.task("STATUS", """echo '{"code": 50, "msg": "no controller"}'; exit 1\n""")
        wait_for(lambda: not network_ready(kubelet)[0], "the network is not ready")
        assert "plugin 'fake' failed to STATUS: no controller [code 50]" in network_ready(kubelet)[1]
        (network.conf / "10-test.conflist").write_text("{")
        wait_for(lambda: "10-test.conflist" in network_ready(kubelet)[1], "the broken configuration is named")
        network.configure("1.0.0")
        wait_for(lambda: network_ready(kubelet)[0], "the network is ready")
