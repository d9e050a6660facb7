"""What a caller sees of an actor that keeps crashing: its own pod suffers, and can still be taken down."""

from __future__ import annotations

import json
import logging

import pytest
import trio
from grpclib.const import Status

from ocid.actors.supervisor import CRASHES_MAX
from ocid.cri.stubs import api_pb2 as pb
from ocid.events import node
from tests.cri.daemon import Daemon, pod_config, refused

TOO_OFTEN = ["bug"] * (CRASHES_MAX + 1)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Crashes are meant here."""
    caplog.set_level(logging.CRITICAL)


async def shared_pod(daemon: Daemon, name: str = "web") -> str:
    """A pod with a pause process, which its actor watches."""
    config = pod_config(name)
    config.linux.security_context.namespace_options.pid = pb.POD
    response = await daemon.client.RunPodSandbox(pb.RunPodSandboxRequest(config=config))
    pod_id: str = response.pod_sandbox_id
    return pod_id


async def reason(daemon: Daemon, pod_id: str) -> str:
    request = pb.PodSandboxStatusRequest(pod_sandbox_id=pod_id, verbose=True)
    told: str = json.loads((await daemon.client.PodSandboxStatus(request)).info["info"])["reason"]
    return told


async def take_down(daemon: Daemon, pod_id: str) -> None:
    await daemon.client.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=pod_id))
    await daemon.client.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod_id))


async def test_a_crash_within_the_budget_is_not_noticed(daemon: Daemon) -> None:
    await daemon.pull()
    daemon.node.faults.script("network.attach", *TOO_OFTEN[1:])
    pod_id = await daemon.run_pod()

    assert (await daemon.pod_status(pod_id)).state == pb.SANDBOX_READY
    assert len(daemon.log(node.ActorCrashed)) == CRASHES_MAX
    assert daemon.log(node.ActorGaveUp) == []


async def test_over_the_budget_a_pod_is_not_ready_and_its_siblings_are_fine(daemon: Daemon) -> None:
    await daemon.pull()
    sibling = await shared_pod(daemon, "sibling")
    app = await daemon.run(sibling)
    daemon.node.faults.script("sandbox.wait_pause", *TOO_OFTEN)
    pod_id = await shared_pod(daemon)
    assert (await daemon.pod_status(pod_id)).state == pb.SANDBOX_READY
    await trio.sleep(10)

    assert (await daemon.pod_status(pod_id)).state == pb.SANDBOX_NOTREADY
    assert "its actor crashed more than 5 times in 30 s" in await reason(daemon, pod_id)
    assert "injected bug" in await reason(daemon, pod_id)
    with refused(Status.FAILED_PRECONDITION, "is given up, not ready"):
        await daemon.create(pod_id)
    status = await daemon.client.Status(pb.StatusRequest(verbose=True))
    assert list(json.loads(status.info["log"])["actorsGivenUp"]) == [f"pod/{pod_id}"]
    assert (await daemon.pod_status(sibling)).state == pb.SANDBOX_READY
    assert (await daemon.status(app)).state == pb.CONTAINER_RUNNING

    await take_down(daemon, pod_id)
    assert [row.state.declared.pod_id for row in daemon.view.pods.rows.values() if row.state.declared] == [sibling]
    assert await shared_pod(daemon) != pod_id


async def test_a_container_that_nobody_watches_makes_its_pod_not_ready(daemon: Daemon) -> None:
    await daemon.pull()
    pod_id, sibling = await daemon.run_pod("web"), await daemon.run_pod("sibling")
    fine = await daemon.run(pod_id, "fine")
    daemon.node.faults.script("runtime.wait", *TOO_OFTEN)
    container_id = await daemon.run(pod_id)
    await trio.sleep(10)

    status = await daemon.status(container_id)
    assert (status.state, status.reason) == (pb.CONTAINER_UNKNOWN, "Unwatched")
    assert "crashed more than 5 times" in status.message
    assert (await daemon.pod_status(pod_id)).state == pb.SANDBOX_NOTREADY
    assert "container app: its actor crashed" in await reason(daemon, pod_id)
    assert (await daemon.status(fine)).state == pb.CONTAINER_RUNNING
    assert (await daemon.pod_status(sibling)).state == pb.SANDBOX_READY
    assert len(daemon.node.world.tasks) == 2, "its process was not touched"

    await take_down(daemon, pod_id)
    assert not daemon.node.world.tasks


async def test_a_container_that_was_given_up_can_be_stopped_and_removed(daemon: Daemon) -> None:
    await daemon.pull()
    pod_id = await daemon.run_pod()
    daemon.node.faults.script("runtime.wait", *TOO_OFTEN)
    container_id = await daemon.run(pod_id)
    await trio.sleep(10)
    await daemon.client.StopContainer(pb.StopContainerRequest(container_id=container_id, timeout=5))

    status = await daemon.status(container_id)
    assert (status.state, status.exit_code) == (pb.CONTAINER_EXITED, 143)
    await daemon.client.RemoveContainer(pb.RemoveContainerRequest(container_id=container_id))
    await take_down(daemon, pod_id)


async def test_a_pod_that_was_given_up_in_the_making_is_listed_so_that_it_can_be_taken_down(daemon: Daemon) -> None:
    daemon.node.faults.script("network.attach", *TOO_OFTEN)
    with refused(Status.UNAVAILABLE, "its actor crashed more than 5 times"):
        await daemon.run_pod()

    (item,) = (await daemon.client.ListPodSandbox(pb.ListPodSandboxRequest())).items
    assert item.state == pb.SANDBOX_NOTREADY
    await take_down(daemon, item.id)
    assert not daemon.node.world.pins
    assert await daemon.run_pod()


async def test_teardown_that_crashes_too_often_goes_on_with_the_next_request(daemon: Daemon) -> None:
    pod_id = await daemon.run_pod()
    daemon.node.faults.script("network.detach", *TOO_OFTEN)
    with refused(Status.UNAVAILABLE, "its actor crashed more than 5 times"):
        await take_down(daemon, pod_id)

    await take_down(daemon, pod_id)
    assert not daemon.node.world.addresses
