"""CDI: names, files, precedence, and what devices add to a container."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from ocid.domain import cdi
from ocid.domain.configs import ContainerConfig
from ocid.domain.spec.build import build_container_spec
from ocid.domain.spec.inputs import DeviceNode, HostFacts
from ocid.errors import InvalidRequest, Unsupported
from tests.domain.spec import builders

GPU: dict[str, Any] = {
    "cdiVersion": "0.6.0",
    "kind": "vendor.com/gpu",
    "containerEdits": {"env": ["DRIVER=5"], "hooks": [{"hookName": "createContainer", "path": "/usr/bin/setup"}]},
    "devices": [
        {
            "name": "0",
            "containerEdits": {
                "env": ["GPU=0"],
                "deviceNodes": [
                    {"path": "/dev/gpu0", "type": "c", "major": 195, "minor": 0, "permissions": "rw", "gid": 44}
                ],
                "mounts": [{"hostPath": "/usr/lib/gpu", "containerPath": "/usr/lib/gpu", "options": ["ro", "nosuid"]}],
                "additionalGids": [44, 0],
            },
        },
        {"name": "1", "containerEdits": {"env": ["GPU=1"], "additionalGids": [45, 44]}},
    ],
}


def source(document: Any, path: str = "/etc/cdi/a.json", priority: int = 0) -> cdi.Source:
    content = document if isinstance(document, bytes) or document is None else json.dumps(document).encode()
    return cdi.Source(path=path, priority=priority, content=content)


def edits(*names: str, sources: tuple[cdi.Source, ...] = (source(GPU),)) -> cdi.Edits:
    return cdi.edits_of(cdi.registry(sources), names)


def test_devices_are_asked_for_by_field_and_by_annotation() -> None:
    annotations = {"cdi.k8s.io/plugin_1": "vendor.com/gpu=1,vendor.com/gpu=0", "other": "a.b/c=d"}
    config = ContainerConfig(cdi_devices=("vendor.com/gpu=0", "net.vendor/nic=eth0:1.2"), annotations=annotations)
    assert cdi.requested(config) == ("vendor.com/gpu=0", "net.vendor/nic=eth0:1.2", "vendor.com/gpu=1")
    assert cdi.requested(ContainerConfig()) == ()


@pytest.mark.parametrize(
    "name",
    ["", "gpu", "vendor.com/gpu", "vendor.com/gpu=", "/gpu=0", "vendor.com/=0", "1v/c=d", "v/c_=d", "v/c=d/e", "v/c=-"],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="is no name"):
        cdi.requested(ContainerConfig(cdi_devices=(name,)))


def test_more_devices_than_the_limit_are_refused() -> None:
    names = tuple(f"v.com/c=d{number}" for number in range(cdi.DEVICES_MAX + 1))
    with pytest.raises(InvalidRequest, match="the limit is 256"):
        cdi.requested(ContainerConfig(cdi_devices=names))


def test_the_files_own_edits_come_once_and_before_those_of_its_devices() -> None:
    both = edits("vendor.com/gpu=1", "vendor.com/gpu=0")
    assert both.env == ("DRIVER=5", "GPU=1", "GPU=0")
    assert both.additional_gids == (45, 44)
    assert [hook.path for hook in both.hooks] == ["/usr/bin/setup"]
    assert cdi.document(both) == cdi.document(edits("vendor.com/gpu=1", "vendor.com/gpu=0"))
    assert cdi.document(both) != cdi.document(edits("vendor.com/gpu=0", "vendor.com/gpu=1"))


def test_a_later_directory_wins_and_two_files_of_one_conflict() -> None:
    other = {**GPU, "containerEdits": {"env": ["DRIVER=6"]}}
    run = source(other, "/var/run/cdi/b.json", 1)
    for order in ((source(GPU), run), (run, source(GPU))):
        assert edits("vendor.com/gpu=0", sources=order).env == ("DRIVER=6", "GPU=0")
    twice = (source(GPU), source(other, "/etc/cdi/b.json"))
    with pytest.raises(InvalidRequest, match=r"'vendor.com/gpu=0' is in both /etc/cdi/a.json and /etc/cdi/b.json"):
        edits("vendor.com/gpu=0", sources=twice)
    assert edits("vendor.com/gpu=0", sources=(*twice, run)).env == ("DRIVER=6", "GPU=0")


def test_an_unknown_device_is_named_with_what_was_left_out() -> None:
    sources = (source(None, "/etc/cdi/nvidia.yaml"), source(b"{", "/etc/cdi/broken.json"), source(GPU))
    with pytest.raises(InvalidRequest) as error:
        edits("vendor.com/gpu=9", sources=sources)
    assert "CDI device 'vendor.com/gpu=9' is in no specification of this node" in error.value.message
    assert "/etc/cdi/nvidia.yaml is not read: only files of at most" in error.value.message
    assert "/etc/cdi/broken.json: Input data was truncated" in error.value.message
    assert edits("vendor.com/gpu=0", sources=sources).env == ("DRIVER=5", "GPU=0")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cdiVersion": "9"}, "cdiVersion '9'"),
        ({"kind": "nothing"}, "kind 'nothing'"),
        ({"devices": [{"name": "a/b"}]}, "device 'a/b'"),
        ({"devices": 5}, "Expected `array`"),
        ({"containerEdits": {"env": ["=x"]}}, "env '=x'"),
        ({"containerEdits": {"hooks": [{"hookName": "often", "path": "/x"}]}}, "hook 'often'"),
        ({"containerEdits": {"hooks": [{"hookName": "poststop", "path": "x"}]}}, "path 'x'"),
        ({"containerEdits": {"mounts": [{"hostPath": "/a/../b", "containerPath": "/c"}]}}, "path '/a/../b'"),
        ({"containerEdits": {"mounts": [{"hostPath": "a", "containerPath": "/c"}]}}, "path 'a'"),
        ({"containerEdits": {"deviceNodes": [{"path": "/dev/x", "type": "z"}]}}, "device node '/dev/x'"),
        ({"containerEdits": {"deviceNodes": [{"path": "/dev/x", "permissions": "rwx"}]}}, "device node '/dev/x'"),
        ({"containerEdits": {"deviceNodes": [{"path": "dev/x"}]}}, "path 'dev/x'"),
    ],
)
def test_a_file_that_is_wrong_is_told_by_path_and_reason(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^/etc/cdi/a.json: ") as error:
        cdi.parse(source({**GPU, **change}))
    assert says in error.value.message


def test_a_file_in_yaml_says_the_same() -> None:
    text = b"""---
