"""Answers hold whatever a log holds: hostile texts, impossible orders, kinds of events that nobody knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
from hypothesis import given, settings, strategies as st
from ocid_replay import diff, execs, lineage, orphans, peers, recovery, stats, who_did
from ocid_replay.attribution import attribute
from ocid_replay.lookup import Listed
from ocid_replay.moments import Moment
from ocid_replay.sql_table import COLUMNS, Families, row as sql_row

from ocid.errors import NotFound
from ocid.events import codec, container, exec as execution, node, session
from ocid.events.base import REGISTRY, Event, Opaque
from ocid.events.envelope import Context, Envelope
from ocid.ids import StreamId
from tests.events.samples import envelope, events
from tests.fakes.declared import container_declared, pod_declared

KINDS = [REGISTRY[name] for name in sorted(REGISTRY) if REGISTRY[name].__module__.startswith("ocid.")]
OPAQUE = st.builds(
    Opaque, type=st.sampled_from(["later.kind", "exec.repeated", "\x1b[2J"]), type_version=st.integers(1, 9),
    payload=st.binary(max_size=30),
)  # fmt: skip
NOBODY: Callable[[int], None] = lambda _: None  # noqa: E731


@st.composite
def logs(draw: st.DrawFn) -> list[Envelope]:
    """A log with clocks, contexts and streams that make no sense."""
    found: list[Event] = draw(st.lists(st.sampled_from(KINDS).flatmap(events) | OPAQUE, min_size=1, max_size=8))
    made = []
    for seq, event in enumerate(found, 1):
        aggregate = event.TYPE.partition(".")[0] or "later"
        context = Context(who=draw(st.integers(0, seq)), cause=draw(st.integers(0, seq + 1)))
        made.append(
            msgspec.structs.replace(
                envelope(event, seq),
                stream=StreamId(f"{aggregate}/{'self' if aggregate == 'node' else 'x'}"),
                type=getattr(event, "type", event.TYPE),
                wall_ns=draw(st.integers(0, 2**63 - 1)),
                epoch=draw(st.integers(1, 3)),
                context=context,
            )
        )
    return made


def headers(log: Iterable[Envelope]) -> list[tuple[codec.Header, bytes]]:
    records = [codec.encode(each) for each in log]
    return [(codec.header_of(record), record) for record in records]


@settings(max_examples=200)
@given(logs())
def test_whatever_a_log_holds_there_are_rows(log: list[Envelope]) -> None:
    lookup = Listed(log)
    found = stats.count(headers(log))
    assert sum(kind.count for kind in found.kinds) == len(log)
    assert list(stats.text(found))
    seen = [(each.seq, each.wall_ns, each.event) for each in log if isinstance(each.event, node.PeerSeen)]
    assert all(peers.row(user) for user in peers.users(seen, headers(log)))
    begun = [each.type for each in log if isinstance(each.event, execution.Requested | session.Requested)]
    for stream in execs.gather(log, begun, lookup):
        assert len(execs.row(execs.line(stream, lookup, NOBODY))) == len(execs.COLUMNS)
    own = [each for each in log if each.stream.startswith("node/")]
    for start in recovery.starts(own, lambda _: log):
        assert len(recovery.row(start)) == len(recovery.COLUMNS)
    families = Families(lookup)
    for each in log:
        assert len(orphans.row(each)) == len(orphans.COLUMNS)
        assert len(who_did.row(each, attribute(each, lookup), NOBODY)) == len(who_did.COLUMNS)
        assert sql_row(each, families, NOBODY).keys() | {"time"} == {name for name, _ in COLUMNS}


@given(st.sampled_from(KINDS).flatmap(events), st.binary(max_size=40))
def test_lineage_says_what_it_cannot_read(event: Event, document: bytes) -> None:
    own = [
        msgspec.structs.replace(envelope(each, seq), stream=StreamId("container/c1"), type=each.TYPE)
        for seq, each in enumerate((container_declared(), event), 1)
    ]
    found = lineage.trace(own, [], [], Listed(own), NOBODY, lambda _: document)
    assert found.layers_note
    assert list(lineage.text(found))

    def missing(digest: str) -> bytes:
        raise NotFound("document", digest)

    assert "not in the log" in lineage.trace(own, [], [], Listed(own), NOBODY, missing).layers_note


def test_a_verdict_on_a_signature_is_shown_once_there_are_any() -> None:
    declared = container_declared()
    verdict = Opaque(
        type="image.signature_checked", type_version=1,
        payload=msgspec.msgpack.encode({"image": declared.image_id, "policy": "sha256:77", "verdict": "accepted"}),
    )  # fmt: skip
    of_verdict = msgspec.structs.replace(envelope(verdict, 1), type=verdict.type, stream=StreamId("catalog/images"))
    own = [msgspec.structs.replace(envelope(declared, 2), stream=StreamId("container/c1"), type=declared.TYPE)]
    assert lineage.tells_of_signatures(verdict.type)
    found = lineage.trace(own, [], [of_verdict], Listed([of_verdict, *own]), NOBODY, lambda _: b"")
    assert (found.signature["verdict"], found.signature["policy"]) == ("recorded", "sha256:77")
    assert any("recorded [1]" in line for line in lineage.text(found))


def test_a_clock_that_steps_back_does_not_reorder_a_difference() -> None:
    """The first moment is over as soon as the clock has passed it, whatever it does later."""
    rows: list[tuple[str, Event, int]] = [
        ("pod/p1", pod_declared(), 100), ("pod/p1", REGISTRY["pod.ready"](), 500),
        ("container/c1", container_declared(), 50), ("container/c1", container.RemoveRequested(), 60),
    ]  # fmt: skip
    log = [
        msgspec.structs.replace(envelope(event, seq), stream=StreamId(stream), type=event.TYPE, wall_ns=wall_ns)
        for seq, (stream, event, wall_ns) in enumerate(rows, 1)
    ]
    window = diff.watch(log, Moment(wall_ns=200), Moment(seq=4))
    assert (window.first_seq, window.last_seq) == (1, 4)
    found = list(diff.differences(window, Listed(log), NOBODY))
    assert [(one.sign, one.kind, one.seq) for one in found] == [("~", "pod", 2), ("+", "container", 3)]
