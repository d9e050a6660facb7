"""The built-in network on the real kernel: pods reach each other and the world, and nothing of them is left."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import trio

from ocid.adapters import netlink
from ocid.adapters.bridge import Bridge
from ocid.adapters.links import index_of, loopback_up
from ocid.adapters.netlink import Netlink
from ocid.adapters.network import Networks
from ocid.domain.configs import PortMapping, Protocol
from ocid.errors import AlreadyExists, EffectFailed, InvalidRequest, NotFound
from tests.host.netfixtures import NODE_ADDRESSES, OUTSIDE_ADDRESSES, UPLINK_MTU, Node, in_node, note, sh, traces
from tests.host.nodes import SLOW

pytestmark = [pytest.mark.host, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """In place of the one for tests on the machine itself: these have nodes of their own."""
    yield
    assert traces() == set()


SUBNETS = ("10.222.0.0/16", "fd00:222::/64")
FIRST = ("10.222.0.2/16", "fd00:222::2/64")
SECOND = ("10.222.0.3/16", "fd00:222::3/64")


def links(netns_command: str = "") -> dict[str, dict]:
    return {link["ifname"]: link for link in json.loads(sh(f"{netns_command} ip -d -j addr show"))}


@in_node
async def test_two_pods_reach_each_other_the_node_and_the_outside(node: Node):
    bridge = Bridge("ocidt0", SUBNETS)
    one, two = node.order("one", FIRST), node.order("two", SECOND)

    attached = await bridge.attach(one)
    await bridge.attach(two)

    assert attached.addresses == ("10.222.0.2", "fd00:222::2")
    assert attached.via == "bridge"
    for address in ("10.222.0.3", "fd00:222::3", "10.222.0.1", "fd00:222::1", *OUTSIDE_ADDRESSES):
        node.sh_in(one.netns, f"busybox ping -c 1 -W 2 {address}")
    node.sh_in(two.netns, "busybox ping -c 1 -W 2 fd00:222::2")
    node.sh_in(two.netns, "busybox ping -c 1 -W 2 127.0.0.1")


@in_node
async def test_traffic_to_the_outside_is_masqueraded_and_among_pods_it_is_not(node: Node):
    bridge = Bridge("ocidt0", SUBNETS)
    one, two = node.order("one", FIRST), node.order("two", SECOND)
    await bridge.attach(one)
    await bridge.attach(two)
    with node.listen(node.outside, 7000) as outside, node.listen(two.netns, 7000) as inner:
        assert node.reaches(one.netns, OUTSIDE_ADDRESSES[0], outside) == NODE_ADDRESSES[0]
        assert node.reaches(one.netns, OUTSIDE_ADDRESSES[1], outside) == NODE_ADDRESSES[1]
        assert node.reaches(one.netns, "10.222.0.3", inner) == "10.222.0.2"
        assert node.reaches(one.netns, "fd00:222::3", inner) == "fd00:222::2"
        assert node.reaches(None, "10.222.0.3", inner) == "10.222.0.1"


@in_node
async def test_what_a_pod_finds(node: Node):
    bridge = Bridge("ocidt0", SUBNETS)
    order = node.order("one", FIRST)

    await bridge.attach(order)

    found = links(f"nsenter --net={order.netns}")
    assert set(found) == {"lo", "eth0"}
    assert "UP" in found["lo"]["flags"]
    assert found["eth0"]["mtu"] == UPLINK_MTU
    assert found["eth0"]["operstate"] == "UP"
    addresses = {f"{a['local']}/{a['prefixlen']}" for a in found["eth0"]["addr_info"] if a["scope"] == "global"}
    assert addresses == set(FIRST)
    assert not any(a.get("tentative") for a in found["eth0"]["addr_info"] if a["scope"] == "global")
    routes = json.loads(node.sh_in(order.netns, "ip -j route")) + json.loads(node.sh_in(order.netns, "ip -6 -j route"))
    assert {r["gateway"] for r in routes if r["dst"] == "default"} == {"10.222.0.1", "fd00:222::1"}
    accept_ra = node.sh_in(order.netns, "cat /proc/sys/net/ipv6/conf/eth0/accept_ra")
    assert accept_ra.strip() == "0"


@in_node
async def test_what_the_node_has(node: Node):
    bridge = Bridge("ocidt0", SUBNETS)
    order = node.order("one", FIRST)

    await bridge.attach(order)

    host = links()[order.interface]
    assert host["master"] == "ocidt0"
    assert host["promiscuity"] <= 1  # of the bridge itself, for learning
    assert "PROMISC" not in host["flags"]
    assert host["linkinfo"]["info_slave_data"]["hairpin"] is True
    assert host["linkinfo"]["info_slave_data"]["state"] == "forwarding"
    assert links()["ocidt0"]["mtu"] == UPLINK_MTU
    mac = links(f"nsenter --net={order.netns}")["eth0"]["address"]
    await bridge.detach(order)
    await bridge.attach(order)
    assert links(f"nsenter --net={order.netns}")["eth0"]["address"] == mac  # it goes with the address


@in_node
async def test_attach_and_detach_are_idempotent(node: Node):
    bridge = Bridge("ocidt0", SUBNETS)
    order = node.order("one", FIRST, port_mappings=(PortMapping(container_port=80, host_port=8080),))
    await bridge.detach(order)
    first = await bridge.attach(order)
    before = links()[order.interface]["ifindex"]

    again = await Bridge("ocidt0", SUBNETS).attach(order)

    assert again == first
    assert links()[order.interface]["ifindex"] == before
    node.sh_in(order.netns, "busybox ping -c 1 -W 2 10.222.0.1")
    for _ in range(2):
        await bridge.detach(order)
        assert order.interface not in links()
        assert set(links(f"nsenter --net={order.netns}")) == {"lo"}


CRASHES = {
    "an empty namespace": (),
    "the pair was made, down": ("ip link add {host} type veth peer name eth0 netns {netns}",),
    "the pair was made, a port": (
        "ip link add {host} type veth peer name eth0 netns {netns}",
        "ip link set {host} master ocidt0",
    ),
    "one address was set": (
        "ip link add {host} type veth peer name eth0 netns {netns}",
        "nsenter --net={netns} ip addr add 10.222.0.2/16 dev eth0",
    ),
    "all but the port": (
        "ip link add {host} type veth peer name eth0 netns {netns}",
        "nsenter --net={netns} ip addr add 10.222.0.2/16 dev eth0",
        "nsenter --net={netns} ip addr add fd00:222::2/64 dev eth0 nodad",
        "nsenter --net={netns} ip link set eth0 up",
        "nsenter --net={netns} ip route add default via 10.222.0.1",
    ),
    "the host's end leads elsewhere": ("ip link add {host} type veth peer name stray",),
    "the host's end is no veth": ("ip link add {host} type bridge",),
    "the pod's end is down": (),
}


@pytest.mark.parametrize("crash", CRASHES)
@in_node
async def test_a_half_attached_pod_is_finished(node: Node, crash: str):
    bridge = Bridge("ocidt0", SUBNETS)
    await bridge.prepare()
    order = node.order("one", FIRST)
    for command in CRASHES[crash]:
        sh(command.format(host=order.interface, netns=order.netns))
    if crash == "the pod's end is down":
        await bridge.attach(order)
        node.sh_in(order.netns, "ip link set eth0 down")
        sh(f"ip link set {order.interface} nomaster")

    await bridge.attach(order)

    for address in ("10.222.0.1", "fd00:222::1", OUTSIDE_ADDRESSES[0]):
        node.sh_in(order.netns, f"busybox ping -c 1 -W 2 {address}")
    await bridge.detach(order)
    assert order.interface not in links()


@in_node
async def test_a_namespace_that_is_gone(node: Node):
    bridge = Bridge("ocidt0", SUBNETS)
    gone = node.order("gone", FIRST, netns=str(node.directory / "nowhere"))
    with pytest.raises(NotFound, match="nowhere"):
        await bridge.attach(gone)
    await bridge.detach(gone)

    plain = node.order("plain", FIRST, netns=str(node.directory / "plain"))  # as after a reboot: the pin is no mount
    (node.directory / "plain").touch()
    with pytest.raises(EffectFailed, match="attaching pod"):
        await bridge.attach(plain)
    await bridge.detach(plain)

    lost = node.order("lost", SECOND)
    await bridge.attach(lost)
    sh(f"umount {lost.netns}")
    os.unlink(lost.netns)
    await bridge.detach(lost)
    assert lost.interface not in links()


@in_node
async def test_the_bridge_is_repaired(node: Node):
    bridge = Bridge("ocidt0", SUBNETS)
    one, two = node.order("one", FIRST), node.order("two", SECOND)
    await bridge.attach(one)
    sh("ip addr del 10.222.0.1/16 dev ocidt0")
    sh("ip link set ocidt0 down")
    sh("nft flush ruleset")
    sh("sysctl -q -w net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0")

    await bridge.attach(two)

    for pod in (one, two):
        for address in ("10.222.0.1", "fd00:222::1", *OUTSIDE_ADDRESSES):
            node.sh_in(pod.netns, f"busybox ping -c 1 -W 2 {address}")
    sh("ip link del ocidt0")
    await bridge.attach(one)
    node.sh_in(one.netns, "busybox ping -c 1 -W 2 10.222.0.1")


@in_node
async def test_an_interface_that_is_no_bridge_is_left_alone(node: Node):
    sh("ip link add ocidt0 type veth peer name other")
    with pytest.raises(EffectFailed, match="is no bridge"):
        await Bridge("ocidt0", SUBNETS).prepare()
    assert "ocidt0" in links()


@in_node
async def test_a_subnet_that_is_elsewhere_too_is_refused(node: Node):
    bridge = Bridge("ocidt0", SUBNETS)
    sh("ip link add other0 type bridge")
    sh("ip addr add 10.222.0.9/24 dev other0")
    sh("ip link set other0 up")
    with pytest.raises(EffectFailed, match=r"subnet 10\.222\.0\.0/16 is on interface 'other0', too"):
        await bridge.prepare()
    assert "is on interface 'other0'" in (bridge.not_ready() or "")
    network = networks(node)
    with pytest.raises(EffectFailed):
        await network.reconcile([], [])
    sh("ip link del other0")
    await bridge.prepare()
    assert bridge.not_ready() is None
    assert network.not_ready() is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(network.watch)
        with trio.fail_after(3 * SLOW):
            while network.not_ready() is not None:  # noqa: ASYNC110 (nothing tells of it)
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()


@in_node
async def test_a_router_advertising_uplink_keeps_its_default_route(node: Node):
    sh("sysctl -q -w net.ipv6.conf.uplink0.accept_ra=1")
    await Bridge("ocidt0", SUBNETS).prepare()
    assert sh("sysctl -n net.ipv6.conf.uplink0.accept_ra") == "2\n"


@in_node
async def test_two_daemons_do_not_disturb_each_other(node: Node):
    ours, theirs = Bridge("ocidt0", SUBNETS), Bridge("ocidt1", ("10.223.0.0/16",))
    sh("nft add table inet foreign")
    one, two = node.order("one", FIRST), node.order("two", ("10.223.0.2/16",))
    await ours.attach(one)
    await theirs.attach(two)

    await ours.remove_all()
    await ours.remove_all()

    node.sh_in(two.netns, f"busybox ping -c 1 -W 2 {OUTSIDE_ADDRESSES[0]}")
    assert sh("nft list tables").split("\n") == ["table inet foreign", "table inet ocid_ocidt1", ""]
    assert "ocidt0" not in links()
    await theirs.detach(two)
    await theirs.remove_all()
    await ours.detach(one)
    assert set(links()) == {"lo", "uplink0", "ocidt1"} - {"ocidt1"}
    assert sh("nft list tables") == "table inet foreign\n"


@pytest.mark.parametrize("addresses", [(), ("10.99.0.2/16",), ("10.222.0.2/24",), ("nonsense",), ("10.222.0.2",)])
@in_node
async def test_addresses_that_are_not_ours_are_refused(node: Node, addresses):
    with pytest.raises(InvalidRequest):
        await Bridge("ocidt0", SUBNETS).attach(node.order("one", addresses))


@pytest.mark.parametrize("name", ["", "0br", "br-0", "a" * 16, 'br"; flush ruleset'])
def test_a_bridge_name_that_does_not_fit_a_ruleset_is_refused(name):
    with pytest.raises(InvalidRequest, match="bridge name"):
        Bridge(name, SUBNETS)


@in_node
async def test_many_pods_at_once(node: Node):
    bridge = Bridge("ocidt0", SUBNETS)
    orders = [node.order(f"pod{n}", (f"10.222.1.{n}/16", f"fd00:222::1:{n}/64")) for n in range(1, 21)]
    async with trio.open_nursery() as nursery:
        for order in orders:
            nursery.start_soon(bridge.attach, order)
    for order in orders:
        node.sh_in(order.netns, "busybox ping -c 1 -W 2 10.222.1.1")
    async with trio.open_nursery() as nursery:
        for order in orders:
            nursery.start_soon(bridge.detach, order)
    assert set(links()) == {"lo", "uplink0", "ocidt0"}


@in_node
async def test_an_address_that_moves_to_another_pod_is_reached_at_once(node: Node):
    bridge = Bridge("ocidt0", SUBNETS)
    one, two, probe = node.order("one", FIRST), node.order("two", FIRST), node.order("probe", SECOND)
    await bridge.attach(probe)
    for pod in (one, two):
        await bridge.attach(pod)
        for address in ("10.222.0.2", "fd00:222::2"):
            node.sh_in(probe.netns, f"busybox ping -c 1 -W 1 {address}")
            sh(f"busybox ping -c 1 -W 1 {address}")
        await bridge.detach(pod)


# --- host ports ------------------------------------------------------------------------------------------------------


def networks(node: Node) -> Networks:
    """Return the network as a daemon that has just started has it."""
    nowhere = node.directory / "nowhere"
    return Networks(cni_conf_dir=nowhere, cni_bin_dirs=(), cni_state_dir=nowhere, bridge="ocidt0", subnets=SUBNETS)


def tcp(host_port: int, host_ip: str = "") -> PortMapping:
    return PortMapping(protocol=Protocol.TCP, container_port=80, host_port=host_port, host_ip=host_ip)


@in_node
async def test_a_host_port_leads_to_the_pod_from_everywhere(node: Node):
    bridge = Bridge("ocidt0", SUBNETS)
    one, two = node.order("one", FIRST, port_mappings=(tcp(8080),)), node.order("two", SECOND)
    await bridge.attach(one)
    await bridge.attach(two)
    with node.listen(one.netns, 80) as server:
        assert node.reaches(node.outside, NODE_ADDRESSES[0], server, 8080) == OUTSIDE_ADDRESSES[0]
        assert node.reaches(node.outside, NODE_ADDRESSES[1], server, 8080) == OUTSIDE_ADDRESSES[1]
        for pod in (one, two):
            assert node.reaches(pod.netns, NODE_ADDRESSES[0], server, 8080) == "10.222.0.1"
            assert node.reaches(pod.netns, NODE_ADDRESSES[1], server, 8080) == "fd00:222::1"
        assert node.reaches(None, "127.0.0.1", server, 8080) == "10.222.0.1"
        assert node.reaches(None, NODE_ADDRESSES[0], server, 8080)
        assert node.reaches(None, NODE_ADDRESSES[1], server, 8080)
        await bridge.detach(two)
        assert node.reaches(node.outside, NODE_ADDRESSES[0], server, 8080)
    await bridge.detach(one)
    with pytest.raises(OSError):
        node.connect(node.outside, NODE_ADDRESSES[0], 8080, timeout=0.5)
    assert one.pod_id not in sh("nft list ruleset")


@in_node
async def test_a_host_port_of_one_address_leads_from_there_only(node: Node):
    bridge = Bridge("ocidt0", SUBNETS)
    sh("ip addr add 192.0.2.77/24 dev uplink0")
    one = node.order("one", FIRST, port_mappings=(tcp(8080, "192.0.2.77"),))
    two = node.order("two", SECOND, port_mappings=(tcp(8080, NODE_ADDRESSES[0]),))
    await bridge.attach(one)
    await bridge.attach(two)
    with node.listen(one.netns, 80) as first, node.listen(two.netns, 80) as second:
        assert node.reaches(node.outside, "192.0.2.77", first, 8080)
        assert node.reaches(node.outside, NODE_ADDRESSES[0], second, 8080)
        with pytest.raises(OSError):
            node.connect(node.outside, NODE_ADDRESSES[1], 8080, timeout=0.5)
        await bridge.detach(one)
        assert node.reaches(two.netns, NODE_ADDRESSES[0], second, 8080)  # shares its port number with the other's


@in_node
async def test_udp_host_ports(node: Node):
    bridge = Bridge("ocidt0", SUBNETS)
    mapping = PortMapping(protocol=Protocol.UDP, container_port=53, host_port=5353)
    one = node.order("one", FIRST, port_mappings=(mapping,))
    await bridge.attach(one)

    def udp() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.settimeout(2)
        return made

    with node.within(one.netns, udp) as server, node.within(node.outside, udp) as client:
        server.bind(("10.222.0.2", 53))
        client.sendto(b"?", (NODE_ADDRESSES[0], 5353))
        question, peer = server.recvfrom(9)
        server.sendto(b"!", peer)
        assert (question, client.recvfrom(9)) == (b"?", (b"!", (NODE_ADDRESSES[0], 5353)))


@in_node
async def test_pods_cannot_reach_the_loopback_of_the_node(node: Node):
    bridge = Bridge("ocidt0", SUBNETS)
    one = node.order("one", FIRST, port_mappings=(tcp(8080),))
    await bridge.attach(one)
    assert sh("sysctl -n net.ipv4.conf.ocidt0.route_localnet") == "1\n"
    with socket.create_server(("127.0.0.1", 7777)):
        node.sh_in(one.netns, "ip addr del 127.0.0.1/8 dev lo")
        node.sh_in(one.netns, "sysctl -q -w net.ipv4.conf.all.route_localnet=1")
        node.sh_in(one.netns, "ip route add 127.0.0.1 via 10.222.0.1 dev eth0 src 10.222.0.2")
        with pytest.raises(OSError):
            node.connect(one.netns, "127.0.0.1", 7777, timeout=0.5)


@in_node
async def test_a_host_port_that_another_pod_has_is_refused(node: Node):
    bridge = Bridge("ocidt0", SUBNETS)
    one = node.order("one", FIRST, port_mappings=(tcp(8080),))
    two = node.order("two", SECOND, port_mappings=(tcp(8080),))
    await bridge.attach(one)
    with pytest.raises(AlreadyExists, match="8080/tcp is taken by pod"):
        await bridge.attach(two)
    await bridge.detach(two)
    await bridge.detach(one)
    await bridge.attach(two)


@in_node
async def test_host_ports_survive_the_daemon_and_a_flushed_ruleset(node: Node):
    one = node.order("one", FIRST, port_mappings=(tcp(8080), tcp(9090, NODE_ADDRESSES[1])))
    dead = node.order("dead", SECOND, port_mappings=(tcp(7070),))
    first = Bridge("ocidt0", SUBNETS)
    await first.attach(one)
    await first.attach(dead)

    second = Bridge("ocidt0", SUBNETS)  # the daemon came back
    with pytest.raises(AlreadyExists):
        await second.attach(node.order("three", ("10.222.0.4/16",), port_mappings=(tcp(8080),)))
    sh("nft flush ruleset")
    await second.prepare()

    with node.listen(one.netns, 80) as server:
        assert node.reaches(node.outside, NODE_ADDRESSES[0], server, 8080)
        assert node.reaches(node.outside, NODE_ADDRESSES[1], server, 9090)
        assert dead.pod_id in sh("nft list ruleset")
        await networks(node).reconcile([one], [])
        assert dead.pod_id not in sh("nft list ruleset")
        assert node.reaches(node.outside, NODE_ADDRESSES[0], server, 8080)


@in_node
async def test_a_daemon_with_other_subnets_writes_its_own_rules(node: Node):
    await Bridge("ocidt0", SUBNETS).prepare()

    await Bridge("ocidt0", ("10.223.0.0/16",)).prepare()

    rules = sh("nft list table inet ocid_ocidt0")
    assert "10.223.0.0/16" in rules
    assert "10.222.0.0/16" not in rules


# --- numbers ---------------------------------------------------------------------------------------------------------


@in_node
async def test_attach_and_detach_are_fast(node: Node):
    bridge = Bridge("ocidt0", SUBNETS)
    await bridge.prepare()
    attach: list[float] = []
    detach: list[float] = []
    for number in range(30):
        order = node.order(f"pod{number}", (f"10.222.2.{number + 2}/16", f"fd00:222::2:{number + 2}/64"))
        begin = time.perf_counter()
        await bridge.attach(order)
        attach.append((time.perf_counter() - begin) * 1000)
        begin = time.perf_counter()
        await bridge.detach(order)
        detach.append((time.perf_counter() - begin) * 1000)

    numbers = f"bridge: attach p50 {statistics.median(attach):.2f} ms, detach p50 {statistics.median(detach):.2f} ms"
    note(numbers)
    assert statistics.median(attach) < 50 * SLOW, numbers
    assert statistics.median(detach) < 50 * SLOW, numbers


@in_node
async def test_a_refusal_names_the_request_and_the_kernels_reason(node: Node):
    with Netlink() as socket_:
        assert socket_.link("lo") is not None
        assert socket_.link("nowhere") is None
        assert socket_.link_at(9999) is None
        with pytest.raises(netlink.Refused, match="setting up interface nowhere: No such device"):
            socket_.run(netlink.set_link("lo", up=True), netlink.set_link("nowhere", up=True))
        with pytest.raises(netlink.Refused, match=r"adding default route via 9\.9\.9\.9: .*: "):
            socket_.run(netlink.add_default_route(1, ipaddress.ip_address("9.9.9.9")))
        assert socket_.link("lo") is not None


@in_node
async def test_what_a_pod_on_a_cni_network_needs_is_had_without_pyroute2(node: Node):
    netns = node.netns("pod")

    def bring_up() -> tuple[int | None, int | None]:
        loopback_up()
        return index_of("lo"), index_of("eth0")

    assert node.within(netns, bring_up) == (1, None)
    assert "UP" in links(f"nsenter --net={netns}")["lo"]["flags"]


def test_pyroute2_is_imported_with_the_first_request_only():
    program = "import sys, ocid.main, ocid.adapters.network; print('pyroute2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "False\n"
