"""RPCs about the node itself, and what holds for every RPC."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import trio
import trio_asyncio
from grpclib.const import Cardinality, Status
from grpclib.encoding.proto import ProtoCodec

from ocid import __version__
from ocid.actors.witnessing import Witnessing
from ocid.cri import server
from ocid.cri.stubs import api_grpc, api_pb2 as pb
from ocid.events import node, pod
from tests.cri.daemon import Client, Daemon, container_config, pod_config, refused
from tests.fakes.witnesses import FakeWitness, checkpoint

BUILT = {*server.READS, *server.GATHERS, *server.STREAMS, *server.CHANGES, *server.FOLLOWS}
RPCS = {
    path.rpartition("/")[2]: handler
    for base in (api_grpc.RuntimeServiceBase, api_grpc.ImageServiceBase)
    for path, handler in server._mapping_of(base).items()
}


async def call(daemon: Daemon, name: str, request: Any = None, client: Client | None = None) -> Any:
    """Call any RPC, with an empty request if none is given; of a stream, return the first response."""
    message = RPCS[name].request_type() if request is None else request
    client = client or daemon.client
    if RPCS[name].cardinality is Cardinality.UNARY_UNARY:
        return await getattr(client, name)(message)
    async with trio_asyncio.aio_as_trio(getattr(client, name).open()) as stream:
        await trio_asyncio.aio_as_trio(stream.send_message)(message, end=True)
        return await trio_asyncio.aio_as_trio(stream.recv_message)()


def test_what_is_built() -> None:
    assert len(RPCS) == 41
    assert len(BUILT) == 41
    assert RPCS.keys() >= BUILT


# --- the node --------------------------------------------------------------------------------------------------------


async def test_version_has_all_four(daemon: Daemon) -> None:
    response = await call(daemon, "Version")

    assert response == pb.VersionResponse(
        version="0.1.0", runtime_name="ocid", runtime_version=__version__, runtime_api_version="v1"
    )


async def test_status(daemon: Daemon) -> None:
    response = await call(daemon, "Status")

    runtime, network = response.status.conditions
    assert (runtime.type, runtime.status, runtime.message) == ("RuntimeReady", True, "a warning")
    assert (network.type, network.status, network.reason, network.message) == ("NetworkReady", True, "", "")
    assert [handler.name for handler in response.runtime_handlers] == [""]
    assert response.features.supplemental_groups_policy
    assert not response.info


async def test_status_says_why_the_network_is_not_ready(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon.core.host.network, "not_ready", lambda: "no conflist in /etc/cni/net.d")
    response = await call(daemon, "Status")

    network = response.status.conditions[1]
    assert (network.status, network.reason) == (False, "NetworkPluginNotReady")
    assert network.message == "no conflist in /etc/cni/net.d"


async def test_verbose_status(daemon: Daemon) -> None:
    response = await call(daemon, "Status", pb.StatusRequest(verbose=True))

    assert json.loads(response.info["config"]) == {"root": "/var/lib/ocid"}
    log = json.loads(response.info["log"])
    assert log == {
        "seq": daemon.view.seq, "epoch": 1, "eventsOfUnknownTypes": 0, "actorsGivenUp": {}, "nodeEventsDropped": 0,
        "witnesses": [],
    }  # fmt: skip


@pytest.mark.parametrize(("driver", "answer"), [("cgroupfs", pb.CGROUPFS), ("systemd", pb.SYSTEMD)])
async def test_runtime_config(daemon: Daemon, monkeypatch: pytest.MonkeyPatch, driver: str, answer: int) -> None:
    settings = daemon.core.host.settings
    object.__setattr__(settings, "cgroup_driver", driver)
    response = await call(daemon, "RuntimeConfig")

    assert response.HasField("linux"), "or the kubelet keeps its own flag"
    assert response.linux.cgroup_driver == answer


# --- every RPC -------------------------------------------------------------------------------------------------------


async def test_what_is_not_built_says_so(daemon: Daemon) -> None:
    assert len(RPCS.keys() - BUILT) == 0
    for name in sorted(RPCS.keys() - BUILT):
        with refused(Status.UNIMPLEMENTED, name):
            await call(daemon, name)


async def test_nothing_is_answered_before_recovery_has_finished(daemon: Daemon) -> None:
    daemon.facade.open = False
    before = len(daemon.log())
    for name in sorted(BUILT):
        with refused(Status.UNAVAILABLE, "comparing its log with the host; try again"):
            await call(daemon, name)
    assert len(daemon.log()) == before

    daemon.facade.open = True
    await call(daemon, "Version")


async def test_bugs_are_answered_and_survived(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> Any:
        raise ZeroDivisionError("by nought")

    before = len(daemon.log(node.RequestRefused))
    with monkeypatch.context() as patch, caplog.at_level(logging.CRITICAL):
        patch.setattr(daemon.core.host.network, "not_ready", broken)
        patch.setattr(daemon.core.pods, "joined", broken)
        patch.setattr(daemon.facade.subscribers, "follow", broken)
        with refused(Status.INTERNAL, "Status: ZeroDivisionError: by nought; this is a bug of ocid"):
            await call(daemon, "Status")
        with refused(Status.INTERNAL, "RunPodSandbox: ZeroDivisionError"):
            await call(daemon, "RunPodSandbox", pb.RunPodSandboxRequest(config=pod_config()))
        with refused(Status.INTERNAL, "GetContainerEvents: ZeroDivisionError"):
            await call(daemon, "GetContainerEvents")

    assert await daemon.run_pod()
    assert len(daemon.log(node.RequestRefused)) == before, "a bug is no refusal"


class Garbage(ProtoCodec):
    """A client that sends what no protobuf message looks like."""

    def encode(self, message: Any, message_type: Any) -> bytes:
        return b"\xff\xff\xff"


@pytest.mark.parametrize("name", ["Version", "RunPodSandbox", "GetContainerEvents"])
async def test_bytes_that_are_no_request(daemon: Daemon, name: str) -> None:
    async with daemon.connect(codec=Garbage()) as client:
        with refused(Status.INVALID_ARGUMENT, "no runtime.v1."):
            await call(daemon, name, client=client)


async def test_a_refused_change_is_recorded_with_who_asked(daemon: Daemon) -> None:
    requests: dict[str, tuple[Any, Status, str]] = {
        "RunPodSandbox": (pb.RunPodSandboxRequest(), Status.INVALID_ARGUMENT, "InvalidRequest"),
        "CreateContainer": (
            pb.CreateContainerRequest(pod_sandbox_id="none", config=container_config()),
            Status.NOT_FOUND,
            "NotFound",
        ),
        "StopPodSandbox": (pb.StopPodSandboxRequest(), Status.INVALID_ARGUMENT, "InvalidRequest"),
        "ExecSync": (pb.ExecSyncRequest(container_id="none", cmd=["x"]), Status.NOT_FOUND, "NotFound"),
        "PullImage": (
            pb.PullImageRequest(image=pb.ImageSpec(image="UPPER/Case")), Status.INVALID_ARGUMENT, "InvalidRequest",
        ),
        "RemoveImage": (pb.RemoveImageRequest(), Status.INVALID_ARGUMENT, "InvalidRequest"),
    }  # fmt: skip
    messages = []
    for name, (request, status, _) in requests.items():
        with refused(status) as caught:
            await call(daemon, name, request)
        messages.append(caught.value.message)

    refusals = daemon.log(node.RequestRefused)
    (peer,) = daemon.log(node.PeerSeen)
    assert [one.event for one in refusals] == [
        node.RequestRefused(rpc=name, error=error, message=message)
        for (name, (_, _, error)), message in zip(requests.items(), messages, strict=True)
    ]
    assert {one.context.who for one in refusals} == {peer.seq}
    assert [one.context.command_id for one in refusals] == list(requests)
    assert daemon.log(pod.Declared) == []


async def test_a_refusal_fits_into_a_record_however_long_its_words(daemon: Daemon) -> None:
    await daemon.pull()
    pod_id = await daemon.run_pod()
    config = container_config(image=pb.ImageSpec(image="🐳" * 1000))
    with refused(Status.NOT_FOUND, "🐳"):
        await call(daemon, "CreateContainer", pb.CreateContainerRequest(pod_sandbox_id=pod_id, config=config))

    (refusal,) = daemon.log(node.RequestRefused)
    assert isinstance(refusal.event, node.RequestRefused)
    assert "🐳" in refusal.event.message


async def test_reads_that_are_refused_are_not_recorded(daemon: Daemon) -> None:
    before = len(daemon.log())
    for name in ("ContainerStatus", "PodSandboxStatus", "ImageStatus"):
        with refused(Status.INVALID_ARGUMENT):
            await call(daemon, name)
    with refused(Status.NOT_FOUND, "container 'none' not found"):
        await call(daemon, "ContainerStatus", pb.ContainerStatusRequest(container_id="none"))

    assert len(daemon.log()) == before


async def test_reads_never_wait_for_work(daemon: Daemon) -> None:
    """Everything that can hang hangs, and lists and states are answered all the same, in no time."""
    await daemon.pull()
    pod_id = await daemon.run_pod()
    container_id = await daemon.run(pod_id)
    daemon.node.faults.script("runtime.signal", "hang")
    daemon.node.faults.script("registry.resolve", "hang")
    daemon.node.faults.script("sandbox.prepare", "hang")
    async with trio.open_nursery() as nursery:
        stop = pb.StopContainerRequest(container_id=container_id, timeout=5)
        nursery.start_soon(daemon.client.StopContainer, stop)
        nursery.start_soon(daemon.client.PullImage, pb.PullImageRequest(image=pb.ImageSpec(image="app:2")))
        nursery.start_soon(daemon.run_pod, "job")
        await trio.sleep(1)

        before = trio.current_time()
        with trio.fail_after(0.01):
            assert (await daemon.status(container_id)).state == pb.CONTAINER_RUNNING
            assert (await daemon.pod_status(pod_id)).state == pb.SANDBOX_READY
            for name in ("ListContainers", "ListPodSandbox", "ListImages", "Status"):
                await call(daemon, name)
        assert trio.current_time() == before
        nursery.cancel_scope.cancel()


async def test_status_shows_witnesses(daemon: Daemon) -> None:
    status = await daemon.client.Status(pb.StatusRequest(verbose=True))
    assert json.loads(status.info["log"])["witnesses"] == []
    daemon.facade.witnessing = Witnessing([FakeWitness("far")], daemon.facade.core.host.clock, lambda _: None)
    daemon.facade.witnessing.publish(checkpoint(7))
    status = await daemon.client.Status(pb.StatusRequest(verbose=True))
    (shown,) = json.loads(status.info["log"])["witnesses"]
    assert (shown["name"], shown["kind"], shown["waiting"], shown["confirmedSize"]) == ("far", "fake", 1, 0)
