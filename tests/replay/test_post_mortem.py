"""``why-died``: the verdict, and no more confidence than the records can carry."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, strategies as st
from ocid_replay.lookup import Listed
from ocid_replay.post_mortem import ALIVE, EVIDENCE_MAX, PostMortem, examine
from ocid_replay.verdict import CAUSES
from ocid_replay.why_died import text

from ocid.events import container, exec as execution, node, pod, session
from ocid.events.base import REGISTRY, Event, Opaque
from ocid.events.envelope import Context, Envelope
from ocid.ids import StreamId
from ocid.projections.text import clean
from tests.events.samples import events
from tests.fakes.declared import container_declared, exec_requested, pod_declared, session_requested
from tests.fakes.incidents import started
from tests.fakes.lives import BEGAN_NS, BOOT, S

OWN = "container/c1"
DECLARED, STARTED = container_declared(), container.Started(at_ns=BEGAN_NS + S)
KILL = container.StopRequested(grace_ms=0, kill_at_boot_ns=0, signal="SIGTERM")
RECOVERED = node.Recovered(pods=1, containers=1, adopted=0, lost=1, took_ms=1)

Row = tuple[str, Event] | tuple[str, Event, int]  # stream, event, epoch where it is not 1


def stop(grace_s: int, due_s: int) -> container.StopRequested:
    """A request with grace; SIGKILL is due at that second of the boot."""
    return container.StopRequested(grace_ms=grace_s * 1000, kill_at_boot_ns=due_s * S, signal="SIGTERM")


def exited(code: int, at_s: int = 9, *, source: str = "monitor", oom: bool = False) -> container.Exited:
    return container.Exited(at_ns=BEGAN_NS + at_s * S, exit_code=code, oom_killed=oom, source=source)


def log_of(rows: Sequence[Row]) -> list[Envelope]:
    """Number records from 1, a second apart."""
    made = []
    for seq, (stream, event, *epoch) in enumerate(rows, 1):
        made.append(
            Envelope(
                seq=seq, stream=StreamId(stream), version=seq, type=getattr(event, "type", event.TYPE), type_version=1,
                wall_ns=BEGAN_NS + seq * S, boot_ns=seq * S, boot_id=BOOT, epoch=epoch[0] if epoch else 1,
                context=Context(), event=event,
            )
        )  # fmt: skip
    return made


def why(*rows: Row) -> PostMortem:
    log = log_of(rows)
    return examine(
        "c1", [each for each in log if not each.stream.startswith(("node/", "pod/"))], Listed(log), lambda _: None
    )


@pytest.mark.parametrize(
    ("rows", "cause", "confidence"),
    [
        ([(OWN, DECLARED)], "not-started", "high"),
        ([(OWN, DECLARED), (OWN, STARTED)], "running", "high"),
        ([(OWN, DECLARED), (OWN, STARTED), (OWN, KILL)], "stopping", "high"),
        ([(OWN, DECLARED), (OWN, STARTED), (OWN, container.GaveUp(reason="x"))], "given-up", "low"),
        ([(OWN, DECLARED), (OWN, container.PrepareFailed(error="E", message="m"))], "prepare-failed", "high"),
        ([(OWN, DECLARED), (OWN, container.CreateFailed(at_ns=1, error="E", message="m"))], "create-failed", "high"),
        ([(OWN, DECLARED), (OWN, container.StartFailed(at_ns=1, error="E", message="m"))], "start-failed", "high"),
        ([(OWN, DECLARED), (OWN, STARTED), (OWN, exited(0))], "finished", "high"),
        ([(OWN, DECLARED), (OWN, STARTED), (OWN, exited(3))], "failed", "high"),
        ([(OWN, DECLARED), (OWN, STARTED), (OWN, exited(3, source="kernel"))], "failed", "high"),
        ([(OWN, DECLARED), (OWN, STARTED), (OWN, exited(255, source="unknown"))], "unwatched", "low"),
        ([(OWN, DECLARED), (OWN, STARTED), (OWN, exited(255, source="reboot"))], "reboot", "medium"),
        ([(OWN, DECLARED), (OWN, STARTED), (OWN, exited(137))], "signal", "high"),
        ([(OWN, DECLARED), (OWN, STARTED), (OWN, exited(139), 2)], "signal", "medium"),
        ([(OWN, DECLARED), (OWN, STARTED), (OWN, exited(137, oom=True))], "oom", "high"),
        ([(OWN, DECLARED), (OWN, STARTED), (OWN, exited(1, oom=True))], "oom-inside", "medium"),
        ([(OWN, DECLARED), (OWN, KILL), (OWN, exited(137))], "unstarted", "high"),
        ([(OWN, DECLARED), (OWN, STARTED), (OWN, KILL), (OWN, exited(137))], "killed-on-request", "high"),
        ([(OWN, DECLARED), (OWN, STARTED), (OWN, stop(1, 4)), (OWN, exited(137))], "killed-after-grace", "high"),
        ([(OWN, DECLARED), (OWN, STARTED), (OWN, stop(1, 9)), (OWN, exited(137))], "killed-before-grace", "medium"),
        ([(OWN, DECLARED), (OWN, STARTED), (OWN, stop(1, 9)), (OWN, exited(143))], "signal-after-stop", "high"),
        ([(OWN, DECLARED), (OWN, STARTED), (OWN, stop(1, 9)), (OWN, exited(0))], "ended-after-stop", "high"),
        # What was asked for after the end did not end it.
        ([(OWN, DECLARED), (OWN, STARTED), (OWN, exited(137)), (OWN, KILL)], "signal", "high"),
    ],
)
def test_each_cause_has_its_confidence(rows: list[Row], cause: str, confidence: str) -> None:
    found = why(*rows)
    assert (found.cause, found.confidence) == (cause, confidence)
    assert found.rule
    assert found.died == (cause not in ALIVE)
    assert ("has not died" in found.verdict) == (cause in ALIVE)
    assert set(found.verdict_seqs) <= set(range(1, len(rows) + 1))
    assert found.verdict_seqs


def test_all_causes_were_tried() -> None:
    tried = test_each_cause_has_its_confidence.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert {cause for _, cause, _ in tried} == set(CAUSES)


def test_a_kill_that_came_due_while_the_daemon_was_down_need_not_be_its_own() -> None:
    found = why(
        (OWN, DECLARED), (OWN, STARTED), (OWN, stop(1, 4)), ("node/self", started(2, clean=False), 2),
        (OWN, exited(137, 5), 2), ("node/self", RECOVERED, 2),
    )  # fmt: skip
    assert (found.cause, found.confidence, found.daemon_watched) == ("killed-after-grace", "low", False)
    assert any("which found it ended" in one.text for one in found.evidence)
    assert any("its start in record 4 found it ended" in one for one in found.not_known)


def test_a_clock_that_contradicts_the_grace_lowers_the_confidence() -> None:
    found = why((OWN, DECLARED), (OWN, STARTED), (OWN, stop(8, 4)), (OWN, exited(137, 5)))
    assert (found.cause, found.confidence) == ("killed-after-grace", "medium")


def test_an_end_that_a_running_daemon_saw_was_not_found() -> None:
    found = why(
        (OWN, DECLARED), (OWN, STARTED), ("node/self", started(2, clean=True), 2), ("node/self", RECOVERED, 2),
        (OWN, exited(137), 2),
    )  # fmt: skip
    assert not any("which found it ended" in one.text for one in found.evidence)
    assert "what went on while the daemon was down, earlier in its life" in found.not_known


def test_an_end_dated_before_the_start_was_found_also_when_it_was_recorded_later() -> None:
    found = why(
        (OWN, DECLARED), (OWN, STARTED), ("node/self", started(2, clean=False), 2), ("node/self", RECOVERED, 2),
        (OWN, exited(9, 2), 2),
    )  # fmt: skip
    assert [one.seq for one in found.evidence if "which found it ended" in one.text] == [3]


def test_records_of_unknown_kinds_in_its_stream_lower_the_confidence() -> None:
    later = Opaque(type="container.exorcised", type_version=1, payload=msgspec.msgpack.encode({"why": "\x1b[2J"}))
    found = why((OWN, DECLARED), (OWN, STARTED), (OWN, later), (OWN, exited(0)))
    assert (found.cause, found.confidence) == ("finished", "low")
    assert any("does not know" in one.text for one in found.evidence)
    assert "what [3] say: a newer ocid wrote them, and can read them" in found.not_known
    alive = why((OWN, DECLARED), (OWN, STARTED), (OWN, later))
    assert (alive.died, alive.confidence) == (False, "low"), "the record may be of its end"


def test_what_was_open_inside_is_told_and_what_was_over_is_not() -> None:
    found = why(
        (OWN, DECLARED), (OWN, STARTED),
        ("exec/e1", exec_requested("e1", argv_brief="old")),
        ("exec/e1", execution.Finished(exit_code=1, timed_out=True, took_ms=5000, stdout_bytes=0, stderr_bytes=0)),
        ("exec/e2", exec_requested("e2", argv_brief="hangs")),
        ("session/s1", session_requested("s1")), ("session/s2", session_requested("s2", kind="attach", argv_brief="")),
        ("session/s2", session.Opened(remote="")),
        (OWN, exited(137)),
        ("exec/e2", execution.Finished(exit_code=137, timed_out=False, took_ms=9, stdout_bytes=0, stderr_bytes=0)),
    )  # fmt: skip
    open_ = [one.seq for one in found.evidence if "had not ended then" in one.text]
    assert open_ == [5, 7]
    assert [one.seq for one in found.evidence if "the last command before" in one.text] == [3]
    assert any("killed because its time was up" in one.text for one in found.evidence)
    assert any("([5] [7])" in one for one in found.not_known)


def test_the_last_visitors_are_evidence() -> None:
    visits: list[Row] = []
    for number in range(6):
        visits += [
            (f"session/s{number}", session_requested(f"s{number}", argv_brief=f"sh -c {number}")),
            (f"session/s{number}", session.Closed(took_ms=51, exit_code=0)),
        ]
    late: list[Row] = [("session/s9", session_requested("s9")), ("session/s9", session.Closed(took_ms=1))]
    found = why((OWN, DECLARED), (OWN, STARTED), *visits, (OWN, exited(137)), *late)
    told = {one.seq: one.text for one in found.evidence if one.text.startswith(("before:", "what became of that"))}
    assert list(told) == [7, 8, 9, 10, 11, 12, 13, 14]
    assert "sh -c 5" in told[13]
    assert "before the end was recorded" in told[14]


def test_the_pods_own_troubles_are_evidence() -> None:
    crashed = node.ActorCrashed(stream=StreamId(OWN), error="E", crashes=1)
    rows: list[Row] = [
        ("pod/p1", pod_declared()), (OWN, DECLARED), (OWN, STARTED), ("pod/p1", pod.Lost(reason="its pause process")),
        (OWN, exited(137)), ("node/self", crashed),
    ]  # fmt: skip
    found = why(*rows)
    assert found.pod == "prod/web"
    assert [one.seq for one in found.evidence] == [2, 3, 4, 5, 6]


def test_a_source_that_knows_no_exit_code_gives_none() -> None:
    found = why((OWN, DECLARED), (OWN, STARTED), (OWN, exited(255, source="unknown")))
    assert (found.exit_code, found.signal, found.source) == (None, "", "unknown")


def test_evidence_is_bounded() -> None:
    failing = container.EffectFailed(step="Kill", error="E", message="m", failures=1)
    found = why((OWN, DECLARED), (OWN, STARTED), *[(OWN, failing)] * 200, (OWN, exited(137)))
    assert len(found.evidence) == EVIDENCE_MAX
    assert found.evidence[-1].seq == 203


KINDS = [REGISTRY[name] for name in sorted(REGISTRY) if name.startswith(("container.", "exec.", "session.", "node."))]


@given(st.lists(st.sampled_from(KINDS).flatmap(events), min_size=1, max_size=8))
def test_whatever_a_log_holds_the_answer_is_text(log: list[Event]) -> None:
    rows: list[Row] = []
    for event in log:
        aggregate = event.TYPE.partition(".")[0]
        rows.append((OWN if aggregate == "container" else f"{aggregate}/x1", event))
    found = why(*rows)
    assert found.cause in CAUSES
    assert all(clean(line).isprintable() for line in text(found))
