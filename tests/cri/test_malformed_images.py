"""Malformed requests about images and the node, and what each is told."""

from __future__ import annotations

from typing import Any

import pytest
from grpclib.const import Status

from ocid.cri import server
from tests.cri import fuzzing
from tests.cri.daemon import Daemon
from tests.cri.malformed import ABSENT, INVALID, OK, Case, at, cases, check, text
from tests.cri.test_malformed_containers import NAMED as OF_CONTAINERS
from tests.cri.test_malformed_lists import NOTHING_TO_SAY as NO_FILTER, TABLES as OF_LISTS
from tests.cri.test_malformed_pods import NAMED as OF_PODS

PULL: list[Case] = [
    ("no image", at("image", ...), INVALID, "image.image is empty"),
    ("image without a name", at("image.image", ""), INVALID, "image.image is empty"),
    ("unknown image", at("image.image", "registry.test/none:1"), ABSENT, "registry.test/none:1"),
    ("image in capitals", at("image.image", "registry.test/APP"), INVALID, "in lower case"),
    ("image with a scheme", at("image.image", "http://registry.test/app"), INVALID, "no registry host"),
    ("image with NUL", at("image.image", "app\0"), INVALID, "image.image holds a NUL"),
    ("image with a line end", at("image.image", "app\nx"), INVALID, "without control characters"),
    ("image outside", at("image.image", "registry.test/../app"), INVALID, "path part '..'"),
    ("image by id", at("image.image", "sha256:" + "a" * 64), INVALID, "an image id, which cannot be pulled"),
    ("image by another digest", at("image.image", "app@sha512:" + "a" * 128), INVALID, "is not a digest"),
    ("image by half a digest", at("image.image", "app@sha256:abc"), INVALID, "is not a digest"),
    ("image of a long tag", at("image.image", "app:" + "t" * 129), INVALID, "1 to 128 letters"),
    ("image of a port that is none", at("image.image", "registry.test:port/app"), INVALID, "no registry host"),
    ("image name of 600 bytes", at("image.image", "a" * 600), INVALID, "wanted 1 to 512 bytes"),
    ("image name of 5000 bytes", at("image.image", "a" * 5000), INVALID, "the limit is 4096"),
    ("annotation without a key", at("image.annotations", {"": ""}), INVALID, "an empty key"),
    ("token with a second header", at("auth.registry_token", "x\r\nHost: y"), INVALID, "holds a control character"),
    ("token that is not ASCII", at("auth.registry_token", "t☃"), INVALID, "auth.registry_token is not ASCII"),
    ("password with NUL", at("auth.password", "a\0b"), INVALID, "auth.password holds a NUL"),
    ("token of 100 KB", at("auth.identity_token", "t" * 100_000), INVALID, "auth.identity_token is 100000 bytes"),
    ("pod of any kind", text("sandbox_config { hostname: '/' }"), OK, ""),
]

LIST: list[Case] = [
    ("unknown image", at("filter.image.image", "nothing"), OK, ""),
    ("image that is none", at("filter.image.image", "A B"), OK, ""),
    ("image with NUL", at("filter.image.image", "a\0"), INVALID, "filter.image.image holds a NUL"),
    ("image name of 5000 bytes", at("filter.image.image", "a" * 5000), INVALID, "the limit is 4096"),
    ("filter without image", text("filter { }"), OK, ""),
]

NAMED: list[Case] = [
    ("no image", at("image", ...), INVALID, "image.image is empty"),
    ("image without a name", at("image.image", ""), INVALID, "image.image is empty"),
    ("image with NUL", at("image.image", "a\0"), INVALID, "image.image holds a NUL"),
    ("image with a line end", at("image.image", "a\n"), INVALID, "without control characters"),
    ("image name of 5000 bytes", at("image.image", "a" * 5000), INVALID, "the limit is 4096"),
    ("unknown image", at("image.image", "registry.test/none:1"), OK, ""),
    ("image that is none", at("image.image", "A B"), OK, ""),
]

NOTHING_TO_SAY = {"Version", "Status", "RuntimeConfig", "ImageFsInfo", "GetContainerEvents", *NO_FILTER}
TABLES = {
    "RunPodSandbox", "ListPodSandbox", "CreateContainer", "ListContainers", "PullImage", "ListImages", "ImageStatus",
    "RemoveImage", "ContainerStats", "PodSandboxStats", "UpdateContainerResources", "UpdatePodSandboxResources",
    "UpdateRuntimeConfig", "CheckpointContainer", "Exec", "Attach", "PortForward", *OF_PODS, *OF_CONTAINERS, *OF_LISTS,
}  # fmt: skip
SERVED = {*server.READS, *server.GATHERS, *server.STREAMS, *server.CHANGES, *server.FOLLOWS}


@pytest.mark.parametrize(("change", "status", "words"), cases(PULL))
async def test_pull_image(daemon: Daemon, change: Any, status: Status, words: str) -> None:
    daemon.node.shelf.put("registry.test/app:1", "base")
    if status is OK:
        await check(daemon, "PullImage", {}, change, status, words)
        return
    await check(daemon, "PullImage", {}, change, status, words)
    assert not daemon.facade.catalog_state().images


@pytest.mark.parametrize(("change", "status", "words"), cases(LIST))
async def test_list_images(daemon: Daemon, change: Any, status: Status, words: str) -> None:
    await check(daemon, "ListImages", {}, change, status, words)


@pytest.mark.parametrize("rpc", ["ImageStatus", "RemoveImage"])
@pytest.mark.parametrize(("change", "status", "words"), cases(NAMED))
async def test_images_by_name(daemon: Daemon, rpc: str, change: Any, status: Status, words: str) -> None:
    await daemon.pull()
    await check(daemon, rpc, {}, change, status, words)
    assert len(daemon.facade.catalog_state().images) == 1


@pytest.mark.parametrize("rpc", ["Version", "Status", "RuntimeConfig", "GetContainerEvents"])
async def test_what_takes_any_request(daemon: Daemon, rpc: str) -> None:
    await check(daemon, rpc, {}, lambda message: None, OK, "")
    if rpc == "Version":
        await check(daemon, rpc, {}, at("version", "☃" * 1000), OK, "")


def test_every_rpc_that_is_served_has_a_table() -> None:
    assert sorted([*TABLES, *NOTHING_TO_SAY]) == sorted(one.name for one in fuzzing.METHODS)
    assert {*TABLES, *NOTHING_TO_SAY} == SERVED
