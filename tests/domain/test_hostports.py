"""Host ports: what a pod asks for, whose a port is, and the rules, word for word."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from ocid.domain import hostports
from ocid.domain.configs import PortMapping, Protocol
from ocid.domain.hostports import Held, HostPort
from ocid.domain.ipam import subnets_of
from ocid.errors import AlreadyExists, InvalidRequest

SUBNETS = subnets_of(("10.85.0.0/16", "fd00:85::/64"))
BOTH = ("10.85.0.2/16", "fd00:85::2/64")
GOLDEN = Path(__file__).with_name("hostports.nft")


def mapping(host_port: int, to: int = 80, protocol: Protocol = Protocol.TCP, host_ip: str = "") -> PortMapping:
    return PortMapping(protocol=protocol, container_port=to, host_port=host_port, host_ip=host_ip)


def held(*ports: HostPort, devices: tuple[str, ...] = ()) -> Held:
    return Held(ports={port.key: port for port in ports}, devices=devices)


def test_a_mapping_without_host_port_asks_for_nothing():
    assert hostports.host_ports("p", BOTH, [PortMapping(container_port=80)]) == ()
    assert not hostports.wanted([PortMapping(container_port=80)])


@pytest.mark.parametrize(
    ("host_ip", "keys"),
    [
        ("", [(4, "", "tcp", 8080), (6, "", "tcp", 8080)]),
        ("0.0.0.0", [(4, "", "tcp", 8080)]),
        ("::", [(6, "", "tcp", 8080)]),
        ("192.0.2.1", [(4, "192.0.2.1", "tcp", 8080)]),
        ("2001:DB8::0:1", [(6, "2001:db8::1", "tcp", 8080)]),
    ],
)
def test_a_host_address_decides_the_version(host_ip: str, keys: list[hostports.Key]):
    found = hostports.host_ports("p", BOTH, [mapping(8080, host_ip=host_ip)])
    assert [port.key for port in found] == keys


def test_a_host_address_of_a_version_that_the_pod_lacks_leads_nowhere():
    assert hostports.host_ports("p", ("10.85.0.2/16",), [mapping(80, host_ip="::1")]) == ()


def test_the_first_address_of_each_version_counts():
    addresses = ("10.85.0.2/16", "10.85.0.3/16", "fd00:85::2/64")
    assert [p.address for p in hostports.host_ports("p", addresses, [mapping(80)])] == ["10.85.0.2", "fd00:85::2"]


def test_of_a_cni_pod_it_is_known_how_it_is_reached():
    (port,) = hostports.host_ports("p", ("10.77.3.2/16",), [mapping(80)], "cni0")
    assert (port.device, port.near, port.address) == ("cni0", "10.77.0.0/16", "10.77.3.2")
    (port,) = hostports.host_ports("p", ("10.77.3.2",), [mapping(80)], "")
    assert (port.device, port.near) == ("", "10.77.3.2/32")


@pytest.mark.parametrize(
    ("mappings", "says"),
    [
        ([mapping(65536)], "wanted 1 to 65535"),
        ([mapping(-1)], "wanted 1 to 65535"),
        ([mapping(80, to=0)], "wanted 1 to 65535"),
        ([mapping(80, host_ip="localhost")], "'localhost' of a port mapping is no IP address"),
        ([mapping(80, host_ip="fe80::1%eth0")], "has a zone"),
        ([mapping(80, host_ip='1.2.3.4"; flush ruleset')], "is no IP address"),
        ([mapping(80, to=1), mapping(80, to=2)], "host port 80/tcp is to lead to the container ports 1 and 2"),
    ],
)
def test_what_cannot_be_is_refused(mappings: list[PortMapping], says: str):
    with pytest.raises(InvalidRequest, match=says):
        hostports.host_ports("p", BOTH, mappings)


def test_the_same_mapping_twice_is_one():
    assert len(hostports.host_ports("p", ("10.85.0.2/16",), [mapping(80), mapping(80)])) == 1


@pytest.mark.parametrize(
    ("theirs", "ours", "says"),
    [
        (mapping(80), mapping(80), r"host port \*:80/tcp is taken by pod other; stop that pod first"),
        (mapping(80), mapping(80, host_ip="192.0.2.1"), r"host port 192\.0\.2\.1:80/tcp is taken"),
        (mapping(80, host_ip="2001:db8::1"), mapping(80, host_ip="2001:db8::1"), r"\[2001:db8::1\]:80/tcp is taken"),
        (mapping(80, host_ip="192.0.2.1"), mapping(80), r"host port \*:80/tcp is taken"),
        (mapping(80, host_ip="192.0.2.1"), mapping(80, host_ip="192.0.2.2"), None),
        (mapping(80, host_ip="192.0.2.1"), mapping(80, host_ip="::"), None),
        (mapping(80), mapping(81), None),
        (mapping(80), mapping(80, protocol=Protocol.UDP), None),
    ],
)
def test_whose_a_port_is(theirs: PortMapping, ours: PortMapping, says: str | None):
    known = held(*hostports.host_ports("other", ("10.85.0.3/16", "fd00:85::3/64"), [theirs]))
    wanted = hostports.host_ports("p", BOTH, [ours])
    if says is None:
        hostports.refuse_taken(known, wanted)
    else:
        with pytest.raises(AlreadyExists, match=says):
            hostports.refuse_taken(known, wanted)
    hostports.refuse_taken(held(*wanted), wanted)  # one's own is not taken


def test_the_rules_word_for_word():
    """Written anew by deleting the file; what changed must then be read."""
    ports = [
        *hostports.host_ports("pod-a", BOTH, [mapping(8080), mapping(53, 5353, Protocol.UDP, "192.0.2.1")]),
        *hostports.host_ports("pod-b", ("10.77.0.5/16", "fd00:77::5/64"), [mapping(9, 9, Protocol.SCTP)], "cni0"),
    ]
    text = hostports.ruleset("ocid_ocid0", "ocid0", SUBNETS, held(*ports, devices=("cni0",)))
    if not GOLDEN.exists():
        GOLDEN.write_text(text)
        pytest.fail(f"{GOLDEN} was written; read it")
    assert text == GOLDEN.read_text()


def test_elements_that_others_share_are_kept():
    gone = hostports.host_ports("a", BOTH, [mapping(80, host_ip="192.0.2.1"), mapping(81)])
    rest = hostports.host_ports("b", ("10.85.0.3/16",), [mapping(80, host_ip="192.0.2.2")])
    assert hostports.elements("t", "delete", gone, rest).splitlines() == [
        "delete element inet t ports4_at { 192.0.2.1 . tcp . 80 : 10.85.0.2 . 80 }",
        "delete element inet t tcp_ports { 81 }",
        "delete element inet t ports4 { tcp . 81 : 10.85.0.2 . 80 }",
        "delete element inet t ports6 { tcp . 81 : fd00:85::2 . 80 }",
    ]


PORTS = st.builds(
    HostPort,
    pod_id=st.text("0123456789abcdef", min_size=64, max_size=64),
    protocol=st.sampled_from(hostports.PROTOCOLS),
    host_ip=st.sampled_from(["", "192.0.2.1"]),
    host_port=st.integers(1, 65535),
    address=st.just("10.85.0.2"),
    container_port=st.integers(1, 65535),
    device=st.sampled_from(["", "cni0", "a234567890.2345"]),
    near=st.sampled_from(["10.77.0.0/16"]),
) | st.builds(
    HostPort,
    pod_id=st.text("0123456789abcdef", min_size=64, max_size=64),
    protocol=st.sampled_from(hostports.PROTOCOLS),
    host_ip=st.just(""),
    host_port=st.integers(1, 65535),
    address=st.just("2001:db8:1111:2222:3333:4444:5555:6666"),
    container_port=st.integers(1, 65535),
)


@given(st.lists(PORTS, max_size=5))
def test_what_is_listed_is_what_was_added(ports: list[HostPort]):
    known = held(*ports, devices=("cni0",))
    items: list[object] = [{"set": {"name": "guarded", "elem": ["ocid0", "cni0"]}}, {"chain": {"name": "guard"}}]
    for port in known.ports.values():
        text = hostports.elements("t", "add", [port])
        comment = text.partition('comment "')[2].partition('"')[0]
        assert len(comment) <= 128
        key: list[object] = [port.protocol, port.host_port]
        name = f"ports{port.version}"
        if port.host_ip:
            key, name = [port.host_ip, *key], f"{name}_at"
        value = {"concat": [port.address, port.container_port]}
        element = {"elem": {"val": {"concat": key}, "comment": comment}}
        items.append({"map": {"name": name, "elem": [[element, value]]}})
    assert hostports.listed({"nftables": items}, "ocid0") == known


def test_elements_that_are_not_ours_are_passed_over():
    key, value = {"concat": ["tcp", 9]}, {"concat": ["10.1.1.1", 9]}
    tagged = {"elem": {"val": key, "comment": "pod"}}
    foreign = [
        [key, value],
        [{"elem": {"val": key, "counter": {}}}, value],
        ["192.0.2.1", "192.0.2.2"],
        [{"elem": {"val": "192.0.2.1", "comment": "pod"}}, "192.0.2.2"],
        [{"elem": {"val": {"concat": ["tcp"]}, "comment": "pod"}}, value],
        [{"elem": {"val": {"concat": ["tcp", {"range": [1, 9]}]}, "comment": "pod"}}, value],
        [tagged, {"concat": ["10.1.1.1"]}],
        [tagged, "10.1.1.1"],
        [None, None],
    ]
    assert hostports.listed({"nftables": [{"map": {"name": "ports4", "elem": foreign}}]}, "ocid0") == Held()


def test_nothing_listed_is_nothing_held():
    assert hostports.listed({}, "ocid0") == Held()
