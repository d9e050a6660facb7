"""Images: pull, list, status, remove, and what they take of the disk."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
import trio
from grpclib.const import Status

from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.image_config import ImageConfig
from ocid.events import image as events
from tests.cri.daemon import IMAGE, Daemon, refused
from tests.fakes.images import Built
from tests.fakes.world import ROOT


def spec(name: str) -> pb.ImageSpec:
    return pb.ImageSpec(image=name)


async def pull(daemon: Daemon, name: str = IMAGE, auth: pb.AuthConfig | None = None) -> str:
    response = await daemon.client.PullImage(pb.PullImageRequest(image=spec(name), auth=auth))
    image_ref: str = response.image_ref
    return image_ref


async def status(daemon: Daemon, name: str) -> pb.Image | None:
    response: pb.ImageStatusResponse = await daemon.client.ImageStatus(pb.ImageStatusRequest(image=spec(name)))
    return response.image if response.HasField("image") else None


async def listed(daemon: Daemon, name: str = "") -> list[pb.Image]:
    request = pb.ListImagesRequest(filter=pb.ImageFilter(image=spec(name)))
    return list((await daemon.client.ListImages(request)).images)


async def remove(daemon: Daemon, name: str) -> None:
    await daemon.client.RemoveImage(pb.RemoveImageRequest(image=spec(name)))


# --- what is shown ---------------------------------------------------------------------------------------------------


async def test_every_field(daemon: Daemon) -> None:
    built = await daemon.pull()
    (image,) = await listed(daemon)

    assert image == pb.Image(
        id=built.image_id,
        repo_tags=[IMAGE],
        repo_digests=[f"registry.test/app@{built.resolved.manifest_digest}"],
        size=built.resolved.total_bytes,
        spec=spec(built.image_id),
    )
    assert image.size > 0
    assert await status(daemon, IMAGE) == image


async def test_one_id_everywhere(daemon: Daemon) -> None:
    """The kubelet compares them: Image.id, PullImage's answer, and the image_id of containers."""
    daemon.node.shelf.put(IMAGE, "base")
    image_ref = await pull(daemon)
    container_id = await daemon.run(await daemon.run_pod())
    (item,) = (await daemon.client.ListContainers(pb.ListContainersRequest())).containers
    (image,) = await listed(daemon)

    assert image.id == image_ref == item.image_id == (await daemon.status(container_id)).image_id
    assert image_ref.startswith("sha256:")


async def test_any_form_of_name_finds_it(daemon: Daemon) -> None:
    built = await daemon.pull("docker.io/library/busybox:1.36")
    digest = built.resolved.manifest_digest
    names = [
        "busybox:1.36", "docker.io/busybox:1.36", f"busybox@{digest}", f"busybox:9@{digest}",
        built.image_id, built.image_id[7:], built.image_id[7:19],
    ]  # fmt: skip
    for name in names:
        found = await status(daemon, name)
        assert found is not None, name
        assert [found] == await listed(daemon, name)


@pytest.mark.parametrize("name", ["registry.test/none:1", "busybox", "sha256:" + "0" * 64, "Not/A Reference!"])
async def test_an_image_that_is_not_there_is_no_error(daemon: Daemon, name: str) -> None:
    await daemon.pull()

    assert await status(daemon, name) is None
    assert await listed(daemon, name) == []
    await remove(daemon, name)


async def test_verbose_status(daemon: Daemon) -> None:
    built = await daemon.pull()
    response = await daemon.client.ImageStatus(pb.ImageStatusRequest(image=spec(IMAGE), verbose=True))
    info = json.loads(response.info["info"])

    assert info["manifestDigest"] == built.resolved.manifest_digest
    assert info["manifest"] == json.loads(built.resolved.manifest)
    assert info["imageSpec"] == json.loads(built.resolved.config)
    assert info["chainIDs"] == [layer.chain_id for layer in built.resolved.layers]


