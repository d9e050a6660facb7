"""Pods on several CNI networks: with the real plugins, and with such as fail, at any point and after a reboot."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from ocid.adapters.network import Networks
from ocid.adapters.usage_survey import networks as usage_of
from ocid.domain.networks import ANNOTATION, wishes
from ocid.errors import EffectFailed, InvalidRequest, NotFound
from ocid.ports import NetworkOrder
from tests.host.cnifixtures import FAKE, PLUGINS, Fixture
from tests.host.netfixtures import Node, in_node, sh, traces

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(Path() == PLUGINS, reason="needs containernetworking-plugins"),
]


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """In place of the one for tests on the machine itself: these have nodes of their own."""
    yield
    assert traces() == set()


def asking(node: Node, name: str, text: str, **changes: Any) -> NetworkOrder:
    annotations = {ANNOTATION: text}
    return node.order(name, network="cni", annotations=annotations, networks=wishes(annotations), **changes)


def real(node: Node) -> tuple[Fixture, Networks]:
    """A bridge as the first network, a point-to-point link and a second bridge beside it."""
    fixture = Fixture(node, further=("storage", "backup"))
    fixture.real()

    def ipam(subnet: str) -> dict[str, Any]:
        return {"type": "host-local", "dataDir": str(fixture.ipam), "ranges": [[{"subnet": subnet}]]}

    ptp = {"type": "ptp", "capabilities": {"mac": True}, "ipam": ipam("10.78.0.0/24")}
    bridge = {"type": "bridge", "bridge": "ocidc0", "ipam": ipam("10.79.0.0/24"), "capabilities": {"mac": True}}
    for name, plugin in (("storage", ptp), ("backup", bridge)):
        document = {"cniVersion": "1.0.0", "name": name, "plugins": [plugin]}
        (fixture.conf / f"20-{name}.conflist").write_text(json.dumps(document))
    return fixture, fixture.daemon()


def fakes(node: Node, *names: str, version: str = "1.1.0") -> tuple[Fixture, Networks]:
    """A first network, and one for each name, each with a plugin of the same name."""
    fixture = Fixture(node, further=("*",))
    fixture.fakes("first", version=version)
    for name in names:
        path = fixture.bin / name
        path.write_text(FAKE.format(name=name, directory=fixture.bin))
        path.chmod(0o755)
        document = {"cniVersion": version, "name": name, "plugins": [{"type": name}]}
        (fixture.conf / f"20-{name}.conflist").write_text(json.dumps(document))
    return fixture, fixture.daemon()


def files(order: NetworkOrder, *interfaces: str) -> set[str]:
    return {f"{order.pod_id}.json", *(f"{order.pod_id}@{one}.json" for one in interfaces)}


# --- the real plugins ------------------------------------------------------------------------------------------------


@in_node
async def test_a_pod_on_three_networks(node: Node):
    fixture, network = real(node)
    text = '[{"name": "storage"}, {"name": "backup", "interface": "bak0", "mac": "02:00:00:00:00:0a"}]'
    one, plain = asking(node, "one", text), node.order("plain", network="cni")
    network.admit("", "cni", [wish.network for wish in one.networks])

    attached = await network.attach(one)
    other = await network.attach(plain)

    assert attached.via == "cni:testnet"
    assert [address.partition("::")[0] for address in attached.addresses] == ["10.77.0.2", "fd00:77"]
    assert [(it.network, it.interface, it.addresses) for it in attached.further] == [
        ("storage", "net1", ("10.78.0.2",)),
        ("backup", "bak0", ("10.79.0.2",)),
    ]
    assert other.further == ()
    links = node.sh_in(one.netns, "ip -o addr show")
    for interface, address in (("eth0", attached.addresses[0]), ("net1", "10.78.0.2"), ("bak0", "10.79.0.2")):
        assert any(f" {interface} " in line and f" {address}/" in line for line in links.splitlines())
    assert "02:00:00:00:00:0a" in node.sh_in(one.netns, "ip link show bak0")
    assert "dev eth0" in node.sh_in(one.netns, "ip route show default")
    node.sh_in(one.netns, "busybox ping -c 1 -W 2 10.78.0.1")
    used = {usage.name for usage in usage_of({"one": one.netns})["one"]}
    assert used == {"eth0", "net1", "bak0"}
    await network.check(one)
    assert await fixture.daemon().attach(one) == attached, "again, by the next daemon, it is the same"
    assert fixture.leases() == {*attached.addresses, *other.addresses, "10.78.0.2", "10.79.0.2"}
    node.sh_in(one.netns, "ip link del bak0")
    with pytest.raises(EffectFailed, match="'backup': plugin 'bridge' failed to CHECK"):
        await network.check(one)

    results = {it.interface: it.result for it in attached.further}
    await network.detach(one, attached.result, results)
    await network.detach(one, attached.result, results)
    assert fixture.leases() == set(other.addresses)
    assert fixture.remembered() == files(plain)
    await network.detach(plain, other.result)
    assert (fixture.leases(), fixture.remembered()) == (set(), set())
    assert "veth" not in sh("ip -o link show")


@in_node
async def test_a_reboot_leaves_no_address_of_any_network(node: Node):
    fixture, network = real(node)
    order = asking(node, "one", "storage,backup")
    attached = await network.attach(order)
    sh(f"umount {order.netns}")
    for file in fixture.conf.iterdir():
        file.unlink()  # the operator even removed the configurations

    await fixture.daemon().detach(order, attached.result, {it.interface: it.result for it in attached.further})

    assert (fixture.leases(), fixture.remembered()) == (set(), set())


@in_node
async def test_what_the_disk_forgot_is_undone_from_the_log(node: Node):
    fixture, network = real(node)
    order = asking(node, "one", "storage,backup")
    attached = await network.attach(order)
    for path in fixture.state.iterdir():
        path.write_bytes(b"")  # as a power loss leaves it

    await fixture.daemon().detach(order, attached.result, {it.interface: it.result for it in attached.further})

    assert fixture.leases() == set()


# --- order, failures and memory --------------------------------------------------------------------------------------


@in_node
async def test_add_in_order_and_del_in_reverse(node: Node):
    fixture, network = fakes(node, "storage", "backup")
    order = asking(node, "one", "storage,backup@a0")
    attached = await network.attach(order)
    assert fixture.calls() == ["ADD first", "ADD storage", "ADD backup"]
    assert fixture.remembered() == files(order, "net1", "a0")
    await fixture.daemon().check(order)
    assert fixture.calls() == ["CHECK first", "CHECK storage", "CHECK backup"]
    await fixture.daemon().detach(order, attached.result)
    assert fixture.calls() == ["DEL backup", "DEL storage", "DEL first"]
    assert fixture.remembered() == set()


@in_node
async def test_one_that_fails_undoes_those_before(node: Node):
    fixture, network = fakes(node, "storage", "backup")
    order = asking(node, "one", "storage,backup")
    fixture.task("backup", "ADD", """echo '{"code": 100, "msg": "no address left"}'; exit 1\n""")
    with pytest.raises(EffectFailed, match="'backup' failed to ADD: no address left"):
        await network.attach(order)
    assert fixture.calls() == ["ADD first", "ADD storage", "ADD backup", "DEL backup", "DEL storage", "DEL first"]
    assert fixture.remembered() == set()


@in_node
async def test_one_that_is_cancelled_undoes_those_before(node: Node):
    fixture, network = fakes(node, "storage")
    order = asking(node, "one", "storage")
    fixture.task("storage", "ADD", "sleep 60\n")
    with trio.move_on_after(1):
        await network.attach(order)
    assert fixture.calls() == ["ADD first", "ADD storage", "DEL storage", "DEL first"]
    assert fixture.remembered() == set()


@in_node
async def test_a_del_that_fails_keeps_no_other_from_it_and_is_tried_again(node: Node):
    fixture, network = fakes(node, "storage", "backup")
    order = asking(node, "one", "storage,backup")
    attached = await network.attach(order)
    fixture.calls()
    fixture.task("storage", "DEL", "echo broken >&2; exit 3\n")
    with pytest.raises(EffectFailed, match="'storage' failed to DEL"):
        await network.detach(order, attached.result)
    assert fixture.calls() == ["DEL backup", "DEL storage", "DEL first"]
    assert fixture.remembered() == {f"{order.pod_id}@net1.json"}
    fixture.task("storage", "DEL", "true\n")
    assert await fixture.daemon().reconcile([], []) == (order.pod_id,)
    assert fixture.calls()[0] == "DEL storage"
    assert fixture.remembered() == set()


@in_node
async def test_an_add_that_died_with_the_daemon_is_done_anew(node: Node):
    """The daemon is killed in the second network's ADD: what is remembered then has no result."""
    fixture, network = fakes(node, "storage")
    order = asking(node, "one", "storage")
    await network.attach(order)
    node.sh_in(order.netns, "ip link add eth0 type veth peer name other0")  # the fake plugin makes none
    path = fixture.state / f"{order.pod_id}@net1.json"
    state = json.loads(path.read_text())
    del state["result"]
    path.write_text(json.dumps(state))
    fixture.calls()

    attached = await fixture.daemon().attach(order)

    assert fixture.calls() == ["DEL storage", "ADD storage"]
    assert [one.interface for one in attached.further] == ["net1"]


