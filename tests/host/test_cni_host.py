"""CNI with the real plugins, and with plugins that fail, hang, lie and flood."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from ocid.domain.configs import PortMapping
from ocid.errors import EffectFailed, InvalidRequest, NotFound, Unavailable
from tests.host.cnifixtures import PLUGINS, Fixture
from tests.host.netfixtures import NODE_ADDRESSES, OUTSIDE_ADDRESSES, Node, in_node, note, sh, traces
from tests.host.nodes import SLOW

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


def state_of(pid: str) -> str:
    """Return the state letter of a process, "gone" when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2]
    except FileNotFoundError:
        return "gone"


# --- the real plugins ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
@in_node
async def test_two_pods_reach_each_other_and_the_outside(node: Node, version: str):
    fixture = Fixture(node)
    network = fixture.real(version=version)
    assert (network.kind(""), network.not_ready()) == ("cni", None)
    one, two = node.order("one", network="cni"), node.order("two", network="cni")

    first, second = await network.attach(one), await network.attach(two)

    assert first.via == "cni:testnet"
    assert [":" in address for address in first.addresses] == [False, True]
    assert fixture.leases() == {*first.addresses, *second.addresses}
    assert json.loads(first.result or b"")["cniVersion"] == version
    trio_deadline = time.monotonic() + 5 * SLOW
    for address in (*second.addresses, OUTSIDE_ADDRESSES[0], "127.0.0.1"):
        while True:  # the bridge plugin leaves duplicate address detection on
            try:
                node.sh_in(one.netns, f"busybox ping -c 1 -W 1 {address}")
                break
            except AssertionError:
                assert time.monotonic() < trio_deadline

    await network.detach(one, first.result)
    await network.detach(one, first.result)
    await network.detach(two, None)
    assert (fixture.leases(), fixture.remembered()) == (set(), set())
    assert "veth" not in sh("ip -o link show")


@in_node
async def test_attach_is_idempotent_and_survives_the_daemon(node: Node):
    fixture = Fixture(node)
    order = node.order("one", network="cni")
    first = await fixture.real().attach(order)

    again = await fixture.daemon().attach(order)

    assert again == first
    assert len(fixture.leases()) == 2
    mode = (fixture.state / f"{order.pod_id}.json").stat().st_mode & 0o777
    assert mode == 0o600
    assert fixture.remembered() == {f"{order.pod_id}.json"}


@in_node
async def test_del_after_a_reboot_frees_the_addresses(node: Node):
    fixture = Fixture(node)
    order = node.order("one", network="cni")
    attached = await fixture.real({"type": "portmap", "capabilities": {"portMappings": True}}).attach(order)
    sh(f"umount {order.netns}")
    for file in fixture.conf.iterdir():
        file.unlink()  # the operator even removed the configuration

    await fixture.daemon().detach(order, attached.result)

    assert (fixture.leases(), fixture.remembered()) == (set(), set())


@in_node
async def test_del_without_memory_uses_the_configuration_of_now(node: Node):
    fixture = Fixture(node)
    order = node.order("one", network="cni")
    network = fixture.real()
    attached = await network.attach(order)
    (fixture.state / f"{order.pod_id}.json").write_bytes(b"{ torn")

    await network.detach(order, attached.result)

    assert fixture.leases() == set()


@in_node
async def test_a_host_port_through_portmap(node: Node):
    fixture = Fixture(node)
    network = fixture.real({"type": "portmap", "capabilities": {"portMappings": True}})
    port = PortMapping(container_port=80, host_port=8080)
    order = node.order("one", network="cni", port_mappings=(port,))
    attached = await network.attach(order)
    with node.listen(order.netns, 80) as server:
        assert node.reaches(node.outside, NODE_ADDRESSES[0], server, 8080) == OUTSIDE_ADDRESSES[0]
    await network.detach(order, attached.result)
    assert "8080" not in sh("nft list ruleset")


@in_node
async def test_many_pods_at_once(node: Node):
    fixture = Fixture(node, plugin_timeout_s=30.0)
    network = fixture.real()
    orders = [node.order(f"pod{number}", network="cni") for number in range(8)]
    async with trio.open_nursery() as nursery:
        for order in orders:
            nursery.start_soon(network.attach, order)
    assert len(fixture.leases()) == 16
    async with trio.open_nursery() as nursery:
        for order in orders:
            nursery.start_soon(network.detach, order, None)
    assert fixture.leases() == set()


