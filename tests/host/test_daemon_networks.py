"""A real daemon with pods on several CNI networks, killed in the middle of attaching them."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.networks import ANNOTATION
from tests.host import daemon as host
from tests.host.cnifixtures import PLUGINS
from tests.host.daemon import IMAGE, Daemon, Kubelet, Stage, refused, wait_for

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(120),
    pytest.mark.skipif(Path() == PLUGINS, reason="needs containernetworking-plugins"),
]
stage, nothing_leaks = host.stage, host.nothing_leaks

SLOW = """#!/bin/sh
# Passes on to ptp; an ADD waits first, while there is a file that says so.
[ "$CNI_COMMAND" = ADD ] && touch {directory}/began
while [ "$CNI_COMMAND" = ADD ] && [ -e {directory}/wait ]; do sleep 0.05; done
exec {ptp}
"""


@contextlib.contextmanager
def serving(stage: Stage, tmp_path: Path, further: list[str]) -> Iterator[tuple[Daemon, Kubelet]]:
    """A daemon whose pods are on a point-to-point network, and may be on another one."""
    slow = tmp_path / "slow"
    slow.write_text(SLOW.format(directory=tmp_path, ptp=PLUGINS / "ptp"))
    slow.chmod(0o755)
    network = {"cni_bin_dirs": [str(tmp_path), str(PLUGINS)], "further": further}
    with stage.daemon({"network": network}, start=False) as one:
        (one.directory / "net.d").mkdir()
        for name, kind, subnet in (("first", "ptp", "10.91.0.0/24"), ("storage", "slow", "10.92.0.0/24")):
            ipam = {"type": "host-local", "dataDir": str(tmp_path / "leases"), "ranges": [[{"subnet": subnet}]]}
            plugin = {"type": kind, "ipam": ipam}
            document = {"cniVersion": "1.0.0", "name": name, "plugins": [plugin]}
            (one.directory / "net.d" / f"10-{name}.conflist").write_text(json.dumps(document))
        one.start()
        with one.client() as cri:
            kubelet = Kubelet(cri, one.directory, one.cgroup_parent)
            kubelet.call("PullImage", image=pb.ImageSpec(image=IMAGE))
            yield one, kubelet
        one.check_log()


def leases(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "leases").rglob("10.*")}


def test_a_pod_on_two_networks(stage: Stage, private_mounts: None, tmp_path: Path) -> None:
    with serving(stage, tmp_path, ["storage"]) as (daemon, kubelet):
        pod_id = kubelet.run_pod(annotations={ANNOTATION: "storage@data0"})
        (address,) = kubelet.addresses(pod_id)
        assert address.startswith("10.91.0."), "the further network's address is no pod address"
        container_id = kubelet.start(pod_id, "sleep", "1000")
        assert "10.92.0." in kubelet.sh(container_id, "ip -o -4 addr show data0")
        info = json.loads(kubelet.call("PodSandboxStatus", pod_sandbox_id=pod_id, verbose=True).info["info"])
        (further,) = info["furtherNetworks"]
        assert (further["network"], further["interface"]) == ("storage", "data0")
        assert leases(tmp_path) == {address, *further["addresses"]}

        def interfaces() -> set[str]:
            usage = kubelet.call("PodSandboxStats", pod_sandbox_id=pod_id).stats.linux.network
            return {usage.default_interface.name, *(one.name for one in usage.interfaces)}

        wait_for(lambda: interfaces() == {"eth0", "data0"}, "the statistics have both interfaces", 30)
        daemon.kill()
        daemon.start()
        kubelet.end_pod(pod_id)
        assert leases(tmp_path) == set()
        assert os.listdir(daemon.root / "cni") == []


def test_killed_between_two_networks(stage: Stage, private_mounts: None, tmp_path: Path) -> None:
    """The daemon dies in the second ADD; the kubelet's retry joins the pod, which then has both, once."""
    with serving(stage, tmp_path, ["*"]) as (daemon, kubelet):
        (tmp_path / "wait").touch()
        config = kubelet.pod_config(annotations={ANNOTATION: "storage"})

        def ask() -> None:
            with contextlib.suppress(Exception), daemon.client() as other:
                Kubelet(other, daemon.directory, daemon.cgroup_parent).run_pod(config)

        asking = threading.Thread(target=ask)
        asking.start()
        wait_for((tmp_path / "began").exists, "the second network is being attached", 30)
        daemon.kill()
        asking.join(20)
        (tmp_path / "wait").unlink()
        daemon.start()
        pod_id = kubelet.run_pod(config)
        assert len(leases(tmp_path)) == 2
        kubelet.end_pod(pod_id)
        assert leases(tmp_path) == set()
        assert os.listdir(daemon.root / "cni") == []


def test_a_network_that_is_not_offered_is_refused(stage: Stage, private_mounts: None, tmp_path: Path) -> None:
    with serving(stage, tmp_path, []) as (_, kubelet):
        with pytest.raises(GRPCError) as error:
            kubelet.run_pod(annotations={ANNOTATION: "storage"})
        assert refused(error)[0] is Status.INVALID_ARGUMENT
        assert "CNI network 'storage' is not in [network] further" in refused(error)[1]
        assert not kubelet.call("ListPodSandbox").items
