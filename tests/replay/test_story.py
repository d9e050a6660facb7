"""``explain``: what is found for an id, what the story tells, and what the verdict says the evidence can carry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from ocid_replay.explain import text
from ocid_replay.family import Subject, events_of, find
from ocid_replay.lookup import Stored
from ocid_replay.story import Story, tell
from ocid_replay.verdict import of_container, of_pod

from ocid.domain.nri import Change
from ocid.errors import InvalidRequest, NotFound
from ocid.events import container, pod, session
from ocid.events.base import Event
from ocid.events.envelope import Context, Envelope
from ocid.ids import Digest, StreamId, digest_of
from ocid.journal.looking import look, peers
from ocid.journal.reader import Reader
from ocid.projections.text import short
from tests.fakes.declared import container_declared, exec_requested, pod_declared, session_requested
from tests.fakes.incidents import write_incident
from tests.fakes.lives import APP, BOOT, HOG, JOB, WEB, Life, S, write_log


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lives") / "log"
    write_log(path)
    return path


@pytest.fixture
def reader(directory: Path) -> Iterator[Reader]:
    with look(directory) as opened:
        yield opened


def story(reader: Reader, wanted: str) -> Story:
    subject = find(reader, wanted)
    return tell(subject, events_of(reader, subject), peers(reader))


def test_what_plugins_changed_is_spelled_out_from_its_document(tmp_path: Path) -> None:
    few = [Change(plugin="10-a", field="args"), Change(plugin="20-b", field="env", key="FOO")]
    many = [Change(plugin="10-a", field="env", key=f"V{number}") for number in range(40)]
    declared, life = container_declared(), Life(tmp_path)
    stream, before = f"container/{declared.container_id}", b"{}"
    life.write(stream, declared)
    for changes in (few, many):
        document = msgspec.json.encode(changes)
        event = container.Adjusted(
            plugins=("10-a", "20-b"), count=2, changes=digest_of(document), before=digest_of(before)
        )
        life.write(stream, event, documents=(document, before))
    subject = Subject("container", declared.container_id, declared.name)
    plain = f"2 changes by plugins 10-a, 20-b, listed in {short(digest_of(msgspec.json.encode(few)))}"

    told = tell(subject, life.envelopes, lambda seq: None, life.store.document).lines
    assert told[1].text == f"{plain}: 10-a: args; 20-b: env FOO"
    assert told[2].text.endswith("V31; and 8 more")
    assert tell(subject, life.envelopes, lambda seq: None).lines[1].text == plain

    def lost(digest: str) -> bytes:
        raise NotFound("document", digest)

    assert tell(subject, life.envelopes, lambda seq: None, lost).lines[1].text == plain
    life.store.close(stopped_at_ns=life.now_ns)


# --- finding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (WEB, Subject("pod", WEB, "prod/web")),
        ("aa", Subject("pod", WEB, "prod/web")),
        ("pod/aa", Subject("pod", WEB, "prod/web")),
        ("prod/web", Subject("pod", WEB, "prod/web")),
        ("web", Subject("pod", WEB, "prod/web")),
        ("c1c1", Subject("container", APP, "app")),
        ("hog", Subject("container", HOG, "hog")),
    ],
)
def test_ids_their_beginnings_and_names_are_found_also_of_removed_ones(
    reader: Reader, wanted: str, found: Subject
) -> None:
    assert find(reader, wanted) == found


def test_the_beginning_of_several_ids_is_refused_with_all_of_them(reader: Reader) -> None:
    with pytest.raises(InvalidRequest, match=r"beginning of 2 ids.*prod/web.*prod/job"):
        find(reader, "a")


@pytest.mark.parametrize("wanted", ["", "zz", "pod/", "prod/"])
def test_what_is_not_in_the_log_is_not_found(reader: Reader, wanted: str) -> None:
    with pytest.raises(NotFound):
        find(reader, wanted)


def test_of_several_with_one_name_the_newest_is_meant(tmp_path: Path) -> None:
    life = Life(tmp_path / "log")
    life.write("pod/" + "d1" * 32, pod_declared("d1" * 32, name="twice"))
    life.write("pod/" + "d2" * 32, pod_declared("d2" * 32, name="twice"))
    life.store.close()
    with look(tmp_path / "log") as reader:
        assert find(reader, "twice").id == "d2" * 32


# --- the story -------------------------------------------------------------------------------------------------------


def test_a_pods_story_has_its_containers_main_lines_and_who_asked(reader: Reader) -> None:
    told = story(reader, "prod/web")

    lines = list(text(told))
    assert lines[0].startswith("pod prod/web, id aaaa")
    assert any("[11]" in line and "by kubelet[812]" in line for line in lines)
    assert any("[22]" in line and "container app" in line and "by crictl[900]" in line for line in lines)
    assert any("[20]" in line and "cat /health" in line for line in lines)
    assert not any(line.type == "container.prepared" for line in told.lines)
    assert "  kubelet[812] asked to stop it [27]" in lines
    assert "  crictl[900] asked to stop it; it did not end within 2.0 s, and SIGKILL ended it [22] [23]" in lines
    assert "  crictl[900]: /usr/bin/crictl (pid 900, uid 0, logged in as uid 1004) [3]" in lines


def test_a_containers_story_has_every_line_of_its_own(reader: Reader) -> None:
    told = story(reader, "hog")

    assert [line.type for line in told.lines] == [
        "container.declared", "container.prepared", "container.created", "container.start_requested",
        "container.started", "container.exited", "container.released",
    ]  # fmt: skip
    assert told.title.endswith(f"of pod {JOB}")
    assert "out-of-memory killer (OOM) ended it" in told.verdicts[0].findings[0].text


# --- verdicts --------------------------------------------------------------------------------------------------------


def in_envelopes(stream: str, *events: Event, boot_ns: int = 0) -> list[Envelope]:
    return [
        Envelope(
            seq=seq, stream=StreamId(stream), version=seq, type=event.TYPE, type_version=1, wall_ns=seq * S,
            boot_ns=boot_ns or seq * S, boot_id=BOOT, epoch=1, context=Context(), event=event,
        )
        for seq, event in enumerate(events, 1)
    ]  # fmt: skip


DECLARED = container_declared()
STARTED = container.Started(at_ns=S)
STOP = container.StopRequested(grace_ms=2000, kill_at_boot_ns=5 * S, signal="SIGTERM")
KILL = container.StopRequested(grace_ms=0, kill_at_boot_ns=0, signal="SIGTERM")


def exited(code: int, *, source: str = "monitor", oom_killed: bool = False) -> container.Exited:
    return container.Exited(at_ns=4 * S, exit_code=code, oom_killed=oom_killed, source=source)


@pytest.mark.parametrize(
    ("events", "verdict"),
    [
        ((DECLARED,), "its program has not been started"),
        ((DECLARED, STARTED), "it has not ended: its program runs"),
        ((DECLARED, STARTED, STOP), "it is being stopped, and its end is not in the log"),
        ((DECLARED, STARTED, container.GaveUp(reason="x")), "how it goes on is not known: its actor was given up"),
        ((DECLARED, STARTED, exited(0)), "its program came to its end, exit code 0"),
        ((DECLARED, STARTED, exited(3)), "its program ended by itself with exit code 3"),
        ((DECLARED, STARTED, exited(255)), "its program ended by itself with exit code 255"),
        ((DECLARED, STARTED, exited(139)), "SIGSEGV ended it, exit code 139; nobody asked ocid to stop it"),
        ((DECLARED, STARTED, exited(137)), "Who sent the signal is not in the log"),
        ((DECLARED, STARTED, exited(137, oom_killed=True)), "out-of-memory killer (OOM) ended it, exit code 137"),
        ((DECLARED, STARTED, STOP, exited(137, oom_killed=True)), "out-of-memory killer (OOM) ended it"),
        ((DECLARED, STARTED, exited(255, source="reboot")), "the node was rebooted; its exit code is not known"),
        ((DECLARED, STARTED, exited(255, source="unknown")), "while nobody watched; its exit code is not known"),
        ((DECLARED, STARTED, STOP, exited(143)), "ocid asked to stop it; SIGTERM ended it after 1.0 s, exit code 143"),
        (
            (DECLARED, STARTED, STOP, exited(0)),
            "to stop it; it ended by itself after 1.0 s with exit code 0",
        ),
        (
            (DECLARED, STARTED, STOP, exited(137)),
            "SIGKILL ended it before its time was up, from whom is not in",
        ),
        ((DECLARED, STARTED, KILL, exited(137)), "ocid asked to kill it; SIGKILL ended it"),
        ((DECLARED, KILL, exited(137)), "it was ended before its program ran, exit code 137; ocid asked to stop it"),
        ((DECLARED, container.PrepareFailed(error="E", message="no space")), "could not be prepared: no space"),
        (
            (DECLARED, container.CreateFailed(at_ns=1, error="E", message="bad")),
            "runtime refused to create it: bad",
        ),
        ((DECLARED, container.StartFailed(at_ns=1, error="E", message="no such file")), "not be started: no such file"),
    ],
)
def test_a_containers_verdict_says_no_more_than_the_evidence(events: tuple[Event, ...], verdict: str) -> None:
    findings = of_container(in_envelopes("container/c1", *events), lambda _: "ocid")
    assert len(findings) == 1
    assert verdict in findings[0].text
    assert findings[0].seqs


def test_sigkill_after_the_grace_period_is_ours() -> None:
    events = in_envelopes("container/c1", DECLARED, STARTED, STOP, exited(137), boot_ns=6 * S)
    assert "did not end within 2.0 s, and SIGKILL ended it" in of_container(events, lambda _: "ocid")[0].text


def test_commands_that_ran_when_a_signal_ended_it_are_named() -> None:
    own = in_envelopes("container/c1", DECLARED, STARTED, container.LogReopened(), exited(137))
    command = in_envelopes("exec/e1", exec_requested())[0]
    events = [*own[:2], msgspec.structs.replace(command, seq=3), own[3]]
    findings = of_container(events, lambda _: "ocid")
    assert findings[1].seqs == (3,)


@pytest.mark.parametrize(("kind", "named"), [("exec", True), ("attach", False)])
def test_sessions_count_as_commands_once_a_client_has_opened_them(kind: str, named: bool) -> None:
    own = in_envelopes("container/c1", DECLARED, STARTED, *[container.LogReopened()] * 3, exited(137))
    waiting = in_envelopes("session/s0", session_requested("s0"))
    opened = in_envelopes("session/s1", session_requested(kind=kind), session.Opened(remote=""))
    events = [*own[:2], *(msgspec.structs.replace(one, seq=seq) for seq, one in enumerate([*waiting, *opened], 3))]
    findings = of_container([*events, own[5]], lambda _: "ocid")
    assert [finding.seqs for finding in findings[1:]] == ([(5,)] if named else [])


def test_a_pods_story_tells_who_forwarded_ports_and_what_went_through() -> None:
    forward = session_requested(kind="portforward", container_id="", ports=(80,), argv=None)
    use = session.PortUse(port=80, connections=2, failed=1, bytes_in=10, bytes_out=2048)
    events = [
        *in_envelopes("pod/p1", pod_declared(), pod.Ready()),
        *in_envelopes(
            "session/s1", forward, session.Opened(remote="127.0.0.1:9"), session.Closed(took_ms=1500, ports=(use,))
        ),
    ]
    lines = tell(Subject("pod", "p1", "prod/web"), events, lambda _: None).lines
    assert [line.text for line in lines[2:]] == [
        "port-forward into pod p1: 80",
        "ended after 1.5 s; port 80: 2 connections, 1 failed, 10 B in, 2.0 KiB out",
    ]
    assert lines[2].who
    assert not lines[3].who


@pytest.mark.parametrize(
    ("events", "verdict"),
    [
        ((pod_declared(),), "it is not ready yet"),
        ((pod_declared(), pod.Ready()), "it has not ended"),
        ((pod_declared(), pod.Failed(step="Attach", error="E", message="no bridge")), "not be made: Attach: no bridge"),
        ((pod_declared(), pod.Ready(), pod.Lost(reason="the node was rebooted")), "lost without our doing: the node"),
        ((pod_declared(), pod.Ready(), pod.GaveUp(reason="x")), "crashed too often"),
        ((pod_declared(), pod.Ready(), pod.StopRequested()), "ocid asked to stop it"),
    ],
)
def test_a_pods_verdict(events: tuple[Event, ...], verdict: str) -> None:
    assert verdict in of_pod(in_envelopes("pod/p1", *events), lambda _: "ocid")[0].text


def test_a_digest_is_shortened_and_kept_readable() -> None:
    digest = Digest("sha256:" + "ab" * 32)
    events = in_envelopes("container/c1", container_declared(image_ref=f"reg/app@{digest}"))
    lines = list(text(tell(Subject("container", "c1", "app"), events, lambda _: None)))
    assert "from reg/app@sha256:abababababab" in lines[2]


def test_a_stop_that_follows_from_the_pods_is_told_of_who_asked_for_that(tmp_path: Path) -> None:
    write_incident(tmp_path / "log")
    with look(tmp_path / "log") as reader:
        subject = find(reader, "swept")
        told = tell(subject, events_of(reader, subject), peers(reader), log=Stored(reader))
    assert told.verdicts[0].findings[0].text == "crictl[900] asked to kill it; SIGKILL ended it"
