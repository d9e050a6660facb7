"""CDI devices, classes and priorities that plugins want of a container that is being made."""

from __future__ import annotations

from typing import Any

import pytest

from ocid.domain import cdi
from ocid.domain.nri import Adjustment, Change, Rdt
from ocid.domain.nri_apply import adjust
from ocid.domain.nri_devices import check_known, with_cdi
from ocid.domain.nri_owners import Owners
from ocid.domain.spec.inputs import DeviceNode, HostFacts
from ocid.errors import AlreadyExists, InvalidRequest, Unsupported
from ocid.ids import digest_of

HOST = HostFacts(resctrl_mounted=True)
OTHER = {"policy": "SCHED_OTHER"}


def spec(process: dict[str, Any] | None = None, **linux: Any) -> dict[str, Any]:
    return {
        "process": {"args": ["sh"], "env": ["A=1"], "user": {"uid": 0, "gid": 0}, **(process or {})},
        "mounts": [{"destination": "/", "type": "none", "source": "", "options": []}],
        "linux": {"resources": {"devices": [{"allow": False, "access": "rwm"}]}, **linux},
    }


# --- CDI -------------------------------------------------------------------------------------------------------------


def test_what_cdi_devices_add_is_laid_over_what_plugins_made() -> None:
    edits = cdi.Edits(
        env=("A=2", "B=x=y"),
        device_nodes=(cdi.Node(path="/dev/gpu0", type="c", major=195, permissions="r"),),
        mounts=(cdi.Mount(host_path="/usr/lib/gpu", container_path="/usr/lib/gpu", options=("ro",)),),
        hooks=(cdi.Hook(hook_name="createContainer", path="/bin/hook", args=("hook", "x"), timeout=3),),
        additional_gids=(44, 45),
        intel_rdt={"closID": "gold"},
    )
    node = DeviceNode(path="/dev/gpu0", kind="c", major=195, minor=0, access="r")
    before = spec({"user": {"uid": 0, "gid": 0, "additionalGids": [44]}})
    made = with_cdi(before, edits, [node], "c1")

    assert made["process"]["env"] == ["A=2", "B=x=y"]
    assert made["process"]["user"]["additionalGids"] == [44, 45]
    assert made["mounts"][-1] == {
        "destination": "/usr/lib/gpu", "type": "bind", "source": "/usr/lib/gpu", "options": ["rbind", "ro"]
    }  # fmt: skip
    device = {"path": "/dev/gpu0", "type": "c", "major": 195, "minor": 0, "fileMode": 0o666, "uid": 0, "gid": 0}
    assert made["linux"]["devices"] == [device]
    rule = {"allow": True, "type": "c", "major": 195, "minor": 0, "access": "r"}
    assert made["linux"]["resources"]["devices"][-1] == rule
    hook = {"path": "/bin/hook", "args": ["hook", "x"], "env": [], "timeout": 3}
    assert made["hooks"]["createContainer"] == [hook]
    assert made["linux"]["intelRdt"] == {"closID": "gold"}
    assert made["annotations"] == {"io.ocid.cdi.plugins": digest_of(cdi.document(edits))}
    assert before["process"]["env"] == ["A=1"], "what is given never changes"


def test_a_class_that_a_plugin_names_beats_that_of_its_device() -> None:
    made = with_cdi(spec(intelRdt={"closID": "mine"}), cdi.Edits(intel_rdt={"closID": "gold"}), [], "c1")
    assert made["linux"]["intelRdt"] == {"closID": "mine"}


def test_devices_are_claimed_by_name() -> None:
    owners = Owners("c1")
    adjust(spec(), Adjustment(cdi_devices=("v/c=0", "v/c=1")), "10-a", owners)

    assert owners.changes() == (
        Change(plugin="10-a", field="cdi devices", key="v/c=0"),
        Change(plugin="10-a", field="cdi devices", key="v/c=1"),
    )
    with pytest.raises(AlreadyExists, match="cdi devices 'v/c=1' is set by plugin 10-a and by plugin 20-b"):
        adjust(spec(), Adjustment(cdi_devices=("v/c=1",)), "20-b", owners)