@in_node
async def test_attach_and_detach_are_fast(node: Node):
    network = Fixture(node).real()
    attach: list[float] = []
    detach: list[float] = []
    for number in range(30):
        order = node.order(f"pod{number}", network="cni")
        begin = time.perf_counter()
        attached = await network.attach(order)
        attach.append((time.perf_counter() - begin) * 1000)
        begin = time.perf_counter()
        await network.detach(order, attached.result)
        detach.append((time.perf_counter() - begin) * 1000)

    numbers = f"cni: attach p50 {statistics.median(attach):.1f} ms, detach p50 {statistics.median(detach):.1f} ms"
    note(numbers)
    assert statistics.median(attach) < 500 * SLOW, numbers


# --- plugins that do not behave --------------------------------------------------------------------------------------


@in_node
async def test_add_in_order_and_del_in_reverse_each_with_the_result(node: Node):
    fixture = Fixture(node)
    network = fixture.fakes("first", "second")
    order = node.order("one", network="cni", namespace="team")
    attached = await network.attach(order)
    assert fixture.calls() == ["ADD first", "ADD second"]
    assert attached.addresses == ("10.9.0.7",)
    assert "prevResult" not in json.loads((fixture.bin / "first.ADD.stdin").read_text())
    assert json.loads((fixture.bin / "second.ADD.stdin").read_text())["prevResult"]["by"] == "first"

    await network.detach(order, attached.result)

    assert fixture.calls() == ["DEL second", "DEL first"]
    for name in ("first", "second"):
        told = json.loads((fixture.bin / f"{name}.DEL.stdin").read_text())
        assert (told["name"], told["type"], told["prevResult"]["by"]) == ("testnet", name, "second")


@in_node
async def test_plugins_are_told_who_the_pod_is(node: Node):
    fixture = Fixture(node)
    network = fixture.fakes("first")
    order = node.order("one", network="cni", namespace="team")
    fixture.task("first", "ADD", f"env > {fixture.bin}/env\n")
    await network.attach(order)

    env = dict(line.split("=", 1) for line in (fixture.bin / "env").read_text().splitlines() if "=" in line)
    assert env["CNI_CONTAINERID"] == order.pod_id
    assert env["CNI_NETNS"] == order.netns
    assert env["CNI_IFNAME"] == "eth0"
    assert env["CNI_PATH"] == f"{fixture.bin}:{PLUGINS}"
    assert "K8S_POD_NAMESPACE=team;K8S_POD_NAME=one;" in env["CNI_ARGS"]
    sh(f"umount {order.netns}")
    await network.detach(order, None)
    assert "netns=[]" in (fixture.bin / "calls").read_text().splitlines()[-1]


@in_node
async def test_a_failure_in_the_middle_undoes_the_chain(node: Node):
    fixture = Fixture(node)
    network = fixture.fakes("first", "second", "third")
    fixture.task("second", "ADD", """echo '{"code": 7, "msg": "no luck", "details": "at all"}'; exit 1\n""")
    order = node.order("one", network="cni")

    with pytest.raises(EffectFailed, match=r"'second' failed to ADD: no luck \(at all\) \[code 7\]"):
        await network.attach(order)

    assert fixture.calls() == ["ADD first", "ADD second", "DEL third", "DEL second", "DEL first"]
    assert fixture.remembered() == set()


@in_node
async def test_a_del_that_fails_keeps_the_memory_and_the_others_run(node: Node):
    fixture = Fixture(node)
    network = fixture.fakes("first", "second")
    order = node.order("one", network="cni")
    attached = await network.attach(order)
    fixture.task("second", "DEL", "echo broken >&2; exit 3\n")
    fixture.calls()

    with pytest.raises(EffectFailed, match="'second' failed to DEL with exit code 3: broken"):
        await network.detach(order, attached.result)

    assert fixture.calls() == ["DEL second", "DEL first"]
    (fixture.bin / "second.DEL").unlink()
    await fixture.daemon().detach(order, None)
    assert json.loads((fixture.bin / "first.DEL.stdin").read_text())["prevResult"]["by"] == "second"
    assert fixture.remembered() == set()


