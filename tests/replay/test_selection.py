"""Filters: what each selects of a log, and that a selection never depends on how much of the log it was shown."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, strategies as st

from ocid.errors import InvalidRequest
from ocid.events.envelope import Envelope
from ocid.events.node import PeerSeen
from ocid.ids import StreamId
from ocid.projections.selection import Selection, Selector, parse_time
from tests.fakes.declared import session_requested
from tests.fakes.lives import APP, BEGAN_NS, JOB, LATE, PROBE, WEB, S, write_log

NOW_NS = 1_800_000_000 * S


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> list[Envelope]:
    return write_log(tmp_path_factory.mktemp("lives") / "log")


def chosen(log: list[Envelope], selection: Selection) -> list[Envelope]:
    peers = {each.seq: each.event for each in log if isinstance(each.event, PeerSeen)}
    selector = Selector(selection, peers.get)
    return list(selector.select(each for each in log if each.seq >= selector.first_seq))


def streams(found: list[Envelope]) -> set[str]:
    return {each.stream for each in found}


def test_the_empty_selection_selects_everything(log: list[Envelope]) -> None:
    assert chosen(log, Selection()) == log


@pytest.mark.parametrize("wanted", [WEB, "aa", "prod/web", "web"])
def test_a_pod_has_its_containers_and_their_execs(log: list[Envelope], wanted: str) -> None:
    assert streams(chosen(log, Selection(pod=wanted))) == {f"pod/{WEB}", f"container/{APP}", f"exec/{PROBE}"}


@pytest.mark.parametrize("wanted", [APP, "c1", "app"])
def test_a_container_has_its_execs(log: list[Envelope], wanted: str) -> None:
    assert streams(chosen(log, Selection(container=wanted))) == {f"container/{APP}", f"exec/{PROBE}"}


def test_sessions_belong_to_their_container_or_pod(log: list[Envelope]) -> None:
    last = log[-1]
    command = session_requested("s1", container_id=LATE, pod_id=JOB)
    forward = session_requested("s2", container_id="", pod_id=JOB, kind="portforward")
    more = [
        msgspec.structs.replace(last, seq=last.seq + n, stream=StreamId(f"session/s{n}"), type=one.TYPE, event=one)
        for n, one in enumerate((command, forward), 1)
    ]
    assert {"session/s1", "session/s2"} <= streams(chosen([*log, *more], Selection(pod="job")))
    found = streams(chosen([*log, *more], Selection(container="late")))
    assert "session/s1" in found
    assert "session/s2" not in found


def test_membership_is_known_when_only_the_end_is_wanted(log: list[Envelope]) -> None:
    found = chosen(log, Selection(pod="web", from_seq=26, to_seq=28))
    assert [each.seq for each in found] == [26, 27, 28]


def test_types_are_globs_any_of_which_may_fit(log: list[Envelope]) -> None:
    found = chosen(log, Selection(types=("exec.*", "pod.r*")))
    assert {each.type for each in found} == {
        "exec.requested", "exec.finished", "pod.ready", "pod.remove_requested", "pod.removed",
    }  # fmt: skip


def test_streams_are_whole_aggregates_beginnings_or_globs(log: list[Envelope]) -> None:
    assert streams(chosen(log, Selection(stream="node"))) == {"node/self"}
    assert streams(chosen(log, Selection(stream="pod/ab"))) == {f"pod/{JOB}"}
    assert streams(chosen(log, Selection(stream="pod/a*"))) == {f"pod/{WEB}", f"pod/{JOB}"}
    assert streams(chosen(log, Selection(stream="po"))) == set()


def test_time_includes_its_beginning_and_not_its_end(log: list[Envelope]) -> None:
    found = chosen(log, Selection(since_ns=BEGAN_NS + S, until_ns=BEGAN_NS + 3 * S))
    assert [each.seq for each in found] == [4, 5]


def test_who_asked_is_found_by_pid_and_0_is_the_daemon(log: list[Envelope]) -> None:
    assert [each.type for each in chosen(log, Selection(who="900"))] == ["node.peer_seen", "container.stop_requested"]
    assert [each.type for each in chosen(log, Selection(who="0"))] == ["node.started"]
    assert chosen(log, Selection(who="1")) == []


_selections = st.builds(
    Selection,
    pod=st.sampled_from(["", "a", "aa", "ab", "web", "prod/job", "zz"]),
    container=st.sampled_from(["", "c", "c1", "app", "hog", "zz"]),
    stream=st.sampled_from(["", "pod", "node", "exec/", "*/c*", "["]),
    types=st.lists(st.sampled_from(["*", "pod.*", "exec.?equested", "[", "", "container.exited"]), max_size=2).map(
        tuple
    ),
    since_ns=st.sampled_from([0, BEGAN_NS, BEGAN_NS + 10 * S]),
    until_ns=st.sampled_from([0, BEGAN_NS, BEGAN_NS + 20 * S]),
    from_seq=st.integers(1, 60),
    to_seq=st.integers(0, 60),
    who=st.sampled_from(["", "0", "812", "900", "1", "kubelet", "uid:0", "login:1000"]),
)


@given(_selections)
def test_each_condition_only_takes_away(log: list[Envelope], selection: Selection) -> None:
    found = chosen(log, selection)

    assert [each.seq for each in found] == sorted({each.seq for each in found})
    alone = [
        Selection(pod=selection.pod), Selection(container=selection.container), Selection(stream=selection.stream),
        Selection(types=selection.types), Selection(since_ns=selection.since_ns, until_ns=selection.until_ns),
        Selection(from_seq=selection.from_seq, to_seq=selection.to_seq), Selection(who=selection.who),
    ]  # fmt: skip
    together = [each for each in log if all(each in chosen(log, one) for one in alone)]
    assert found == together


# --- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "at_ns"),
    [
        ("now", NOW_NS),
        ("90s", NOW_NS - 90 * S),
        ("15m", NOW_NS - 900 * S),
        ("-2h", NOW_NS - 7200 * S),
        ("3d ago", NOW_NS - 3 * 86_400 * S),
        ("1w", NOW_NS - 7 * 86_400 * S),
        ("250ms", NOW_NS - S // 4),
        ("999999999999w", 0),
        ("1970-01-01T00:00:01Z", S),
        ("1970-01-01T01:00:01+01:00", S),
        ("1970-01-01 00:00:01.5", S + S // 2),
        ("1970-01-02", 86_400 * S),
        ("1969-12-31", 0),
        ("00:00:30", 1_799_971_200 * S + 30 * S),
    ],
)
def test_times_are_rfc_3339_or_so_long_ago(text: str, at_ns: int) -> None:
    assert parse_time(text, NOW_NS) == at_ns


@pytest.mark.parametrize("text", ["", "yesterday", "5", "5y", "2026-13-01", "25:00", "1h1h", "\0"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="wanted RFC 3339"):
        parse_time(text, NOW_NS)


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_is_refused(text: str) -> None:
    try:
        at_ns = parse_time(text, NOW_NS)
    except InvalidRequest:
        at_ns = 0
    assert at_ns >= 0
