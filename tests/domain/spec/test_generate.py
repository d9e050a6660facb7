"""``ocid spec generate`` without its command line: specs from options, and templates changed where asked."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ocid.domain.configs import HugepageLimit, IdMapping, LinuxResources
from ocid.domain.spec.generate import generate
from ocid.domain.spec.inputs import DeviceNode, ExtraMount, HostFacts, Rlimit
from ocid.domain.spec.options import HOST, Hook, SpecOptions
from ocid.domain.spec.validate import validate
from ocid.errors import InvalidRequest

GOLDEN = Path(__file__).parent / "golden"
FUSE = DeviceNode(path="/dev/fuse", kind="c", major=10, minor=229)
DATA = ExtraMount(destination="/data", source="/srv", options=("rbind", "rslave", "ro"))


def spec_of(options: SpecOptions, template: dict[str, Any] | None = None) -> dict[str, Any]:
    """Generate a spec, which must be valid, as JSON has it."""
    spec: dict[str, Any] = json.loads(msgspec.json.encode(generate(options, template)))
    assert validate(spec) == ()
    return spec


def namespaces(spec: dict[str, Any]) -> dict[str, str]:
    return {one["type"]: one.get("path", "") for one in spec["linux"]["namespaces"]}


def test_nothing_asked_for_is_a_shell_in_namespaces_of_its_own() -> None:
    spec = spec_of(SpecOptions())

    assert spec["root"] == {"path": "rootfs", "readonly": False}
    assert spec["process"]["args"] == ["sh"]
    assert namespaces(spec) == dict.fromkeys(("mount", "pid", "network", "uts", "ipc", "cgroup"), "")
    assert spec["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    assert {"annotations", "hooks", "hostname"}.isdisjoint(spec)
    assert "cgroupsPath" not in spec["linux"]
    assert "/dev/shm" in [one["destination"] for one in spec["mounts"]]


FULL = SpecOptions(
    args=("serve", "-p", "80"),
    env=("A=1", "B=x=y", "A=2"),
    cwd="/srv",
    uid=1000,
    gid=100,
    groups=(5,),
    tty=True,
    cap_add=("net_admin",),
    cap_drop=("ALL",),
    no_new_privileges=True,
    rlimits=(Rlimit(kind="RLIMIT_NOFILE", soft=10, hard=20),),
    oom_score_adj=-5,
    apparmor="ours",
    selinux_label="a:b:c:d",
    mount_label="e:f:g:h",
    mounts=(DATA,),
    mounts_removed=("/dev/mqueue",),
    namespaces={"network": "/run/ns/net", "ipc": HOST, "uts": "", "cgroup": HOST, "time": ""},
    seccomp="unconfined",
    resources=LinuxResources(
        memory_limit_in_bytes=100,
        cpu_shares=5,
        hugepage_limits=(HugepageLimit(page_size="2MB", limit=1),),
        unified={"memory.high": "7"},
    ),
    pids_limit=9,
    cgroups_path="/ours",
    devices=(FUSE,),
    hostname="inside",
    rootfs="/r",
    readonly=True,
    masked_paths=("/proc/kcore",),
    readonly_paths=("/proc/sys",),
    annotations={"k": "v"},
    hooks={"poststop": (Hook(path="/bin/true", args=("true", "x")),)},
    sysctl={"net.core.somaxconn": "1"},
)


def test_everything_asked_for_is_there() -> None:
    spec = spec_of(FULL)
    process, linux = spec["process"], spec["linux"]

    assert process["args"] == ["serve", "-p", "80"]
    assert process["env"][-2:] == ["A=2", "B=x=y"]
    assert (process["cwd"], process["terminal"], process["noNewPrivileges"]) == ("/srv", True, True)
    assert process["user"] == {"uid": 1000, "gid": 100, "additionalGids": [100, 5]}
    assert process["capabilities"]["bounding"] == ["CAP_NET_ADMIN"]
    assert process["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}]
    assert (process["oomScoreAdj"], process["apparmorProfile"], process["selinuxLabel"]) == (-5, "ours", "a:b:c:d")
    assert namespaces(spec) == {"mount": "", "pid": "", "network": "/run/ns/net", "uts": "", "time": ""}
    assert "seccomp" not in linux
    assert linux["rootfsPropagation"] == "rslave"
    assert (linux["maskedPaths"], linux["readonlyPaths"]) == (["/proc/kcore"], ["/proc/sys"])
    assert (linux["cgroupsPath"], linux["mountLabel"]) == ("/ours", "e:f:g:h")
    assert linux["sysctl"] == {"net.core.somaxconn": "1"}
    resources = {name: value for name, value in linux["resources"].items() if name != "devices"}
    assert resources == {
        "memory": {"limit": 100, "swap": 100},
        "cpu": {"shares": 5},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
        "pids": {"limit": 9},
        "unified": {"memory.high": "7"},
    }
    assert linux["devices"][0]["path"] == "/dev/fuse"
    assert linux["resources"]["devices"][-1]["major"] == 10
    assert spec["root"] == {"path": "/r", "readonly": True}
    assert (spec["hostname"], spec["annotations"]) == ("inside", {"k": "v"})
    assert spec["hooks"] == {"poststop": [{"path": "/bin/true", "args": ["true", "x"]}]}
    mounts = {one["destination"]: one for one in spec["mounts"]}
    assert mounts["/data"] == {
        "destination": "/data", "type": "bind", "source": "/srv", "options": ["rbind", "rslave", "ro"],
    }  # fmt: skip
    assert mounts["/dev/shm"]["type"] == "bind"  # the host's, as its IPC namespace is
    assert "/dev/mqueue" not in mounts


@pytest.mark.parametrize("kind", ["network", "pid", "ipc", "uts", "cgroup"])
@pytest.mark.parametrize("wanted", ["", HOST, "/run/ns/x"])
def test_each_namespace_may_be_own_the_hosts_or_anothers(kind: str, wanted: str) -> None:
    found = namespaces(spec_of(SpecOptions(namespaces={kind: wanted})))

    assert found.pop(kind, HOST) == wanted
    assert set(found) == {"mount", "pid", "network", "uts", "ipc", "cgroup"} - {kind}


def test_a_user_namespace_has_mappings() -> None:
    ids = (IdMapping(container_id=0, host_id=100_000, length=65_536),)
    spec = spec_of(SpecOptions(uid_mappings=ids))
    mapping = [{"containerID": 0, "hostID": 100_000, "size": 65_536}]

    assert "user" in namespaces(spec)
    assert (spec["linux"]["uidMappings"], spec["linux"]["gidMappings"]) == (mapping, mapping)


def test_privileged_has_everything() -> None:
    spec = spec_of(SpecOptions(privileged=True, host_devices=(FUSE,)))

    assert len(spec["process"]["capabilities"]["bounding"]) == 41
    assert "seccomp" not in spec["linux"]
    assert (spec["linux"]["maskedPaths"], spec["linux"]["readonlyPaths"]) == ([], [])
    assert spec["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]


def test_unmask_leaves_the_rest_confined() -> None:
    spec = spec_of(SpecOptions(unmask=True))

    assert (spec["linux"]["maskedPaths"], spec["linux"]["readonlyPaths"]) == ([], [])
    assert "seccomp" in spec["linux"]


def test_users_by_name_are_those_of_the_root_file_system() -> None:
    passwd, group = b"app:x:1000:1000::/:/bin/sh\n", b"logs:x:44:app\n"
    spec = spec_of(SpecOptions(user="app:logs", passwd=passwd, group=group))

    assert (spec["process"]["user"]["uid"], spec["process"]["user"]["gid"]) == (1000, 44)
    with pytest.raises(InvalidRequest, match="nobody"):
        generate(SpecOptions(user="nobody", passwd=passwd))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (SpecOptions(gid=5), "without a user"),
        (SpecOptions(env=("A",)), "NAME=value"),
        (SpecOptions(cap_add=("FLY",)), "FLY"),
        (SpecOptions(seccomp="/p.json", seccomp_profile=b"{"), "cannot be read"),
        (SpecOptions(devices=(DeviceNode(path="dev", kind="c"),)), "absolute path"),
    ],
)
def test_what_does_not_fit_together_is_refused(options: SpecOptions, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        generate(options)


# --- templates --------------------------------------------------------------------------------------------------------


def templates() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in GOLDEN.glob("*.json")}


@pytest.mark.parametrize("name", templates())
def test_a_template_that_nothing_is_asked_of_stays_as_it_is(name: str) -> None:
    template = templates()[name]
    before = copy.deepcopy(template)

    assert spec_of(SpecOptions(), template) == before
    assert template == before


PRIVILEGED = ("seccomp", "maskedPaths", "readonlyPaths", "resources")
CHANGES: list[tuple[SpecOptions, set[str]]] = [
    (SpecOptions(args=("x",)), {"process.args"}),
    (SpecOptions(env=("PORT=81", "NEW=1")), {"process.env"}),
    (SpecOptions(cwd="/x"), {"process.cwd"}),
    (SpecOptions(uid=7), {"process.user"}),
    (SpecOptions(groups=(7,)), {"process.user"}),
    (SpecOptions(tty=True), {"process.terminal"}),
    (SpecOptions(cap_add=("SYS_TIME",)), {"process.capabilities"}),
    (SpecOptions(rlimits=(Rlimit(kind="RLIMIT_CPU", soft=1, hard=1),)), {"process.rlimits"}),
    (SpecOptions(oom_score_adj=5), {"process.oomScoreAdj"}),
    (SpecOptions(apparmor="x"), {"process.apparmorProfile"}),
    (SpecOptions(selinux_label="x"), {"process.selinuxLabel"}),
    (SpecOptions(mounts=(DATA,)), {"mounts", "linux.rootfsPropagation"}),
    (SpecOptions(mounts_removed=("/proc",)), {"mounts"}),
    (SpecOptions(namespaces={"network": HOST}), {"linux.namespaces"}),
    (SpecOptions(seccomp="unconfined"), {"linux.seccomp"}),
    (SpecOptions(resources=LinuxResources(cpu_shares=7)), {"linux.resources"}),
    (SpecOptions(devices=(FUSE,)), {"linux.devices", "linux.resources"}),
    (SpecOptions(hostname="x"), {"hostname"}),
    (SpecOptions(rootfs="/x"), {"root"}),
    (SpecOptions(readonly=False), {"root"}),
    (SpecOptions(unmask=True), {"linux.maskedPaths", "linux.readonlyPaths"}),
    (SpecOptions(annotations={"x": "y"}), {"annotations"}),
    (SpecOptions(hooks={"prestart": (Hook(path="/x"),)}), {"hooks"}),
    (SpecOptions(sysctl={"net.x.y": "1"}), {"linux.sysctl"}),
    (SpecOptions(cgroups_path="/x"), {"linux.cgroupsPath"}),
    (
        SpecOptions(privileged=True),
        {"process.capabilities", "mounts"} | {f"linux.{one}" for one in PRIVILEGED},
    ),
]  # fmt: skip


def parts(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec, flat: what is below process and linux by its own name."""
    flat = {key: value for key, value in spec.items() if key not in ("process", "linux")}
    for name in ("process", "linux"):
        flat |= {f"{name}.{key}": value for key, value in spec[name].items()}
    return flat


