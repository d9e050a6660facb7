"""Host ports in all their corners: of CNI pods, of every protocol, of pods that come, go and are gone."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterator

import pytest
import trio

from ocid.adapters.bridge import Bridge
from ocid.adapters.network import Networks
from ocid.domain.configs import PortMapping, Protocol
from ocid.errors import AlreadyExists
from tests.host.cnifixtures import PLUGINS, Fixture
from tests.host.netfixtures import NODE_ADDRESSES, OUTSIDE_ADDRESSES, Node, in_node, sh, traces
from tests.host.nodes import SLOW

pytestmark = [pytest.mark.host, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
needs_plugins = pytest.mark.skipif(not (PLUGINS / "bridge").exists(), reason="needs containernetworking-plugins")

SUBNETS = ("10.222.0.0/16", "fd00:222::/64")
FIRST = ("10.222.0.2/16", "fd00:222::2/64")
SECOND = ("10.222.0.3/16", "fd00:222::3/64")
TABLE = "nft list table inet ocid_ocidt0"


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """In place of the one for tests on the machine itself: these have nodes of their own."""
    yield
    assert traces() == set()


def port(host_port: int, protocol: Protocol = Protocol.TCP, to: int = 80, host_ip: str = "") -> PortMapping:
    return PortMapping(protocol=protocol, container_port=to, host_port=host_port, host_ip=host_ip)


# --- of CNI pods -----------------------------------------------------------------------------------------------------


@needs_plugins
@in_node
async def test_a_cni_pod_without_portmap_is_reached_from_everywhere(node: Node):
    network = Fixture(node).real()
    one = node.order("one", network="cni", port_mappings=(port(8080),))
    two = node.order("two", network="cni")
    first = await network.attach(one)
    await network.attach(two)
    sh("sysctl -q -w net.ipv6.conf.all.forwarding=1")
    for netns in (one.netns, two.netns, "/proc/self/ns/net"):  # the bridge plugin leaves address detection on
        with trio.fail_after(10 * SLOW):
            while "inet6" in node.sh_in(netns, "ip -6 addr show tentative"):  # noqa: ASYNC110
                await trio.sleep(0.1)
    with node.listen(one.netns, 80) as server:
        assert node.reaches(node.outside, NODE_ADDRESSES[0], server, 8080) == OUTSIDE_ADDRESSES[0]
        assert node.reaches(None, "127.0.0.1", server, 8080) == "10.77.0.1"
        assert node.reaches(None, NODE_ADDRESSES[0], server, 8080)
        for pod in (one, two):
            assert node.reaches(pod.netns, NODE_ADDRESSES[0], server, 8080) == "10.77.0.1"
            assert node.reaches(pod.netns, NODE_ADDRESSES[1], server, 8080) == "fd00:77::1"
        assert node.reaches(node.outside, NODE_ADDRESSES[1], server, 8080) == OUTSIDE_ADDRESSES[1]
        await network.detach(one, first.result)
        with pytest.raises(OSError):
            node.connect(node.outside, NODE_ADDRESSES[0], 8080, timeout=0.3)
    left = sh(TABLE)
    assert one.pod_id not in left
    assert "8080" not in left
    assert '"ocidc0"' in left  # still let pass 127.0.0.1, so still guarded


@needs_plugins
@in_node
async def test_cni_pods_cannot_reach_the_loopback_of_the_node(node: Node):
    network = Fixture(node).real()
    one = node.order("one", network="cni", port_mappings=(port(8080),))
    await network.attach(one)
    assert sh("sysctl -n net.ipv4.conf.ocidc0.route_localnet") == "1\n"
    with socket.create_server(("127.0.0.1", 7777)):
        node.sh_in(one.netns, "ip addr del 127.0.0.1/8 dev lo")
        node.sh_in(one.netns, "sysctl -q -w net.ipv4.conf.all.route_localnet=1")
        node.sh_in(one.netns, "ip route add 127.0.0.1 via 10.77.0.1 dev eth0 src 10.77.0.2")
        with pytest.raises(OSError):
            node.connect(one.netns, "127.0.0.1", 7777, timeout=0.5)


@needs_plugins
@in_node
async def test_where_a_plugin_maps_ports_ours_stay_out(node: Node):
    network = Fixture(node).real({"type": "portmap", "capabilities": {"portMappings": True}})
    one = node.order("one", network="cni", port_mappings=(port(8080),))
    attached = await network.attach(one)
    with node.listen(one.netns, 80) as server:
        assert node.reaches(node.outside, NODE_ADDRESSES[0], server, 8080) == OUTSIDE_ADDRESSES[0]
    assert "ocid_" not in sh("nft list tables")
    await Fixture(node).daemon().reconcile([one], [])
    assert "ocid_" not in sh("nft list tables")
    await network.detach(one, attached.result)


@needs_plugins
@in_node
async def test_the_ports_of_cni_pods_are_reconciled_when_the_daemon_returns(node: Node):
    fixture = Fixture(node)
    network = fixture.real()
    live = node.order("live", network="cni", port_mappings=(port(8080),))
    dead = node.order("dead", network="cni", port_mappings=(port(9090),))
    for order in (live, dead):
        await network.attach(order)
    sh('nft add element inet ocid_ocidt0 ports4 { tcp . 7070 comment "stranger" : 10.77.0.9 . 1 }'.replace('"', ""))

    again = fixture.daemon()
    assert await again.reconcile([live], []) == (dead.pod_id,)

    rules = sh(TABLE)
    assert live.pod_id in rules
    assert dead.pod_id not in rules
    assert "7070" not in rules
    with node.listen(live.netns, 80) as server:
        assert node.reaches(node.outside, NODE_ADDRESSES[0], server, 8080) == OUTSIDE_ADDRESSES[0]
        assert node.reaches(live.netns, NODE_ADDRESSES[0], server, 8080) == "10.77.0.1"
        assert node.reaches(None, "127.0.0.1", server, 8080)
    third = node.order("third", network="cni", port_mappings=(port(8080),))
    with pytest.raises(AlreadyExists, match=f"8080/tcp is taken by pod {live.pod_id[:13]}"):
        await again.attach(third)
    await again.detach(third, None)
    await again.detach(live, None)
    assert "8080" not in sh(TABLE)


@needs_plugins
@in_node
async def test_a_daemon_that_could_not_reconcile_reads_back_what_it_had(node: Node):
    fixture = Fixture(node)
    network = fixture.real()
    one = node.order("one", network="cni", port_mappings=(port(8080), port(9090, host_ip=NODE_ADDRESSES[1])))
    await network.attach(one)
    before = sh(TABLE)

    again = fixture.daemon()
    await again.attach(one)  # adopted: writes the whole table from what was read

    assert sorted(sh(TABLE).split()) == sorted(before.split())
    await again.detach(one, None)
    assert one.pod_id not in sh(TABLE)


@in_node
async def test_a_table_that_somebody_changed_is_written_anew(node: Node):
    network = bridges(node)
    one = node.order("one", FIRST, port_mappings=(port(8080),))
    two = node.order("two", SECOND, port_mappings=(port(9090),))
    await network.attach(one)
    for name in ("tcp_ports", "ports4", "ports6"):
        kind = "map" if name.startswith("ports") else "set"
        sh(f"nft flush {kind} inet ocid_ocidt0 {name}")

    await network.attach(two)
    await network.detach(one, None)

    with node.listen(two.netns, 80) as server:
        assert node.reaches(node.outside, NODE_ADDRESSES[0], server, 9090)
    sh("nft add element inet ocid_ocidt0 ports4 { tcp . 7070 : 10.222.0.9 . 1 }")
    three = node.order("three", ("10.222.0.4/16",), port_mappings=(port(7070),))
    await network.attach(three)
    with node.listen(three.netns, 80) as server:
        assert node.reaches(node.outside, NODE_ADDRESSES[0], server, 7070)


# --- of every kind ---------------------------------------------------------------------------------------------------


def bridges(node: Node) -> Networks:
    nowhere = node.directory / "nowhere"
    return Networks(cni_conf_dir=nowhere, cni_bin_dirs=(), cni_state_dir=nowhere, bridge="ocidt0", subnets=SUBNETS)


@in_node
async def test_a_port_of_every_address_excludes_that_port_of_one_address(node: Node):
    bridge = Bridge("ocidt0", SUBNETS)
    wide = node.order("wide", FIRST, port_mappings=(port(8080),))
    narrow = node.order("narrow", SECOND, port_mappings=(port(8080, host_ip=NODE_ADDRESSES[0]),))
    await bridge.attach(wide)
    with pytest.raises(AlreadyExists, match=rf"{NODE_ADDRESSES[0]}:8080/tcp is taken by pod {wide.pod_id[:13]}"):
        await bridge.attach(narrow)
    await bridge.detach(wide)
    await bridge.attach(narrow)
    with pytest.raises(AlreadyExists, match=rf"\*:8080/tcp is taken by pod {narrow.pod_id[:13]}"):
        await bridge.attach(wide)


@in_node
async def test_the_same_number_of_another_protocol_or_version_is_another_port(node: Node):
    network = bridges(node)
    mappings = (port(53), port(53, Protocol.UDP, 53), port(54, host_ip="0.0.0.0"))
    one = node.order("one", FIRST, port_mappings=mappings)
    two = node.order("two", SECOND, port_mappings=(port(53, Protocol.SCTP), port(54, host_ip="::")))
    await network.attach(one)
    await network.attach(two)
    with node.listen(one.netns, 80) as first, node.listen(two.netns, 80) as second:
        assert node.reaches(node.outside, NODE_ADDRESSES[0], first, 54)
        assert node.reaches(node.outside, NODE_ADDRESSES[1], second, 54)
        await network.detach(two, None)
        assert node.reaches(node.outside, NODE_ADDRESSES[0], first, 54)
        assert node.reaches(node.outside, NODE_ADDRESSES[1], first, 53)


@in_node
async def test_a_port_of_the_loopback_address_is_for_the_node_alone(node: Node):
    network = bridges(node)
    one = node.order("one", FIRST, port_mappings=(port(8080, host_ip="127.0.0.1"),))
    await network.attach(one)
    with node.listen(one.netns, 80) as server:
        assert node.reaches(None, "127.0.0.1", server, 8080) == "10.222.0.1"
        with pytest.raises(OSError):
            node.connect(node.outside, NODE_ADDRESSES[0], 8080, timeout=0.3)


def udp(family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.settimeout(2)
    return made


@pytest.mark.parametrize("many", [0, 50])
@pytest.mark.parametrize("version", [0, 1], ids=["ipv4", "ipv6"])
@in_node
async def test_a_udp_flow_follows_its_host_port_to_the_next_pod(node: Node, version: int, many: int):
    """A client that always asks from the same port, as resolvers do, must not go on asking a pod that is gone."""
    bridge = Bridge("ocidt0", SUBNETS)
    more = tuple(port(6000 + number, Protocol.UDP, 53) for number in range(many))
    family = (socket.AF_INET, socket.AF_INET6)[version]
    with node.within(node.outside, lambda: udp(family)) as client:
        client.bind(("", 4000))
        client.sendto(b"?", (NODE_ADDRESSES[version], 5353))  # before there is any pod: the node has the flow
        for number, addresses in enumerate((FIRST, SECOND)):
            pod = node.order(f"pod{number}", addresses, port_mappings=(port(5353, Protocol.UDP, 53), *more))
            await bridge.attach(pod)
            with node.within(pod.netns, lambda: udp(family)) as server:
                server.bind(("", 53))
                client.sendto(b"?", (NODE_ADDRESSES[version], 5353))
                question, peer = server.recvfrom(9)
                server.sendto(f"from {number}".encode(), peer)
                while True:
                    try:
                        answer = client.recvfrom(9)[0]
                        break
                    except ConnectionRefusedError:
                        pass
                assert (question, answer) == (b"?", f"from {number}".encode())
            await bridge.detach(pod)


def crc32c(data: bytes) -> int:
    """RFC 9260, appendix A."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def sctp_init(host_port: int) -> bytes:
    """An INIT chunk: what opens an SCTP association. RFC 9260, 3.3.2."""
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 0x12345678, 65535, 1, 1, 1)
    header = struct.pack("!HHI", 4000, host_port, 0)
    return header + struct.pack("<I", crc32c(header + bytes(4) + chunk)) + chunk