@in_node
async def test_an_add_that_died_with_the_daemon_is_undone_first(node: Node):
    fixture = Fixture(node)
    network = fixture.fakes("first", "second")
    order = node.order("one", network="cni")
    await network.attach(order)
    path = fixture.state / f"{order.pod_id}.json"
    remembered = json.loads(path.read_text())
    del remembered["result"], remembered["addresses"]  # as it is while the ADD is under way
    path.write_text(json.dumps(remembered))
    fixture.calls()

    await fixture.daemon().attach(order)

    assert fixture.calls() == ["DEL second", "DEL first", "ADD first", "ADD second"]


@in_node
async def test_a_plugin_that_hangs_is_killed_with_its_children_and_undone(node: Node):
    fixture = Fixture(node, plugin_timeout_s=0.5)
    network = fixture.fakes("first", "hangs")
    fixture.task("hangs", "ADD", f"sleep 333 & echo $! > {fixture.bin}/child; sleep 333\n")
    order = node.order("one", network="cni")
    begin = time.monotonic()

    with pytest.raises(Unavailable, match=r"'hangs', asked to ADD, did not end within 0\.5 s, and was killed"):
        await network.attach(order)

    assert time.monotonic() - begin < 3
    assert fixture.calls() == ["ADD first", "ADD hangs", "DEL hangs", "DEL first"]
    await trio.sleep(0.05)
    assert state_of((fixture.bin / "child").read_text().strip()) in ("gone", "Z")


@in_node
async def test_a_cancelled_attach_is_undone(node: Node):
    fixture = Fixture(node)
    network = fixture.fakes("first", "hangs")
    (fixture.bin / "calls").touch()
    fixture.task("hangs", "ADD", "sleep 333\n")
    order = node.order("one", network="cni")

    with trio.fail_after(10 * SLOW):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(network.attach, order)
            while "ADD hangs" not in (fixture.bin / "calls").read_text():  # noqa: ASYNC110 - nothing tells
                await trio.sleep(0.05)
            nursery.cancel_scope.cancel()

    assert fixture.calls() == ["ADD first", "ADD hangs", "DEL hangs", "DEL first"]
    assert fixture.remembered() == set()


NONSENSE = {
    "garbage": ("echo 'not json'; exit 0\n", "answered ADD with no JSON object: 'not json"),
    "nothing": ("exit 0\n", "answered ADD with no JSON object"),
    "ten mebibytes": ("head -c 10485760 /dev/zero; exit 0\n", "wrote more than 1048576 bytes, and was killed"),
    "without end": ("cat /dev/zero\n", "wrote more than 1048576 bytes, and was killed"),
    "errors without end": ("head -c 10485760 /dev/zero >&2; echo '[]'; exit 0\n", "answered ADD with no JSON object"),
    "text that is not UTF-8": ('printf \'{"ips":[],"x":"\\377\\376"}\'; exit 0\n', "answered ADD with no JSON object"),
    "lists in lists": ("head -c 100000 /dev/zero | tr '\\0' '['; exit 0\n", "answered ADD with no JSON object"),
    "errors of escapes": ("printf '\\033[31m\\n\\0' >&2; exit 3\n", "failed to ADD with exit code 3"),
    "a bad address": ("""echo '{"ips":[{"address":"x"}]}'; exit 0\n""", "an address that is none"),
    "a signal": ("kill -SEGV $$\n", "exit code 139"),
}


@pytest.mark.parametrize("kind", NONSENSE)
@in_node
async def test_a_plugin_that_answers_nonsense(node: Node, kind: str):
    fixture = Fixture(node)
    network = fixture.fakes("first")
    script, says = NONSENSE[kind]
    fixture.task("first", "ADD", script)
    order = node.order("one", network="cni")

    with pytest.raises(EffectFailed) as failed:
        await network.attach(order)

    assert says in failed.value.message
    assert "'testnet': plugin 'first'" in failed.value.message
    assert fixture.calls()[-1] == "DEL first"
    assert fixture.remembered() == set()


SLOWLY = {
    "a byte at a time": "while :; do printf x; sleep 0.05; done\n",
    "nothing any more": "exec >&- 2>&-; sleep 333\n",
    "deaf to being asked to end": "trap '' TERM INT HUP; while :; do sleep 333; done\n",
}


