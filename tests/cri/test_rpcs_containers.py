"""Containers: create, start, stop, remove, status, list, the log."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from grpclib.const import Status

from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.spec.inputs import HostFacts
from ocid.events import container, pod as pod_events
from tests.cri.daemon import ANNOTATIONS, IMAGE, LABELS, Daemon, container_config, refused
from tests.fakes.world import EPOCH_NS, World


async def listed(daemon: Daemon, **filters: Any) -> list[pb.Container]:
    request = pb.ListContainersRequest(filter=pb.ContainerFilter(**filters))
    return list((await daemon.client.ListContainers(request)).containers)


async def stop(daemon: Daemon, container_id: str, timeout_s: int = 0) -> None:
    await daemon.client.StopContainer(pb.StopContainerRequest(container_id=container_id, timeout=timeout_s))


async def remove(daemon: Daemon, container_id: str) -> None:
    await daemon.client.RemoveContainer(pb.RemoveContainerRequest(container_id=container_id))


@pytest.fixture
async def pod_id(daemon: Daemon) -> str:
    """A pod, with an image pulled."""
    await daemon.pull()
    return await daemon.run_pod()


# --- what is shown ---------------------------------------------------------------------------------------------------


async def test_status_has_every_field(daemon: Daemon, pod_id: str) -> None:
    mounts = [
        pb.Mount(container_path="/data", host_path="/srv/data", propagation=pb.PROPAGATION_BIDIRECTIONAL),
        pb.Mount(container_path="/ro", host_path="/srv/ro", readonly=True, recursive_read_only=True),
    ]
    limits = pb.LinuxContainerResources(
        cpu_period=100_000, cpu_quota=50_000, cpu_shares=512, memory_limit_in_bytes=1 << 28, oom_score_adj=500,
        unified={"memory.high": "1000"},
    )  # fmt: skip
    config = container_config("app", "run:5", "code:3", attempt=2, mounts=mounts, stop_signal=pb.SIGRTMINPLUS3)
    config.linux.resources.CopyFrom(limits)
    context = config.linux.security_context
    context.run_as_user.value, context.run_as_group.value = 1000, 1001
    context.supplemental_groups.extend([5, 6])
    response = await daemon.client.CreateContainer(pb.CreateContainerRequest(pod_sandbox_id=pod_id, config=config))
    container_id = response.container_id
    created = await daemon.status(container_id)
    await daemon.start(container_id)
    running = await daemon.status(container_id)
    ended = await daemon.exited(container_id)

    image = daemon.facade.catalog_state().images[daemon.facade.image_id(IMAGE)]
    expected = pb.ContainerStatus(
        id=container_id,
        metadata=pb.ContainerMetadata(name="app", attempt=2),
        state=pb.CONTAINER_CREATED,
        created_at=created.created_at,
        image=pb.ImageSpec(image="app:1", user_specified_image="app:1"),
        image_ref=image.names[1],
        image_id=image.image_id,
        labels={**LABELS, "name": "app"},
        annotations=ANNOTATIONS,
        mounts=mounts,
        log_path="/var/log/pods/web/app/0.log",
        resources=pb.ContainerResources(linux=limits),
        user=pb.ContainerUser(linux=pb.LinuxContainerUser(uid=1000, gid=1001, supplemental_groups=[1001, 5, 6])),
        stop_signal=pb.SIGRTMINPLUS3,
    )
    assert created == expected
    assert expected.image_ref.startswith("registry.test/app@sha256:")
    expected.state, expected.started_at = pb.CONTAINER_RUNNING, running.started_at
    assert running == expected
    expected.state, expected.finished_at, expected.exit_code, expected.reason = (
        pb.CONTAINER_EXITED, ended.finished_at, 3, "Error",
    )  # fmt: skip
    assert ended == expected
    assert EPOCH_NS < created.created_at < running.started_at
    assert 4.9e9 < ended.finished_at - ended.started_at < 5.3e9


async def test_limits_that_were_never_set_are_absent(daemon: Daemon, pod_id: str) -> None:
    status = await daemon.status(await daemon.create(pod_id))

    assert not status.HasField("resources"), "the kubelet then keeps its own record"
    assert status.stop_signal == pb.SIGTERM


@pytest.mark.parametrize(
    ("args", "code", "reason"),
    [
        (("run:1",), 0, "Completed"),
        (("run:1", "code:3"), 3, "Error"),
        (("run:1", "oom"), 137, "OOMKilled"),
    ],
)
async def test_ends_by_itself(daemon: Daemon, pod_id: str, args: tuple[str, ...], code: int, reason: str) -> None:
    status = await daemon.exited(await daemon.run(pod_id, "app", *args))

    assert (status.exit_code, status.reason, status.message) == (code, reason, "")
    assert status.created_at < status.started_at < status.finished_at


async def test_a_program_that_cannot_be_executed(daemon: Daemon, pod_id: str) -> None:
    container_id = await daemon.create(pod_id, "app", "noexec")
    with refused(Status.UNKNOWN, "exec: no such file or directory"):
        await daemon.start(container_id)

    status = await daemon.status(container_id)
    assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 128, "StartError")
    assert "no such file" in status.message
    assert (status.started_at, status.finished_at > status.created_at) == (0, True)
    with refused(Status.UNKNOWN, "exec: no such file or directory"):
        await daemon.start(container_id)
    await remove(daemon, container_id)


async def test_a_container_that_the_runtime_refuses(daemon: Daemon, pod_id: str) -> None:
    daemon.node.faults.script("runtime.create", "fail")
    container_id = await daemon.create(pod_id)
    with refused(Status.UNKNOWN, "runtime.create: injected failure"):
        await daemon.start(container_id)

    status = await daemon.status(container_id)
    assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 128, "StartError")


async def test_a_reboot_is_told_from_an_exit(daemon: Daemon, pod_id: str) -> None:
    container_id = await daemon.run(pod_id)
    await daemon.restart(reboot=True)

    status = await daemon.status(container_id)
    assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 255, "NodeReboot")
    assert "rebooted" in status.message


async def test_an_exit_that_nobody_recorded_is_not_made_up(daemon: Daemon, pod_id: str) -> None:
    container_id = await daemon.run(pod_id, "app", "run:5")
    del daemon.node.world.contained[container_id]  # and with it the monitor
    status = await daemon.exited(container_id)

    assert (status.exit_code, status.reason) == (255, "ExitStatusUnknown")
    assert "not recorded" in status.message


async def test_exits_while_the_daemon_is_dead_are_found(daemon: Daemon, pod_id: str) -> None:
    container_id = await daemon.run(pod_id, "app", "run:0.01", "code:7")
    await daemon.restart()
    status = await daemon.exited(container_id)

    assert (status.exit_code, status.reason) == (7, "Error")


async def test_verbose_status(daemon: Daemon, pod_id: str) -> None:
    container_id = await daemon.run(pod_id)
    request = pb.ContainerStatusRequest(container_id=container_id, verbose=True)
    info = json.loads((await daemon.client.ContainerStatus(request)).info["info"])

    (task,) = daemon.node.world.tasks.values()
    assert info["pid"] == task.process.pid
    assert info["sandboxID"] == pod_id
    assert info["runtimeSpec"]["process"]["args"] == ["serve"]
    assert info["snapshotKey"].endswith(container_id)
    assert (info["phase"], info["lastSeq"]) == ("running", daemon.view.containers.rows[container_id].seq)


async def test_verbose_status_of_one_that_ended_has_no_pid(daemon: Daemon, pod_id: str) -> None:
    container_id = await daemon.run(pod_id, "app", "run:1")
    await daemon.exited(container_id)
    request = pb.ContainerStatusRequest(container_id=container_id, verbose=True)

    assert json.loads((await daemon.client.ContainerStatus(request)).info["info"])["pid"] == 0


async def test_secret_values_are_not_shown(daemon: Daemon, pod_id: str) -> None:
    envs = [pb.KeyValue(key="DB_PASSWORD", value=b"tops3cret")]
    container_id = await daemon.run(pod_id, "app", envs=envs)
    request = pb.ContainerStatusRequest(container_id=container_id, verbose=True)
    response = await daemon.client.ContainerStatus(request)

    assert "DB_PASSWORD" in response.info["info"]
    assert b"tops3cret" not in response.SerializeToString()


async def test_item_of_a_list(daemon: Daemon, pod_id: str) -> None:
    container_id = await daemon.run(pod_id)
    (item,) = await listed(daemon)

    status = await daemon.status(container_id)
    assert item == pb.Container(
        id=container_id,
        pod_sandbox_id=pod_id,
        metadata=status.metadata,
        image=status.image,
        image_ref=status.image_ref,
        state=pb.CONTAINER_RUNNING,
        created_at=status.created_at,
        labels=status.labels,
        annotations=status.annotations,
        image_id=status.image_id,
    )


async def test_list_filters_must_all_match(daemon: Daemon, pod_id: str) -> None:
    job = await daemon.run_pod("job")
    app, late = await daemon.run(pod_id, "app"), await daemon.create(pod_id, "late")
    done = await daemon.run(job, "done", "run:0.1")
    await daemon.exited(done)
    running, created, exited = (
        pb.ContainerStateValue(state=state)
        for state in (pb.CONTAINER_RUNNING, pb.CONTAINER_CREATED, pb.CONTAINER_EXITED)
    )

    async def ids(**filters: Any) -> list[str]:
        return [one.id for one in await listed(daemon, **filters)]

    assert await ids() == [app, late, done]
    assert await ids(id=app) == await ids(id=app[:6]) == [app]
    assert await ids(pod_sandbox_id=pod_id) == await ids(pod_sandbox_id=pod_id[:10]) == [app, late]
    assert [await ids(state=state) for state in (running, created, exited)] == [[app], [late], [done]]
    assert await ids(label_selector={"name": "late"}) == [late]
    assert await ids(label_selector={**LABELS, "name": "none"}) == []
    assert await ids(pod_sandbox_id=pod_id, state=exited) == []
    assert await ids(pod_sandbox_id=pod_id, state=created, label_selector=LABELS, id=late[:5]) == [late]
    assert await ids(id=app, pod_sandbox_id=job) == []


async def test_short_ids(daemon: Daemon, pod_id: str) -> None:
    container_id = await daemon.create(pod_id[:13])

    await daemon.start(container_id[:13])
    assert (await daemon.status(container_id[:13])).id == container_id
    await stop(daemon, container_id[:13])
    await remove(daemon, container_id[:13])
    assert await listed(daemon) == []


# --- create ----------------------------------------------------------------------------------------------------------


async def test_a_retry_joins_the_container_in_the_making_or_gets_the_finished_one(daemon: Daemon, pod_id: str) -> None:
    daemon.node.faults.script("layers.mount", "slow")
    ids: list[str] = []

    async def create() -> None:
        ids.append(await daemon.create(pod_id))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(create)
            await trio.sleep(0.05)
        assert await listed(daemon) == [], "in the making"
        (young,) = daemon.view.containers.rows
        with refused(Status.NOT_FOUND, young):
            await daemon.status(young)
    await create()
    await daemon.start(ids[0])
    await create()

    assert len(ids) == 5
    assert len(set(ids)) == 1
    assert len(daemon.log(container.Declared)) == 1


async def test_another_attempt_is_another_container(daemon: Daemon, pod_id: str) -> None:
    assert await daemon.create(pod_id, "app") != await daemon.create(pod_id, "app", attempt=1)


async def test_work_goes_on_when_its_caller_goes_away(daemon: Daemon, pod_id: str) -> None:
    daemon.node.faults.script("layers.mount", "slow")
    with trio.move_on_after(1):
        await daemon.create(pod_id)
    await trio.sleep(25)

    (item,) = await listed(daemon)
    assert await daemon.create(pod_id) == item.id


async def test_created_at_never_steps_back(daemon: Daemon, pod_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    times = [(await daemon.status(await daemon.create(pod_id))).created_at]
    monkeypatch.setattr(World, "wall_ns", lambda world: EPOCH_NS - 10**15 + world.boot_ns())
    times.append((await daemon.status(await daemon.create(pod_id, attempt=1))).created_at)
    await daemon.restart()
    times.append((await daemon.status(await daemon.create(pod_id, attempt=2))).created_at)

    assert times == sorted(set(times))


async def test_the_image_may_be_named_by_id_or_tag(daemon: Daemon, pod_id: str) -> None:
    image_id = daemon.facade.image_id(IMAGE)
    for number, name in enumerate((image_id, image_id[7:], image_id[7:19], IMAGE)):
        container_id = await daemon.create(pod_id, "app", attempt=number, image=pb.ImageSpec(image=name))
        status = await daemon.status(container_id)
        assert (status.image_id, status.image.image) == (image_id, name)


async def test_create_refuses_what_is_missing(daemon: Daemon, pod_id: str) -> None:
    with refused(Status.NOT_FOUND, "pod 'none' not found"):
        await daemon.create("none")
    with refused(Status.NOT_FOUND, "image 'registry.test/else:1' not found"):
        await daemon.create(pod_id, image=pb.ImageSpec(image="registry.test/else:1"))
    await daemon.client.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=pod_id))
    with refused(Status.FAILED_PRECONDITION, "is stopped, not ready"):
        await daemon.create(pod_id)
    assert daemon.log(container.Declared) == []


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"metadata": pb.ContainerMetadata()}, Status.INVALID_ARGUMENT, "metadata.name is empty"),
        ({"image": pb.ImageSpec()}, Status.INVALID_ARGUMENT, "image.image is empty"),
        ({"log_path": "../../etc/shadow"}, Status.INVALID_ARGUMENT, "log_path"),
        ({"working_dir": "/a\0b"}, Status.INVALID_ARGUMENT, "NUL"),
        (
            {"mounts": [pb.Mount(container_path="/i", image=pb.ImageSpec(image="x"), readonly=True)]},
            Status.UNKNOWN,
            "ImageVolumeMountFailed: mount of image 'x' at '/i': image 'x' not found",
        ),
        (
            {"mounts": [pb.Mount(container_path="/i", image=pb.ImageSpec(image=IMAGE), readonly=True)] * 65},
            Status.INVALID_ARGUMENT,
            "config.mounts with an image has 65 entries, the limit is 64",
        ),
        (
            {"CDI_devices": [pb.CDIDevice(name="vendor.com/gpu")]},
            Status.INVALID_ARGUMENT,
            "'vendor/class=device'",
        ),
    ],
)
async def test_create_refuses(daemon: Daemon, pod_id: str, fields: dict[str, Any], status: Status, words: str) -> None:
    with refused(status, words):
        await daemon.create(pod_id, **fields)
    assert daemon.log(container.Declared) == []


async def test_a_container_that_cannot_be_prepared_leaves_nothing_and_may_be_tried_again(
    daemon: Daemon, pod_id: str
) -> None:
    daemon.node.faults.script("layers.mount", "fail")
    with refused(Status.UNKNOWN, "container app: layers.mount: injected failure"):
        await daemon.create(pod_id)
    await trio.sleep(2)

    assert await listed(daemon) == []
    assert "bundles" not in daemon.left()
    assert await daemon.create(pod_id)


async def test_an_image_is_mounted_and_shown_with_its_id(daemon: Daemon, pod_id: str) -> None:
    volume = pb.ImageSpec(image=IMAGE, user_specified_image="app:1")
    mount = pb.Mount(container_path="/i", image=volume, readonly=True, image_sub_path="a")
    plain = pb.Mount(container_path="/h", host_path="/srv", image=pb.ImageSpec())
    container_id = await daemon.create(pod_id, mounts=[plain, mount])

    image_id = daemon.facade.image_id(IMAGE)
    mount.image.image_ref = image_id
    plain.ClearField("image")
    assert list((await daemon.status(container_id)).mounts) == [plain, mount]
    (declared,) = daemon.log(container.Declared)
    assert daemon.view.containers.config(container_id).mounted_images == (image_id,)
    place = f"{declared.event.bundle}/images/1"
    assert place in daemon.node.world.mounts
    spec = json.loads(daemon.node.world.paths[f"{declared.event.bundle}/config.json"])
    options = ["rbind", "rprivate", "ro", "nosuid", "nodev"]
    expected = {"destination": "/i", "type": "bind", "source": f"{place}/a", "options": options}
    assert expected in spec["mounts"]
    await remove(daemon, container_id)
    assert place not in daemon.node.world.mounts


async def test_an_image_without_the_sub_path_is_refused_as_the_kubelet_expects(daemon: Daemon, pod_id: str) -> None:
    volume = pb.Mount(container_path="/i", image=pb.ImageSpec(image=IMAGE), readonly=True, image_sub_path="missing/x")
    with refused(Status.UNKNOWN, "") as error:
        await daemon.create(pod_id, mounts=[volume])
    assert error.value.message.startswith(f"ImageVolumeMountFailed: mount of image '{IMAGE}' at '/i': sub path")
    await trio.sleep(2)
    assert "bundles" not in daemon.left()


async def test_labels_are_chosen_recorded_and_given_where_the_kernel_has_selinux(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    await daemon.pull()
    relabelled: list[tuple[str, str]] = []

    async def relabel(path: str, label: str) -> None:
        relabelled.append((path, label))

    monkeypatch.setattr(daemon.core.host.runtime, "host_facts", lambda: HostFacts(selinux_enabled=True))
    monkeypatch.setattr(daemon.core.host.files, "relabel", relabel)
    pods = [await daemon.run_pod(name) for name in ("one", "two")]
    mounts = [
        pb.Mount(container_path="/a", host_path="/srv/a", selinux_relabel=True),
        pb.Mount(container_path="/b", host_path="/srv/b"),
    ]
    await daemon.create(pods[0], mounts=mounts)
    levels = [one.event.selinux_level for one in daemon.log(pod_events.Declared)]
    assert levels[0] != levels[1]
    (declared,) = daemon.log(container.Declared)
    spec = json.loads(daemon.node.world.paths[f"{declared.event.bundle}/config.json"])
    files = f"system_u:object_r:container_file_t:{levels[0]}"
    assert spec["process"]["selinuxLabel"] == f"system_u:system_r:container_t:{levels[0]}"
    assert spec["linux"]["mountLabel"] == files
    assert relabelled == [("/srv/a", files)]


# --- start -----------------------------------------------------------------------------------------------------------


async def test_start_refuses(daemon: Daemon, pod_id: str) -> None:
    with refused(Status.NOT_FOUND, "container 'none' not found"):
        await daemon.start("none")
    with refused(Status.INVALID_ARGUMENT, "container_id is empty"):
        await daemon.start("")
    container_id = await daemon.run(pod_id)
    with refused(Status.FAILED_PRECONDITION, "is running, not created"):
        await daemon.start(container_id)
    await stop(daemon, container_id)
    with refused(Status.FAILED_PRECONDITION, "is exited, not created"):
        await daemon.start(container_id)
    stopped = await daemon.create(pod_id, "late")
    await stop(daemon, stopped)
    with refused(Status.FAILED_PRECONDITION, "is exited, not created"):
        await daemon.start(stopped)


async def test_a_retried_start_joins_the_one_that_goes_on(daemon: Daemon, pod_id: str) -> None:
    daemon.node.faults.script("runtime.start", "slow")
    container_id = await daemon.create(pod_id)
    with trio.move_on_after(1):
        await daemon.start(container_id)
    await daemon.start(container_id)

    assert (await daemon.status(container_id)).state == pb.CONTAINER_RUNNING
    assert daemon.node.world.starts[container_id] == 1
    assert len(daemon.log(container.StartRequested)) == 1


# --- stop ------------------------------------------------------------------------------------------------------------


async def test_stop_asks_before_it_kills(daemon: Daemon, pod_id: str) -> None:
    container_id = await daemon.run(pod_id, "app", "term:trap:3", "code:5")
    before = trio.current_time()
    await stop(daemon, container_id, 30)

    status = await daemon.status(container_id)
    assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 5, "Error")
    assert 3 <= trio.current_time() - before < 4
    assert daemon.node.world.signals[container_id] == [15]


async def test_stop_kills_when_the_time_is_up(daemon: Daemon, pod_id: str) -> None:
    container_id = await daemon.run(pod_id, "app", "term:ignore")
    before = trio.current_time()
    await stop(daemon, container_id, 30)

    assert 30 <= trio.current_time() - before < 31
    assert (await daemon.status(container_id)).exit_code == 137
    assert daemon.node.world.signals[container_id] == [15, 9]


@pytest.mark.parametrize("timeout_s", [0, -5])
async def test_no_grace_is_no_grace(daemon: Daemon, pod_id: str, timeout_s: int) -> None:
    container_id = await daemon.run(pod_id, "app", "term:ignore")
    await stop(daemon, container_id, timeout_s)

    assert daemon.node.world.signals[container_id] == [9]


async def test_the_stop_signal_is_the_configs_else_the_images(daemon: Daemon) -> None:
    await daemon.pull(stop_signal="SIGQUIT")
    pod_id = await daemon.run_pod()
    own = await daemon.run(pod_id, "own", stop_signal=pb.SIGINT)
    images = await daemon.run(pod_id, "images")
    for container_id in (own, images):
        await stop(daemon, container_id, 30)

    assert [daemon.node.world.signals[one][0] for one in (own, images)] == [2, 3]
    assert (await daemon.status(images)).stop_signal == pb.SIGQUIT


async def test_a_second_stop_with_less_patience_wins(daemon: Daemon, pod_id: str) -> None:
    container_id = await daemon.run(pod_id, "app", "term:ignore")
    before = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop, daemon, container_id, 1000)
        await trio.sleep(5)
        nursery.start_soon(stop, daemon, container_id, 2)

    assert 7 <= trio.current_time() - before < 9


async def test_a_second_stop_with_more_patience_changes_nothing(daemon: Daemon, pod_id: str) -> None:
    container_id = await daemon.run(pod_id, "app", "term:ignore")
    before = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop, daemon, container_id, 10)
        await trio.sleep(5)
        nursery.start_soon(stop, daemon, container_id, 1000)

    assert 10 <= trio.current_time() - before < 11
    assert daemon.node.world.signals[container_id] == [15, 9]


async def test_a_cancelled_stop_is_not_undone(daemon: Daemon, pod_id: str) -> None:
    container_id = await daemon.run(pod_id, "app", "term:ignore")
    with trio.move_on_after(1):
        await stop(daemon, container_id, 30)
    await trio.sleep(32)

    assert (await daemon.status(container_id)).state == pb.CONTAINER_EXITED


async def test_stop_and_remove_succeed_when_there_is_nothing_to_do(daemon: Daemon, pod_id: str) -> None:
    await stop(daemon, "none", 10)
    await remove(daemon, "none")
    container_id = await daemon.run(pod_id)
    for act in (stop, stop, remove, remove, stop):
        await act(daemon, container_id)

    with refused(Status.NOT_FOUND, f"container '{container_id}' not found"):
        await daemon.status(container_id)
    assert await listed(daemon) == []


async def test_many_may_stop_and_remove_at_once(daemon: Daemon, pod_id: str) -> None:
    container_id = await daemon.run(pod_id)
    async with trio.open_nursery() as nursery:
        for number in range(60):
            nursery.start_soon((stop, remove)[number % 2], daemon, container_id)
            await trio.sleep(0.002)

    assert await listed(daemon) == []


@pytest.mark.parametrize("args", [("term:ignore",), ("run:0.01",)])
async def test_remove_is_forced_and_frees_the_name(daemon: Daemon, pod_id: str, args: tuple[str, ...]) -> None:
    container_id = await daemon.run(pod_id, "app", *args)
    await remove(daemon, container_id)

    assert daemon.left().keys() == {"mounts", "pins", "links", "addresses"}, "the pod's"
    assert await daemon.create(pod_id) != container_id


async def test_a_created_container_can_be_removed(daemon: Daemon, pod_id: str) -> None:
    container_id = await daemon.create(pod_id)
    await remove(daemon, container_id)

    assert not daemon.node.world.tasks


async def test_a_process_that_survives_sigkill_is_said(daemon: Daemon, pod_id: str) -> None:
    container_id = await daemon.run(pod_id, "app", "stuck:100")
    with refused(Status.UNAVAILABLE, "survives SIGKILL", "being tried again"):
        await stop(daemon, container_id)
    await trio.sleep(120)

    assert (await daemon.status(container_id)).state == pb.CONTAINER_EXITED


# --- the log ---------------------------------------------------------------------------------------------------------


async def test_reopening_the_log(daemon: Daemon, pod_id: str) -> None:
    container_id = await daemon.run(pod_id)
    await daemon.client.ReopenContainerLog(pb.ReopenContainerLogRequest(container_id=container_id))

    (reopened,) = daemon.log(container.LogReopened)
    assert reopened.stream == f"container/{container_id}"


async def test_the_log_of_what_does_not_run_is_not_reopened(daemon: Daemon, pod_id: str) -> None:
    created, ended = await daemon.create(pod_id), await daemon.run(pod_id, "done", "run:0.1")
    await daemon.exited(ended)
    for container_id, now in ((created, "created"), (ended, "exited")):
        with refused(Status.FAILED_PRECONDITION, f"is {now}, not running"):
            await daemon.client.ReopenContainerLog(pb.ReopenContainerLogRequest(container_id=container_id))
    with refused(Status.NOT_FOUND):
        await daemon.client.ReopenContainerLog(pb.ReopenContainerLogRequest(container_id="none"))
    assert daemon.log(container.LogReopened) == []


@pytest.mark.parametrize(
    "name",
    ["ContainerStatus", "StartContainer", "StopContainer", "RemoveContainer", "ReopenContainerLog", "ExecSync"],
)
async def test_an_empty_id_is_refused(daemon: Daemon, name: str) -> None:
    with refused(Status.INVALID_ARGUMENT, "container_id is empty"):
        await getattr(daemon.client, name)(getattr(pb, f"{name}Request")())
