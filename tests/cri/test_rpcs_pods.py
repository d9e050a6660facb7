"""Pods: run, stop, remove, status, list."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.cri.stubs import api_pb2 as pb
from ocid.events import pod
from ocid.ports import HandlerFeatures
from tests.cri.daemon import ANNOTATIONS, LABELS, Daemon, pod_config, refused
from tests.fakes.pods import FakeClock
from tests.fakes.world import EPOCH_NS, World


async def listed(daemon: Daemon, **filters: Any) -> list[pb.PodSandbox]:
    request = pb.ListPodSandboxRequest(filter=pb.PodSandboxFilter(**filters))
    return list((await daemon.client.ListPodSandbox(request)).items)


async def stop(daemon: Daemon, pod_id: str) -> None:
    await daemon.client.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=pod_id))


async def remove(daemon: Daemon, pod_id: str) -> None:
    await daemon.client.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod_id))


# --- what is shown ---------------------------------------------------------------------------------------------------


async def test_status_has_every_field(daemon: Daemon) -> None:
    pod_id = await daemon.run_pod("web", attempt=3)
    response = await daemon.client.PodSandboxStatus(pb.PodSandboxStatusRequest(pod_sandbox_id=pod_id))

    (declared,) = daemon.log(pod.Declared)
    assert isinstance(declared.event, pod.Declared)
    options = pb.NamespaceOption(network=pb.POD, pid=pb.CONTAINER, ipc=pb.POD)
    assert response.status == pb.PodSandboxStatus(
        id=pod_id,
        metadata=pb.PodSandboxMetadata(name="web", uid="uid-web", namespace="prod", attempt=3),
        state=pb.SANDBOX_READY,
        created_at=declared.event.created_at_ns,
        network=pb.PodSandboxNetworkStatus(ip="10.88.0.2", additional_ips=[pb.PodIP(ip="fd00:88::2")]),
        linux=pb.LinuxPodSandboxStatus(namespaces=pb.Namespace(options=options)),
        labels={**LABELS, "name": "web"},
        annotations=ANNOTATIONS,
        runtime_handler="",
    )
    assert response.status.created_at >= EPOCH_NS
    assert response.timestamp > 0, "zero would say that there are no events"
    assert not response.info


async def test_status_has_all_containers_as_of_the_same_moment(daemon: Daemon) -> None:
    await daemon.pull()
    pod_id, other = await daemon.run_pod(), await daemon.run_pod("job")
    ids = [await daemon.run(pod_id, "app"), await daemon.create(pod_id, "late")]
    await daemon.run(other)
    response = await daemon.client.PodSandboxStatus(pb.PodSandboxStatusRequest(pod_sandbox_id=pod_id))

    assert list(response.containers_statuses) == [await daemon.status(one) for one in ids]
    assert [one.state for one in response.containers_statuses] == [pb.CONTAINER_RUNNING, pb.CONTAINER_CREATED]


async def test_verbose_status(daemon: Daemon) -> None:
    config = pod_config()
    config.linux.security_context.namespace_options.pid = pb.POD
    response = await daemon.client.RunPodSandbox(pb.RunPodSandboxRequest(config=config))
    request = pb.PodSandboxStatusRequest(pod_sandbox_id=response.pod_sandbox_id, verbose=True)
    info = json.loads((await daemon.client.PodSandboxStatus(request)).info["info"])

    (pause,) = [task for task in daemon.node.world.tasks.values() if task.owner == response.pod_sandbox_id]
    assert info["pid"] == pause.process.pid
    assert (info["phase"], info["reason"], info["network"]) == ("ready", "", "bridge")
    assert info["netns"] in daemon.node.world.pins
    assert info["config"]["labels"]["app"] == LABELS["app"]
    assert info["lastSeq"] == daemon.view.pods.rows[response.pod_sandbox_id].seq


async def test_a_pod_on_the_hosts_network_has_no_address(daemon: Daemon) -> None:
    config = pod_config()
    config.linux.security_context.namespace_options.network = pb.NODE
    response = await daemon.client.RunPodSandbox(pb.RunPodSandboxRequest(config=config))

    status = await daemon.pod_status(response.pod_sandbox_id)
    assert (status.state, status.network.ip) == (pb.SANDBOX_READY, "")
    assert status.linux.namespaces.options.network == pb.NODE


async def test_item_of_a_list(daemon: Daemon) -> None:
    pod_id = await daemon.run_pod()
    (item,) = await listed(daemon)

    status = await daemon.pod_status(pod_id)
    assert item == pb.PodSandbox(
        id=pod_id,
        metadata=status.metadata,
        state=pb.SANDBOX_READY,
        created_at=status.created_at,
        labels=status.labels,
        annotations=status.annotations,
        runtime_handler="",
    )


async def test_list_filters_must_all_match(daemon: Daemon) -> None:
    web, job = await daemon.run_pod("web"), await daemon.run_pod("job")
    await stop(daemon, job)
    ready, not_ready = (pb.PodSandboxStateValue(state=state) for state in (pb.SANDBOX_READY, pb.SANDBOX_NOTREADY))

    async def ids(**filters: Any) -> list[str]:
        return [one.id for one in await listed(daemon, **filters)]

    assert await ids() == [web, job]
    assert await ids(id=web) == await ids(id=web[:6]) == [web]
    assert await ids(id=web[1:]) == []
    assert await ids(state=ready) == [web]
    assert await ids(state=not_ready) == [job]
    assert await ids(label_selector={"name": "job"}) == [job]
    assert await ids(label_selector=LABELS) == [web, job]
    assert await ids(label_selector={"name": "job", "app": "else"}) == []
    assert await ids(label_selector={"app": "schön"}) == [], "the value, byte for byte"
    assert await ids(id=web, state=ready, label_selector={"name": "web"}) == [web]
    assert await ids(id=web, state=not_ready) == []
    assert await ids(id=job, label_selector={"name": "web"}) == []


async def test_short_ids(daemon: Daemon) -> None:
    web, job = await daemon.run_pod("web"), await daemon.run_pod("job")

    assert (await daemon.pod_status(web[:12])).id == web
    daemon.view.pods.rows[web[:63] + "x"] = daemon.view.pods.rows[job]
    with refused(Status.NOT_FOUND, "pod"):
        await daemon.pod_status(web[:12])
    del daemon.view.pods.rows[web[:63] + "x"]
    await stop(daemon, job[:12])
    assert (await daemon.pod_status(job)).state == pb.SANDBOX_NOTREADY


async def test_a_pod_in_the_making_is_not_listed(daemon: Daemon) -> None:
    daemon.node.faults.script("network.attach", "slow")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(daemon.run_pod)
        await trio.sleep(1)
        assert await listed(daemon) == []
    assert len(await listed(daemon)) == 1


# --- run -------------------------------------------------------------------------------------------------------------


async def test_a_retry_joins_the_pod_in_the_making_or_gets_the_finished_one(daemon: Daemon) -> None:
    daemon.node.faults.script("network.attach", "slow")
    ids: list[str] = []

    async def run() -> None:
        ids.append(await daemon.run_pod())

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(run)
            await trio.sleep(0.05)
    await run()

    assert len(ids) == 4
    assert len(set(ids)) == 1
    assert len(daemon.log(pod.Declared)) == 1


async def test_another_attempt_is_another_pod(daemon: Daemon) -> None:
    assert await daemon.run_pod("web") != await daemon.run_pod("web", attempt=1)
    assert len(daemon.log(pod.Declared)) == 2


@pytest.mark.parametrize("how", ["cancelled", "deadline"])
async def test_work_goes_on_when_its_caller_goes_away(daemon: Daemon, how: str) -> None:
    daemon.node.faults.script("network.attach", "slow")
    request = pb.RunPodSandboxRequest(config=pod_config())
    if how == "cancelled":
        with trio.move_on_after(1) as scope:
            await daemon.client.RunPodSandbox(request)
        assert scope.cancelled_caught
    else:
        with pytest.raises((TimeoutError, GRPCError)):
            await daemon.client.RunPodSandbox(request, timeout_s=1)
    assert await listed(daemon) == []

    await trio.sleep(25)

    (item,) = await listed(daemon, state=pb.PodSandboxStateValue(state=pb.SANDBOX_READY))
    assert await daemon.run_pod() == item.id
    assert len(daemon.log(pod.Declared)) == 1


async def test_a_retry_after_a_restart_gets_the_finished_one(daemon: Daemon) -> None:
    pod_id = await daemon.run_pod()
    await daemon.restart()

    assert await daemon.run_pod() == pod_id


async def test_created_at_never_steps_back(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither when the wall clock does, nor when the daemon is restarted."""
    web = await daemon.run_pod("web")
    first = (await daemon.pod_status(web)).created_at
    monkeypatch.setattr(World, "wall_ns", lambda world: EPOCH_NS - 10**15 + world.boot_ns())
    assert FakeClock(daemon.node.world).wall_ns() < first

    async def created_at(name: str, attempt: int = 0) -> int:
        return (await daemon.pod_status(await daemon.run_pod(name, attempt=attempt))).created_at

    second, third = await created_at("web", 1), await created_at("web", 2)
    await daemon.restart()
    assert (await daemon.pod_status(web)).created_at == first
    assert first < second < third < await created_at("web", 3)
    assert await created_at("job") < first, "another pod's own business"


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        (pb.RunPodSandboxRequest(), Status.INVALID_ARGUMENT, "config is missing"),
        (pb.RunPodSandboxRequest(config=pb.PodSandboxConfig()), Status.INVALID_ARGUMENT, "metadata"),
        (pb.RunPodSandboxRequest(config=pod_config(hostname="x" * 65)), Status.INVALID_ARGUMENT, "hostname"),
        (
            pb.RunPodSandboxRequest(config=pod_config(), runtime_handler="kata"),
            Status.INVALID_ARGUMENT,
            "runtime handler 'kata' is not configured: have ''",
        ),
    ],
)
async def test_run_refuses(daemon: Daemon, request_: Any, status: Status, words: str) -> None:
    with refused(status, words):
        await daemon.client.RunPodSandbox(request_)

    assert await listed(daemon) == []
    assert daemon.log(pod.Declared) == []


