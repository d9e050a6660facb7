"""SELinux: levels that keep pods apart, and which labels apply."""

from __future__ import annotations

from typing import Any

import pytest

from ocid.domain import configs as c, selinux
from ocid.domain.selinux import Labels
from ocid.domain.spec.build import PauseInputs, build_container_spec, build_pause_spec
from ocid.domain.spec.inputs import HostFacts
from ocid.errors import Exhausted, InvalidRequest
from tests.domain.spec import builders

LEVEL = "s0:c1,c2"


def pod(**fields: Any) -> c.PodSecurityContext:
    return c.PodSecurityContext(**{"namespace_options": builders.namespaces(), **fields})


def container(**fields: Any) -> c.ContainerSecurityContext:
    return c.ContainerSecurityContext(**{"namespace_options": builders.namespaces(), **fields})


def test_the_pairs_are_all_there_and_each_only_once() -> None:
    some = [selinux._level(number) for number in range(5000)]
    assert some[:4] == ["s0:c0,c1", "s0:c0,c2", "s0:c1,c2", "s0:c0,c3"]
    assert len(set(some)) == len(some)
    assert selinux._level(selinux.PAIRS - 1) == "s0:c1022,c1023"


def test_a_level_is_the_pods_own_and_free() -> None:
    first = selinux.choose_level("a" * 64, ())
    assert selinux.choose_level("a" * 64, {"s0:c8,c9"}) == first
    second = selinux.choose_level("a" * 64, {first})
    assert second != first
    low, high = (int(one[1:]) for one in first.removeprefix("s0:").split(","))
    assert 0 <= low < high < selinux.CATEGORIES


def test_there_is_an_end_to_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selinux, "PAIRS", 3)
    taken = {"s0:c0,c1", "s0:c0,c2", "s0:c1,c2"}
    with pytest.raises(Exhausted, match="all 3 pairs"):
        selinux.choose_level("a", taken)
    assert selinux.choose_level("a", taken - {"s0:c0,c2"}) == "s0:c0,c2"


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        ({}, True),
        ({"selinux_options": c.SelinuxOptions(type="spc_t")}, True),
        ({"selinux_options": c.SelinuxOptions(level="s0:c7,c8")}, False),
        ({"namespace_options": builders.namespaces(pid=c.NamespaceMode.NODE)}, False),
        ({"namespace_options": builders.namespaces(ipc=c.NamespaceMode.NODE)}, False),
        ({"namespace_options": builders.namespaces(network=c.NamespaceMode.NODE)}, True),
    ],
)
def test_a_level_is_chosen_where_it_is_needed(fields: dict[str, Any], needed: bool) -> None:
    assert selinux.needs_level(pod(**fields)) is needed


@pytest.mark.parametrize(
    ("own", "pods", "process", "files"),
    [
        ({}, {}, f"system_u:system_r:container_t:{LEVEL}", f"system_u:object_r:container_file_t:{LEVEL}"),
        (
            {"selinux_options": c.SelinuxOptions(type="mine_t")},
            {"selinux_options": c.SelinuxOptions(type="pods_t", level="s0:c7,c8")},
            "system_u:system_r:mine_t:s0:c7,c8",
            "system_u:object_r:container_file_t:s0:c7,c8",
        ),
        (
            {"selinux_options": c.SelinuxOptions(user="u", role="r", level="s0")},
            {},
            "u:r:container_t:s0",
            "u:object_r:container_file_t:s0",
        ),
        ({"privileged": True}, {"selinux_options": c.SelinuxOptions(level="s0:c7,c8")}, "", ""),
        ({"namespace_options": builders.namespaces(pid=c.NamespaceMode.NODE)}, {}, "", ""),
    ],
)
def test_which_labels_apply(own: dict[str, Any], pods: dict[str, Any], process: str, files: str) -> None:
    assert selinux.labels(container(**own), pod(**pods), LEVEL) == Labels(process=process, files=files)


def test_a_part_that_is_none_is_refused() -> None:
    for options in (c.SelinuxOptions(type="a:b"), c.SelinuxOptions(user='u"'), c.SelinuxOptions(level="s0 ")):
        with pytest.raises(InvalidRequest, match=r"selinux_options\."):
            selinux.labels(container(selinux_options=options), pod(), LEVEL)


def test_labels_are_in_the_specs_where_the_kernel_has_selinux() -> None:
    found = selinux.labels(container(), pod(), LEVEL)
    fields = {"selinux_process_label": found.process, "selinux_mount_label": found.files}
    spec: dict[str, Any] = build_container_spec(builders.inputs(host=HostFacts(selinux_enabled=True), **fields))
    assert (spec["process"]["selinuxLabel"], spec["linux"]["mountLabel"]) == (found.process, found.files)
    without: dict[str, Any] = build_container_spec(builders.inputs(**fields))
    assert "selinuxLabel" not in without["process"]
    assert "mountLabel" not in without["linux"]
    inputs = PauseInputs(pod=builders.inputs().pod, namespaces=builders.PATHS, selinux=selinux.pod_labels(pod(), LEVEL))
    pause: dict[str, Any] = build_pause_spec(inputs)
    assert (pause["process"]["selinuxLabel"], pause["linux"]["mountLabel"]) == (found.process, found.files)