@in_node
async def test_gc_knows_every_attachment_and_leaves_other_networks_alone(node: Node):
    fixture, network = fakes(node, "storage", "unused")
    live, half = asking(node, "live", "storage@s0,storage"), asking(node, "half", "storage")
    gone = asking(node, "gone", "storage")
    for order in (live, half, gone):
        await network.attach(order)
    (fixture.state / f"{half.pod_id}@net1.json").unlink()  # lost with the power
    fixture.calls()

    assert await fixture.daemon().reconcile([live], [half]) == (gone.pod_id,)

    assert fixture.calls() == ["DEL storage", "DEL first", "GC storage", "GC first"]
    valid = json.loads((fixture.bin / "storage.GC.stdin").read_text())["cni.dev/valid-attachments"]
    known = {(one["containerID"], one["ifname"]) for one in valid}
    assert known == {(live.pod_id, "s0"), (live.pod_id, "net2"), (half.pod_id, "net1")}
    valid = json.loads((fixture.bin / "first.GC.stdin").read_text())["cni.dev/valid-attachments"]
    known = {(one["containerID"], one["ifname"]) for one in valid}
    assert known == {(live.pod_id, "eth0"), (half.pod_id, "eth0"), (half.pod_id, "net1")}


# --- what cannot be had ----------------------------------------------------------------------------------------------