@pytest.mark.parametrize(("options", "changed"), CHANGES, ids=lambda one: "")
def test_a_template_is_changed_where_asked_and_nowhere_else(options: SpecOptions, changed: set[str]) -> None:
    before = parts(templates()["kubelet"])
    after = parts(spec_of(options, templates()["kubelet"]))

    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == changed


def test_lists_of_a_template_are_changed_item_by_item() -> None:
    template = templates()["kubelet"]
    resources = LinuxResources(memory_limit_in_bytes=128 << 20, memory_swap_limit_in_bytes=256 << 20)
    options = SpecOptions(
        env=("PORT=81", "NEW=1"), mounts=(DATA,), resources=resources, cap_add=("SYS_TIME",), cap_drop=("NET_ADMIN",)
    )
    spec = spec_of(options, template)

    assert spec["process"]["env"] == [
        "PORT=81" if one.startswith("PORT=") else one for one in template["process"]["env"]
    ] + ["NEW=1"]
    assert [one["destination"] for one in spec["mounts"]] == [one["destination"] for one in template["mounts"]]
    assert next(one for one in spec["mounts"] if one["destination"] == "/data")["source"] == "/srv"
    assert spec["linux"]["resources"]["memory"] == {"limit": 128 << 20, "swap": 256 << 20}
    assert spec["linux"]["resources"]["cpu"] == template["linux"]["resources"]["cpu"]
    assert spec["process"]["capabilities"]["bounding"] == ["CAP_SYS_TIME"]


def test_everything_can_be_asked_of_any_template() -> None:
    for template in templates().values():
        spec = spec_of(FULL, template)
        assert spec["process"]["args"] == ["serve", "-p", "80"]


@pytest.mark.parametrize("template", [{"process": []}, {"linux": 5}, {"mounts": {}}, {"process": {"env": "A"}}])
def test_templates_that_are_none_are_refused(template: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="template"):
        generate(SpecOptions(env=("A=1",)), template)


def test_swap_is_left_alone_where_it_is_not_counted() -> None:
    options = SpecOptions(
        resources=LinuxResources(memory_limit_in_bytes=5), host=HostFacts(cgroup_version=1, swap_accounting=False)
    )

    assert spec_of(options)["linux"]["resources"]["memory"] == {"limit": 5}
