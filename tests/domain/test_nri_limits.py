"""Limits of living containers where plugins have a say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ocid.domain.configs import HugepageLimit, LinuxResources
from ocid.domain.nri import DeviceRule, Resources
from ocid.domain.nri_limits import WiderResources, after, as_made, check_changeable, oci_of, spec_now, told_of, wider
from ocid.domain.spec.inputs import HostFacts
from ocid.errors import InvalidRequest, Unsupported

HOST = HostFacts(cgroup_version=2)
V1 = HostFacts(cgroup_version=1)


def spec(**resources: Any) -> dict[str, Any]:
    return {"process": {"args": ["sh"]}, "linux": {"resources": resources, "sysctl": {"a": "b"}}}


@pytest.mark.parametrize(
    ("wanted", "error", "words"),
    [
        (Resources(memory_kernel=1), Unsupported, "10-a wants another memory kernel, which cannot change"),
        (Resources(memory_swappiness=0), Unsupported, "memory swappiness"),
        (Resources(memory_disable_oom_killer=False), Unsupported, "memory disable oom killer"),
        (Resources(blockio_class="x"), Unsupported, "blockio class"),
        (Resources(rdt_class=""), Unsupported, "rdt class"),
        (Resources(devices=(DeviceRule(allow=True),)), Unsupported, "devices"),
        (Resources(unified={"cgroup.freeze": "1"}), InvalidRequest, r"unified 'cgroup.freeze'"),
        (Resources(unified={"../x.y": "1"}), InvalidRequest, "a cgroup v2 file such as"),
        (Resources(unified={"memory.high": "9\0"}), InvalidRequest, "characters"),
        (Resources(unified={"memory.high": "ö"}), InvalidRequest, "1 characters; at most 4096 of ASCII"),
        (Resources(cpu_cpus="1," * 4096), InvalidRequest, "8192 characters; at most 4096"),
        (Resources(hugepages={str(n): 1 for n in range(65)}), InvalidRequest, "more than 64"),
        (Resources(memory_limit=1 << 64), InvalidRequest, "memory limit 18446744073709551616; wanted -1 to"),
        (Resources(cpu_quota=-2), InvalidRequest, "cpu quota -2"),
    ],
)
def test_what_cannot_change_is_named(wanted: Resources, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        check_changeable(wanted, "10-a")


def test_what_can_change_passes() -> None:
    check_changeable(
        Resources(
            memory_limit=-1,
            memory_reservation=5,
            cpu_quota=-1,
            cpu_realtime_runtime=1,
            pids_limit=-1,
            unified={"memory.high": "9", "hugetlb.2MB.max": "max"},
        ),
        "10-a",
    )


@pytest.mark.parametrize(
    ("asked", "resources", "made"),
    [
        (LinuxResources(), {}, WiderResources()),
        (LinuxResources(cpu_shares=5), {"cpu": {"shares": 5}}, WiderResources(cpu_shares=5)),
        (LinuxResources(cpu_shares=5), {"cpu": {"shares": 7}}, WiderResources(cpu_shares=7)),  # a plugin did that
        (
            LinuxResources(memory_limit_in_bytes=9),
            {"memory": {"limit": 9, "swap": 9}},  # which forbids swap, as nobody has asked
            WiderResources(memory_limit_in_bytes=9),
        ),
        (
            LinuxResources(memory_limit_in_bytes=9, memory_swap_limit_in_bytes=9),
            {"memory": {"limit": 9, "swap": 9}},
            WiderResources(memory_limit_in_bytes=9, memory_swap_limit_in_bytes=9),
        ),
        (LinuxResources(), {"pids": {"limit": 3}, "memory": {"reservation": 4}}, WiderResources()),
        (LinuxResources(oom_score_adj=8), {}, WiderResources(oom_score_adj=8)),
        (
            LinuxResources(hugepage_limits=(HugepageLimit(page_size="2MB", limit=1),)),
            {},  # this host has none
            WiderResources(hugepage_limits=(HugepageLimit(page_size="2MB", limit=1),)),
        ),
    ],
)
def test_a_change_starts_from_what_plugins_made_of_the_container(
    asked: LinuxResources, resources: dict[str, Any], made: WiderResources
) -> None:
    assert as_made(asked, spec(**resources)) == made


def test_a_change_leaves_what_it_says_nothing_of() -> None:
    made = spec(cpu={"shares": 7, "quota": 3}, memory={"limit": 9, "swap": 9, "reservation": 4}, pids={"limit": 6})
    change = wider(LinuxResources(memory_limit_in_bytes=20), Resources(cpu_quota=5))
    now = after(as_made(LinuxResources(), made), change)

    assert oci_of(now, made, HOST) == {
        "cpu": {"shares": 7, "quota": 5},
        "memory": {"limit": 20, "swap": 20, "reservation": 4},
    }
    assert spec_now(made, now, HOST)["linux"]["resources"]["pids"] == {"limit": 6}
    assert spec_now(made, now, HOST)["linux"]["sysctl"] == {"a": "b"}
    assert made["linux"]["resources"]["cpu"] == {"shares": 7, "quota": 3}, "what is given never changes"


def test_what_cri_has_no_field_for_is_applied_and_kept() -> None:
    made = spec(memory={"limit": 9, "swap": 9})
    first = after(WiderResources(), wider(LinuxResources(), Resources(memory_reservation=5, pids_limit=8)))
    now = after(first, wider(LinuxResources(cpu_shares=2), Resources(pids_limit=9)))

    assert now.beyond == Resources(memory_reservation=5, pids_limit=9)
    assert oci_of(now, made, HOST) == {
        "memory": {"limit": 9, "swap": 9, "reservation": 5},
        "cpu": {"shares": 2},
        "pids": {"limit": 9},
    }
    assert told_of(now) == Resources(cpu_shares=2, memory_reservation=5, pids_limit=9)


def test_unified_adds_up_where_there_is_such_a_thing() -> None:
    made = spec(unified={"memory.high": "1", "io.weight": "2"})
    now = after(as_made(LinuxResources(), made), wider(LinuxResources(), Resources(unified={"memory.high": "3"})))

    assert oci_of(now, made, HOST)["unified"] == {"memory.high": "3", "io.weight": "2"}
    assert "unified" not in oci_of(now, spec(), V1)


def test_a_document_reads_as_limits_of_cri_too() -> None:
    limits = wider(LinuxResources(cpu_shares=2), Resources(pids_limit=9, cpu_mems="0"))
    document = msgspec.json.encode(limits)

    assert msgspec.json.decode(document, type=WiderResources) == limits
    assert msgspec.json.decode(document, type=LinuxResources) == LinuxResources(cpu_shares=2, cpuset_mems="0")
    assert msgspec.json.decode(msgspec.json.encode(LinuxResources()), type=WiderResources) == WiderResources()
