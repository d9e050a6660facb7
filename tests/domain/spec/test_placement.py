"""Mounts, resources, cgroup paths, signals and resolv.conf."""

from __future__ import annotations

from typing import Any

import pytest

from ocid.domain import configs as c
from ocid.domain.image_config import ImageConfig
from ocid.domain.resolv import resolv_conf
from ocid.domain.spec.build import build_container_spec
from ocid.domain.spec.cgroups import CgroupDriver, cgroups_path, container_path, directory_of, slice_name, slice_path
from ocid.domain.spec.inputs import ExtraMount, HostFacts
from ocid.domain.spec.mounts import container_mounts, rootfs_propagation
from ocid.domain.spec.resources import merged, oci_resources
from ocid.domain.spec.signals import signal_number, stop_signal
from ocid.errors import InvalidRequest
from tests.domain.spec.builders import USERNS, inputs, namespaces

NODE = c.NamespaceMode.NODE


def _mounts(**fields: Any) -> dict[str, dict[str, Any]]:
    return {str(one["destination"]): one for one in container_mounts(inputs(**fields))}


def test_parents_come_before_children_and_config_order_stays() -> None:
    wanted = ("/a/b/c", "/z", "/a/b", "/a", "/a/./x//")
    found = list(_mounts(mounts=tuple(c.Mount(container_path=path, host_path="/h") for path in wanted)))

    ours = [path for path in found if path.startswith(("/a", "/z"))]
    assert ours == ["/z", "/a", "/a/b", "/a/x", "/a/b/c"]


def test_config_mounts_beat_extra_mounts_beat_defaults() -> None:
    mounts = (c.Mount(container_path="/dev/shm/", host_path="/mine"),)
    extra = (ExtraMount(destination="/dev/shm", source="/volume"), ExtraMount(destination="/data", source="/volume"))
    found = _mounts(mounts=mounts, extra_mounts=extra)

    assert found["/dev/shm"]["source"] == "/resolved/mine"
    assert found["/data"]["source"] == "/volume"


def test_a_mount_on_dev_takes_the_defaults_below_away() -> None:
    found = _mounts(mounts=(c.Mount(container_path="/dev", host_path="/dev"),))

    assert [path for path in found if path.startswith("/dev")] == ["/dev"]


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, ["rbind", "rprivate", "rw"]),
        ({"readonly": True}, ["rbind", "rprivate", "ro"]),
        ({"readonly": True, "recursive_read_only": True}, ["rbind", "rprivate", "ro", "rro"]),
        ({"propagation": c.MountPropagation.HOST_TO_CONTAINER}, ["rbind", "rslave", "rw"]),
        ({"propagation": c.MountPropagation.BIDIRECTIONAL}, ["rbind", "rshared", "rw"]),
        ({"image": c.ImageSpec(image="x")}, ["rbind", "rprivate", "ro", "nosuid", "nodev"]),
    ],
)
def test_mount_options(fields: dict[str, Any], options: list[str]) -> None:
    found = _mounts(mounts=(c.Mount(container_path="/m", host_path="/h", **fields),))

    assert found["/m"]["options"] == options


def test_the_root_is_as_shared_as_its_most_shared_mount() -> None:
    def of(*kinds: c.MountPropagation) -> str:
        return rootfs_propagation(
            inputs(mounts=tuple(c.Mount(container_path=f"/{one}", propagation=one) for one in kinds)).mounts
        )

    private, slave, shared = c.MountPropagation
    assert (of(private), of(private, slave), of(slave, shared)) == ("", "rslave", "rshared")


def test_kernel_file_systems_are_bound_where_a_user_namespace_may_not_mount_them() -> None:
    options = namespaces(network=NODE, ipc=NODE, pid=NODE, userns_options=USERNS)
    found = _mounts(options=options)

    assert {path: found[path]["type"] for path in ("/proc", "/sys", "/dev/mqueue")} == dict.fromkeys(
        ("/proc", "/sys", "/dev/mqueue"), "bind"
    )
    assert "ro" in found["/sys"]["options"]
    assert found["/dev/shm"]["source"] == "/dev/shm"


def test_memory_without_swap_limit_forbids_swap_where_it_is_counted() -> None:
    limits = c.LinuxResources(memory_limit_in_bytes=100)
    more = c.LinuxResources(memory_limit_in_bytes=100, memory_swap_limit_in_bytes=300)

    assert oci_resources(limits, HostFacts()) == {"memory": {"limit": 100, "swap": 100}}
    assert oci_resources(limits, HostFacts(swap_accounting=False)) == {"memory": {"limit": 100}}
    assert oci_resources(more, HostFacts()) == {"memory": {"limit": 100, "swap": 300}}
    assert oci_resources(None, HostFacts(), pids_limit=7) == {"pids": {"limit": 7}}


def test_what_this_host_cannot_hold_is_left_out() -> None:
    limits = c.LinuxResources(
        hugepage_limits=(c.HugepageLimit(page_size="2MB", limit=4),), unified={"memory.high": "1"}
    )

    assert oci_resources(limits, HostFacts(cgroup_version=1, cgroup_controllers=()), pids_limit=7) == {}
    assert oci_resources(limits, HostFacts()) == {
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4}],
        "unified": {"memory.high": "1"},
    }


