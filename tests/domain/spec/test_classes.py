"""Classes of service by annotation."""

from __future__ import annotations

from typing import Any

import pytest

from ocid.domain import configs as c
from ocid.domain.spec.build import build_container_spec
from ocid.domain.spec.classes import block_io_class, rdt_class
from ocid.domain.spec.inputs import HostFacts, SpecInputs
from ocid.errors import InvalidRequest, Unsupported
from tests.domain.spec.builders import inputs

RDT = "rdt.resources.beta.kubernetes.io"
RESCTRL = HostFacts(resctrl_mounted=True)


def asked(pod: dict[str, str], container: dict[str, str] | None = None, **fields: Any) -> SpecInputs:
    """Inputs of the container "main" with these annotations."""
    names = {"metadata": c.ContainerMetadata(name="main"), "annotations": container or {}}
    return inputs(pod={"annotations": pod}, container=names, **fields)


@pytest.mark.parametrize(
    ("pod", "container", "expected"),
    [
        ({}, {}, ""),
        ({f"{RDT}/pod": "bronze"}, {}, "bronze"),
        ({f"{RDT}/pod": "bronze", f"{RDT}/container.main": "silver"}, {}, "silver"),
        ({f"{RDT}/container.other": "silver"}, {}, ""),
        ({f"{RDT}/container.main": "silver"}, {"io.kubernetes.cri.rdt-class": "gold"}, "gold"),
    ],
)
def test_the_nearest_annotation_counts(pod: dict[str, str], container: dict[str, str], expected: str) -> None:
    assert rdt_class(asked(pod, container)) == expected
    spec: dict[str, Any] = build_container_spec(asked(pod, container, host=RESCTRL))
    assert spec["linux"].get("intelRdt") == ({"closID": expected} if expected else None)


def test_a_class_of_a_host_without_resctrl_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match="RDT class 'gold' is asked for, but /sys/fs/resctrl is not mounted"):
        build_container_spec(asked({f"{RDT}/pod": "gold"}))


@pytest.mark.parametrize("name", ["..", "a/b", "x" * 256])
def test_a_class_is_one_directory(name: str) -> None:
    with pytest.raises(InvalidRequest, match="RDT class"):
        build_container_spec(asked({f"{RDT}/pod": name}, host=RESCTRL))


BLOCK = "blockio.resources.beta.kubernetes.io"
LIMITS = {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}]}


@pytest.mark.parametrize(
    ("pod", "container", "expected"),
    [
        ({}, {}, ""),
        ({f"{BLOCK}/pod": "slow"}, {}, "slow"),
        ({f"{BLOCK}/pod": "slow", f"{BLOCK}/container.main": "fast"}, {}, "fast"),
        ({f"{BLOCK}/container.main": "fast"}, {"io.kubernetes.cri.blockio-class": "own"}, "own"),
    ],
)
def test_a_block_io_class_is_part_of_the_resources(
    pod: dict[str, str], container: dict[str, str], expected: str
) -> None:
    made = asked(pod, container, host=HostFacts(cgroup_controllers=("io",)), block_io=LIMITS)
    assert block_io_class(made.pod, made.container) == expected
    spec: dict[str, Any] = build_container_spec(made)
    assert spec["linux"]["resources"].get("blockIO") == (LIMITS if expected else None)


def test_block_io_classes_that_cannot_be_had_are_refused_by_name() -> None:
    with pytest.raises(Unsupported, match=r"block I/O class 'slow' is asked for, but no \[blockio\] config_file"):
        build_container_spec(asked({f"{BLOCK}/pod": "slow"}))
    without = HostFacts(cgroup_controllers=("memory",))
    with pytest.raises(
        Unsupported, match="block I/O class 'slow' is asked for, but this host has no cgroup controller"
    ):
        build_container_spec(asked({f"{BLOCK}/pod": "slow"}, host=without, block_io=LIMITS))


def test_a_class_that_limits_nothing_adds_nothing() -> None:
    host = HostFacts(cgroup_controllers=("io",))
    spec: dict[str, Any] = build_container_spec(asked({f"{BLOCK}/pod": "free"}, host=host, block_io={}))
    assert "blockIO" not in spec["linux"]["resources"]
