"""CreateContainer and StartContainer from a container checkpoint, as far as the facade and the core go."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
from grpclib.const import Status

from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.checkpoint_facts import IMAGE_ANNOTATIONS, CheckpointFacts
from ocid.events import container
from ocid.ports import HandlerFeatures
from tests.cri.daemon import ANNOTATIONS, IMAGE, Daemon, pod_config, refused
from tests.fakes.images import Built

ARCHIVE = "/var/lib/kubelet/checkpoints/one.tar"
HELD = "registry.test/held:1"  # the image of a checkpoint
HASH = "io.kubernetes.container.hash"


@pytest.fixture
async def root(daemon: Daemon) -> Built:
    """The image that the checkpoint is based on; the archive is there, too."""
    built = await daemon.pull()
    daemon.node.checkpoints[ARCHIVE] = facts(built)
    return built


def facts(root: Built, **fields: Any) -> CheckpointFacts:
    defaults = CheckpointFacts(name="old", image_refs=(root.image_id, IMAGE))
    return msgspec.structs.replace(defaults, **fields)


def at(name: str) -> pb.ImageSpec:
    return pb.ImageSpec(image=name, user_specified_image="what-the-user-wrote")


async def hold(daemon: Daemon, root: Built, annotation: str = IMAGE_ANNOTATIONS[0], *contents: str) -> None:
    """Pull an image of a checkpoint."""
    held = await daemon.pull(HELD, *(contents or ("checkpoint",)), annotation=annotation)
    daemon.node.checkpoints[held.resolved.layers[0].chain_id] = facts(root)


async def test_it_is_created_at_rest_and_runs_once_it_is_started(daemon: Daemon, root: Built) -> None:
    one = await daemon.create(await daemon.run_pod(), "again", "run:1000", image=at(ARCHIVE))

    status = await daemon.status(one)
    assert status.state == pb.CONTAINER_CREATED
    await trio.sleep(60)
    assert not daemon.node.world.contained
    await daemon.start(one)
    status = await daemon.status(one)
    assert status.state == pb.CONTAINER_RUNNING
    assert status.started_at > status.created_at
    assert (status.image.image, status.image_id) == (IMAGE, root.image_id)
    assert status.log_path == "/var/log/pods/web/again/0.log"
    kinds = [one.type for one in daemon.log() if one.stream == f"container/{status.id}"]
    assert kinds == [f"container.{kind}" for kind in ("declared", "prepared", "start_requested", "created", "started")]
    (declared,) = [one.event for one in daemon.log(container.Declared)]
    assert isinstance(declared, container.Declared)
    assert declared.restores is not None
    assert (declared.restores.archive, declared.restores.name) == (ARCHIVE, "old")


async def test_annotations_are_taken_over_unless_they_steer(daemon: Daemon, root: Built) -> None:
    theirs = {"note": "old", "kept": "yes", HASH: "old", "cdi.k8s.io/gpu": "v/c=all", "x.nri.io/y": "z", "nri.io": ""}
    daemon.node.checkpoints[ARCHIVE] = facts(root, annotations=theirs)
    one = await daemon.create(await daemon.run_pod(), "again", image=at(ARCHIVE))

    status = await daemon.status(one)
    assert dict(status.annotations) == {**ANNOTATIONS, "kept": "yes"}
    assert status.labels["name"] == "again"


@pytest.mark.parametrize("annotation", IMAGE_ANNOTATIONS)
async def test_an_image_can_hold_it(daemon: Daemon, root: Built, annotation: str) -> None:
    await hold(daemon, root, annotation)
    one = await daemon.run(await daemon.run_pod(), "again", "run:1000", image=at(HELD))

    status = await daemon.status(one)
    assert status.state == pb.CONTAINER_RUNNING
    assert status.image_id == root.image_id
    (declared,) = [one.event for one in daemon.log(container.Declared)]
    assert isinstance(declared, container.Declared)
    assert declared.restores is not None
    assert declared.restores.archive == ""
    assert declared.restores.digest == daemon.node.shelf.images[HELD].resolved.manifest_digest


async def test_an_image_of_a_checkpoint_has_one_layer(daemon: Daemon, root: Built) -> None:
    await hold(daemon, root, IMAGE_ANNOTATIONS[0], "checkpoint", "more")
    with refused(Status.INVALID_ARGUMENT, "image of a container checkpoint has 2 layers, wanted one"):
        await daemon.create(await daemon.run_pod(), image=at(HELD))


@pytest.mark.parametrize("name", [ARCHIVE, HELD])
async def test_it_is_refused_where_it_is_switched_off(daemon: Daemon, root: Built, name: str) -> None:
    await hold(daemon, root)
    daemon.node.restores = False
    await daemon.restart()
    with refused(Status.UNIMPLEMENTED, "switched off on this node", "set restore = true in [checkpoint]"):
        await daemon.create(await daemon.run_pod(), image=at(name))
    assert not daemon.log(container.Declared)


async def test_what_waits_for_its_start_is_refused_when_it_was_switched_off_meanwhile(
    daemon: Daemon, root: Built
) -> None:
    one = await daemon.create(await daemon.run_pod(), image=at(ARCHIVE))
    daemon.node.restores = False
    await daemon.restart()
    with refused(Status.UNIMPLEMENTED, "switched off on this node"):
        await daemon.start(one)
    assert (await daemon.status(one)).reason == "StartError"


async def test_what_is_missing_is_named(daemon: Daemon, root: Built) -> None:
    pod = await daemon.run_pod()
    with refused(Status.NOT_FOUND, "checkpoint archive '/no.tar' not found"):
        await daemon.create(pod, image=at("/no.tar"))
    daemon.node.checkpoints[ARCHIVE] = facts(root, image_refs=("sha256:" + "0" * 64, "reg.test/gone:1"))
    with refused(Status.NOT_FOUND, f"'{ARCHIVE}': pull the image that it is based on first", "reg.test/gone:1"):
        await daemon.create(pod, image=at(ARCHIVE))
    daemon.node.checkpoints[ARCHIVE] = facts(root, image_refs=())
    with refused(Status.NOT_FOUND, "it names none"):
        await daemon.create(pod, image=at(ARCHIVE))
    daemon.node.checkpoints[ARCHIVE] = facts(root, binds=("/data", "/etc/hosts", "/more"))
    mounts = [pb.Mount(container_path="/data/", host_path="/srv")]
    with refused(Status.INVALID_ARGUMENT, "mounts that this one lacks: add mounts at '/etc/hosts', '/more'"):
        await daemon.create(pod, image=at(ARCHIVE), mounts=mounts)
    await trio.sleep(5)
    assert not daemon.left().get("bundles")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/a/../b.tar", "wanted an absolute path without '.' and '..'"),
        ("/a/./b.tar", "wanted an absolute path without '.' and '..'"),
        ("/" + "x" * 1024, "image is a path of 1025 bytes, the limit is 1024"),
    ],
)
async def test_paths_that_cannot_be(daemon: Daemon, root: Built, path: str, words: str) -> None:
    with refused(Status.INVALID_ARGUMENT, words):
        await daemon.create(await daemon.run_pod(), image=at(path))


async def test_a_checkpoint_is_based_on_an_image_that_is_none(daemon: Daemon, root: Built) -> None:
    await hold(daemon, root)
    daemon.node.checkpoints[ARCHIVE] = facts(root, image_refs=(HELD,))
    with refused(Status.INVALID_ARGUMENT, "is based on image 'registry.test/held:1', which is a checkpoint itself"):
        await daemon.create(await daemon.run_pod(), image=at(ARCHIVE))


async def test_a_pod_or_container_that_cannot_be_restored_into(
    daemon: Daemon, root: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await daemon.run_pod()
    with refused(Status.INVALID_ARGUMENT, "config.tty is true", f"of checkpoint archive '{ARCHIVE}' had no"):
        await daemon.create(pod, image=at(ARCHIVE), tty=True)
    daemon.node.checkpoints[ARCHIVE] = facts(root, terminal=True)
    with refused(Status.INVALID_ARGUMENT, "config.tty is false", "had a terminal"):
        await daemon.create(pod, image=at(ARCHIVE))
    await daemon.create(pod, image=at(ARCHIVE), tty=True)
    able = {"": HandlerFeatures(path="/usr/bin/runc", version="1.2", user_namespaces=True)}
    monkeypatch.setattr(daemon.core.host.runtime, "handlers", lambda: able)
    config = pod_config("users")
    mapping = [pb.IDMapping(host_id=65_536, length=65_536)]
    options = config.linux.security_context.namespace_options.userns_options
    options.CopyFrom(pb.UserNamespace(mode=pb.POD, uids=mapping, gids=mapping))
    answer = await daemon.client.RunPodSandbox(pb.RunPodSandboxRequest(config=config))
    with refused(Status.UNIMPLEMENTED, "a pod with a user namespace"):
        await daemon.create(answer.pod_sandbox_id, image=at(ARCHIVE))


async def test_calls_that_come_at_once_make_one_container(daemon: Daemon, root: Built) -> None:
    pod, made = await daemon.run_pod(), set()

    async def create() -> None:
        made.add(await daemon.create(pod, image=at(ARCHIVE)))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(create)
    assert len(made) == 1
    assert len(daemon.log(container.Declared)) == 1


async def test_a_pod_that_goes_while_its_checkpoint_is_looked_at(daemon: Daemon, root: Built) -> None:
    pod = await daemon.run_pod()
    daemon.node.faults.script("archives.read", "slow")

    async def create() -> None:
        with refused(Status.NOT_FOUND, "pod"):
            await daemon.create(pod, image=at(ARCHIVE))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(create)
        await trio.sleep(1)
        await daemon.client.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=pod))
        await daemon.client.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod))
    assert daemon.left() == {}


async def test_its_limits_change_once_it_runs(daemon: Daemon, root: Built) -> None:
    one = await daemon.create(await daemon.run_pod(), "again", "run:1000", image=at(ARCHIVE))
    request = pb.UpdateContainerResourcesRequest(
        container_id=one, linux=pb.LinuxContainerResources(cpu_shares=7, memory_limit_in_bytes=1 << 30)
    )
    with refused(Status.FAILED_PRECONDITION, "is not restored yet"):
        await daemon.client.UpdateContainerResources(request)
    await daemon.start(one)
    await daemon.client.UpdateContainerResources(request)
    assert (await daemon.status(one)).resources.linux.cpu_shares == 7


async def test_one_that_is_stopped_never_ran(daemon: Daemon, root: Built) -> None:
    one = await daemon.create(await daemon.run_pod(), image=at(ARCHIVE))
    await daemon.client.StopContainer(pb.StopContainerRequest(container_id=one, timeout=5))

    status = await daemon.status(one)
    assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 137, "Error")
    assert status.started_at == 0
    with refused(Status.FAILED_PRECONDITION, "is exited, not created"):
        await daemon.start(one)


async def test_a_path_that_no_record_holds_is_refused_before_anything_is_made(daemon: Daemon, root: Built) -> None:
    pod = await daemon.run_pod()
    long, longer = ("/" + "x" * size for size in (400, 1023))
    daemon.node.checkpoints |= {long: facts(root), longer: facts(root)}

    await daemon.create(pod, image=at(long))
    with refused(Status.INVALID_ARGUMENT, "too long together for one record of the log", "the image's name"):
        await daemon.create(pod, "other", image=at(longer))
    assert len(daemon.log(container.Declared)) == 1