# --- classes and priorities ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "wanted", "after"),
    [
        (None, Rdt(clos_id="gold"), {"closID": "gold"}),
        ({"closID": "a", "schemata": ["x"]}, Rdt(clos_id="gold"), {"closID": "gold", "schemata": ["x"]}),
        ({"closID": "a", "schemata": ["x"]}, Rdt(removed=True, clos_id="gold"), {"closID": "gold"}),
        ({"closID": "a"}, Rdt(removed=True), None),
        (None, Rdt(schemata=("L3:0=f",), monitoring=False), {"schemata": ["L3:0=f"], "enableMonitoring": False}),
    ],
)
def test_rdt(before: dict[str, Any] | None, wanted: Rdt, after: dict[str, Any] | None) -> None:
    linux = {} if before is None else {"intelRdt": before}
    made = adjust(spec(**linux), Adjustment(rdt=wanted), "10-a", Owners("c1"))

    assert made["linux"].get("intelRdt") == after


def test_priorities_are_set_and_taken_away_and_claimed() -> None:
    owners, best = Owners("c1"), {"class": "IOPRIO_CLASS_BE", "priority": 2}
    made = adjust(spec(), Adjustment(io_priority=best, scheduler=OTHER), "10-a", owners)
    assert (made["process"]["ioPriority"], made["process"]["scheduler"]) == (best, OTHER)
    with pytest.raises(AlreadyExists, match="scheduler is set by plugin 10-a and by plugin 20-b"):
        adjust(made, Adjustment(scheduler=OTHER), "20-b", owners)

    gone = adjust(made, Adjustment(io_priority={}, scheduler={}), "30-c", Owners("c1"))
    assert {"ioPriority", "scheduler"}.isdisjoint(gone["process"])


@pytest.mark.parametrize(
    ("made", "knows"),
    [
        (spec(), ()),
        (spec({"scheduler": OTHER, "ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": 7}}), (1, 1)),
        (spec({"scheduler": {"policy": "SCHED_BATCH", "nice": 19, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}}), (1, 3)),
        (spec(intelRdt={"closID": "gold"}), ()),
        (spec(intelRdt={"closID": "gold", "schemata": ["L3:0=f"]}), (1, 3)),
    ],
)
def test_what_runtime_and_host_know_passes(made: dict[str, Any], knows: tuple[int, ...]) -> None:
    check_known(spec(), made, "", knows, HOST)


@pytest.mark.parametrize(
    ("made", "knows", "error", "words"),
    [
        (spec({"scheduler": OTHER}), (), Unsupported, "scheduler.* version 1.1 .*'runc' says nothing of versions"),
        (spec({"scheduler": OTHER}), (1, 0), Unsupported, "handler 'runc' knows 1.0"),
        (spec({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 1}}), (1, 0), Unsupported, "ioPriority"),
        (spec(intelRdt={"closID": "a", "enableMonitoring": True}), (1, 2), Unsupported, "enableMonitoring.* 1.3"),
        (spec(intelRdt={"closID": "a", "schemata": []}), (1, 2), Unsupported, "schemata"),
        (spec({"scheduler": {"policy": "9"}}), (1, 3), InvalidRequest, "scheduler '9'; wanted one of SCHED_OTHER"),
        (spec({"scheduler": {**OTHER, "flags": ["9"]}}), (1, 3), InvalidRequest, "scheduler flag '9'"),
        (spec({"scheduler": {**OTHER, "nice": 20}}), (1, 3), InvalidRequest, "nice value 20"),
        (spec({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8}}), (1, 3), InvalidRequest, "I/O priority"),
        (spec({"ioPriority": {"class": "7", "priority": 1}}), (1, 3), InvalidRequest, "I/O priority 7 1"),
        (spec(intelRdt={"closID": "a/b"}), (1, 3), InvalidRequest, "RDT class 'a/b'"),
        (spec(intelRdt={"closID": ".."}), (1, 3), InvalidRequest, "RDT class"),
        (spec(intelRdt={"closID": "a", "schemata": ["x\ny"]}), (1, 3), InvalidRequest, "RDT schemata"),
    ],
)
def test_what_they_do_not_know_is_named(
    made: dict[str, Any], knows: tuple[int, ...], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        check_known(spec(), made, "", knows, HOST)


def test_there_are_no_classes_where_there_is_no_resctrl() -> None:
    with pytest.raises(Unsupported, match="resctrl is not mounted"):
        check_known(spec(), spec(intelRdt={"closID": "gold"}), "", (1, 3), HostFacts())


def test_what_was_there_before_plugins_is_not_theirs() -> None:
    made = spec(intelRdt={"closID": "gold", "schemata": ["L3:0=f"]})
    check_known(made, made, "", (), HostFacts())
