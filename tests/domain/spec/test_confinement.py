"""Capabilities, seccomp, AppArmor, masked paths, namespaces and devices."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ocid.domain import configs as c
from ocid.domain.apparmor import Gap
from ocid.domain.spec.build import build_container_spec
from ocid.domain.spec.capabilities import ALL_CAPABILITIES, DEFAULT_CAPABILITIES, available, capability_sets
from ocid.domain.spec.devices import device_nodes, device_rules
from ocid.domain.spec.inputs import DeviceNode, HostFacts, NamespacePaths, SpecPolicy
from ocid.domain.spec.namespaces import container_namespaces, effective_options
from ocid.domain.spec.seccomp import PROFILE_BYTES_MAX, default_seccomp, parse_profile, resolve_profile
from ocid.domain.spec.seccomp_default import CLONE_NEW_ANY, DEFAULT_PROFILE
from ocid.domain.spec.security import apparmor_profile, needs_default_apparmor, path_lists, seccomp_profile
from ocid.errors import EffectFailed, InvalidRequest, Unsupported
from tests.domain.spec.builders import PATHS, USERNS, inputs

EVERYTHING = set(ALL_CAPABILITIES)
DEFAULT = set(DEFAULT_CAPABILITIES)
HELD = tuple(name for name in ALL_CAPABILITIES if name != "CAP_SYS_RESOURCE")
NODE, POD, CONTAINER, TARGET = (c.NamespaceMode(one) for one in ("NODE", "POD", "CONTAINER", "TARGET"))


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        ((), (), DEFAULT),
        (("net_admin",), (), DEFAULT | {"CAP_NET_ADMIN"}),
        (("CAP_NET_ADMIN",), ("ALL",), {"CAP_NET_ADMIN"}),
        (("ALL",), (), EVERYTHING),
        (("ALL",), ("CHOWN",), EVERYTHING - {"CAP_CHOWN"}),
        (("ALL", "CHOWN"), ("ALL",), {"CAP_CHOWN"}),
        ((), ("kill", "CAP_CHOWN"), DEFAULT - {"CAP_KILL", "CAP_CHOWN"}),
        ((), ("ALL",), set()),
    ],
)
def test_capabilities_are_added_and_dropped(add: tuple[str, ...], drop: tuple[str, ...], expected: set[str]) -> None:
    changes = c.CapabilityChanges(add_capabilities=add, drop_capabilities=drop)
    sets = capability_sets(changes, privileged=False, default=DEFAULT_CAPABILITIES, available=ALL_CAPABILITIES)

    assert set(sets["bounding"]) == set(sets["effective"]) == set(sets["permitted"]) == expected
    assert "ambient" not in sets
    assert "inheritable" not in sets


def test_ambient_capabilities_are_in_all_five_sets() -> None:
    changes = c.CapabilityChanges(add_ambient_capabilities=("NET_BIND_SERVICE",), drop_capabilities=("ALL",))
    sets = capability_sets(changes, privileged=False, default=DEFAULT_CAPABILITIES, available=ALL_CAPABILITIES)

    five = ("bounding", "effective", "permitted", "inheritable", "ambient")
    assert sets == {name: ["CAP_NET_BIND_SERVICE"] for name in five}


def test_what_the_daemon_does_not_hold_is_left_out() -> None:
    sets = capability_sets(c.CapabilityChanges(), privileged=True, default=(), available=available(HELD, 38))

    assert "CAP_SYS_RESOURCE" not in sets["bounding"]
    assert "CAP_BPF" not in sets["bounding"]  # number 39: an older kernel
    assert len(sets["bounding"]) == 38


def test_unknown_capability_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="FLY"):
        capability_sets(
            c.CapabilityChanges(drop_capabilities=("FLY",)), privileged=True, default=(), available=ALL_CAPABILITIES
        )


def _allowed(spec: dict[str, Any]) -> set[str]:
    return {name for rule in spec["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}


def test_default_profile_denies_what_reaches_the_host() -> None:
    spec = default_seccomp(frozenset(DEFAULT_CAPABILITIES), "amd64", (6, 1))

    denied = "mount kexec_load bpf keyctl add_key userfaultfd perf_event_open unshare setns init_module io_uring_setup"
    assert _allowed(spec).isdisjoint(denied.split())
    assert {"openat2", "ptrace", "execve", "chroot", "rseq", "futex_waitv"} <= _allowed(spec)
    assert spec["defaultErrnoRet"] == 1
    assert spec["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    clone = [rule for rule in spec["syscalls"] if rule["names"] == ["clone"]]  # type: ignore[attr-defined]
    assert [rule["args"] for rule in clone] == [[{"index": 0, "value": CLONE_NEW_ANY, "op": "SCMP_CMP_MASKED_EQ"}]]
    clone3 = [rule for rule in spec["syscalls"] if rule["names"] == ["clone3"]]  # type: ignore[attr-defined]
    assert [(rule["action"], rule["errnoRet"]) for rule in clone3] == [("SCMP_ACT_ERRNO", 38)]


@pytest.mark.parametrize(
    ("capability", "gives"),
    [
        ("CAP_SYS_ADMIN", "mount unshare setns clone3 bpf"),
        ("CAP_BPF", "bpf"),
        ("CAP_PERFMON", "perf_event_open"),
        ("CAP_SYS_MODULE", "init_module"),
        ("CAP_SYS_TIME", "clock_settime"),
        ("CAP_SYS_BOOT", "reboot"),
    ],
)
def test_a_capability_opens_its_system_calls(capability: str, gives: str) -> None:
    assert set(gives.split()) <= _allowed(default_seccomp(frozenset({capability}), "arm64", (6, 1)))


def test_no_call_is_named_twice_and_old_kernels_get_no_ptrace() -> None:
    always = DEFAULT_PROFILE.syscalls[0].names if DEFAULT_PROFILE.syscalls else ()

    assert always is not None
    assert len(always) == len(set(always)) > 300
    assert "ptrace" not in _allowed(default_seccomp(frozenset(), "amd64", (4, 4)))


def test_profile_files_are_read_in_either_spelling() -> None:
    oci = parse_profile(
        b'{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["sethostname"],"action":"SCMP_ACT_ERRNO"}]}'
    )
    assert resolve_profile(oci, frozenset(), "amd64", (6, 1)) == {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["sethostname"], "action": "SCMP_ACT_ERRNO"}],
    }
    rules = [
        {
            "names": ["a"],
            "action": "SCMP_ACT_ALLOW",
            "args": None,
            "comment": "",
            "includes": {"caps": ["CAP_BPF"]},
            "excludes": {},
        },
        {"names": ["b"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64"]}},
        {"name": "c", "action": "SCMP_ACT_ERRNO", "errnoRet": 2, "includes": {"minKernel": "5.10"}},
    ]
    raw = json.dumps(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": None}],
            "syscalls": rules,
        }
    )
    engine = resolve_profile(parse_profile(raw.encode()), frozenset(), "amd64", (6, 1))
    assert engine["architectures"] == ["SCMP_ARCH_X86_64"]
    assert engine["syscalls"] == [{"names": ["c"], "action": "SCMP_ACT_ERRNO", "errnoRet": 2}]


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{}", b'{"defaultAction":"NO"}', b"\xff", b"[" * 100_000, b" " * (PROFILE_BYTES_MAX + 1)],
)
def test_broken_profiles_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest, match="seccomp profile"):
        parse_profile(raw)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "Unconfined"),
        ({"seccomp": c.SecurityProfile()}, "RuntimeDefault"),
        ({"seccomp": c.SecurityProfile(), "privileged": True}, "Unconfined"),
        ({"seccomp_profile_path": "runtime/default"}, "RuntimeDefault"),
        ({"seccomp_profile_path": "localhost//p.json"}, "Localhost"),
    ],
)
def test_which_seccomp_profile_applies(fields: dict[str, Any], expected: str) -> None:
    assert seccomp_profile(c.ContainerSecurityContext(**fields), SpecPolicy()).profile_type == expected


def test_localhost_profile_must_be_there_and_is_used() -> None:
    local = c.SecurityProfile(profile_type=c.ProfileType.LOCALHOST, localhost_ref="/p.json")
    with pytest.raises(InvalidRequest, match=r"p\.json"):
        build_container_spec(inputs(security={"seccomp": local}))
    with pytest.raises(Unsupported, match=r"p\.json"):
        build_container_spec(inputs(security={"seccomp": local}, host=HostFacts(seccomp_enabled=False)))
    made = build_container_spec(
        inputs(security={"seccomp": local}, seccomp_localhost=b'{"defaultAction":"SCMP_ACT_LOG"}')
    )
    assert made["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_LOG"  # type: ignore[index]


@pytest.mark.parametrize(
    ("fields", "enabled", "expected"),
    [
        ({}, True, "ocid-default"),
        ({}, False, ""),
        ({"privileged": True}, True, ""),
        ({"apparmor_profile": "unconfined"}, True, ""),
        ({"apparmor_profile": "localhost/mine"}, True, "mine"),
        ({"apparmor": c.SecurityProfile(profile_type=c.ProfileType.LOCALHOST, localhost_ref="mine")}, True, "mine"),
        (
            {"apparmor": c.SecurityProfile(profile_type=c.ProfileType.UNCONFINED), "apparmor_profile": "localhost/x"},
            True,
            "",
        ),
    ],
)
def test_which_apparmor_profile_applies(fields: dict[str, Any], enabled: bool, expected: str) -> None:
    policy, host = SpecPolicy(apparmor_default="ocid-default"), HostFacts(apparmor_enabled=enabled)

    assert apparmor_profile(c.ContainerSecurityContext(**fields), policy, host) == expected


def test_apparmor_that_the_host_lacks_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="mine"):
        apparmor_profile(c.ContainerSecurityContext(apparmor_profile="localhost/mine"), SpecPolicy(), HostFacts())
    with pytest.raises(InvalidRequest, match="wanted"):
        apparmor_profile(c.ContainerSecurityContext(apparmor_profile="???"), SpecPolicy(), HostFacts())


def test_apparmor_profiles_must_be_loaded() -> None:
    host = HostFacts(apparmor_enabled=True)
    local = c.ContainerSecurityContext(apparmor_profile="localhost/mine")
    assert apparmor_profile(local, SpecPolicy(), host, frozenset({"mine"})) == "mine"
    with pytest.raises(InvalidRequest, match="apparmor profile 'mine' is not loaded"):
        apparmor_profile(local, SpecPolicy(), host, frozenset({"other"}))
    policy, default = SpecPolicy(apparmor_default="ocid-default"), c.ContainerSecurityContext()
    with pytest.raises(InvalidRequest, match="apparmor profile 'ocid-default' is not loaded"):
        apparmor_profile(default, policy, host, frozenset())
    assert apparmor_profile(default, policy, HostFacts(), frozenset()) == "", "no AppArmor: the default means nothing"
    assert apparmor_profile(c.ContainerSecurityContext(privileged=True), policy, host, frozenset()) == ""


@pytest.mark.parametrize(
    ("fields", "refused", "refused_without_parser"),
    [
        ({}, True, False),
        ({"apparmor": c.SecurityProfile(profile_type=c.ProfileType.RUNTIME_DEFAULT)}, True, True),
        ({"apparmor_profile": "runtime/default"}, True, True),
        ({"apparmor_profile": "unconfined"}, False, False),
        ({"apparmor_profile": "localhost/mine"}, False, False),
        ({"privileged": True}, False, False),
    ],
)
def test_who_is_refused_when_the_default_profile_cannot_be_loaded(
    fields: dict[str, Any], refused: bool, refused_without_parser: bool
) -> None:
    security, host = c.ContainerSecurityContext(**fields), HostFacts(apparmor_enabled=True)
    loaded = frozenset({"mine"})
    for missing, expected in ((False, refused), (True, refused_without_parser)):
        gap = Gap(reason="why", tool_missing=missing)
        ours, other = SpecPolicy(apparmor_default="ocid-default"), SpecPolicy(apparmor_default="mine")
        if expected:
            with pytest.raises(EffectFailed, match="apparmor profile 'ocid-default' is not in force: why"):
                apparmor_profile(security, ours, host, loaded, gap)
        else:
            assert apparmor_profile(security, ours, host, loaded, gap) in ("", "mine")
        assert apparmor_profile(security, other, host, loaded, gap) in ("", "mine"), "the gap is not this profile's"
        assert apparmor_profile(security, SpecPolicy(), host, loaded, gap) in ("", "mine"), "no default, no gap"


def test_who_needs_the_default_apparmor_profile() -> None:
    for fields, needs in (
        ({}, True),
        ({"apparmor_profile": "runtime/default"}, True),
        ({"apparmor_profile": "localhost/x"}, False),
        ({"apparmor": c.SecurityProfile(profile_type=c.ProfileType.UNCONFINED)}, False),
        ({"privileged": True}, False),
    ):
        assert needs_default_apparmor(c.ContainerSecurityContext(**fields)) is needs  # type: ignore[arg-type]


def test_path_lists_default_override_and_fall_away() -> None:
    userns = c.NamespaceOptions(userns_options=USERNS)
    assert "/proc/kcore" in path_lists(c.ContainerSecurityContext())[0]
    assert path_lists(c.ContainerSecurityContext(masked_paths=("/x",)))[0] == ["/x"]
    assert path_lists(c.ContainerSecurityContext(namespace_options=userns)) == ([], [])
    assert path_lists(c.ContainerSecurityContext(masked_paths=("/x",), privileged=True)) == ([], [])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"pid": CONTAINER}, {"mount": "", "pid": "", "network": PATHS.net, "uts": PATHS.uts, "ipc": PATHS.ipc}),
        ({"pid": POD}, {"mount": "", "pid": PATHS.pid, "network": PATHS.net, "uts": PATHS.uts, "ipc": PATHS.ipc}),
        ({"pid": TARGET}, {"mount": "", "pid": PATHS.pid, "network": PATHS.net, "uts": PATHS.uts, "ipc": PATHS.ipc}),
        ({"pid": NODE, "network": NODE, "ipc": NODE}, {"mount": ""}),
    ],
)
def test_namespaces(options: dict[str, Any], expected: dict[str, str]) -> None:
    paths = PATHS if options.get("network") is not NODE else NamespacePaths()
    found = container_namespaces(c.NamespaceOptions(**options), paths, private_cgroup=False)

    assert {one["type"]: one.get("path", "") for one in found} == expected


@pytest.mark.parametrize(
    ("pod", "container", "expected"),
    [
        (POD, POD, POD), (POD, CONTAINER, CONTAINER), (CONTAINER, POD, CONTAINER), (NODE, POD, NODE),
        (CONTAINER, TARGET, TARGET), (CONTAINER, NODE, NODE),
    ],
)  # fmt: skip
def test_pid_mode_of_a_container_in_a_pod(
    pod: c.NamespaceMode, container: c.NamespaceMode, expected: c.NamespaceMode
) -> None:
    whole = c.NamespaceOptions(pid=pod, network=NODE, userns_options=USERNS)
    found = effective_options(whole, c.NamespaceOptions(pid=container, target_id="t"))

    assert found == c.NamespaceOptions(
        pid=expected, network=NODE, userns_options=USERNS, target_id="t" if expected is TARGET else ""
    )


def test_a_namespace_to_join_must_be_known() -> None:
    with pytest.raises(InvalidRequest, match="network"):
        container_namespaces(c.NamespaceOptions(pid=CONTAINER), NamespacePaths(), private_cgroup=False)


def test_devices_are_denied_then_listed() -> None:
    fuse = DeviceNode(path="/dev/fuse", kind="c", major=10, minor=229, access="wr")
    rules = device_rules((fuse,), privileged=False)

    assert rules[0] == {"allow": False, "access": "rwm"}
    assert rules[-1] == {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}
    assert device_rules((fuse,), privileged=True) == [{"allow": True, "access": "rwm"}]
    assert len(device_nodes((fuse, DeviceNode(path="/dev/fuse", kind="b")))) == 1
    for bad in (
        DeviceNode(path="fuse", kind="c"),
        DeviceNode(path="/dev/../x", kind="c"),
        DeviceNode(path="/d", kind="s"),
    ):
        with pytest.raises(InvalidRequest, match="device"):
            device_nodes((bad,))