@pytest.mark.parametrize("kind", SLOWLY)
@in_node
async def test_a_plugin_that_takes_too_long(node: Node, kind: str):
    fixture = Fixture(node, plugin_timeout_s=0.4)
    network = fixture.fakes("first", "slow")
    fixture.task("slow", "ADD", SLOWLY[kind])
    begin = time.monotonic()

    with pytest.raises(Unavailable, match=r"'slow', asked to ADD, did not end within 0\.4 s, and was killed"):
        await network.attach(node.order("one", network="cni"))

    assert time.monotonic() - begin < 3
    assert fixture.calls() == ["ADD first", "ADD slow", "DEL slow", "DEL first"]
    assert fixture.remembered() == set()


@in_node
async def test_a_plugin_whose_child_holds_the_pipes_does_not_hold_us(node: Node):
    fixture = Fixture(node)
    network = fixture.fakes("first")
    fixture.task("first", "ADD", "sleep 3 &\n")
    begin = time.monotonic()

    attached = await network.attach(node.order("one", network="cni"))

    assert attached.addresses == ("10.9.0.7",)
    assert time.monotonic() - begin < 2


@in_node
async def test_a_large_configuration_reaches_the_plugin(node: Node):
    fixture = Fixture(node)
    fixture.fakes("first")
    network = fixture.configure({"type": "first", "padding": "x" * 500_000})
    await network.attach(node.order("one", network="cni"))
    assert len(json.loads((fixture.bin / "first.ADD.stdin").read_text())["padding"]) == 500_000


@in_node
async def test_a_pod_that_cni_cannot_name_is_refused_and_let_go(node: Node):
    fixture = Fixture(node)
    network = fixture.fakes("first")
    order = node.order("one", network="cni", namespace="a;K8S_POD_NAME=b")
    with pytest.raises(InvalidRequest):
        await network.attach(order)
    await network.detach(order, None)
    assert fixture.calls() == []


@in_node
async def test_a_namespace_that_is_gone(node: Node):
    fixture = Fixture(node)
    network = fixture.fakes("first")
    order = node.order("one", network="cni", netns=str(node.directory / "nowhere"))
    with pytest.raises(NotFound, match="nowhere"):
        await network.attach(order)
    await network.detach(order, None)
    assert fixture.calls() == ["DEL first"]


# --- which network ---------------------------------------------------------------------------------------------------


@in_node
async def test_without_a_configuration_the_built_in_bridge_serves(node: Node):
    network = Fixture(node).network
    order = node.order("one", ("10.222.0.2/16",))
    assert (network.kind(""), network.not_ready(), network.subnets()) == ("bridge", None, ("10.222.0.0/16",))

    assert (await network.attach(order)).via == "bridge"
    await network.detach(order, None)
    with pytest.raises(Unavailable, match="no CNI configuration"):
        await network.attach(node.order("two", network="cni"))
    await network.detach(node.order("three", network="cni"), None)


@in_node
async def test_a_broken_configuration_is_named_and_no_pod_goes_elsewhere(node: Node):
    fixture = Fixture(node)
    (fixture.conf / "10-broken.conflist").write_text("{")
    network = fixture.daemon()
    assert network.kind("") == "cni"
    assert "CNI configuration '10-broken.conflist': not JSON" in (network.not_ready() or "")
    with pytest.raises(Unavailable, match=r"10-broken\.conflist"):
        await network.attach(node.order("one", network="cni"))


@in_node
async def test_missing_plugins_are_named(node: Node):
    network = Fixture(node).configure({"type": "nowhere", "ipam": {"type": "nobody"}}, {"type": "loopback"})
    assert "needs nowhere, nobody, not found in" in (network.not_ready() or "")
    with pytest.raises(EffectFailed, match="no plugin 'nowhere'"):
        await network.attach(node.order("one", network="cni"))


@in_node
async def test_a_configuration_that_appears_is_noticed_within_a_second(node: Node):
    fixture = Fixture(node)
    assert fixture.network.kind("") == "bridge"
    fixture.fakes("first")
    await trio.sleep(1.05)
    assert fixture.network.kind("") == "cni"
    (fixture.conf / "10-test.conflist").write_text("{}")
    await trio.sleep(1.05)
    assert "10-test.conflist" in (fixture.network.not_ready() or "")


@in_node
async def test_neither_configuration_nor_subnet(node: Node):
    network = Fixture(node, subnets=()).network
    assert (network.kind(""), network.subnets()) == ("cni", ())
    assert "no CNI configuration in" in (network.not_ready() or "")


@in_node
async def test_without_nft_the_built_in_bridge_is_not_ready(node: Node):
    assert "install nftables" in (Fixture(node, nft="no-nft-here").network.not_ready() or "")