@pytest.mark.parametrize(
    ("user", "uid", "username"),
    [
        ("", None, ""), ("1000", 1000, ""), ("0:0", 0, ""), ("app", None, "app"), ("app:staff", None, "app"),
        ("²", None, "²"), ("9" * 30, None, "9" * 30), ("-1", None, "-1"),
    ],
)  # fmt: skip
async def test_the_user_is_a_number_or_a_name(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, user: str, uid: int | None, username: str
) -> None:
    """Whatever an image says there, lists must go on being answered."""
    await daemon.pull()
    facts = msgspec.structs.replace(daemon.core.images.facts(_only(daemon).manifest), config=ImageConfig(user=user))
    monkeypatch.setattr(daemon.core.images, "facts", lambda _: facts)
    (image,) = await listed(daemon)

    assert (image.uid.value if image.HasField("uid") else None, image.username) == (uid, username)


def _only(daemon: Daemon) -> Any:
    (image,) = daemon.facade.catalog_state().images.values()
    return image


# --- pull ------------------------------------------------------------------------------------------------------------


async def test_pulls_of_one_name_are_joined(daemon: Daemon) -> None:
    """Whenever they come during it, as long as the credentials are the same."""
    daemon.node.shelf.put(IMAGE, "base", "app")
    daemon.node.faults.script("registry.fetch", "slow")
    refs: list[str] = []

    async def one(auth: pb.AuthConfig | None = None) -> None:
        refs.append(await pull(daemon, auth=auth))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(one)
            await trio.sleep(0.5)
        nursery.start_soon(one, pb.AuthConfig())
        assert len(daemon.log(events.PullRequested)) == 1
        nursery.start_soon(one, pb.AuthConfig(username="u", password="p"))
        await trio.sleep(0.5)
        assert len(daemon.log(events.PullRequested)) == 2

    assert len(refs) == 5
    assert len(set(refs)) == 1
    assert len(daemon.node.shelf.downloads) == 2, "each layer once"


async def test_a_pull_goes_on_when_its_caller_goes_away(daemon: Daemon) -> None:
    daemon.node.shelf.put(IMAGE, "base")
    daemon.node.faults.script("registry.fetch", "slow")
    with trio.move_on_after(1):
        await pull(daemon)
    await trio.sleep(25)

    assert await status(daemon, IMAGE) is not None


async def test_a_tag_that_moved_names_the_new_image(daemon: Daemon) -> None:
    old = await daemon.pull(IMAGE, "base", "one")
    new = await daemon.pull(IMAGE, "base", "two")

    found = await status(daemon, IMAGE)
    assert found is not None
    assert found.id == new.image_id
    before = await status(daemon, old.image_id)
    assert before is not None
    assert list(before.repo_tags) == []
    assert len(daemon.node.shelf.downloads) == 3, "the common layer once"


@pytest.mark.parametrize(
    ("mode", "code", "start"),
    [
        ("fail", Status.UNKNOWN, "registry.resolve: injected failure"),
        ("unavailable", Status.UNKNOWN, "RegistryUnavailable: registry.resolve: "),
        ("hang", Status.UNKNOWN, "RegistryUnavailable: registry.resolve: no answer in 130 s"),
    ],
)
async def test_the_kubelet_knows_an_error_by_its_first_word(
    daemon: Daemon, mode: str, code: Status, start: str
) -> None:
    daemon.node.faults.script("registry.resolve", mode)
    with refused(code) as caught:
        await daemon.pull()

    assert caught.value.message.startswith(start)
    await daemon.pull()  # the next try is a new one


async def test_a_layer_that_fails_fails_the_pull(daemon: Daemon) -> None:
    daemon.node.faults.script("layers.unpack", "fail")
    with refused(Status.UNKNOWN, "layers.unpack: injected failure"):
        await daemon.pull()

    assert await listed(daemon) == []
    await daemon.pull()


async def test_what_no_registry_has(daemon: Daemon) -> None:
    with refused(Status.NOT_FOUND, "image 'registry.test/none:latest' not found"):
        await pull(daemon, "registry.test/none")