async def test_user_namespaces_are_declared_where_the_handler_has_them(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    able = {"": HandlerFeatures(path="/usr/bin/runc", version="1.2", user_namespaces=True)}
    monkeypatch.setattr(daemon.core.host.runtime, "handlers", lambda: able)
    config = pod_config()
    mapping = pb.IDMapping(host_id=65536, container_id=0, length=65536)
    users = pb.UserNamespace(mode=pb.POD, uids=[mapping], gids=[mapping])
    config.linux.security_context.namespace_options.userns_options.CopyFrom(users)
    pod_id = (await daemon.client.RunPodSandbox(pb.RunPodSandboxRequest(config=config))).pod_sandbox_id
    (declared,) = daemon.log(pod.Declared)
    assert declared.event.userns == f"{declared.event.run_dir}/ns/user"
    answer = await daemon.client.PodSandboxStatus(pb.PodSandboxStatusRequest(pod_sandbox_id=pod_id))
    assert answer.status.linux.namespaces.options.userns_options == users
    config.metadata.attempt = 1
    config.linux.security_context.namespace_options.network = pb.NODE
    with refused(Status.UNIMPLEMENTED, "user namespaces with the host's network namespace"):
        await daemon.client.RunPodSandbox(pb.RunPodSandboxRequest(config=config))


async def test_user_namespaces_are_refused_and_not_ignored(daemon: Daemon) -> None:
    config = pod_config()
    mapping = pb.IDMapping(host_id=65536, container_id=0, length=65536)
    users = config.linux.security_context.namespace_options.userns_options
    users.CopyFrom(pb.UserNamespace(mode=pb.POD, uids=[mapping], gids=[mapping]))
    with refused(Status.UNIMPLEMENTED, "user namespaces"):
        await daemon.client.RunPodSandbox(pb.RunPodSandboxRequest(config=config))


async def test_a_pod_that_fails_leaves_nothing_and_may_be_tried_again(daemon: Daemon) -> None:
    daemon.node.faults.script("network.attach", "fail")
    with refused(Status.UNKNOWN, "pod prod/web: Attach: network.attach: injected failure"):
        await daemon.run_pod()

    assert await listed(daemon) == [], "the error says that nothing is left"
    assert daemon.left() == {}
    assert await daemon.run_pod()


async def test_a_failed_pod_that_cannot_be_taken_down_is_listed_until_it_is(daemon: Daemon) -> None:
    daemon.node.faults.script("network.attach", "fail")
    daemon.node.faults.script("network.detach", *["fail"] * 3)
    with refused(Status.UNKNOWN):
        await daemon.run_pod()
    await trio.sleep(0.1)

    (item,) = await listed(daemon)
    assert item.state == pb.SANDBOX_NOTREADY
    await trio.sleep(5)
    assert await listed(daemon) == []


# --- stop and remove -------------------------------------------------------------------------------------------------


async def test_stop_ends_containers_and_network_but_keeps_the_pod(daemon: Daemon) -> None:
    await daemon.pull()
    pod_id = await daemon.run_pod()
    running, created = await daemon.run(pod_id, "app", "term:ignore"), await daemon.create(pod_id, "late")
    await stop(daemon, pod_id)

    status = await daemon.pod_status(pod_id)
    assert (status.state, status.network.ip, list(status.network.additional_ips)) == (pb.SANDBOX_NOTREADY, "", [])
    assert [(await daemon.status(one)).state for one in (running, created)] == [pb.CONTAINER_EXITED] * 2
    assert daemon.left().keys() == {"bundles"}, "of containers that are listed"


async def test_stop_and_remove_succeed_when_there_is_nothing_to_do(daemon: Daemon) -> None:
    await stop(daemon, "none")
    await remove(daemon, "none")
    pod_id = await daemon.run_pod()
    for act in (stop, stop, remove, remove, stop):
        await act(daemon, pod_id)

    with refused(Status.NOT_FOUND, f"pod '{pod_id}' not found"):
        await daemon.pod_status(pod_id)
    assert await listed(daemon) == []


async def test_many_may_stop_and_remove_at_once(daemon: Daemon) -> None:
    await daemon.pull()
    pod_id = await daemon.run_pod()
    await daemon.run(pod_id)
    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon((stop, remove)[number % 2], daemon, pod_id)
            await trio.sleep(0.005)

    assert await listed(daemon) == []


async def test_remove_takes_running_containers_with_it(daemon: Daemon) -> None:
    await daemon.pull()
    pod_id = await daemon.run_pod()
    container_id = await daemon.run(pod_id, "app", "term:ignore")
    await remove(daemon, pod_id)

    with refused(Status.NOT_FOUND):
        await daemon.status(container_id)
    assert daemon.left() == {}
    assert await daemon.run_pod() != pod_id, "its key is free again"


async def test_a_step_that_fails_is_said_and_goes_on_being_tried(daemon: Daemon) -> None:
    pod_id = await daemon.run_pod()
    daemon.node.faults.script("network.detach", "fail", "fail")
    with refused(Status.UNAVAILABLE, "Detach: network.detach: injected failure", "being tried again"):
        await stop(daemon, pod_id)
    await trio.sleep(2)

    await stop(daemon, pod_id)
    assert not daemon.node.world.addresses


async def test_a_cancelled_stop_goes_on(daemon: Daemon) -> None:
    pod_id = await daemon.run_pod()
    daemon.node.faults.script("network.detach", "slow")
    with trio.move_on_after(1):
        await stop(daemon, pod_id)
    await trio.sleep(25)

    assert not daemon.node.world.pins


@pytest.mark.parametrize("name", ["PodSandboxStatus", "StopPodSandbox", "RemovePodSandbox"])
async def test_an_empty_id_is_refused(daemon: Daemon, name: str) -> None:
    with refused(Status.INVALID_ARGUMENT, "pod_sandbox_id is empty"):
        await getattr(daemon.client, name)(getattr(pb, f"{name}Request")())


async def test_after_a_reboot_pods_are_not_ready_and_can_be_taken_down(daemon: Daemon) -> None:
    pod_id = await daemon.run_pod()
    await daemon.restart(reboot=True)

    assert (await daemon.pod_status(pod_id)).state == pb.SANDBOX_NOTREADY
    await stop(daemon, pod_id)
    await remove(daemon, pod_id)
    assert await listed(daemon) == []
