"""What plugins want, put into specifications: every field, removals, conflicts, and refusals."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, strategies as st

from ocid.domain.configs import HugepageLimit, LinuxResources
from ocid.domain.nri import (
    Adjustment,
    Change,
    Device,
    DeviceRule,
    Hook,
    Mount,
    Resources,
    Rlimit,
    Update,
    combined,
    overlaid,
)
from ocid.domain.nri_apply import adjust, changed_resources, resources_of
from ocid.domain.nri_cri import from_cri, over_cri
from ocid.domain.nri_owners import Owners
from ocid.domain.nri_updates import Updates
from ocid.errors import AlreadyExists, InvalidRequest, Unsupported

SPEC: dict[str, Any] = {
    "process": {
        "env": ["PATH=/bin", "HOME=/root"],
        "args": ["sh"],
        "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
        "oomScoreAdj": 0,
    },
    "annotations": {"old": "1"},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/data/deep", "source": "/x"},
    ],
    "linux": {
        "namespaces": [{"type": "mount"}, {"type": "network", "path": "/ns"}],
        "devices": [{"path": "/dev/old", "type": "c", "major": 1, "minor": 1}],
        "resources": {"memory": {"limit": 100, "swap": 100}, "cpu": {"shares": 2}, "devices": [{"allow": False}]},
        "sysctl": {"a": "1"},
    },
}


def made(*wanted: Adjustment, names: tuple[str, ...] = ("10-a", "20-b")) -> tuple[Any, tuple[Change, ...]]:
    """Apply adjustments of several plugins; the specification given is not touched."""
    owners, spec, before = Owners("c1"), SPEC, copy.deepcopy(SPEC)
    for one, name in zip(wanted, names, strict=False):
        spec = adjust(spec, one, name, owners)
    assert before == SPEC
    return spec, owners.changes()


def test_nothing_wanted_changes_nothing() -> None:
    spec, changes = made(Adjustment())

    assert spec == SPEC
    assert changes == ()


def test_variables_keep_their_place_and_new_ones_come_last() -> None:
    spec, changes = made(Adjustment(env=(("NEW", "2"), ("PATH", "/sbin"), ("-HOME", ""))))

    assert spec["process"]["env"] == ["PATH=/sbin", "NEW=2"]
    assert changes == (
        Change(plugin="10-a", field="env", key="NEW"),
        Change(plugin="10-a", field="env", key="PATH"),
        Change(plugin="10-a", field="env removed", key="HOME"),
    )


def test_annotations_sysctls_and_namespaces_are_set_and_removed() -> None:
    spec, _ = made(
        Adjustment(
            annotations={"-old": "", "new": "2"},
            sysctl={"-a": "", "b": "2"},
            namespaces=(("-network", ""), ("pid", "/p"), ("cgroup", "")),
        )
    )

    assert spec["annotations"] == {"new": "2"}
    assert spec["linux"]["sysctl"] == {"b": "2"}
    assert spec["linux"]["namespaces"] == [{"type": "mount"}, {"type": "pid", "path": "/p"}, {"type": "cgroup"}]


def test_a_mount_takes_the_place_of_another_and_lies_above_what_is_below_it() -> None:
    spec, _ = made(
        Adjustment(mounts=(Mount(destination="-/proc"), Mount(destination="/data", source="/y", options=("ro",))))
    )

    assert [mount["destination"] for mount in spec["mounts"]] == ["/data", "/data/deep"]
    assert spec["mounts"][0] == {"destination": "/data", "type": "bind", "source": "/y", "options": ["ro"]}


@pytest.mark.parametrize(
    ("options", "propagation"),
    [(("ro",), None), (("rslave",), "rslave"), (("rslave", "rshared"), "rshared"), (("shared",), "rshared")],
)
def test_a_mount_that_propagates_needs_a_root_that_does(options: tuple[str, ...], propagation: str | None) -> None:
    spec, _ = made(
        Adjustment(mounts=(Mount(destination="/m", options=options),)),
        Adjustment(mounts=(Mount(destination="/n", options=("rslave",) if propagation else ()),)),
    )

    assert spec["linux"].get("rootfsPropagation") == propagation


def test_hooks_of_two_plugins_add_up() -> None:
    hook = Hook(path="/h", args=("h",), timeout_s=3)
    spec, changes = made(
        Adjustment(hooks={"poststop": (hook,)}), Adjustment(hooks={"poststop": (hook, Hook(path="/i"))})
    )

    assert [one["path"] for one in spec["hooks"]["poststop"]] == ["/h", "/h", "/i"]
    assert spec["hooks"]["poststop"][0]["timeout"] == 3
    assert {change.field for change in changes} == {"hooks"}


def test_a_device_may_be_used_and_one_removed_is_gone() -> None:
    device = Device(path="/dev/new", kind="b", major=8, minor=1, file_mode=0o600, uid=1)
    spec, _ = made(Adjustment(devices=(Device(path="-/dev/old"), device)))

    assert spec["linux"]["devices"] == [
        {"path": "/dev/new", "type": "b", "major": 8, "minor": 1, "fileMode": 0o600, "uid": 1}
    ]
    assert spec["linux"]["resources"]["devices"][-1] == {
        "allow": True, "type": "b", "major": 8, "minor": 1, "access": "rwm"
    }  # fmt: skip


def test_limits_program_and_seccomp() -> None:
    spec, _ = made(
        Adjustment(
            args=("top", "-b"),
            rlimits=(Rlimit(kind="RLIMIT_CORE", hard=9, soft=8), Rlimit(kind="RLIMIT_NOFILE", hard=2, soft=1)),
            oom_score_adj=7,
            seccomp={"defaultAction": "SCMP_ACT_ALLOW"},
        )
    )

    assert spec["process"]["args"] == ["top", "-b"]
    assert spec["process"]["rlimits"] == [
        {"type": "RLIMIT_CORE", "hard": 9, "soft": 8},
        {"type": "RLIMIT_NOFILE", "hard": 2, "soft": 1},
    ]
    assert spec["process"]["oomScoreAdj"] == 7
    assert spec["linux"]["seccomp"] == {"defaultAction": "SCMP_ACT_ALLOW"}


def test_resources_change_what_they_say_and_a_limit_takes_swap_along() -> None:
    wanted = Resources(
        memory_limit=50, cpu_cpus="0", pids_limit=9, hugepages={"2MB": 4}, unified={"io.weight": "1"},
        devices=(DeviceRule(allow=True, kind="c", major=1, access="r"),),
    )  # fmt: skip
    spec, changes = made(Adjustment(resources=wanted))

    assert spec["linux"]["resources"] == {
        "memory": {"limit": 50, "swap": 50},
        "cpu": {"shares": 2, "cpus": "0"},
        "pids": {"limit": 9},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4}],
        "unified": {"io.weight": "1"},
        "devices": [{"allow": False}, {"allow": True, "access": "r", "type": "c", "major": 1}],
    }
    assert {change.field for change in changes} == {"memory limit", "cpu cpus", "pids limit", "huge pages", "unified"}


CONFLICTS = {
    "env 'A'": Adjustment(env=(("A", "1"),)),
    "annotations 'A'": Adjustment(annotations={"A": "1"}),
    "mounts '/m'": Adjustment(mounts=(Mount(destination="/m"),)),
    "args": Adjustment(args=("a",)),
    "devices '/dev/d'": Adjustment(devices=(Device(path="/dev/d", kind="c"),)),
    "rlimits 'RLIMIT_CORE'": Adjustment(rlimits=(Rlimit(kind="RLIMIT_CORE", hard=1, soft=1),)),
    "memory limit": Adjustment(resources=Resources(memory_limit=1)),
    "cpu shares": Adjustment(resources=Resources(cpu_shares=1)),
    "huge pages '2MB'": Adjustment(resources=Resources(hugepages={"2MB": 1})),
    "unified 'u'": Adjustment(resources=Resources(unified={"u": "1"})),
    "pids limit": Adjustment(resources=Resources(pids_limit=1)),
    "oom score": Adjustment(oom_score_adj=1),
    "seccomp": Adjustment(seccomp={"defaultAction": "SCMP_ACT_ALLOW"}),
    "namespaces 'pid'": Adjustment(namespaces=(("pid", ""),)),
    "sysctl 's'": Adjustment(sysctl={"s": "1"}),
}


@pytest.mark.parametrize("what", CONFLICTS)
def test_two_plugins_that_set_the_same_are_named_with_it(what: str) -> None:
    with pytest.raises(AlreadyExists) as refused:
        made(CONFLICTS[what], CONFLICTS[what])

    assert f"{what} is set by plugin 10-a and by plugin 20-b" in refused.value.message


def test_what_a_plugin_removes_another_may_set_anew() -> None:
    spec, changes = made(
        Adjustment(env=(("A", "1"),), args=("a",)), Adjustment(env=(("-A", ""), ("A", "2")), args=("", "b"))
    )

    assert spec["process"]["env"][-1] == "A=2"
    assert spec["process"]["args"] == ["b"]
    assert changes == (Change(plugin="20-b", field="args"), Change(plugin="20-b", field="env", key="A"))


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Adjustment(env=(("-", ""),)), "has no name"),
        (Adjustment(annotations={"": "x"}), "has no name"),
        (Adjustment(env=(("A=B", ""),)), "no name"),
        (Adjustment(env=(("A", "\0"),)), "no value"),
        (Adjustment(mounts=(Mount(destination="relative"),)), "not absolute"),
        (Adjustment(devices=(Device(path="/dev/x", kind="z"),)), "wanted an absolute path"),
        (Adjustment(rlimits=(Rlimit(kind="RLIMIT_CORE", hard=1, soft=2),)), "above its ceiling"),
        (Adjustment(args=("",)), "without a program"),
        (Adjustment(seccomp={"flags": []}), "plugin 10-a: a seccomp policy has no default action"),
    ],
)
def test_what_means_nothing_is_refused(wanted: Adjustment, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        made(wanted)


def test_what_cannot_be_done_is_refused_with_the_plugin() -> None:
    with pytest.raises(Unsupported, match="plugin 10-a sets the CDI device 'x', which this build cannot do"):
        made(Adjustment(refused=("the CDI device 'x'",)))


resources = st.builds(
    Resources,
    memory_limit=st.none() | st.integers(1, 2**40),
    memory_swap=st.none() | st.integers(1, 2**40),
    cpu_shares=st.none() | st.integers(1, 9),
    cpu_cpus=st.none() | st.just("0-1"),
    pids_limit=st.none() | st.integers(1, 9),
    hugepages=st.dictionaries(st.sampled_from(["2MB", "1GB"]), st.integers(0, 9)),
    unified=st.dictionaries(st.sampled_from("ab"), st.sampled_from("12")),
)


@given(resources)
def test_resources_survive_the_way_through_a_specification(wanted: Resources) -> None:
    assert resources_of(changed_resources({}, wanted, lambda field, key: None)) == wanted


@given(resources, resources)
def test_the_second_of_two_wins_where_both_speak(first: Resources, second: Resources) -> None:
    both = overlaid(first, second)
    assert both is not None
    assert overlaid(both, second) == both
    for name in ("memory_limit", "cpu_shares", "cpu_cpus", "pids_limit"):
        wins = getattr(second, name)
        assert getattr(both, name) == (getattr(first, name) if wins is None else wins)


def test_adjustments_add_up_for_those_who_judge_them() -> None:
    first = Adjustment(env=(("A", "1"),), args=("a",), hooks={"poststop": (Hook(path="/h"),)}, oom_score_adj=1)
    second = Adjustment(env=(("B", "1"),), resources=Resources(cpu_shares=3), annotations={"x": "y"})

    assert combined(first, second) == Adjustment(
        env=(("A", "1"), ("B", "1")),
        args=("a",),
        hooks={"poststop": (Hook(path="/h"),)},
        oom_score_adj=1,
        resources=Resources(cpu_shares=3),
        annotations={"x": "y"},
    )


# --- updates ---------------------------------------------------------------------------------------------------------


def test_updates_of_several_plugins_are_one_for_each_container() -> None:
    updates = Updates()
    updates.take([Update(container_id="c1", resources=Resources(cpu_shares=1), ignore_failure=True)], "10-a")
    updates.take([Update(container_id="c1", resources=Resources(memory_limit=2))], "20-b")
    updates.take([Update(container_id="c2", resources=Resources(cpu_shares=5))], "20-b")

    assert updates.all() == (
        Update(container_id="c1", resources=Resources(cpu_shares=1, memory_limit=2), plugins=("10-a", "20-b")),
        Update(container_id="c2", resources=Resources(cpu_shares=5), plugins=("20-b",)),
    )
    assert updates.of("c2") == Resources(cpu_shares=5)
    assert updates.of("c3") is None
    assert updates.changes("c1") == (
        Change(plugin="10-a", field="cpu shares"),
        Change(plugin="20-b", field="memory limit"),
    )
    assert updates.changes("c3") == ()


def test_updates_conflict_unless_their_failure_is_to_be_ignored() -> None:
    updates, one = Updates(), Update(container_id="c1", resources=Resources(cpu_shares=1))
    updates.take([one], "10-a")
    ignored = Update(container_id="c1", resources=Resources(cpu_shares=7), ignore_failure=True)
    updates.take([ignored], "20-b")

    assert updates.of("c1") == Resources(cpu_shares=1)
    with pytest.raises(AlreadyExists, match="10-a and by plugin 20-b"):
        updates.take([one], "20-b")
    with pytest.raises(Unsupported, match="20-b wants another rdt class"):
        updates.take([Update(container_id="c1", resources=Resources(rdt_class="gold"))], "20-b")


def test_between_cri_and_nri() -> None:
    limits = LinuxResources(
        cpu_shares=5,
        memory_limit_in_bytes=7,
        hugepage_limits=(HugepageLimit(page_size="2MB", limit=1),),
        oom_score_adj=3,
    )
    wanted = from_cri(limits)

    assert wanted == Resources(cpu_shares=5, memory_limit=7, hugepages={"2MB": 1})
    assert over_cri(limits, wanted) == limits
    changed = over_cri(limits, Resources(cpu_quota=-1, cpu_cpus="1", unified={"a": "b"}))
    assert (changed.cpu_quota, changed.cpuset_cpus, changed.unified, changed.cpu_shares) == (-1, "1", {"a": "b"}, 5)
