"""Malformed requests about containers, and what each is told."""

from __future__ import annotations

from typing import Any

import pytest
from grpclib.const import Status

from tests.cri.daemon import Daemon
from tests.cri.malformed import ABSENT, INVALID, MISSING, OK, STATE, Case, at, cases, check, prepared, text

PARTS = "config.linux.security_context."


def security(more: str) -> Any:
    return text("config { linux { security_context { " + more + " } } }")


def resources(more: str) -> Any:
    return text("config { linux { resources { " + more + " } } }")


def mount(more: str) -> Any:
    return text("config { mounts { " + more + " } }")


def device(more: str) -> Any:
    return text("config { devices { " + more + " } }")


def env(more: str) -> Any:
    return text("config { envs { " + more + " } }")


CREATE: list[Case] = [
    ("no pod", at("pod_sandbox_id", ""), INVALID, "pod_sandbox_id is empty"),
    ("unknown pod", at("pod_sandbox_id", "f" * 64), ABSENT, "pod '" + "f" * 64 + "' not found"),
    ("no config", at("config", ...), INVALID, "config is missing"),
    ("no metadata", at("config.metadata", ...), INVALID, "config.metadata is missing"),
    ("no name", at("config.metadata.name", ""), INVALID, "config.metadata.name is empty"),
    ("name of 254 bytes", at("config.metadata.name", "n" * 254), INVALID, "the limit is 253"),
    ("name with a line end", at("config.metadata.name", "a\n"), INVALID, "without control characters"),
    ("no image", at("config.image", ...), INVALID, "config.image is missing"),
    ("image without a name", at("config.image.image", ""), INVALID, "config.image.image is empty"),
    ("unknown image", at("config.image.image", "registry.test/none:1"), ABSENT, "none:1' not found"),
    ("image that is none", at("config.image.image", "http://x/Y"), ABSENT, "not found"),
    ("image name of 5000 bytes", at("config.image.image", "x" * 5000), INVALID, "the limit is 4096"),
    ("user's image of 5000 bytes", at("config.image.user_specified_image", "x" * 5000), INVALID, "the limit is 4096"),
    # what runs
    ("argument with NUL", at("config.args", ["a\0"]), INVALID, "config.args[0] holds a NUL"),
    ("argument of 128 KiB", at("config.args", ["a" * 131072]), INVALID, "a word of 131072 bytes"),
    ("arguments of 3 MiB", at("config.args", ["a" * 100_000] * 31), INVALID, "the limit is 2097152"),
    ("variable without a name", env("key: '' value: 'x'"), INVALID, "envs[0].key is empty"),
    ("variable with =", env("key: 'A=B'"), INVALID, "a name without '='"),
    ("variable with NUL", env("key: 'A' value: 'a\\000'"), INVALID, "holds a NUL"),
    ("variable that is no UTF-8", env("key: 'A' value: '\\377'"), INVALID, "is not UTF-8"),
    ("17,000 variables", text("config { " + "envs { key: 'A' } " * 17_000 + "}"), INVALID, "17000 entries"),
    ("5 MiB in all", text("config { " + "envs { key: 'A' value: '" + "x" * 100_000 + "' } " + "}"), OK, ""),
    ("labels of 5 MiB", at("config.labels", {"a": "x" * (5 << 20)}), INVALID, "size of config.labels"),
    ("too much in all", text("config { " + f"envs {{ key: 'A' value: '{'x' * 100_000}' }} " * 50 + "}"), INVALID,
     "size of config in bytes"),
    ("directory of 5000 bytes", at("config.working_dir", "/" + "d" * 5000), INVALID, "working_dir is 5001 bytes"),
    ("unknown signal", at("config.stop_signal", 99), INVALID, "stop_signal has value 99"),
    # names and files
    ("absolute log path", at("config.log_path", "/etc/passwd"), INVALID, "a relative path without '..'"),
    ("log path outside", at("config.log_path", "../../x.log"), INVALID, "a relative path without '..'"),
    ("log path that is a directory", at("config.log_path", "app/"), INVALID, "wanted a file's path"),
    ("log path with a colon", at("config.log_path", "app/a:b"), INVALID, "without ':' in its name"),
    ("log path too long for the log", at("config.log_path", "a/" * 1000 + "0.log"), INVALID, "too long together"),
    ("label without a key", at("config.labels", {"": ""}), INVALID, "config.labels has an empty key"),
    ("annotation with NUL", at("config.annotations", {"a": "\0"}), INVALID, "annotations['a'] holds a NUL"),
    # mounts
    ("mount at a relative path", mount("container_path: 'd' host_path: '/h'"), INVALID, "mounts[0].container_path"),
    ("mount outside", mount("container_path: '/a/../../etc' host_path: '/h'"), INVALID, "without '..'"),
    ("mount at the root", mount("container_path: '/./' host_path: '/h'"), INVALID, "a path below the root"),
    ("mount of nothing", mount("container_path: '/d'"), INVALID, "mounts[0].host_path"),
    ("mount of a relative path", mount("container_path: '/d' host_path: 'h'"), INVALID, "mounts[0].host_path"),
    ("mount of a path with NUL", mount("container_path: '/d' host_path: '/h\\000'"), INVALID, "holds a NUL"),
    ("mount with unknown propagation", mount("container_path: '/d' host_path: '/h' propagation: 9"), INVALID, "know"),
    ("two mounts of one place", text("config { mounts { container_path: '/d' host_path: '/a' } "
     "mounts { container_path: '/d/.//' host_path: '/b' } }"), INVALID, "where config.mounts has another mount"),
    ("one mount twice", text("config { " + "mounts { container_path: '/d' host_path: '/a' } " * 2 + "}"), OK, ""),
    ("image that can be written", mount("container_path: '/i' image { image: 'x' }"), INVALID, "readonly is false"),
    ("image and path", mount("container_path: '/i' host_path: '/h' image { image: 'x' } readonly: true"), INVALID,
     "wanted it empty beside an image"),
    ("part of no image", mount("container_path: '/i' host_path: '/h' image_sub_path: 'a'"), INVALID, "image beside it"),
    ("image volume", mount("container_path: '/i' image { image: 'x' } readonly: true"), Status.UNKNOWN,
     "ImageVolumeMountFailed: mount of image 'x'"),
    ("recursively read-only and writable", mount("container_path: '/d' host_path: '/h' recursive_read_only: true"),
     INVALID, "wanted readonly beside it"),
    ("recursively read-only and shared",
     mount("container_path: '/d' host_path: '/h' readonly: true recursive_read_only: true "
           "propagation: PROPAGATION_BIDIRECTIONAL"), INVALID, "wanted propagation PROPAGATION_PRIVATE"),
    ("mount that maps no ids", mount("container_path: '/d' host_path: '/h' uidMappings { }"), INVALID, "maps 0 ids"),
    ("5000 mounts", text("config { " + "mounts { container_path: '/d' host_path: '/h' } " * 5000 + "}"), INVALID,
     "config.mounts has 5000 entries"),
    # devices
    ("device without a path", device("container_path: '/dev/x'"), INVALID, "devices[0].host_path"),
    ("device of unknown permissions", device("host_path: '/dev/x' permissions: 'rwx'"), INVALID, "some of 'rwm'"),
    ("CDI device without a class", text("config { CDI_devices { name: 'gpu' } }"), INVALID, "'vendor/class=device'"),
    ("CDI device", text("config { CDI_devices { name: 'vendor.com/gpu=0' } }"), INVALID,
     "is in no specification"),
    # limits
    ("period below a millisecond", resources("cpu_period: 999"), INVALID, "wanted 1000 to 1000000"),
    ("quota below none", resources("cpu_quota: -2"), INVALID, "cpu_quota is -2"),
    ("shares beyond the kernel's", resources("cpu_shares: 262145"), INVALID, "cpu_shares is 262145"),
    ("memory below none", resources("memory_limit_in_bytes: -2"), INVALID, "memory_limit_in_bytes is -2"),
    ("swap below memory", resources("memory_limit_in_bytes: 9 memory_swap_limit_in_bytes: 8"), INVALID, "together"),
    ("score beyond the kernel's", resources("oom_score_adj: -1001"), INVALID, "oom_score_adj is -1001"),
    ("CPUs backwards", resources("cpuset_cpus: '3-1'"), INVALID, "wanted the lower number first"),
    ("CPUs beyond all", resources("cpuset_cpus: '999999'"), INVALID, "wanted 0 to 65535"),
    ("CPUs by name", resources("cpuset_mems: 'all'"), INVALID, "a list such as '0-2,7'"),
    ("pages without a unit", resources("hugepage_limits { page_size: '2' }"), INVALID, "wanted such as '2MB'"),
    ("cgroup file outside", resources("unified { key: '../x.y' value: '1' }"), INVALID, "a cgroup v2 file"),
    ("cgroup's own file", resources("unified { key: 'cgroup.procs' value: '1' }"), INVALID, "a cgroup v2 file"),
    # security
    ("privileged in a plain pod", at(PARTS + "privileged", True), INVALID, "the pod is not privileged"),
    ("unknown capability", security("capabilities { add_capabilities: 'FLY' }"), INVALID, "'FLY' is unknown"),
    ("300 capabilities", at(PARTS + "capabilities.drop_capabilities", ["KILL"] * 300), INVALID, "300 entries"),
    ("user below zero", security("run_as_user { value: -1 }"), INVALID, "run_as_user is -1"),
    ("user above the last", security("run_as_user { value: 4294967296 }"), INVALID, "run_as_user is 4294967296"),
    ("user nobody knows", security("run_as_username: 'nobody'"), INVALID, "'nobody' is neither in the image"),
    ("user with a line end", security("run_as_username: 'a\\nb'"), INVALID, "without control characters"),
    ("group without a user", security("run_as_group { value: 1 }"), INVALID, "run_as_username beside it"),
    ("target without an id", security("namespace_options { pid: TARGET }"), INVALID, "wanted target_id beside it"),
    ("network of a target", security("namespace_options { network: TARGET }"), INVALID, "network is TARGET"),
    ("relative masked path", security("masked_paths: 'proc'"), INVALID, "an absolute path"),
    ("masked root", security("masked_paths: '/'"), INVALID, "a path below the root"),
    ("2000 read-only paths", at(PARTS + "readonly_paths", ["/a"] * 2000), INVALID, "2000 entries"),
    ("relative seccomp profile", security("seccomp { profile_type: Localhost localhost_ref: 'p.json' }"), INVALID,
     "an absolute path"),
    ("seccomp profile that is none", security("seccomp { profile_type: Localhost localhost_ref: '/p.json' }"), INVALID,
     "is empty or was not found"),
    ("old seccomp profile", security("seccomp_profile_path: 'mine'"), INVALID, "'localhost/<name>'"),
    ("unknown kind of profile", at(PARTS + "apparmor.profile_type", 9), INVALID, "profile_type has value 9"),
    ("AppArmor where there is none", security("apparmor { profile_type: Localhost localhost_ref: 'x' }"), MISSING,
     "no AppArmor"),
]  # fmt: skip