def test_an_update_changes_only_what_it_names() -> None:
    before = c.LinuxResources(cpu_shares=2, memory_limit_in_bytes=5, unified={"a.b": "1"}, cpuset_cpus="0")
    change = c.LinuxResources(cpu_shares=9, unified={"c.d": "2"}, hugepage_limits=(c.HugepageLimit(page_size="2MB"),))

    assert merged(before, change) == c.LinuxResources(
        cpu_shares=9,
        memory_limit_in_bytes=5,
        unified={"a.b": "1", "c.d": "2"},
        cpuset_cpus="0",
        hugepage_limits=(c.HugepageLimit(page_size="2MB"),),
    )


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        ((5, 5), (9, 0), (9, 9)),  # swap was forbidden, and stays so
        ((5, 5), (0, 0), (5, 5)),
        ((5, 8), (7, 0), (7, 8)),
        ((5, 0), (9, 0), (9, 0)),
        ((5, 5), (9, 12), (9, 12)),
        ((5, 5), (-1, 0), (-1, -1)),
    ],
)
def test_forbidden_swap_follows_the_memory_limit(
    before: tuple[int, int], change: tuple[int, int], after: tuple[int, int]
) -> None:
    def limits(pair: tuple[int, int]) -> c.LinuxResources:
        return c.LinuxResources(memory_limit_in_bytes=pair[0], memory_swap_limit_in_bytes=pair[1])

    assert merged(limits(before), limits(change)) == limits(after)


def test_no_quota_is_left_out_of_a_new_container() -> None:
    """A new cgroup has none, and one OCI runtime cannot write it."""
    spec = build_container_spec(
        inputs(container={"command": ("x",)}, resources=c.LinuxResources(cpu_quota=-1, cpu_period=50_000))
    )
    linux = spec["linux"]
    assert isinstance(linux, dict)

    assert linux["resources"]["cpu"] == {"period": 50_000}


@pytest.mark.parametrize(
    ("driver", "parent", "path", "directory"),
    [
        ("cgroupfs", "/kubepods/pod1", "/kubepods/pod1/ocid-x", "/kubepods/pod1/ocid-x"),
        ("cgroupfs", "", "/ocid-x", "/ocid-x"),
        ("cgroupfs", "kubepods-pod1.slice", "/kubepods.slice/kubepods-pod1.slice/ocid-x", None),
        (
            "systemd",
            "kubepods-pod1.slice",
            "kubepods-pod1.slice:ocid:x",
            "/kubepods.slice/kubepods-pod1.slice/ocid-x.scope",
        ),
        ("systemd", "/kubepods/burstable/pod1-2", "kubepods-burstable-pod1_2.slice:ocid:x", None),
        ("systemd", "/kubepods.slice/kubepods-pod1.slice", "kubepods-pod1.slice:ocid:x", None),
        ("systemd", "", "system.slice:ocid:x", "/system.slice/ocid-x.scope"),
        ("systemd", "/", "-.slice:ocid:x", "/ocid-x.scope"),
    ],
)
def test_cgroup_paths(driver: str, parent: str, path: str, directory: str | None) -> None:
    assert cgroups_path(CgroupDriver(driver), parent, "x") == path
    if directory is not None:
        assert container_path(CgroupDriver(driver), parent, "x") == directory


def test_slices() -> None:
    assert slice_path("a-b-c.slice") == "/a.slice/a-b.slice/a-b-c.slice"
    assert slice_name("/odd name") == "odd\\x20name.slice"
    for bad in ("a--b.slice", "-a.slice", "a", "a/b.slice", "x" * 300 + ".slice"):
        with pytest.raises(InvalidRequest, match="cgroup parent"):
            slice_path(bad)
    for driver in CgroupDriver:
        for bad in ("/a/../b", "/a\0b", "/" + "a" * 5000):
            with pytest.raises(InvalidRequest, match="cgroup parent"):
                cgroups_path(driver, bad, "x")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("SIGTERM", 15),
        ("kill", 9),
        ("9", 9),
        ("SIGRTMIN+3", 37),
        ("SIGRTMINPLUS15", 49),
        ("RTMAX-1", 63),
        ("SIGSYS", 31),
        ("SIGPOLL", 29),
    ],
)
def test_signals(text: str, number: int) -> None:
    assert signal_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "0", "65", "SIGNOPE", "RTMIN-1", "RTMIN+99", "RTMAX+1", "SIGRTMIN+", "0015000", "²"]
)
def test_unknown_signals_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="signal"):
        signal_number(text)


def test_stop_signal_is_the_configs_then_the_images_then_term() -> None:
    image = ImageConfig(stop_signal="SIGQUIT")
    assert stop_signal(c.ContainerConfig(stop_signal="SIGUSR1"), image) == 10
    assert stop_signal(c.ContainerConfig(), image) == 3
    assert stop_signal(c.ContainerConfig(), ImageConfig(stop_signal="NONSENSE")) == 15


def test_resolv_conf() -> None:
    dns = c.DnsConfig(servers=("10.0.0.10",), searches=("ns.svc", "svc"), options=("ndots:5",))

    assert resolv_conf(dns, "host") == "nameserver 10.0.0.10\nsearch ns.svc svc\noptions ndots:5\n"
    assert resolv_conf(None, "host") == resolv_conf(c.DnsConfig(), "host") == "host"
    for bad in ("1.1.1.1\noptions x", "", "a b", " a", "a\0"):
        with pytest.raises(InvalidRequest, match="servers"):
            resolv_conf(c.DnsConfig(servers=(bad,)), "")
    with pytest.raises(InvalidRequest, match="limit"):
        resolv_conf(c.DnsConfig(searches=("x" * 70_000,)), "")


@pytest.mark.parametrize("driver", CgroupDriver)
@pytest.mark.parametrize("parent", ["", "/kubepods/pod1", "kubepods-pod1.slice"])
def test_a_cgroups_path_means_the_containers_directory(driver: CgroupDriver, parent: str) -> None:
    path = cgroups_path(driver, parent, "77")

    assert directory_of(path) == container_path(driver, parent, "77")
    assert directory_of("/a:b:c") == "/a:b:c"
