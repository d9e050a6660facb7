"""Port-forwarding alone: limits, connections that break, and what is counted."""

from __future__ import annotations

import pytest
import trio
import trio.lowlevel
from trio.testing import memory_stream_pair

from ocid.actors import forwarding
from ocid.actors.forwarding import Forwarding
from ocid.events.session import PortUse
from tests.fakes.clients import FakeForwardClient


class Pod:
    """Servers that are joined by hand: each connection's far end is kept."""

    def __init__(self) -> None:
        self.ends: list[trio.StapledStream] = []  # type: ignore[type-arg]

    async def connect(self, netns: str, port: int) -> trio.StapledStream:  # type: ignore[type-arg]
        await trio.lowlevel.checkpoint()
        assert netns == "/netns"
        near, far = memory_stream_pair()
        self.ends.append(far)
        return near


@pytest.fixture
def pod() -> Pod:
    return Pod()


async def served(pod: Pod, nursery: trio.Nursery) -> tuple[Forwarding, FakeForwardClient, trio.Event]:
    one, client, unwanted = Forwarding(pod, "/netns", ()), FakeForwardClient(), trio.Event()  # type: ignore[arg-type]
    nursery.start_soon(one.serve, client, unwanted)
    await trio.lowlevel.checkpoint()
    return one, client, unwanted


async def test_both_directions_run_until_the_pods_end_is_over(pod: Pod, autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        one, client, _ = await served(pod, nursery)
        tunnel = client.connect(80)
        tunnel.send(b"question")
        await trio.sleep(0.1)
        assert await pod.ends[0].receive_some() == b"question"
        tunnel.finish()
        await trio.sleep(0.1)
        assert await pod.ends[0].receive_some() == b"", "the client's end of file arrives"
        await pod.ends[0].send_all(b"answer")
        await pod.ends[0].send_eof()
        await tunnel.closed.wait()
        assert (tunnel.received, tunnel.error) == (b"answer", "")
        client.leave()
    assert one.uses() == (PortUse(port=80, connections=1, failed=0, bytes_in=8, bytes_out=6),)


async def test_a_pod_that_closes_first_is_told_at_once(pod: Pod, autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        _, client, _ = await served(pod, nursery)
        tunnel = client.connect(80)
        await trio.sleep(0.1)
        await pod.ends[0].send_eof()
        with trio.fail_after(0.1):
            await tunnel.closed.wait()
        client.leave()


async def test_a_client_that_leaves_closes_every_connection(pod: Pod, autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        _, client, _ = await served(pod, nursery)
        for _ in range(3):
            client.connect(80)
        await trio.sleep(0.1)
        client.leave()
    for end in pod.ends:
        assert await end.receive_some() == b""


async def test_connections_have_a_limit(pod: Pod, autojump_clock: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "TUNNELS_MAX", 2)
    async with trio.open_nursery() as nursery:
        one, client, _ = await served(pod, nursery)
        first, second, third = (client.connect(80) for _ in range(3))
        await third.closed.wait()
        assert third.error == "port 80: 2 connections are open already, which is the limit"
        await pod.ends[0].send_eof()
        await first.closed.wait()
        fourth = client.connect(80)
        await trio.sleep(0.1)
        assert not fourth.closed.is_set()
        assert not second.closed.is_set()
        client.leave()
    assert one.uses()[0] == PortUse(port=80, connections=4, failed=1, bytes_in=0, bytes_out=0)
