"""Every event as OCSF, held against the public schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st
from ocid_replay.export import converter
from ocid_replay.naming import Container, Log, Naming, Pod
from ocid_replay.ocsf import SCHEMA_VERSION, ocsf
from ocid_replay.ocsf_rules import LIFECYCLE, RULES, SESSIONS

from ocid.events import session
from ocid.events.base import REGISTRY, Event, Opaque
from ocid.events.envelope import Context, Envelope
from ocid.events.node import PeerSeen
from ocid.ids import StreamId
from ocid.journal.looking import look
from tests.events.samples import envelope, events, sample
from tests.fakes.declared import exec_requested
from tests.fakes.lives import Life, write_log
from tests.replay.ocsf_schema import faults

OURS = sorted((kind for kind in REGISTRY.values() if kind.__module__.startswith("ocid.")), key=lambda kind: kind.TYPE)
LOG = Log("ocid/n1/0011aabb", "n1", "0.1.0")
KUBELET = PeerSeen(
    pid=812, start_ticks=5, uid=0, gid=0, exe="/usr/bin/kubelet", comm="kubelet", cgroup="/", login_uid=7
)
NAMELESS = PeerSeen(pid=0, start_ticks=0, uid=0, gid=0, exe="", comm="", cgroup="")
POD = Pod("aa" * 32, "web", "prod", "0c0ffee0-0000-4000-8000-000000000001")
CONTAINER = Container("c1" * 32, "app", "sha256:" + "11" * 32, "docker.io/library/busybox:1.36", "crun", 4711)
NAMINGS = [
    Naming(LOG),
    Naming(LOG, NAMELESS),
    Naming(LOG, KUBELET, POD),
    Naming(LOG, KUBELET, POD, CONTAINER),
    Naming(
        LOG, None, msgspec.structs.replace(POD, uid="static"), msgspec.structs.replace(CONTAINER, handler="", pid=0)
    ),
    Naming(LOG, KUBELET, POD, CONTAINER, "sh -c id", "exec"),
    Naming(LOG, KUBELET, POD, CONTAINER, "", "attach"),
    Naming(LOG, KUBELET, POD, session="portforward"),
    Naming(LOG, KUBELET, reference="docker.io/library/busybox:1.36"),
]


def on_its_stream(event: Event) -> Envelope:
    aggregate = event.TYPE.partition(".")[0]
    stream = {"image": "catalog/images", "node": "node/self", "log": "log/self"}.get(aggregate, f"{aggregate}/3f2c")
    return msgspec.structs.replace(envelope(event), stream=StreamId(stream))


def checked(made: dict[str, Any]) -> dict[str, Any]:
    """Return *made* as it is sent, after holding it against the schema that it names."""
    sent: dict[str, Any] = json.loads(msgspec.json.encode(made))
    assert faults(sent, SCHEMA_VERSION) == []
    return sent


def test_every_type_of_event_has_its_rule() -> None:
    assert {kind.TYPE for kind in OURS} - set(RULES) == set(), "say in ocsf_rules.RULES what these become"


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.TYPE)
@pytest.mark.parametrize("version", ["1.7.0", "1.8.0"])
def test_every_event_is_valid_whatever_is_known_around_it(kind: type[Event], version: str) -> None:
    for naming in NAMINGS:
        assert faults(json.loads(msgspec.json.encode(ocsf(on_its_stream(sample(kind)), naming))), version) == []


@pytest.mark.parametrize("version", ["1.5.0", "1.6.0"])
def test_older_schemas_lack_one_attribute_only(version: str) -> None:
    for kind in OURS:
        made = json.loads(msgspec.json.encode(ocsf(on_its_stream(sample(kind)), NAMINGS[3])))
        del made["metadata"]["original_event_uid"]
        assert faults(made, version) == [], kind.TYPE


@given(st.sampled_from(OURS).flatmap(events), st.sampled_from(NAMINGS))
def test_no_content_of_an_event_makes_it_invalid(event: Event, naming: Naming) -> None:
    checked(ocsf(on_its_stream(event), naming))


def test_unknown_types_and_versions_are_base_events_with_all_they_hold() -> None:
    later = Opaque(type="pod.declared", type_version=9, payload=msgspec.msgpack.encode({"error": 3, "pid": "x"}))
    one = msgspec.structs.replace(envelope(REGISTRY["pod.ready"]()), event=later, type="pod.declared", wall_ns=2**70)
    made = checked(ocsf(one, NAMINGS[3]))
    assert (made["class_uid"], made["type_uid"], made["activity_name"]) == (0, 99, "Unknown to this build")
    assert made["unmapped"]["event"] == {"error": 3, "pid": "x"}


def test_the_schema_finds_faults() -> None:
    good = ocsf(on_its_stream(sample(REGISTRY["container.exited"])), NAMINGS[3])
    for spoil in (
        {"activity_id": 77, "type_uid": 100777}, {"class_uid": 6002}, {"device": {"type_id": 1}}, {"made_up": 1},
        {"time": "now"}, {"process": {}}, {"type_uid": 1}, {"activity_id": 99, "type_uid": 100799},
    ):  # fmt: skip
        assert faults(json.loads(msgspec.json.encode(good | spoil)), SCHEMA_VERSION), spoil


def test_sessions_become_what_they_do() -> None:
    def becomes(event: Event, kind: str) -> tuple[int, int, str]:
        made = checked(ocsf(on_its_stream(event), Naming(LOG, KUBELET, POD, CONTAINER, "id", kind)))
        return made["class_uid"], made["activity_id"], made.get("api", {}).get("operation", "")

    opened, closed = session.Opened(remote="127.0.0.1:1"), session.Closed(took_ms=5, exit_code=3)
    assert becomes(opened, "exec") == (1007, 1, "")
    assert becomes(closed, "exec") == (1007, 2, "")
    assert becomes(opened, "attach") == (1007, 3, "")
    assert becomes(closed, "attach") == (1007, 99, "")
    assert becomes(opened, "portforward") == (6003, 99, "PortForward")
    assert becomes(session.Expired(reason="late"), "attach") == (6003, 99, "Attach")
    assert set(SESSIONS) == {"attach", "portforward"}


def exported(directory: Path) -> list[dict[str, Any]]:
    write_log(directory)
    with look(directory) as reader:
        convert = converter(reader, "ocsf")
        return [checked(convert(each)) for each in reader.read(1)]


def test_a_log_says_whom_each_event_is_about(tmp_path: Path) -> None:
    made = exported(tmp_path / "log")
    assert [each["metadata"]["sequence"] for each in made] == list(range(1, 49)), "one for each record"
    by_seq = {each["metadata"]["sequence"]: each for each in made}

    stop = by_seq[22]
    assert (stop["class_uid"], stop["api"]["operation"], stop["status"]) == (6003, "StopContainer", "Accepted")
    assert stop["actor"]["process"]["file"] == {"name": "crictl", "path": "/usr/bin/crictl", "type_id": 1}
    assert stop["actor"]["process"]["auid"] == 1004
    assert stop["src_endpoint"] == {"name": "crictl"}
    assert [each["type"] for each in stop["resources"]] == ["pod", "container"]

    end = by_seq[23]
    assert (end["type_uid"], end["exit_code"], end["process"]["pid"]) == (100702, 137, 4711)
    assert end["process"]["container"]["labels"] == ["io.kubernetes.pod.namespace=prod", "io.kubernetes.pod.name=web"]

    probe = by_seq[20]
    assert (probe["type_uid"], probe["process"]["cmd_line"]) == (100701, "cat /health")
    assert probe["process"]["container"]["name"] == "app"

    oom = next(each for each in made if each["unmapped"]["event"].get("oom_killed"))
    assert (oom["severity_id"], oom["process"]["container"]["name"]) == (3, "hog")
    assert {each["device"]["hostname"] for each in made} != {""}
    assert len({each["metadata"]["uid"] for each in made}) == 48


def test_a_record_is_the_same_wherever_the_export_began(tmp_path: Path) -> None:
    whole = exported(tmp_path / "log")
    with look(tmp_path / "log") as reader:
        for first in range(1, 49):
            convert = converter(reader, "ocsf")  # knows nothing of what came before
            assert checked(convert(reader.read(first, 1)[0])) == whole[first - 1]


def test_records_that_name_nothing_there_can_be_are_told_as_they_are(tmp_path: Path) -> None:
    life = Life(tmp_path / "log")
    for number, name in enumerate(("x" * 600, "é" * 300, "a/b\0c", "", "c9" * 32)):
        life.write(f"exec/{number}", exec_requested(str(number), container_id=name))
        life.write(f"exec/{number}", REGISTRY["exec.failed"](error="NotFound", message="no"), context=Context(who=99))
    life.write("container/lost", REGISTRY["container.removed"]())
    life.write("pod", REGISTRY["pod.removed"]())
    life.store.close()
    with look(tmp_path / "log") as reader:
        convert = converter(reader, "ocsf")
        made = [checked(convert(each)) for each in reader.read(1)]
    assert len(made) == 12
    assert all("container" not in each.get("process", {}) for each in made)


def test_an_exit_code_that_nobody_knows_is_not_told(tmp_path: Path) -> None:
    for source, told in (("monitor", True), ("kernel", True), ("unknown", False), ("reboot", False)):
        event = REGISTRY["container.exited"](at_ns=5_000_000, exit_code=255, source=source)
        made = checked(ocsf(on_its_stream(event), NAMINGS[3]))
        assert (("exit_code" in made), made["status_id"]) == (told, 1 if told else 0)
        assert made["time"] == 5
        assert made["metadata"]["logged_time"] == 1_763_956_800_123


def test_failures_say_what_failed() -> None:
    made = checked(
        ocsf(
            on_its_stream(REGISTRY["container.create_failed"](at_ns=1, error="EffectFailed", message="no")), NAMINGS[3]
        )
    )
    assert (made["class_uid"], made["status_id"], made["status_code"], made["status_detail"]) == (
        LIFECYCLE,
        2,
        "EffectFailed",
        "no",
    )
    refused = REGISTRY["node.request_refused"](rpc="RemoveImage", error="NotFound", message="gone")
    made = checked(ocsf(on_its_stream(refused), NAMINGS[1]))
    assert (made["type_uid"], made["api"]["operation"]) == (600304, "RemoveImage")
    assert made["api"]["response"] == {"error": "NotFound", "error_message": "gone"}