EXEC: list[Case] = [
    ("no command", at("cmd", []), INVALID, "cmd is empty"),
    ("empty command", at("cmd", [""]), INVALID, "cmd is empty"),
    ("command with NUL", at("cmd", ["a", "\0"]), INVALID, "cmd holds a NUL"),
    ("word of 128 KiB", at("cmd", ["a" * 131072]), INVALID, "a word of 131072 bytes"),
    ("words of 3 MiB", at("cmd", ["a" * 100_000] * 31), INVALID, "the limit is 2097152"),
    ("time below zero", at("timeout", -1), INVALID, "timeout is -1"),
    ("time of a century", at("timeout", 2**33), INVALID, "wanted 0 to 315360000"),
    ("container that waits", at("container_id", "@created"), ABSENT, "running container"),
    ("container that ended", at("container_id", "@exited"), ABSENT, "running container"),
]

LIST: list[Case] = [
    ("state that is none", text("filter { state { state: 9 } }"), INVALID, "filter.state.state has value 9"),
    ("id with NUL", at("filter.id", "a\0"), INVALID, "filter.id holds a NUL"),
    ("id of 300 bytes", at("filter.id", "a" * 300), INVALID, "filter.id is 300 bytes"),
    ("pod id of 300 bytes", at("filter.pod_sandbox_id", "a" * 300), INVALID, "pod_sandbox_id is 300 bytes"),
    ("selector with NUL", at("filter.label_selector", {"a": "\0"}), INVALID, "label_selector['a'] holds a NUL"),
]

