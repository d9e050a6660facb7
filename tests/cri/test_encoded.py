"""Lists are what they would be if they were built anew, and items are encoded only when they changed."""

from __future__ import annotations

import pytest
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.cri import present
from ocid.cri.encoded import Codec, Encoded, Items
from ocid.cri.stubs import api_pb2 as pb
from ocid.projections.containers import is_listed as container_listed
from ocid.projections.fold import Row
from ocid.projections.pods import is_listed as pod_listed
from tests.cri.daemon import Daemon


class Presenting:
    """Presents a text as a container of that id, and counts."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self, state: str, config: str) -> pb.Container:
        self.made.append(state)
        return pb.Container(id=state, image_ref=config)


@pytest.fixture
def presenting() -> Presenting:
    return Presenting()


@pytest.fixture
def items(presenting: Presenting) -> Items[str, str]:
    return Items(pb.ListContainersResponse, "containers", presenting)


def test_parts_laid_end_to_end_are_the_response(items: Items[str, str]) -> None:
    rows = {name: Row(name * 200, 1, 1) for name in "abc"}
    response = items.response(items.part(name, row, "ref") for name, row in rows.items())

    expected = pb.ListContainersResponse(containers=[pb.Container(id=name * 200, image_ref="ref") for name in "abc"])
    assert response.data == expected.SerializeToString()
    assert items.response(()).data == b""


def test_an_item_is_made_once_for_each_row(items: Items[str, str], presenting: Presenting) -> None:
    first, second = Row("one", 1, 1), Row("two", 2, 2)
    parts = [items.part("a", row, "") for row in (first, first, second, second, Row("two", 2, 2))]

    assert presenting.made == ["one", "two", "two"]
    assert parts[0] is parts[1]
    assert len(items) == 1


def test_a_whole_response_is_put_together_once_for_each_position_in_the_log(items: Items[str, str]) -> None:
    first = items.whole(1, lambda: [b"a"])
    assert items.whole(1, lambda: pytest.fail("nothing has changed")) is first
    assert first.data == b"a"
    assert items.whole(2, lambda: [b"a", b"b"]).data == b"ab"


def test_what_is_gone_is_dropped(items: Items[str, str]) -> None:
    rows = {name: Row(name, 1, 1) for name in "abc"}
    for name, row in rows.items():
        items.part(name, row, "")
    del rows["b"]
    items.sweep(rows, 7)
    assert len(items) == 2

    del rows["a"]
    items.sweep(rows, 7)
    assert len(items) == 2, "nothing can have changed while the log has not"
    items.sweep(rows, 8)
    assert len(items) == 1


def test_the_codec_takes_both_and_nothing_else() -> None:
    codec, kind = Codec(), pb.ListContainersResponse
    message = kind(containers=[pb.Container(id="a")])

    assert codec.encode(message, kind) == codec.encode(Encoded(kind, message.SerializeToString()), kind)
    assert codec.decode(message.SerializeToString(), kind) == message
    with pytest.raises(TypeError):
        codec.encode(message, pb.VersionResponse)
    with pytest.raises(AssertionError, match="ListContainersResponse is sent as VersionResponse"):
        codec.encode(Encoded(kind, b""), pb.VersionResponse)
    with pytest.raises(GRPCError, match=r"1 bytes are no runtime\.v1\.VersionRequest") as caught:
        codec.decode(b"\xff", pb.VersionRequest)
    assert caught.value.status is Status.INVALID_ARGUMENT


async def test_lists_over_the_wire_follow_every_change(daemon: Daemon) -> None:
    """Listed after every event while pods come and go, they are what the projections say at that moment."""
    await daemon.pull()

    async def churn() -> None:
        for number in range(3):
            pod_id = await daemon.run_pod(f"pod-{number}")
            await daemon.exited(await daemon.run(pod_id, "app", "run:0.2"))
            if number:
                await daemon.client.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod_id))

        done.set()

    done, checked = trio.Event(), set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(churn)
        while not done.is_set():
            view = daemon.view
            pods = [
                present.pod_item(row.state, view.pods.config(name))
                for name, row in view.pods.rows.items()
                if pod_listed(row.state)
            ]
            containers = [
                present.container_item(row.state, view.containers.config(name))
                for name, row in view.containers.rows.items()
                if container_listed(row.state)
            ]
            seq = view.seq
            listed_pods = await daemon.client.ListPodSandbox(pb.ListPodSandboxRequest())
            listed = await daemon.client.ListContainers(pb.ListContainersRequest())
            if view.seq == seq:
                checked.add(seq)
                assert list(listed_pods.items) == pods
                assert list(listed.containers) == containers
            await trio.sleep(0.02)

    assert len(checked) > 20
    await daemon.client.ListPodSandbox(pb.ListPodSandboxRequest())
    await daemon.client.ListContainers(pb.ListContainersRequest())
    assert (len(daemon.facade.pod_items), len(daemon.facade.container_items)) == (1, 1)