@in_node
async def test_what_is_not_admitted(node: Node):
    fixture, network = fakes(node, "storage")
    network.admit("", "cni", ["storage", "testnet"])
    with pytest.raises(InvalidRequest, match=r"'backup' is in no valid configuration in .*net\.d"):
        network.admit("", "cni", ["storage", "backup"])
    with pytest.raises(InvalidRequest, match="the pod is on the bridge network"):
        network.admit("", "bridge", ["storage"])
    fixture.changes["further"] = ("backup",)
    with pytest.raises(InvalidRequest, match=r"'storage' is not in \[network\] further"):
        fixture.daemon().admit("", "cni", ["storage"])


@in_node
async def test_a_network_whose_configuration_went_is_not_found(node: Node):
    fixture, _ = fakes(node, "storage")
    order = asking(node, "one", "storage")
    (fixture.conf / "20-storage.conflist").unlink()
    with pytest.raises(NotFound, match="storage"):
        await fixture.daemon().attach(order)
    assert fixture.calls() == []


@in_node
async def test_what_no_plugin_can_do_is_refused_before_anything_is_made(node: Node):
    fixture, network = fakes(node, "storage")
    order = asking(node, "one", '[{"name": "storage", "mac": "02:00:00:00:00:01"}]')
    with pytest.raises(InvalidRequest, match="has the capability 'mac'"):
        await network.attach(order)
    assert (fixture.calls(), fixture.remembered()) == ([], set())
    await network.detach(order, None)