cdiVersion: 0.6.0
kind: vendor.com/gpu
containerEdits:
  env: [DRIVER=5]
  hooks:
  - {hookName: createContainer, path: /usr/bin/setup}
devices:
- name: "0"
  containerEdits:
    env:
    - GPU=0
    deviceNodes:
    - {path: /dev/gpu0, type: c, major: 195, minor: 0, permissions: rw, gid: 44}
    mounts:
    - hostPath: /usr/lib/gpu
      containerPath: /usr/lib/gpu
      options: [ro, nosuid]
    additionalGids: [44, 0]
- name: "1"
  containerEdits: {env: [GPU=1], additionalGids: [45, 44]}
"""
    for name in ("a.yaml", "a.yml"):
        assert cdi.parse(source(text, f"/etc/cdi/{name}")) == cdi.parse(source(GPU))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"kind: [", "no YAML"),
        (b"cdiVersion: 0.6.0\n", "missing required field `kind`"),
        (b"a: &a [1]\nb: *a\n", "anchors and aliases are not read"),
        (
            b"cdiVersion: 0.6.0\nkind: v.com/c\ndevices: [{name: 0}]\n",
            "Expected `str`, got `int` - at `$.devices[0].name`",
        ),
        (b"", "Expected `object`, got `null`"),
        (b"#" + b"x" * cdi.YAML_BYTES_MAX, "bytes of YAML, the limit is"),
    ],
)
def test_a_file_in_yaml_that_is_wrong_is_named_and_left_out(text: bytes, says: str) -> None:
    known = cdi.registry((source(text, "/etc/cdi/b.yaml"), source(GPU)))
    (skipped,) = known.skipped
    assert skipped.startswith("/etc/cdi/b.yaml: ")
    assert says in skipped
    assert "vendor.com/gpu=0" in known.devices


def test_network_devices_are_refused_and_not_left_out() -> None:
    spec = {**GPU, "containerEdits": {"netDevices": [{"hostInterfaceName": "eth9", "name": "eth1"}]}}
    with pytest.raises(Unsupported, match=r"vendor\.com/gpu=0 move network devices"):
        edits("vendor.com/gpu=0", sources=(source(spec),))


def test_a_device_node_is_completed_from_the_host() -> None:
    host = DeviceNode(path="/dev/h", kind="b", major=8, minor=1, file_mode=0o660, uid=1, gid=6)
    bare = cdi.Node(path="/dev/c", host_path="/dev/h")
    assert cdi.needs_host(bare)
    assert cdi.completed(bare, host) == msgspec.structs.replace(host, path="/dev/c", access="rwm")
    said = cdi.Node(path="/dev/c", type="u", major=5, minor=6, file_mode=0o600, uid=7, gid=8, permissions="r")
    assert not cdi.needs_host(said)
    assert cdi.completed(said, None) == DeviceNode(
        path="/dev/c", kind="c", major=5, minor=6, file_mode=0o600, uid=7, gid=8, access="r"
    )
    assert not cdi.needs_host(cdi.Node(path="/dev/p", type="p"))


def test_mounts_are_bind_mounts_unless_they_say_otherwise() -> None:
    listed = (
        cdi.Mount(host_path="/a", container_path="/b", options=("ro",)),
        cdi.Mount(host_path="/a", container_path="/c", type="bind", options=("bind", "ro")),
        cdi.Mount(host_path="tmpfs", container_path="/d", type="tmpfs", options=("size=1m",)),
    )
    found = [(one.kind, one.options) for one in cdi.extra_mounts(cdi.Edits(mounts=listed))]
    assert found == [("bind", ("rbind", "ro")), ("bind", ("bind", "ro")), ("tmpfs", ("size=1m",))]


def test_what_a_device_adds_is_in_the_spec_with_its_digest() -> None:
    added = edits("vendor.com/gpu=0")
    inputs = builders.inputs(
        devices=tuple(cdi.completed(node, None) for node in added.device_nodes),
        extra_mounts=cdi.extra_mounts(added),
        extra_env=added.env,
        extra_gids=added.additional_gids,
        hooks=cdi.oci_hooks(added),
        cdi="sha256:feed",
    )
    spec: dict[str, Any] = build_container_spec(inputs)
    node = {"path": "/dev/gpu0", "type": "c", "major": 195, "minor": 0, "fileMode": 0o666, "uid": 0, "gid": 44}
    assert spec["linux"]["devices"] == [node]
    rule = {"allow": True, "type": "c", "major": 195, "minor": 0, "access": "rw"}
    assert rule in spec["linux"]["resources"]["devices"]
    assert spec["process"]["env"][-2:] == ["DRIVER=5", "GPU=0"]
    assert spec["process"]["user"]["additionalGids"] == [0, 44]
    assert spec["hooks"] == {"createContainer": [{"path": "/usr/bin/setup"}]}
    assert spec["annotations"]["io.ocid.cdi"] == "sha256:feed"
    options = ["rbind", "ro", "nosuid"]
    mount = {"destination": "/usr/lib/gpu", "type": "bind", "source": "/usr/lib/gpu", "options": options}
    assert mount in spec["mounts"]


def test_rdt_needs_its_file_system() -> None:
    rdt = {"closID": "gold", "l3CacheSchema": "L3:0=f"}
    with pytest.raises(Unsupported, match="/sys/fs/resctrl is not mounted"):
        build_container_spec(builders.inputs(intel_rdt=rdt))
    spec: dict[str, Any] = build_container_spec(builders.inputs(intel_rdt=rdt, host=HostFacts(resctrl_mounted=True)))
    assert spec["linux"]["intelRdt"] == rdt
