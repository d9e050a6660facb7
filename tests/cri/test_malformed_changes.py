"""Malformed requests that change what lives, and what each is told: limits, resources, the pod CIDR, checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
from grpclib.const import Status

from tests.cri.daemon import Daemon
from tests.cri.malformed import ABSENT, INVALID, MISSING, OK, STATE, Case, at, cases, check, prepared, text
from tests.fakes.runtime import USED_BYTES

GIB = 1 << 30


def limits(more: str) -> Any:
    """The malformed limits that every message which has limits gets in its turn."""
    return text("linux { " + more + " }")


RESOURCES: list[tuple[str, str, str]] = [  # what it is, limits as protobuf text, words
    ("period below a millisecond", "cpu_period: 999", "cpu_period is 999, wanted 1000 to 1000000"),
    ("period below zero", "cpu_period: -1", "cpu_period is -1, wanted 1000 to 1000000"),
    ("quota below none", "cpu_quota: -2", "cpu_quota is -2"),
    ("shares below zero", "cpu_shares: -1", "cpu_shares is -1"),
    ("shares below the kernel's", "cpu_shares: 1", "cpu_shares is 1, wanted 2 to 262144"),
    ("shares beyond the kernel's", "cpu_shares: 262145", "cpu_shares is 262145"),
    ("memory below none", "memory_limit_in_bytes: -2", "memory_limit_in_bytes is -2"),
    ("swap below none", "memory_swap_limit_in_bytes: -2", "memory_swap_limit_in_bytes is -2"),
    ("swap below memory", "memory_limit_in_bytes: 9 memory_swap_limit_in_bytes: 8", "it is memory and swap together"),
    ("score beyond the kernel's", "oom_score_adj: 1001", "oom_score_adj is 1001"),
    ("score below the kernel's", "oom_score_adj: -1001", "oom_score_adj is -1001"),
    ("CPUs backwards", "cpuset_cpus: '3-1'", "wanted the lower number first"),
    ("CPUs with NUL", "cpuset_cpus: '0\\000'", "cpuset_cpus holds a NUL byte"),
    ("CPUs beyond all", "cpuset_cpus: '70000'", "wanted 0 to 65535"),
    ("CPUs by name", "cpuset_mems: 'all'", "a list such as '0-2,7'"),
    ("CPUs with a path", "cpuset_mems: '../0'", "a list such as '0-2,7'"),
    ("pages without a unit", "hugepage_limits { page_size: '2' }", "wanted such as '2MB'"),
    ("pages without a size", "hugepage_limits { limit: 2 }", "wanted such as '2MB'"),
    ("pages of 65 sizes", "hugepage_limits { page_size: '2MB' } " * 65, "hugepage_limits has 65 entries"),
    ("cgroup file outside", "unified { key: '../x.y' value: '1' }", "a cgroup v2 file"),
    ("cgroup file with a slash", "unified { key: 'memory.high/x' value: '1' }", "a cgroup v2 file"),
    ("cgroup's own file", "unified { key: 'cgroup.kill' value: '1' }", "a cgroup v2 file"),
    ("cgroup file with a line end", "unified { key: 'memory.high\\n' value: '1' }", "a cgroup v2 file"),
    ("value of 5000 bytes", f"unified {{ key: 'memory.high' value: '{'1' * 5000}' }}", "the limit is 4096"),
    ("value with NUL", "unified { key: 'memory.high' value: '1\\000' }", "holds a NUL byte"),
    ("257 cgroup files", " ".join(f"unified {{ key: 'a.b{n}' value: '1' }}" for n in range(257)), "has 257 entries"),
]

UPDATE: list[Case] = [
    ("no container", at("container_id", ""), INVALID, "container_id is empty"),
    ("unknown container", at("container_id", "f" * 64), ABSENT, "not found"),
    ("container of 300 bytes", at("container_id", "f" * 300), INVALID, "container_id is 300 bytes"),
    ("container that ended", at("container_id", "@exited"), STATE, "is exited, not created or running"),
    ("container that waits", at("container_id", "@created"), OK, ""),
    ("no limits", at("linux", ...), INVALID, "linux is missing"),
    ("limits of Windows", text("windows { cpu_count: 1 }"), OK, ""),
    ("empty limits", limits("cpu_shares: 0"), OK, ""),
    ("largest limits", limits(f"memory_limit_in_bytes: {2**63 - 1} cpu_quota: {2**63 - 1}"), OK, ""),
    ("huge pages", limits("hugepage_limits { page_size: '2MB' limit: 18446744073709551615 }"), OK, ""),
    ("memory below what is used", limits(f"memory_limit_in_bytes: {USED_BYTES - 1}"), STATE, "not 1048575 at most"),
    ("annotation with NUL", at("annotations", {"a": "\0"}), INVALID, "annotations['a'] holds a NUL byte"),
    *((name, limits(more), INVALID, words) for name, more, words in RESOURCES),
]

NOTE: list[Case] = [
    ("no pod", at("pod_sandbox_id", ""), INVALID, "pod_sandbox_id is empty"),
    ("unknown pod", at("pod_sandbox_id", "f" * 64), ABSENT, "not found"),
    ("pod of 300 bytes", at("pod_sandbox_id", "f" * 300), INVALID, "pod_sandbox_id is 300 bytes"),
    ("a container for a pod", at("pod_sandbox_id", "@running"), ABSENT, "not found"),
    ("nothing to note", lambda message: (message.ClearField("overhead"), message.ClearField("resources")), OK, ""),
    *(
        (f"{field}: {name}", text(f"{field} {{ {more} }}"), INVALID, words)
        for field in ("overhead", "resources")
        for name, more, words in RESOURCES
        if "memory_limit" not in more
    ),
    ("memory below none", text("overhead { memory_limit_in_bytes: -2 }"), INVALID, "overhead.memory_limit_in_bytes"),
    ("memory of none", text("resources { memory_limit_in_bytes: -2 }"), INVALID, "resources.memory_limit_in_bytes"),
    ("swap of the resources below their memory", text("resources { memory_swap_limit_in_bytes: 8 }"), INVALID,
     "it is memory and swap together"),
]  # fmt: skip

CIDR = "runtime_config.network_config.pod_cidr"
CONFIGURE: list[Case] = [
    ("no configuration", at("runtime_config", ...), OK, ""),
    ("no network", at("runtime_config.network_config", ...), OK, ""),
    ("no CIDR", at(CIDR, ""), OK, ""),
    ("two CIDRs", at(CIDR, "10.0.0.0/24,fd00::/64"), OK, ""),
    ("CIDR with NUL", at(CIDR, "10.0.0.0/24\0"), INVALID, "pod_cidr holds a NUL byte"),
    ("CIDR with a line end", at(CIDR, "10.0.0.0/24\nx"), INVALID, "without control characters"),
    ("CIDR with an escape", at(CIDR, "\x1b[31m"), INVALID, "without control characters"),
    ("CIDR of 257 bytes", at(CIDR, "1" * 257), INVALID, "pod_cidr is 257 bytes, the limit is 256"),
]

CHECKPOINT: list[Case] = [
    ("no container", at("container_id", ""), INVALID, "container_id is empty"),
    ("unknown container", at("container_id", "f" * 64), ABSENT, "not found"),
    ("container of 300 bytes", at("container_id", "f" * 300), INVALID, "container_id is 300 bytes"),
    ("container that waits", at("container_id", "@created"), STATE, "is created, not running"),
    ("container that ended", at("container_id", "@exited"), STATE, "is exited, not running"),
    ("no location", at("location", ""), INVALID, "location is ''"),
    ("relative location", at("location", "a.tar"), INVALID, "wanted an absolute path without '..'"),
    ("location outside", at("location", "/a/../../etc/x"), INVALID, "wanted an absolute path without '..'"),
    ("location with NUL", at("location", "/a\0b"), INVALID, "location holds a NUL byte"),
    ("location of 1025 bytes", at("location", "/" + "x" * 1024), INVALID, "location is 1025 bytes"),
    ("location that is the root", at("location", "/"), INVALID, "wanted a file's path"),
    ("location that is a directory", at("location", "/a/b/"), INVALID, "wanted a file's path"),
    ("location that is this directory", at("location", "/a/."), INVALID, "wanted a file's path"),
    ("time below zero", at("timeout", -1), INVALID, "timeout is -1"),
    ("time of a century", at("timeout", 2**33), INVALID, "wanted 0 to 315360000"),
]


@pytest.fixture
async def ids(daemon: Daemon) -> dict[str, str]:
    """An image, a pod, and a container of each state."""
    return await prepared(daemon)


@pytest.mark.parametrize(("change", "status", "words"), cases(UPDATE))
async def test_update_container_resources(
    daemon: Daemon, ids: dict[str, str], change: Any, status: Status, words: str
) -> None:
    before = dict(daemon.node.world.limits)
    await check(daemon, "UpdateContainerResources", ids, change, status, words)
    assert status is OK or daemon.node.world.limits == before


async def test_a_file_of_version_2_on_version_1(daemon: Daemon, ids: dict[str, str]) -> None:
    runtime = daemon.core.host.runtime
    facts = runtime.host_facts()
    runtime.host_facts = lambda: type(facts)(cgroup_version=1)  # type: ignore[method-assign]
    change = limits("unified { key: 'memory.high' value: '1' }")
    await check(daemon, "UpdateContainerResources", ids, change, MISSING, "cgroups are version 1, not 2")


@pytest.mark.parametrize(("change", "status", "words"), cases(NOTE))
async def test_update_pod_sandbox_resources(
    daemon: Daemon, ids: dict[str, str], change: Any, status: Status, words: str
) -> None:
    await check(daemon, "UpdatePodSandboxResources", ids, change, status, words)


@pytest.mark.parametrize(("change", "status", "words"), cases(CONFIGURE))
async def test_update_runtime_config(daemon: Daemon, change: Any, status: Status, words: str) -> None:
    await check(daemon, "UpdateRuntimeConfig", {}, change, status, words)


@pytest.mark.parametrize(("change", "status", "words"), cases(CHECKPOINT))
async def test_checkpoint_container(
    daemon: Daemon, ids: dict[str, str], change: Any, status: Status, words: str
) -> None:
    await check(daemon, "CheckpointContainer", ids, change, status, words)
