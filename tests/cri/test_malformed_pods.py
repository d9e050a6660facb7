"""Malformed requests about pods, and what each is told."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cri.daemon import Daemon
from tests.cri.malformed import ABSENT, INVALID, OK, at, cases, check, text

PARTS = "config.linux.security_context."
OPTIONS = PARTS + "namespace_options."


def port(more: str) -> Any:
    return text("config { port_mappings { " + more + " } }")


def security(more: str) -> Any:
    return text("config { linux { security_context { " + more + " } } }")


def resources(more: str) -> Any:
    return text("config { linux { resources { " + more + " } } }")


RUN = [
    ("no config", at("config", ...), INVALID, "config is missing"),
    ("no metadata", at("config.metadata", ...), INVALID, "config.metadata is missing"),
    *(
        (f"no {field}", at(f"config.metadata.{field}", ""), INVALID, f"config.metadata.{field} is empty")
        for field in ("name", "uid", "namespace")
    ),
    *(
        (f"{field} of {size} bytes", at(f"config.metadata.{field}", "n" * size), INVALID, f"the limit is {size - 1}")
        for field, size in (("name", 254), ("uid", 129), ("namespace", 129))
    ),
    ("name with a line end", at("config.metadata.name", "a\nb"), INVALID, "without control characters"),
    ("name with an escape", at("config.metadata.name", "\x1b[31m"), INVALID, "without control characters"),
    ("name with NUL", at("config.metadata.name", "a\0b"), INVALID, "config.metadata.name holds a NUL"),
    ("names all as long as can be",
     text(f"config {{ metadata {{ name: '{'n' * 253}' uid: '{'u' * 128}' namespace: '{'s' * 128}' }} "
          f"linux {{ cgroup_parent: '{('/' + 'c' * 127) * 4}' }} }}"), OK, ""),
    ("handler that is not configured", at("runtime_handler", "kata"), INVALID, "'kata' is not configured"),
    ("handler of 64 bytes", at("runtime_handler", "k" * 64), INVALID, "the limit is 63"),
    # names and files
    ("hostname of 65 bytes", at("config.hostname", "h" * 65), INVALID, "config.hostname is 65 bytes"),
    ("hostname with a slash", at("config.hostname", "a/b"), INVALID, "wanted letters, digits"),
    ("hostname with a line end", at("config.hostname", "a\nb"), INVALID, "wanted letters, digits"),
    ("relative log directory", at("config.log_directory", "logs"), INVALID, "an absolute path without '..'"),
    ("log directory outside itself", at("config.log_directory", "/var/../etc"), INVALID, "without '..'"),
    ("log directory with NUL", at("config.log_directory", "/a\0"), INVALID, "config.log_directory holds a NUL"),
    ("log directory of 5000 bytes", at("config.log_directory", "/" + "d" * 5000), INVALID, "the limit is 4095"),
    ("resolver that is a name", text("config { dns_config { servers: 'dns.test' } }"), INVALID, "wanted an IP address"),
    ("resolver with a second line", text("config { dns_config { servers: '1.1.1.1\\nx' } }"), INVALID, "an IP address"),
    ("resolver of a zone", text("config { dns_config { servers: 'fe80::1%eth0' } }"), OK, ""),
    ("resolver of two zones", text("config { dns_config { servers: 'fe80::1%a b' } }"), INVALID, "without a zone"),
    ("search with an escape", text("config { dns_config { searches: '\\033[31m' } }"), INVALID, "control characters"),
    ("search of two words", text("config { dns_config { searches: 'a b' } }"), INVALID, "wanted one word"),
    ("empty resolver option", text("config { dns_config { options: '' } }"), INVALID, "wanted one word"),
    ("17 resolvers", at("config.dns_config.servers", ["1.1.1.1"] * 17), INVALID, "17 servers, the limit is 16"),
    # labels
    ("label without a key", at("config.labels", {"": "x"}), INVALID, "config.labels has an empty key"),
    ("label with NUL", at("config.labels", {"a": "b\0"}), INVALID, "config.labels['a'] holds a NUL"),
    ("annotations of 1 MiB", at("config.annotations", {"a": "x" * (1 << 20)}), INVALID, "size of config.annotations"),
    # ports
    ("port below zero", port("container_port: -1"), INVALID, "port_mappings[0].container_port is -1"),
    ("port above the last", port("container_port: 80 host_port: 65536"), INVALID, "host_port is 65536"),
    ("host port to no port", port("host_port: 80"), INVALID, "container_port is 0, wanted 1 to 65535"),
    ("port of an unknown protocol", port("container_port: 80 protocol: 9"), INVALID, "protocol has value 9"),
    ("port of a host by name", port("container_port: 80 host_port: 8 host_ip: 'here'"), INVALID, "an IP address"),
    ("port of an address with a rule behind it",
     port("container_port: 80 host_port: 8 host_ip: 'fe80::1%eth0; flush ruleset'"), INVALID, "without a zone"),
    ("one host port twice", text("config { " + "port_mappings { container_port: 80 host_port: 8080 } " * 2 + "}"),
     INVALID, "port_mappings[1].host_port 8080 is mapped twice"),
    ("one address's port twice in two spellings",
     text("config { port_mappings { container_port: 1 host_port: 8 host_ip: '::1' } "
          "port_mappings { container_port: 2 host_port: 8 host_ip: '0:0:0:0:0:0:0:1' } }"), INVALID, "mapped twice"),
    ("one port of two protocols", text("config { port_mappings { container_port: 80 host_port: 8080 } "
     "port_mappings { container_port: 80 host_port: 8080 protocol: UDP } }"), OK, ""),
    ("5000 ports", text("config { " + "port_mappings { container_port: 1 } " * 5000 + "}"), INVALID, "5000 entries"),
    # cgroups
    ("cgroup parent outside", at("config.linux.cgroup_parent", "/a/../../b"), INVALID, "without '..'"),
    ("slice with an empty level", at("config.linux.cgroup_parent", "a--b.slice"), INVALID, "empty level"),
    ("cgroup parent with a line end", at("config.linux.cgroup_parent", "/a\n"), INVALID, "control characters"),
    ("cgroup parent with a part of 256 bytes", at("config.linux.cgroup_parent", "/" + "c" * 256), INVALID,
     "part of config.linux.cgroup_parent is 256 bytes, the limit is 255"),
    ("cgroup parent of 513 bytes", at("config.linux.cgroup_parent", "/" * 513), INVALID, "the limit is 512"),
    # namespaces
    ("network of a container", at(OPTIONS + "network", 1), INVALID, "network is CONTAINER, wanted POD or NODE"),
    ("network of a target", at(OPTIONS + "network", 3), INVALID, "network is TARGET"),
    ("IPC of a target", at(OPTIONS + "ipc", 3), INVALID, "ipc is TARGET"),
    ("PID of a target", at(OPTIONS + "pid", 3), INVALID, "which only a container can have"),
    ("unknown mode", at(OPTIONS + "pid", 17), INVALID, "pid has value 17, which CRI v1 does not know"),
    ("users without mappings", security("namespace_options { userns_options { } }"), INVALID, "uids has 0 mappings"),
    ("users of a container", security("namespace_options { userns_options { mode: CONTAINER } }"), INVALID, "mode is"),
    ("mappings of the host's users",
     security("namespace_options { userns_options { mode: NODE uids { length: 1 } } }"), INVALID, "its mode is NODE"),
    ("mapping past the last id",
     security("namespace_options { userns_options { uids { host_id: 4294967295 length: 9 } gids { length: 9 } } }"),
     INVALID, "past the last id"),
    # security
    ("user below zero", security("run_as_user { value: -1 }"), INVALID, "run_as_user is -1"),
    ("group without a user", security("run_as_group { value: 1 }"), INVALID, "wanted run_as_user beside it"),
    ("group above the last", security("supplemental_groups: 4294967296"), INVALID, "supplemental_groups is 4294967296"),
    ("unknown groups policy", at(PARTS + "supplemental_groups_policy", 5), INVALID, "which CRI v1 does not know"),
    ("SELinux type of two parts", security("selinux_options { type: 'a:b' }"), INVALID, "one part of an SELinux label"),
    ("seccomp profile without a path", security("seccomp { profile_type: Localhost }"), INVALID, "an absolute path"),
    ("seccomp profile outside", security("seccomp { profile_type: Localhost localhost_ref: '/a/../b' }"), INVALID,
     "seccomp.localhost_ref is '/a/../b'"),
    ("AppArmor profile without a name", security("apparmor { profile_type: Localhost }"), INVALID, "is empty"),
    # sysctls and limits
    ("sysctl of the node", text("config { linux { sysctls { key: 'kernel.pid_max' value: '1' } } }"), INVALID,
     "is the whole host's"),
    ("sysctl that is a path", text("config { linux { sysctls { key: '../../etc/x' value: '1' } } }"), INVALID, "name"),
    ("sysctl of the host's network",
     text("config { linux { sysctls { key: 'net.a.b' value: '1' } security_context { namespace_options { network: NODE "
          "} } } }"), INVALID, "this pod shares the host's"),
    ("value of 5000 bytes", at("config.linux.sysctls", {"net.a.b": "1" * 5000}), INVALID, "the limit is 4096"),
    ("period below a millisecond", resources("cpu_period: 5"), INVALID, "resources.cpu_period is 5"),
    ("memory below none", resources("memory_limit_in_bytes: -5"), INVALID, "memory_limit_in_bytes is -5"),
    ("overhead of negative shares", text("config { linux { overhead { cpu_shares: -1 } } }"), INVALID, "cpu_shares"),
]  # fmt: skip

NAMED = {  # RPC → what an unknown, an empty and an impossible id get
    "StopPodSandbox": (OK, OK),
    "RemovePodSandbox": (OK, OK),
    "PodSandboxStatus": (ABSENT, ABSENT),
}

LIST = [
    ("state that is none", text("filter { state { state: 9 } }"), INVALID, "filter.state.state has value 9"),
    ("id with NUL", at("filter.id", "a\0"), INVALID, "filter.id holds a NUL"),
    ("id of 300 bytes", at("filter.id", "a" * 300), INVALID, "filter.id is 300 bytes"),
    ("selector with NUL", at("filter.label_selector", {"a": "\0"}), INVALID, "label_selector['a'] holds a NUL"),
    ("no filter at all", at("filter", ...), OK, ""),
]


@pytest.mark.parametrize(("change", "status", "words"), cases(RUN))
async def test_run_pod_sandbox(daemon: Daemon, change: Any, status: Any, words: str) -> None:
    await check(daemon, "RunPodSandbox", {}, change, status, words)


@pytest.mark.parametrize(("change", "status", "words"), cases(LIST))
async def test_list_pod_sandbox(daemon: Daemon, change: Any, status: Any, words: str) -> None:
    await check(daemon, "ListPodSandbox", {}, change, status, words)


@pytest.mark.parametrize("rpc", NAMED)
async def test_pods_by_name(daemon: Daemon, rpc: str) -> None:
    unknown, impossible = NAMED[rpc]
    await check(daemon, rpc, {}, at("pod_sandbox_id", ""), INVALID, "pod_sandbox_id is empty")
    await check(daemon, rpc, {}, at("pod_sandbox_id", "f" * 64), unknown, "not found")
    for name in ("../..", "a\0b", "\n", "☃" * 50_000, "%s%n"):
        await check(daemon, rpc, {}, at("pod_sandbox_id", name), impossible, "not found")


async def test_the_longest_pod_that_kubernetes_can_ask_for_is_made(daemon: Daemon) -> None:
    """Its log directory's name, of namespace, name and uid, is one file name of 255 bytes."""
    uid, namespace = "12345678-1234-1234-1234-123456789012", "s" * 63
    name = "n" * (255 - len(uid) - len(namespace) - 2)
    long = text(
        f"config {{ metadata {{ name: '{name}' uid: '{uid}' namespace: '{namespace}' }} hostname: '{'h' * 63}' "
        f"log_directory: '/var/log/pods/{namespace}_{name}_{uid}' linux {{ cgroup_parent: "
        f"'/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{uid.replace('-', '_')}.slice' }} }}"
    )
    await check(daemon, "RunPodSandbox", {}, long, OK, "")
    (pod_id,) = daemon.view.pods.rows

    await daemon.pull()
    container = await daemon.create(pod_id, "c" * 63, log_path=f"{'c' * 63}/1000.log")

    assert (await daemon.status(container)).log_path.endswith(f"_{uid}/{'c' * 63}/1000.log")