STOP: list[Case] = [
    ("grace below zero", at("timeout", -(2**63)), OK, ""),
    ("grace beyond all clocks", at("timeout", 2**63 - 1), OK, ""),  # its program ends at the first SIGTERM
]

NAMED: dict[str, Status] = {  # RPC → what an id of nothing gets
    "StartContainer": ABSENT,
    "StopContainer": OK,
    "RemoveContainer": OK,
    "ContainerStatus": ABSENT,
    "ReopenContainerLog": ABSENT,
    "ExecSync": ABSENT,
}


@pytest.fixture
async def ids(daemon: Daemon) -> dict[str, str]:
    """An image, a pod, and a container of each state."""
    return await prepared(daemon)


@pytest.mark.parametrize(("change", "status", "words"), cases(CREATE))
async def test_create_container(daemon: Daemon, ids: dict[str, str], change: Any, status: Status, words: str) -> None:
    await check(daemon, "CreateContainer", ids, change, status, words)


async def test_a_pod_that_is_stopped_takes_no_container(daemon: Daemon, ids: dict[str, str]) -> None:
    await check(daemon, "StopPodSandbox", ids | {"@new-pod": ids["@pod"]}, lambda message: None, OK, "")
    await check(daemon, "CreateContainer", ids, lambda message: None, STATE, "not ready")


