"""Further networks: what an annotation asks for, what is refused, and what plugins are told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ocid.domain import cni, networks
from ocid.domain.configs import PortMapping, Protocol
from ocid.domain.networks import ANNOTATION, NETWORKS_MAX, Wish, wishes
from ocid.errors import InvalidRequest, Unsupported


def of(value: object) -> tuple[Wish, ...]:
    return wishes({ANNOTATION: value if isinstance(value, str) else json.dumps(value)})


def network(name: str, *capabilities: str) -> cni.NetworkList:
    plugin = {"type": "macvlan", "capabilities": dict.fromkeys(capabilities, True)}
    raw = json.dumps({"cniVersion": "1.0.0", "name": name, "plugins": [plugin]}).encode()
    return cni.parse(f"{name}.conflist", raw)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("  ", []),
        ("storage", [("storage", "net1")]),
        ("storage, backup", [("storage", "net1"), ("backup", "net2")]),
        ("storage,storage", [("storage", "net1"), ("storage", "net2")]),
        ("storage@data0,prod/backup@bak0", [("storage", "data0"), ("backup", "bak0")]),
        ("prod/storage", [("storage", "net1")]),
        (
            '[{"name": "storage", "namespace": "prod"}, {"name": "b", "interface": "x"}]',
            [("storage", "net1"), ("b", "x")],
        ),
        ("[]", []),
    ],
)
def test_names_and_interfaces(text: str, expected: list[tuple[str, str]]):
    found = of(text)
    assert [(wish.network, wish.interface) for wish in found] == expected
    assert [(one.name, one.interface) for one in networks.named(found)] == expected


def test_no_annotation_and_that_of_multus_are_no_wish():
    assert wishes({}) == wishes({"k8s.v1.cni.cncf.io/networks": "storage"}) == ()


def test_everything_that_an_object_may_say():
    (wish,) = of(
        [
            {
                "name": "storage",
                "interface": "data0",
                "ips": ["10.1.2.3/16", "FD00::3/64"],
                "mac": "02:00:00:00:00:0A",
                "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "UDP", "hostIP": "192.0.2.2"}],
                "bandwidth": {"ingressRate": 1000, "ingressBurst": 2000},
                "default-route": [],
            }
        ]
    )
    port = PortMapping(protocol=Protocol.UDP, container_port=80, host_port=8080, host_ip="192.0.2.2")
    assert wish == Wish(
        network="storage",
        interface="data0",
        ips=("10.1.2.3/16", "fd00::3/64"),
        mac="02:00:00:00:00:0A",
        ports=(port,),
        bandwidth={"ingressRate": 1000, "ingressBurst": 2000},
    )
    told = networks.capability_arguments(
        network("storage", "ips", "mac", "portMappings", "bandwidth"), wish, {"a": "b"}
    )
    assert told == {
        "ips": ["10.1.2.3/16", "fd00::3/64"],
        "mac": "02:00:00:00:00:0A",
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": "192.0.2.2"}],
        "bandwidth": {"ingressRate": 1000, "ingressBurst": 2000},
        "io.kubernetes.cri.pod-annotations": {"a": "b"},
    }
    with pytest.raises(InvalidRequest, match="no plugin of CNI network 'storage' has the capability 'mac'"):
        networks.capability_arguments(network("storage", "ips"), wish, {})


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (",", "wanted 'name'"),
        ("a,", "wanted 'name'"),
        ("/a", "wanted 'name'"),
        ("a@", "wanted 'name'"),
        ("a@eth0", "'eth0' twice"),
        ("a@lo", "'lo' twice"),
        ("a@x,b@x", "'x' twice"),
        ("a,b@net1", "'net1' twice"),
        ("a@sixteen-letters0", "the interface 'sixteen-letters0'"),
        ("a@../x", "the interface"),
        ("a@b@c", "the interface"),
        ("../a", "has the namespace"),
        ("a b", "names 'a b'"),
        ("a" * 64, "at most 63"),
        ("[", "no JSON list of objects"),
        (["a"], "no JSON list of objects"),
        ("[" * 10_000, "no JSON list of objects"),
        ([{}], "names None"),
        ([{"name": 7}], "names 7"),
        ([{"name": "a", "interface": ["x"]}], "the interface"),
        ([{"name": "a", "namespace": 3}], "has the namespace 3"),
        ([{"name": "a", "cni-args": {}}], "has the key 'cni-args'"),
        ([{"name": "a", "ips": "10.0.0.1/8"}], "has ips"),
        ([{"name": "a", "ips": ["nonsense"]}], "has ips"),
        ([{"name": "a", "ips": ["fe80::1%eth0/64"]}], "has ips"),
        ([{"name": "a", "ips": ["10.0.0.1/8"] * 33}], "has ips"),
        ([{"name": "a", "mac": "01:00:00:00:00:00"}], "has mac"),
        ([{"name": "a", "mac": 3}], "has mac"),
        ([{"name": "a", "portMappings": [{"hostPort": 0, "containerPort": 1}]}], "has a port"),
        ([{"name": "a", "portMappings": [{"hostPort": True, "containerPort": 1}]}], "has a port"),
        ([{"name": "a", "portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "icmp"}]}], "has a port"),
        ([{"name": "a", "portMappings": [{"hostPort": 1, "containerPort": 1, "hostIP": "x"}]}], "has a port"),
        ([{"name": "a", "portMappings": [{"hostPort": 1, "containerPort": 1, "x": 1}]}], "has a port"),
        ([{"name": "a", "portMappings": [{"hostPort": 1, "containerPort": 1}] * 257}], "at most 256"),
        ([{"name": "a", "bandwidth": {"rate": 1}}], "has bandwidth"),
        ([{"name": "a", "bandwidth": {"ingressRate": -1}}], "has bandwidth"),
        ([{"name": "a", "bandwidth": []}], "has bandwidth"),
        (",".join(["a"] * (NETWORKS_MAX + 1)), "names 9 networks, the limit is 8"),
        ("a" * 20_000, "has 20000 bytes"),
    ],
)
def test_what_is_refused(value: Any, fault: str):
    with pytest.raises(InvalidRequest, match=r"annotation network\.ocid/networks") as refused:
        of(value)
    assert fault in refused.value.message
    assert len(refused.value.message) < 500


def test_a_default_route_is_refused_as_not_supported():
    with pytest.raises(Unsupported, match="default-route"):
        of([{"name": "a", "default-route": ["10.0.0.1"]}])


def test_what_is_undone_is_what_was_declared():
    annotations = {ANNOTATION: '[{"name": "storage", "mac": "02:00:00:00:00:01"}]'}
    names = networks.named(wishes(annotations))
    assert networks.declared(annotations, names) == wishes(annotations)
    assert networks.declared(annotations, ()) == ()
    bare = (Wish(network="storage", interface="net1"),)
    assert networks.declared({ANNOTATION: "[broken"}, names) == networks.declared({}, names) == bare


def test_networks_by_name_are_all_valid_ones_the_first_file_wins():
    raw = {
        "20-b.conflist": b'{"cniVersion": "1.0.0", "name": "b", "plugins": [{"type": "one"}]}',
        "30-b.conflist": b'{"cniVersion": "1.0.0", "name": "b", "plugins": [{"type": "two"}]}',
        "10-broken.conflist": b"{",
        "05-a.conf": b'{"cniVersion": "0.4.0", "name": "a", "type": "three"}',
        "README": b'{"cniVersion": "1.0.0", "name": "c", "plugins": [{"type": "one"}]}',
    }
    found = networks.every(raw)
    assert {name: one.plugins[0].type for name, one in found.items()} == {"a": "three", "b": "one"}


def test_who_may_ask_for_a_network():
    assert networks.may_have("a", ["*"])
    assert networks.may_have("a", ["b", "a"])
    assert not networks.may_have("a", ["b"])
    assert not networks.may_have("a", [])
