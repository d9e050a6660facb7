"""How fast pods of the built-in network may talk, measured."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from ocid.adapters.bridge import Bridge
from ocid.adapters.links import index_of
from ocid.adapters.shaping import detour_of
from ocid.errors import InvalidRequest
from ocid.ports import NetworkOrder
from tests.host.netfixtures import NODE_ADDRESSES, Node, in_node, sh, traces

pytestmark = [pytest.mark.host, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SUBNETS = ("10.222.0.0/16", "fd00:222::/64")
ADDRESSES = ("10.222.0.2/16", "fd00:222::2/64")
IN, OUT = "kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"
SENT_BYTES = 1 << 20


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """In place of the one for tests on the machine itself: these have nodes of their own."""
    yield
    assert traces() == set()


def seconds(node: Node, receiver: str, sender: str, address: str) -> float:
    """Send a mebibyte over TCP from one namespace to another, and return how long it took to arrive."""
    with node.listen(receiver, 7000) as server, node.connect(sender, address, 7000) as client:
        accepted, _ = server.accept()
        begin = time.monotonic()
        sending = threading.Thread(target=lambda: (client.sendall(bytes(SENT_BYTES)), client.shutdown(socket.SHUT_WR)))
        sending.start()
        with accepted:
            accepted.settimeout(20)
            got = 0
            while piece := accepted.recv(1 << 16):
                got += len(piece)
        sending.join()
        assert got == SENT_BYTES
        return time.monotonic() - begin


async def attached(node: Node, **annotations: str) -> tuple[Bridge, NetworkOrder]:
    bridge = Bridge("ocidt0", SUBNETS)
    order = node.order("one", ADDRESSES, annotations=annotations)
    await bridge.attach(order)
    return bridge, order


OWN = "/proc/self/ns/net"


@pytest.mark.parametrize("version", [0, 1], ids=["ipv4", "ipv6"])
@in_node
async def test_each_direction_has_its_own_limit(node: Node, version: int):
    """8 Mbit/s are a mebibyte a second, less the burst of 128 KiB."""
    bridge, order = await attached(node, **{IN: "8M"})
    pod, gateway = ("10.222.0.2", "fd00:222::2")[version], ("10.222.0.1", "fd00:222::1")[version]
    assert 0.7 < seconds(node, order.netns, OWN, pod) < 3
    assert seconds(node, OWN, order.netns, gateway) < 0.5
    await bridge.detach(order)

    order = node.order("two", ADDRESSES, annotations={OUT: "8M"})
    await bridge.attach(order)
    assert seconds(node, order.netns, OWN, pod) < 0.5
    assert 0.7 < seconds(node, OWN, order.netns, gateway) < 3
    await bridge.detach(order)
    assert index_of(detour_of(order.interface)) is None


@in_node
async def test_limits_are_the_same_after_a_second_attach(node: Node):
    _, order = await attached(node, **{IN: "8M", OUT: "8Mi"})
    await Bridge("ocidt0", SUBNETS).attach(order)
    assert sh(f"tc qdisc show dev {order.interface}").count("qdisc") == 2
    assert "rate 8Mbit burst 128Kb" in sh(f"tc qdisc show dev {order.interface} root")
    assert "rate 8388Kbit" in sh(f"tc qdisc show dev {detour_of(order.interface)} root")
    assert sh(f"tc filter show dev {order.interface} ingress").count("mirred") == 1
    assert 0.7 < seconds(node, order.netns, OWN, "10.222.0.2") < 3
    assert 0.7 < seconds(node, OWN, order.netns, NODE_ADDRESSES[0]) < 3


@in_node
async def test_a_very_fast_limit(node: Node):
    _, order = await attached(node, **{IN: "100G", OUT: "1P"})
    assert "rate 100Gbit" in sh(f"tc qdisc show dev {order.interface} root")
    assert seconds(node, order.netns, OWN, "10.222.0.2") < 0.5


@in_node
async def test_without_limits_there_is_nothing(node: Node):
    _, order = await attached(node)
    assert "tbf" not in sh("tc qdisc show")
    assert index_of(detour_of(order.interface)) is None


@in_node
async def test_nonsense_is_refused_before_anything_is_made(node: Node):
    with pytest.raises(InvalidRequest, match="ingress bandwidth 'fast'"):
        await attached(node, **{IN: "fast"})
    assert index_of("ocidt0") is None


@in_node
async def test_a_pod_that_is_gone_leaves_no_limit(node: Node):
    bridge, order = await attached(node, **{OUT: "8M"})
    sh(f"ip link del {order.interface}")
    await bridge.detach(order)
    assert index_of(detour_of(order.interface)) is None
