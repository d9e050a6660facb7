"""CHECK, GC and STATUS, networks of handlers, and plugins from a directory: with plugins of our own making."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from ocid.errors import EffectFailed, Unavailable
from tests.host.cnifixtures import Fixture
from tests.host.netfixtures import Node, in_node, sh, traces
from tests.host.nodes import SLOW

pytestmark = [pytest.mark.host, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

NO = """echo '{"code": 50, "msg": "no controller", "details": "it starts"}'; exit 1\n"""


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """In place of the one for tests on the machine itself: these have nodes of their own."""
    yield
    assert traces() == set()


def told(fixture: Fixture, name: str, command: str) -> dict[str, Any]:
    return json.loads((fixture.bin / f"{name}.{command}.stdin").read_text())


# --- CHECK -----------------------------------------------------------------------------------------------------------


@in_node
async def test_check_asks_every_plugin_in_order_and_brings_the_result(node: Node):
    fixture = Fixture(node)
    network = fixture.fakes("first", "second", version="0.4.0")
    order = node.order("one", network="cni")
    await network.attach(order)
    fixture.calls()

    await fixture.daemon().check(order)

    assert fixture.calls() == ["CHECK first", "CHECK second"]
    assert told(fixture, "first", "CHECK")["prevResult"]["by"] == "second"
    fixture.task("second", "CHECK", """echo '{"code": 100, "msg": "no route"}'; exit 1\n""")
    with pytest.raises(EffectFailed, match=r"'testnet': plugin 'second' failed to CHECK: no route \[code 100\]"):
        await network.check(order)


@pytest.mark.parametrize("settings", [{"version": "0.3.1"}, {"disableCheck": True}])
@in_node
async def test_check_is_not_asked_of_those_who_do_not_know_or_want_it(node: Node, settings: dict[str, Any]):
    fixture = Fixture(node)
    network = fixture.fakes("first", **settings)
    order = node.order("one", network="cni")
    await network.attach(order)
    await network.check(order)
    assert fixture.calls() == ["ADD first"]


@in_node
async def test_a_pod_that_is_not_attached_is_not_checked(node: Node):
    fixture = Fixture(node)
    await fixture.fakes("first").check(node.order("one", network="cni"))
    assert fixture.calls() == []


@in_node
async def test_check_and_detach_of_a_pod_do_not_overlap(node: Node):
    fixture = Fixture(node)
    network = fixture.fakes("first")
    order, other = node.order("one", network="cni"), node.order("two", network="cni")
    attached = await network.attach(order)
    await network.attach(other)
    fixture.calls()
    fixture.task("first", "CHECK", f"sleep 0.5; echo 'CHECK over' >> {fixture.bin}/calls\n")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(network.check, order)
        await trio.sleep(0.2)
        nursery.start_soon(network.detach, order, attached.result)
        await network.detach(other, None)
    assert fixture.calls() == ["CHECK first", "DEL first", "CHECK over", "DEL first"]


# --- GC --------------------------------------------------------------------------------------------------------------


@in_node
async def test_what_is_remembered_of_pods_that_are_gone_gets_its_del(node: Node):
    fixture = Fixture(node)
    network = fixture.fakes("first", version="1.0.0")
    live, gone, half = (node.order(name, network="cni") for name in ("live", "gone", "half"))
    for order in (live, gone, half):
        await network.attach(order)
    sh(f"umount {gone.netns}")  # the machine was booted
    fixture.calls()

    assert await fixture.daemon().reconcile([live], [half]) == (gone.pod_id,)

    assert fixture.calls() == ["DEL first"]
    assert fixture.remembered() == {f"{live.pod_id}.json", f"{half.pod_id}.json"}
    assert told(fixture, "first", "DEL")["prevResult"]["by"] == "first"
    assert await fixture.daemon().reconcile([live], [half]) == ()


@in_node
async def test_gc_tells_every_plugin_who_is_left(node: Node):
    fixture = Fixture(node)
    network = fixture.fakes("first", "second", version="1.1.0")
    live, gone = node.order("live", network="cni"), node.order("gone", network="cni")
    await network.attach(live)
    await network.attach(gone)
    fixture.calls()
    fixture.task("first", "GC", "echo broken >&2; exit 3\n")

    with pytest.raises(EffectFailed, match="'first' failed to GC with exit code 3: broken"):
        await fixture.daemon().reconcile([live], [])

    assert fixture.calls() == ["DEL second", "DEL first", "GC first", "GC second"]
    config = told(fixture, "second", "GC")
    assert config["cni.dev/valid-attachments"] == [{"containerID": live.pod_id, "ifname": "eth0"}]
    assert config["cni.dev/attachments"] == config["cni.dev/valid-attachments"]
    assert (config["cniVersion"], config["name"], config["type"]) == ("1.1.0", "testnet", "second")


@in_node
async def test_an_attached_pod_of_which_the_disk_lost_the_memory_is_left(node: Node):
    fixture = Fixture(node)
    network = fixture.fakes("first", version="1.1.0")
    live = node.order("live", network="cni")
    await network.attach(live)
    (fixture.state / f"{live.pod_id}.json").write_bytes(b"{ torn")
    await fixture.daemon().reconcile([live], [])
    assert told(fixture, "first", "GC")["cni.dev/valid-attachments"] == [{"containerID": live.pod_id, "ifname": "eth0"}]


@in_node
async def test_a_pod_whose_del_fails_counts_as_left(node: Node):
    fixture = Fixture(node)
    network = fixture.fakes("first", version="1.1.0")
    gone = node.order("gone", network="cni")
    await network.attach(gone)
    fixture.task("first", "DEL", "exit 3\n")

    with pytest.raises(EffectFailed, match="'first' failed to DEL"):
        await fixture.daemon().reconcile([], [])

    assert told(fixture, "first", "GC")["cni.dev/valid-attachments"][0]["containerID"] == gone.pod_id
    assert fixture.remembered() == {f"{gone.pod_id}.json"}


@pytest.mark.parametrize("settings", [{"version": "1.0.0"}, {"version": "1.1.0", "disableGC": True}])
@in_node
async def test_gc_is_not_asked_of_those_who_do_not_know_or_want_it(node: Node, settings: dict[str, Any]):
    fixture = Fixture(node)
    await fixture.fakes("first", **settings).reconcile([], [])
    assert fixture.calls() == []


# --- STATUS ----------------------------------------------------------------------------------------------------------


@in_node
async def test_status_stands_behind_readiness(node: Node):
    fixture = Fixture(node)
    network = fixture.fakes("first", "second", version="1.1.0")
    fixture.task("second", "STATUS", NO)
    assert "have not said yet" in (network.not_ready() or "")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(network.watch)
        with trio.fail_after(8 * SLOW):
            while "have not said yet" in (network.not_ready() or ""):  # noqa: ASYNC110 - nothing tells of it
                await trio.sleep(0.05)
        said = "CNI network 'testnet': plugin 'second' failed to STATUS: no controller (it starts) [code 50]"
        assert network.not_ready() == said
        assert fixture.calls() == ["STATUS first", "STATUS second"]
        assert told(fixture, "second", "STATUS") == {"type": "second", "cniVersion": "1.1.0", "name": "testnet"}
        fixture.task("second", "STATUS", "exit 0\n")
        with trio.fail_after(8 * SLOW):
            while network.not_ready() is not None:  # noqa: ASYNC110 - nothing tells of it
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


@in_node
async def test_a_network_without_status_is_ready_when_its_programs_are_there(node: Node):
    fixture = Fixture(node)
    network = fixture.fakes("first", version="1.0.0")
    assert network.not_ready() is None
    (fixture.bin / "first").chmod(0o644)
    assert "needs first, not found in" in (fixture.daemon().not_ready() or "")


# --- which network ---------------------------------------------------------------------------------------------------


@in_node
async def test_a_handler_may_have_a_network_of_its_own(node: Node):
    own = node.directory / "own.d"
    own.mkdir()
    fixture = Fixture(node, handler_conf_dirs={"kata": own, "empty": node.directory / "nothing"})
    network = fixture.fakes("first")
    (own / "1.conf").write_text(json.dumps({"cniVersion": "1.0.0", "name": "ownnet", "type": "first"}))
    network = fixture.daemon()

    assert [network.kind(handler) for handler in ("", "kata", "empty")] == ["cni", "cni", "cni"]
    attached = await network.attach(node.order("one", network="cni", handler="kata"))
    assert attached.via == "cni:ownnet"
    assert (await network.attach(node.order("two", network="cni", handler="runc"))).via == "cni:testnet"
    with pytest.raises(Unavailable, match=r"no CNI configuration in .*/nothing"):
        await network.attach(node.order("three", network="cni", handler="empty"))
    (fixture.conf / "10-test.conflist").unlink()
    assert [fixture.daemon().kind(handler) for handler in ("", "kata")] == ["bridge", "cni"]


@in_node
async def test_more_plugins_from_the_directory_of_the_network(node: Node):
    fixture = Fixture(node)
    fixture.fakes("first", "second", "third")
    more = fixture.conf / "testnet"
    more.mkdir()
    (more / "20.conf").write_text('{"type": "third"}')
    (more / "10.conf").write_text('{"type": "second"}')
    (more / "30.conf").write_text("[]")
    network = fixture.configure({"type": "first"}, loadOnlyInlinedPlugins=False)
    await network.attach(node.order("one", network="cni"))
    assert fixture.calls() == ["ADD first", "ADD second", "ADD third"]

    network = fixture.configure({"type": "first"}, loadOnlyInlinedPlugins=True)
    await network.attach(node.order("two", network="cni"))
    assert fixture.calls() == ["ADD first"]