@in_node
async def test_sctp_host_ports(node: Node):
    """Through raw sockets, so that it needs no SCTP in the kernel but that of the rules."""
    bridge = Bridge("ocidt0", SUBNETS)
    pod = node.order("one", FIRST, port_mappings=(port(5000, Protocol.SCTP, 132),))
    await bridge.attach(pod)

    def raw() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP)

    with node.within(pod.netns, raw) as server, node.within(node.outside, raw) as client:
        client.sendto(sctp_init(5000), (NODE_ADDRESSES[0], 0))
        assert select.select([server], [], [], 2)[0], "the pod got no INIT"
        packet = server.recv(200)
        source, target = struct.unpack_from("!HH", packet, (packet[0] & 15) * 4)
        assert (source, target) == (4000, 132)


@in_node
async def test_thousands_of_ports_cost_no_more_than_their_elements(node: Node):
    bridge = Bridge("ocidt0", SUBNETS)
    many = node.order("many", FIRST, port_mappings=tuple(port(10_000 + number) for number in range(2_000)))
    one = node.order("one", SECOND, port_mappings=(port(8080),))
    await bridge.attach(many)
    await bridge.attach(one)
    rules = sum(1 for line in sh(TABLE).splitlines() if "masquerade" in line or "dnat ip" in line)
    assert rules < 30
    with node.listen(many.netns, 80) as server:
        assert node.reaches(node.outside, NODE_ADDRESSES[1], server, 11_999)
    await bridge.detach(many)
    assert "11999" not in sh(TABLE)