@pytest.mark.parametrize(("change", "status", "words"), cases(EXEC))
async def test_exec_sync(daemon: Daemon, ids: dict[str, str], change: Any, status: Status, words: str) -> None:
    await check(daemon, "ExecSync", ids, change, status, words)


@pytest.mark.parametrize(("change", "status", "words"), cases(LIST))
async def test_list_containers(daemon: Daemon, change: Any, status: Status, words: str) -> None:
    await check(daemon, "ListContainers", {}, change, status, words)


@pytest.mark.parametrize(("change", "status", "words"), cases(STOP))
async def test_stop_container(daemon: Daemon, ids: dict[str, str], change: Any, status: Status, words: str) -> None:
    await check(daemon, "StopContainer", ids, change, status, words)


@pytest.mark.parametrize("rpc", NAMED)
async def test_containers_by_name(daemon: Daemon, rpc: str) -> None:
    await check(daemon, rpc, {}, at("container_id", ""), INVALID, "container_id is empty")
    for name in ("f" * 64, "../..", "a\0b", "\n", "%s%n"):
        await check(daemon, rpc, {}, at("container_id", name), NAMED[rpc], "not found")
    huge = INVALID if rpc == "ExecSync" else NAMED[rpc]
    await check(daemon, rpc, {}, at("container_id", "☃" * 50_000), huge, "limit" if huge is INVALID else "not found")


@pytest.mark.parametrize("state", ["@running", "@exited"])
async def test_only_what_was_never_started_can_be(daemon: Daemon, ids: dict[str, str], state: str) -> None:
    await check(daemon, "StartContainer", ids, at("container_id", state), STATE, "not created")


@pytest.mark.parametrize("state", ["@created", "@exited"])
async def test_only_what_runs_has_a_log_to_reopen(daemon: Daemon, ids: dict[str, str], state: str) -> None:
    await check(daemon, "ReopenContainerLog", ids, at("container_id", state), STATE, "not running")
