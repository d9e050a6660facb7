"""Pods on several networks: what the kubelet is told, what an operator is, and what is refused."""

from __future__ import annotations

import json

import pytest
from grpclib.const import Status

from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.networks import ANNOTATION
from ocid.events import pod
from ocid.projections.words import words
from tests.cri.daemon import Daemon, refused
from tests.fakes.pods import FakeNetwork


@pytest.fixture
async def on_cni(daemon: Daemon) -> Daemon:
    """The daemon, with a CNI network configured."""
    network = daemon.core.host.network
    assert isinstance(network, FakeNetwork)
    network._cni = True
    return daemon


async def test_addresses_of_further_networks_are_no_pod_addresses(on_cni: Daemon) -> None:
    pod_id = await on_cni.run_pod(annotations={ANNOTATION: "storage,backup@bak0"})
    request = pb.PodSandboxStatusRequest(pod_sandbox_id=pod_id, verbose=True)
    response = await on_cni.client.PodSandboxStatus(request)

    assert response.status.network == pb.PodSandboxNetworkStatus(ip="10.85.0.2")
    info = json.loads(response.info["info"])
    assert info["furtherNetworks"] == [
        {"network": "storage", "interface": "net1", "addresses": ["10.85.0.3"]},
        {"network": "backup", "interface": "bak0", "addresses": ["10.85.0.4"]},
    ]
    declared, *attached = (one.event for one in on_cni.log(pod.Declared, pod.FurtherNetworkAttached))
    assert "cni network and storage (net1), backup (bak0)" in words(declared)
    assert [words(one) for one in attached] == [
        "network 'storage' attached as net1: 10.85.0.3",
        "network 'backup' attached as bak0: 10.85.0.4",
    ]


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("nobody", Status.INVALID_ARGUMENT, "'nobody' is not configured"),
        ("a@eth0", Status.INVALID_ARGUMENT, "annotation network.ocid/networks gives the interface 'eth0' twice"),
        ('[{"name": "storage", "default-route": ["10.0.0.1"]}]', Status.UNIMPLEMENTED, "default-route"),
    ],
)
async def test_what_is_refused_makes_no_pod(on_cni: Daemon, text: str, code: Status, says: str) -> None:
    with refused(code, says):
        await on_cni.run_pod(annotations={ANNOTATION: text})
    assert on_cni.log(pod.Declared) == []


async def test_as_many_networks_as_there_may_be(on_cni: Daemon) -> None:
    names = ",".join(["storage"] * 8)
    await on_cni.run_pod(annotations={ANNOTATION: names})
    (declared,) = on_cni.log(pod.Declared)
    assert isinstance(declared.event, pod.Declared)
    assert [one.interface for one in declared.event.networks] == [f"net{number}" for number in range(1, 9)]


async def test_the_built_in_network_has_no_further_ones(daemon: Daemon) -> None:
    with refused(Status.INVALID_ARGUMENT, "storage"):
        await daemon.run_pod(annotations={ANNOTATION: "storage"})
    assert daemon.log(pod.Declared) == []