@pytest.mark.parametrize("name", ["", "app/UPPER", "a b", "sha256:" + "0" * 64])
async def test_what_is_no_reference(daemon: Daemon, name: str) -> None:
    with refused(Status.INVALID_ARGUMENT):
        await pull(daemon, name)
    assert daemon.log(events.PullRequested) == []


async def test_credentials_are_nowhere_in_the_log(daemon: Daemon) -> None:
    daemon.node.shelf.put(IMAGE, "base")
    words = {name: f"c4nary-{name}" for name in ("username", "password", "auth", "identity_token", "registry_token")}
    await pull(daemon, auth=pb.AuthConfig(**words))
    with refused(Status.NOT_FOUND):
        await pull(daemon, "registry.test/none", auth=pb.AuthConfig(**words))

    assert not [text for text in daemon.node.disk.readable() if b"c4nary" in text]


# --- remove ----------------------------------------------------------------------------------------------------------


async def twice_named(daemon: Daemon) -> Built:
    """The same image from two registries."""
    built = await daemon.pull(IMAGE, "base", "app")
    await daemon.pull("mirror.test/else/app:2", "base", "app")
    return built


async def test_one_image_by_all_its_names(daemon: Daemon) -> None:
    await twice_named(daemon)
    (image,) = await listed(daemon)

    assert list(image.repo_tags) == [IMAGE, "mirror.test/else/app:2"]
    assert [one.partition("@")[0] for one in image.repo_digests] == ["registry.test/app", "mirror.test/else/app"]


@pytest.mark.parametrize("by", ["tag", "digest", "id"])
async def test_by_one_name_all_names_go(daemon: Daemon, by: str) -> None:
    built = await twice_named(daemon)
    names = {
        "tag": IMAGE, "digest": f"mirror.test/else/app@{built.resolved.manifest_digest}", "id": built.image_id,
    }  # fmt: skip
    await remove(daemon, names[by])

    assert await listed(daemon) == []
    for name in (IMAGE, "mirror.test/else/app:2", built.image_id):
        assert await status(daemon, name) is None
    await trio.sleep(1)
    assert daemon.node.world.layers == {}, "what nothing needs is gone soon after"


async def test_removes_at_once_and_again_succeed(daemon: Daemon) -> None:
    await twice_named(daemon)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(remove, daemon, IMAGE)
    await remove(daemon, IMAGE)

    assert len(daemon.log(events.ImageRemoved)) == 1


async def test_an_image_in_use_loses_its_name_but_not_its_layers(daemon: Daemon) -> None:
    built = await daemon.pull()
    container_id = await daemon.run(await daemon.run_pod())
    await remove(daemon, IMAGE)
    await trio.sleep(1)

    assert await listed(daemon) == []
    assert len(daemon.node.world.layers) == 2
    assert (await daemon.status(container_id)).image_id == built.image_id


@pytest.mark.parametrize("name", ["ImageStatus", "RemoveImage", "PullImage"])
async def test_an_empty_name_is_refused(daemon: Daemon, name: str) -> None:
    with refused(Status.INVALID_ARGUMENT, "image.image is empty"):
        await getattr(daemon.client, name)(getattr(pb, f"{name}Request")())


# --- the disk --------------------------------------------------------------------------------------------------------


async def test_usage_is_answered_once_it_is_known(daemon: Daemon) -> None:
    with refused(Status.UNAVAILABLE, "measured for the first time"):
        await daemon.client.ImageFsInfo(pb.ImageFsInfoRequest())
    await daemon.pull()
    daemon.facade.sampler.measured = True
    usage = daemon.core.host.layers.usage()
    response = await daemon.client.ImageFsInfo(pb.ImageFsInfoRequest())

    (images,), (containers,) = response.image_filesystems, response.container_filesystems
    assert images.fs_id.mountpoint == containers.fs_id.mountpoint == ROOT
    assert images.timestamp >= usage.at_ns > 0
    assert images.used_bytes.value == usage.image_bytes == 8000
    assert images.HasField("inodes_used")
    assert containers.HasField("used_bytes"), "zero, not unknown"
