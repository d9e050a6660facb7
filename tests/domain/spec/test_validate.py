"""The validator of OCI specs: what we make is without fault, and every fault that is put into it is found."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from ocid.domain.spec.build import build_container_spec
from ocid.domain.spec.seccomp_default import DEFAULT_PROFILE
from ocid.domain.spec.validate import CONFIG_BYTES_MAX, Found, decode, paths_of, validate
from tests.domain.spec import builders

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.json"))
FULL: dict[str, Any] = {  # every part of the Linux platform that the builder never makes
    "hostname": "h",
    "domainname": "d",
    "hooks": {"prestart": [{"path": "/bin/true", "args": ["true"], "env": ["A=1"], "timeout": 1}]},
    "process": {
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}],
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
        "scheduler": {"policy": "SCHED_OTHER", "nice": 5, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        "consoleSize": {"height": 1, "width": 1},
    },
    "linux": {
        "sysctl": {"net.core.somaxconn": "1", "kernel.shmmax": "1", "kernel.domainname": "x"},
        "timeOffsets": {"monotonic": {"secs": -5, "nanosecs": 1}},
        "intelRdt": {"closID": "a"},
        "personality": {"domain": "LINUX"},
        "rootfsPropagation": "rslave",
        "uidMappings": [{"containerID": 0, "hostID": 65536, "size": 10}, {"containerID": 10, "hostID": 0, "size": 1}],
        "gidMappings": [{"containerID": 0, "hostID": 65536, "size": 10}],
        "namespaces": [{"type": kind} for kind in ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")],
        "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 0}],
        "resources": {
            "memory": {"limit": 10, "swap": 20, "reservation": 5, "swappiness": 0, "disableOOMKiller": True},
            "cpu": {"shares": 1024, "quota": -1, "period": 100000, "cpus": "0-1,3", "idle": 1, "burst": 0},
            "pids": {"limit": -1},
            "blockIO": {"weight": 100, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}]},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
            "network": {"classID": 1, "priorities": [{"name": "eth0", "priority": 1}]},
            "rdma": {"mlx5_1": {"hcaHandles": 3}},
            "unified": {"memory.high": "1"},
        },
    },
    "windows": {"nonsense": True},
    "unknown": 7,
}


def full() -> dict[str, Any]:
    """A spec with everything in it."""
    return merged(json.loads(json.dumps(build_container_spec(builders.CASES["kubelet"]))), FULL)


def merged(base: Any, more: Any) -> Any:
    if isinstance(base, dict) and isinstance(more, dict):
        return {**base, **{key: merged(base.get(key), value) for key, value in more.items()}}
    return copy.deepcopy(more)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_what_we_make_is_without_fault(path: Path) -> None:
    spec, faults = decode(path.read_bytes())

    assert faults == ()
    assert validate(spec) == ()


def test_a_spec_with_everything_is_without_fault() -> None:
    assert validate(full()) == ()


Change = Callable[[dict[str, Any]], Any]


def at(path: str, value: Any) -> Change:
    """Set what *path*, dotted, leads to; a number is an index; ``...`` deletes it."""

    def change(spec: dict[str, Any]) -> None:
        target: Any = spec
        *steps, last = path.split(".")
        for step in steps:
            target = target[int(step)] if step.isdigit() else target[step]
        if value is ...:
            del target[last]
        else:
            target[int(last) if last.isdigit() else last] = value

    return change


MUTATIONS: list[tuple[Change, str]] = [
    (at("ociVersion", ...), "ociVersion"),
    (at("ociVersion", "1.0"), "ociVersion"),
    (at("ociVersion", "2.0.0"), "ociVersion"),
    (at("ociVersion", 1), "ociVersion"),
    (at("root", ...), "root"),
    (at("root", []), "root"),
    (at("root.path", ...), "root.path"),
    (at("root.path", ""), "root.path"),
    (at("root.readonly", "yes"), "root.readonly"),
    (at("hostname", "h" * 65), "hostname"),
    (at("annotations", {"": "x"}), "annotations"),
    (at("annotations", {"a": 1}), "annotations.a"),
    (at("annotations", {"a.b": 1}), "annotations['a.b']"),
    # mounts
    (at("mounts", {}), "mounts"),
    (at("mounts.0.destination", ...), "mounts[0].destination"),
    (at("mounts.0.destination", "proc"), "mounts[0].destination"),
    (at("mounts.0.destination", "/a\0b"), "mounts[0].destination"),
    (at("mounts.0.options", "ro"), "mounts[0].options"),
    (at("mounts.0.options", [1]), "mounts[0].options[0]"),
    (at("mounts.0.options", ["ro,nosuid"]), "mounts[0].options[0]"),
    (at("mounts.0.options", ["rshared", "private"]), "mounts[0].options"),
    (at("mounts.0", {"destination": "/x", "options": ["rbind"]}), "mounts[0].source"),
    (at("mounts.0", {"destination": "/x", "source": "x", "options": ["ro"]}), "mounts[0].type"),
    (at("mounts.0.uidMappings", [{"containerID": 0, "hostID": 0, "size": 1}]), "mounts[0]"),
    (at("mounts.0.uidMappings", [{"containerID": 0, "hostID": 0, "size": 0}]), "mounts[0].uidMappings[0].size"),
    # process
    (at("process.args", ...), "process.args"),
    (at("process.args", []), "process.args"),
    (at("process.args", [""]), "process.args[0]"),
    (at("process.args", ["a", None]), "process.args[1]"),
    (at("process.args", "sh"), "process.args"),
    (at("process.cwd", ...), "process.cwd"),
    (at("process.cwd", "srv"), "process.cwd"),
    (at("process.env", ["A"]), "process.env[0]"),
    (at("process.env", ["=A"]), "process.env[0]"),
    (at("process.env", ["A=\0"]), "process.env[0]"),
    (at("process.user", ...), "process.user"),
    (at("process.user.uid", ...), "process.user.uid"),
    (at("process.user.uid", -1), "process.user.uid"),
    (at("process.user.gid", 2**32), "process.user.gid"),
    (at("process.user.additionalGids", ["x"]), "process.user.additionalGids[0]"),
    (at("process.user.umask", 0o1000), "process.user.umask"),
    (at("process.terminal", 0), "process.terminal"),
    (at("process.consoleSize", {"height": 1}), "process.consoleSize.width"),
    (at("process.noNewPrivileges", "true"), "process.noNewPrivileges"),
    (at("process.apparmorProfile", True), "process.apparmorProfile"),
    (at("process.selinuxLabel", 5), "process.selinuxLabel"),
    (at("process.oomScoreAdj", 1001), "process.oomScoreAdj"),
    (at("process.capabilities.bounding", ["NET_ADMIN"]), "process.capabilities.bounding[0]"),
    (at("process.capabilities.bounding", ["CAP_FLY"]), "process.capabilities.bounding[0]"),
    (at("process.capabilities.effective", ["CAP_NET_RAW"]), "process.capabilities.effective"),
    (at("process.capabilities.ambient", ["CAP_NET_RAW"]), "process.capabilities.ambient"),
    (at("process.capabilities.permitted", ["CAP_NET_ADMIN", "CAP_CHOWN"]), "process.capabilities.bounding"),
    (at("process.capabilities", ["CAP_CHOWN"]), "process.capabilities"),
    (at("process.rlimits.0.type", "NOFILE"), "process.rlimits[0].type"),
    (at("process.rlimits.0.soft", 3), "process.rlimits[0].soft"),
    (at("process.rlimits.0.hard", ...), "process.rlimits[0].hard"),
    (at("process.rlimits.0.hard", 2**64), "process.rlimits[0].hard"),
    (at("process.rlimits", FULL["process"]["rlimits"] * 2), "process.rlimits[1].type"),
    (at("process.ioPriority.class", "RT"), "process.ioPriority.class"),
    (at("process.ioPriority.priority", 8), "process.ioPriority.priority"),
    (at("process.scheduler.policy", "FAIR"), "process.scheduler.policy"),
    (at("process.scheduler.nice", 20), "process.scheduler.nice"),
    # hooks
    (at("hooks.prestart.0.path", "true"), "hooks.prestart[0].path"),
    (at("hooks.prestart.0.path", ...), "hooks.prestart[0].path"),
    (at("hooks.prestart.0.timeout", 0), "hooks.prestart[0].timeout"),
    (at("hooks.prestart.0.env", ["A"]), "hooks.prestart[0].env[0]"),
    (at("hooks.poststop", {}), "hooks.poststop"),
    # namespaces and ids
    (at("linux", []), "linux"),
    (at("linux.namespaces.0.type", "net"), "linux.namespaces[0].type"),
    (at("linux.namespaces.0.type", "uts"), "linux.namespaces[4].type"),
    (at("linux.namespaces.1.path", "ns/net"), "linux.namespaces[1].path"),
    (at("linux.namespaces.1.path", ""), "linux.namespaces[1].path"),
    (at("linux.namespaces.4", {"type": "network", "path": "/x"}), "linux.namespaces[4].type"),
    (at("linux.namespaces", [{"type": "mount"}]), "linux.uidMappings"),
    (at("linux.uidMappings", ...), "linux.uidMappings"),
    (at("linux.uidMappings.1.containerID", 9), "linux.uidMappings"),
    (at("linux.uidMappings.1.hostID", 65537), "linux.uidMappings"),
    (at("linux.uidMappings.0.size", 2**32 - 1), "linux.uidMappings"),
    (at("linux.gidMappings.0.size", ...), "linux.gidMappings[0].size"),
    (at("linux.timeOffsets", {"realtime": {"secs": 1}}), "linux.timeOffsets"),
    (at("linux.timeOffsets.monotonic.nanosecs", 10**9), "linux.timeOffsets.monotonic.nanosecs"),
    (at("linux.sysctl", {"kernel.pid_max": "1"}), "linux.sysctl"),
    (at("linux.sysctl", {"net.core.somaxconn": 1}), "linux.sysctl['net.core.somaxconn']"),
    # devices, paths, names
    (at("linux.devices.0.path", "dev/fuse"), "linux.devices[0].path"),
    (at("linux.devices.0.type", "x"), "linux.devices[0].type"),
    (at("linux.devices.0.major", ...), "linux.devices[0].major"),
    (at("linux.devices.0.fileMode", "rw"), "linux.devices[0].fileMode"),
    (at("linux.devices", FULL["linux"]["devices"] * 2), "linux.devices[1].path"),
    (at("linux.cgroupsPath", "/a/../b"), "linux.cgroupsPath"),
    (at("linux.cgroupsPath", 5), "linux.cgroupsPath"),
    (at("linux.rootfsPropagation", "rwshared"), "linux.rootfsPropagation"),
    (at("linux.maskedPaths", ["proc"]), "linux.maskedPaths[0]"),
    (at("linux.readonlyPaths", [7]), "linux.readonlyPaths[0]"),
    (at("linux.mountLabel", []), "linux.mountLabel"),
    (at("linux.personality.domain", "BSD"), "linux.personality.domain"),
    (at("linux.intelRdt.closID", 5), "linux.intelRdt.closID"),
    # resources
    (at("linux.resources.devices", [{"access": "rwm"}]), "linux.resources.devices[0].allow"),
    (at("linux.resources.devices", [{"allow": True, "access": "rx"}]), "linux.resources.devices[0].access"),
    (at("linux.resources.devices", [{"allow": True, "type": "p"}]), "linux.resources.devices[0].type"),
    (at("linux.resources.memory.limit", -2), "linux.resources.memory.limit"),
    (at("linux.resources.memory.limit", 1.5), "linux.resources.memory.limit"),
    (at("linux.resources.memory.limit", 2**63), "linux.resources.memory.limit"),
    (at("linux.resources.memory.limit", 21), "linux.resources.memory.swap"),
    (at("linux.resources.memory.reservation", 11), "linux.resources.memory.reservation"),
    (at("linux.resources.memory.swappiness", 101), "linux.resources.memory.swappiness"),
    (at("linux.resources.cpu.shares", -1), "linux.resources.cpu.shares"),
    (at("linux.resources.cpu.period", 5), "linux.resources.cpu.period"),
    (at("linux.resources.cpu.cpus", "all"), "linux.resources.cpu.cpus"),
    (at("linux.resources.cpu.idle", 2), "linux.resources.cpu.idle"),
    (at("linux.resources.cpu", {"quota": 10, "burst": 11}), "linux.resources.cpu.burst"),
    (at("linux.resources.pids", {}), "linux.resources.pids.limit"),
    (at("linux.resources.blockIO.weight", 9), "linux.resources.blockIO.weight"),
    (at("linux.resources.blockIO.throttleReadBpsDevice.0.rate", ...),
     "linux.resources.blockIO.throttleReadBpsDevice[0].rate"),
    (at("linux.resources.hugepageLimits.0.pageSize", "2M"), "linux.resources.hugepageLimits[0].pageSize"),
    (at("linux.resources.hugepageLimits", [{"pageSize": "2MB", "limit": 1}] * 2),
     "linux.resources.hugepageLimits[1].pageSize"),
    (at("linux.resources.network.classID", -1), "linux.resources.network.classID"),
    (at("linux.resources.rdma", {"x": {"hcaHandles": -1}}), "linux.resources.rdma.x.hcaHandles"),
    (at("linux.resources.unified", {"../x": "1"}), "linux.resources.unified"),
    # seccomp
    (at("linux.seccomp.defaultAction", ...), "linux.seccomp.defaultAction"),
    (at("linux.seccomp.defaultAction", "ALLOW"), "linux.seccomp.defaultAction"),
    (at("linux.seccomp.defaultAction", "SCMP_ACT_NOTIFY"), "linux.seccomp.defaultAction"),
    (at("linux.seccomp.architectures", ["x86_64"]), "linux.seccomp.architectures[0]"),
    (at("linux.seccomp.flags", ["TSYNC"]), "linux.seccomp.flags[0]"),
    (at("linux.seccomp.listenerPath", "sock"), "linux.seccomp.listenerPath"),
    (at("linux.seccomp.listenerMetadata", "x"), "linux.seccomp.listenerMetadata"),
    (at("linux.seccomp.syscalls.0.names", []), "linux.seccomp.syscalls[0].names"),
    (at("linux.seccomp.syscalls.0.names", [""]), "linux.seccomp.syscalls[0].names[0]"),
    (at("linux.seccomp.syscalls.0.action", "SCMP_ACT_MAYBE"), "linux.seccomp.syscalls[0].action"),
    (at("linux.seccomp.syscalls.0.action", "SCMP_ACT_NOTIFY"), "linux.seccomp.syscalls[0].action"),
    (at("linux.seccomp.syscalls.0.errnoRet", 1), "linux.seccomp.syscalls[0].errnoRet"),
    (at("linux.seccomp.syscalls.0.args", [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]),
     "linux.seccomp.syscalls[0].args[0].index"),
    (at("linux.seccomp.syscalls.0.args", [{"index": 0, "value": 0, "op": "EQ"}]),
     "linux.seccomp.syscalls[0].args[0].op"),
    (at("linux.seccomp.syscalls.0.args", [{"index": 0, "op": "SCMP_CMP_EQ"}]),
     "linux.seccomp.syscalls[0].args[0].value"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "path"), MUTATIONS, ids=lambda one: one if isinstance(one, str) else "")
def test_what_is_put_wrong_is_found_where_it_is(change: Change, path: str) -> None:
    spec = full()
    change(spec)

    faults = validate(spec)

    assert path in [fault.path for fault in faults], faults
    assert all(fault.message and "\n" not in fault.message for fault in faults)


def test_a_hostname_needs_a_uts_namespace() -> None:
    spec = full()
    spec["linux"]["namespaces"] = [one for one in spec["linux"]["namespaces"] if one["type"] != "uts"]

    assert {fault.path for fault in validate(spec)} == {"hostname", "domainname", "linux.sysctl"}


def test_sysctls_need_their_namespaces() -> None:
    spec = full()
    spec["linux"]["namespaces"] = [one for one in spec["linux"]["namespaces"] if one["type"] not in ("network", "ipc")]

    faults = validate(spec)

    assert [fault.path for fault in faults] == ["linux.sysctl"] * 2
    assert {"wanted a network namespace beside it", "wanted an ipc namespace"} & {
        fault.message.partition(", ")[2] for fault in faults
    }


def test_our_own_seccomp_profile_is_known_to_the_validator() -> None:
    assert DEFAULT_PROFILE.syscalls is not None
    spec = full()
    names = {name for rule in spec["linux"]["seccomp"]["syscalls"] for name in rule["names"]}
    assert len(names) > 300


# --- the host ---------------------------------------------------------------------------------------------------------


def test_what_the_host_has_is_told_to_the_validator() -> None:
    spec = full()
    spec["root"]["path"] = "rootfs"
    spec["hooks"]["startContainer"] = [{"path": "/bin/inside"}]
    assert paths_of(spec, "/bundle") == ("/bundle/rootfs", "/bin/true", "/bundle/rootfs/bin/inside")
    found = {
        "/bundle/rootfs": Found.DIRECTORY,
        "/bin/true": Found.PROGRAM,
        "/bundle/rootfs/bin/inside": Found.PROGRAM,
    }

    assert validate(spec, found, "/bundle") == ()
    assert [fault.path for fault in validate(spec, {}, "/bundle")] == [
        "root.path",
        "hooks.prestart[0].path",
        "hooks.startContainer[0].path",
    ]
    (fault,) = validate(spec, {**found, "/bin/true": Found.FILE}, "/bundle")
    assert (
        fault.message == "is '/bin/true', where a file that cannot be executed is; wanted a file that can be executed"
    )


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 100_000, b"x" * (CONFIG_BYTES_MAX + 1)], ids=len)
def test_what_is_no_json_is_one_fault(raw: bytes) -> None:
    spec, faults = decode(raw)

    assert spec is None
    assert len(faults) == 1


# --- anything at all --------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def places(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value within *value*."""
    found = [before] if before else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += places(item, (*before, key))
    elif isinstance(value, list):
        for index, item in enumerate(value[:3]):
            found += places(item, (*before, index))
    return found


PLACES = places(full())


@given(where=st.sampled_from(PLACES), value=JSON)
def test_any_value_at_any_place_is_judged_and_never_an_exception(where: tuple[Any, ...], value: Any) -> None:
    spec = full()
    target = spec
    for step in where[:-1]:
        target = target[step]
    target[where[-1]] = value

    first = validate(spec, {}, "/b")

    assert validate(spec, {}, "/b") == first
    paths_of(spec, "/b")


@given(JSON)
def test_anything_is_judged(value: Any) -> None:
    faults = validate(value, {}, "/b")

    assert faults  # none of these is a spec
