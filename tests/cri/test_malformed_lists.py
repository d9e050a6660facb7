"""Malformed requests for streamed lists, stats and metrics, and what each is told."""

from __future__ import annotations

from typing import Any

import pytest
from grpclib.const import Status

from tests.cri.daemon import Daemon
from tests.cri.malformed import ABSENT, INVALID, OK, Case, at, cases, check, prepared, text

ID: list[Case] = [
    ("id with NUL", at("filter.id", "a\0"), INVALID, "filter.id holds a NUL byte"),
    ("id of 300 bytes", at("filter.id", "a" * 300), INVALID, "filter.id is 300 bytes, the limit is 256"),
    ("id outside", at("filter.id", "../.."), OK, ""),
    ("id of nothing", at("filter.id", "f" * 64), OK, ""),
    ("no filter", at("filter", ...), OK, ""),
    ("empty filter", text("filter { }"), OK, ""),
    ("selector with NUL", at("filter.label_selector", {"a": "\0"}), INVALID, "label_selector['a'] holds a NUL byte"),
    (
        "selector with a key of NUL",
        at("filter.label_selector", {"\0": "a"}),
        INVALID,
        "label_selector holds a NUL byte",
    ),
    ("selector without a key", at("filter.label_selector", {"": ""}), OK, ""),
    ("selector of 5 MiB", at("filter.label_selector", {"a": "x" * (5 << 20)}), OK, ""),
]
STATE_OF: list[Case] = [
    ("state that is none", text("filter { state { state: 9 } }"), INVALID, "filter.state.state has value 9"),
    ("state below zero", text("filter { state { state: -1 } }"), INVALID, "filter.state.state has value -1"),
]
POD_OF: list[Case] = [
    ("pod id with NUL", at("filter.pod_sandbox_id", "\0"), INVALID, "filter.pod_sandbox_id holds a NUL byte"),
    ("pod id of 300 bytes", at("filter.pod_sandbox_id", "a" * 300), INVALID, "filter.pod_sandbox_id is 300 bytes"),
    ("pod id of nothing", at("filter.pod_sandbox_id", "f" * 64), OK, ""),
]
IMAGES: list[Case] = [
    ("unknown image", at("filter.image.image", "nothing"), OK, ""),
    ("image that is none", at("filter.image.image", "A B"), OK, ""),
    ("image with NUL", at("filter.image.image", "a\0"), INVALID, "filter.image.image holds a NUL byte"),
    ("image name of 5000 bytes", at("filter.image.image", "a" * 5000), INVALID, "the limit is 4096"),
    ("annotation with NUL", at("filter.image.annotations", {"a": "\0"}), INVALID, "holds a NUL byte"),
    ("filter without image", at("filter.image", ...), OK, ""),
    ("no filter", at("filter", ...), OK, ""),
]
TABLES: dict[str, list[Case]] = {
    "StreamPodSandboxes": ID + STATE_OF,
    "StreamContainers": ID + STATE_OF + POD_OF,
    "StreamImages": IMAGES,
    "ListContainerStats": ID + POD_OF,
    "StreamContainerStats": ID + POD_OF,
    "ListPodSandboxStats": ID,
    "StreamPodSandboxStats": ID,
}
NOTHING_TO_SAY = ("ListMetricDescriptors", "ListPodSandboxMetrics", "StreamPodSandboxMetrics")

ONE_CONTAINER: list[Case] = [
    ("no container", at("container_id", ""), INVALID, "container_id is empty"),
    ("unknown container", at("container_id", "f" * 64), ABSENT, "not found"),
    ("container outside", at("container_id", "../.."), ABSENT, "not found"),
    ("container with NUL", at("container_id", "a\0b"), ABSENT, "not found"),
    ("container of 150 KB", at("container_id", "☃" * 50_000), ABSENT, "not found"),
    ("container that waits", at("container_id", "@created"), ABSENT, "running container"),
    ("container that ended", at("container_id", "@exited"), ABSENT, "running container"),
    ("a pod for a container", at("container_id", "@pod"), ABSENT, "not found"),
]
ONE_POD: list[Case] = [
    ("no pod", at("pod_sandbox_id", ""), INVALID, "pod_sandbox_id is empty"),
    ("unknown pod", at("pod_sandbox_id", "f" * 64), ABSENT, "not found"),
    ("pod outside", at("pod_sandbox_id", "../.."), ABSENT, "not found"),
    ("pod with NUL", at("pod_sandbox_id", "a\0b"), ABSENT, "not found"),
    ("pod of 150 KB", at("pod_sandbox_id", "☃" * 50_000), ABSENT, "not found"),
    ("a container for a pod", at("pod_sandbox_id", "@running"), ABSENT, "not found"),
]


@pytest.fixture
async def ids(daemon: Daemon) -> dict[str, str]:
    """An image, a pod, and a container of each state."""
    return await prepared(daemon)


@pytest.mark.parametrize(
    ("rpc", "change", "status", "words"),
    [
        pytest.param(rpc, *case[1:], id=f"{rpc}: {case[0]}")
        for rpc, table in TABLES.items()
        for case in table
    ],
)  # fmt: skip
async def test_lists(daemon: Daemon, ids: dict[str, str], rpc: str, change: Any, status: Status, words: str) -> None:
    await check(daemon, rpc, ids, change, status, words)


@pytest.mark.parametrize(("change", "status", "words"), cases(ONE_CONTAINER))
async def test_container_stats(daemon: Daemon, ids: dict[str, str], change: Any, status: Status, words: str) -> None:
    await check(daemon, "ContainerStats", ids, change, status, words)


@pytest.mark.parametrize(("change", "status", "words"), cases(ONE_POD))
async def test_pod_sandbox_stats(daemon: Daemon, ids: dict[str, str], change: Any, status: Status, words: str) -> None:
    await check(daemon, "PodSandboxStats", ids, change, status, words)


async def test_a_pod_that_is_stopped_has_no_stats(daemon: Daemon, ids: dict[str, str]) -> None:
    await check(daemon, "StopPodSandbox", ids | {"@new-pod": ids["@pod"]}, lambda message: None, OK, "")
    await check(daemon, "PodSandboxStats", ids, lambda message: None, ABSENT, "ready pod")


@pytest.mark.parametrize("rpc", NOTHING_TO_SAY)
async def test_what_takes_any_request(daemon: Daemon, ids: dict[str, str], rpc: str) -> None:
    await check(daemon, rpc, ids, lambda message: None, OK, "")
