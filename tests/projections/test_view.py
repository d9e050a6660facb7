"""The view that follows the log, the fold of the whole log and the snapshot are the same."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from ocid.events import container, node, pod
from ocid.events.base import REGISTRY, Event, Opaque
from ocid.projections.node import PEERS_MAX
from ocid.projections.view import Snapshot, View, schema_hash
from tests.events.samples import sample
from tests.fakes.declared import container_declared, exec_requested, pod_declared
from tests.projections.logs import Log


def plain(view: View) -> tuple[Any, ...]:
    """Return all that a view knows, indexes included."""
    rows = msgspec.msgpack.decode(view.snapshot(), type=Snapshot)
    pods, containers = view.pods, view.containers
    return (rows, pods.by_key, pods.leases, containers.by_key, containers.by_pod)


def peer(pid: int) -> node.PeerSeen:
    return node.PeerSeen(pid=pid, start_ticks=1, uid=0, gid=0, exe="/usr/bin/kubelet", comm="kubelet", cgroup="/")


def busy_log() -> Log:
    log = Log()
    log.add("node/self", sample(node.Started))
    log.add("pod/p1", pod_declared(), pod.Prepared(), pod.Ready())
    log.add("pod/p2", pod_declared("p2", attempt=1, addresses=("10.88.0.3/16",)), pod.StopRequested())
    log.add("container/c1", container_declared(), container.LogReopened())
    log.add("exec/e1", exec_requested())
    log.add("node/self", peer(5), node.ActorGaveUp(stream="pod/p1", error="ValueError"))
    return log


def test_a_snapshot_gives_the_view_back() -> None:
    log = busy_log()

    assert plain(log.restored()) == plain(log.view) == plain(log.folded())
    assert (log.restored().seq, log.restored().node_version) == (len(log.envelopes), 3)


def test_a_restored_view_follows_the_log() -> None:
    log = busy_log()
    restored = log.restored()
    for facts in ([pod.NetworkDetached(), pod.RemoveRequested()], [pod.Stopped(), pod.Removed()]):
        first = len(log.envelopes)
        log.add("pod/p2", *facts)
        for envelope in log.envelopes[first:]:
            restored.apply(envelope)

        assert plain(restored) == plain(log.view)


def test_a_row_is_replaced_and_never_changed() -> None:
    log = busy_log()
    before = log.view.pods.rows["p1"]
    kept = msgspec.structs.replace(before)
    log.add("pod/p1", pod.StopRequested())

    assert before == kept
    assert log.view.pods.rows["p1"] is not before
    assert (log.view.pods.rows["p1"].version, log.view.pods.rows["p1"].seq) == (4, len(log.envelopes))


def test_events_of_a_newer_daemon_are_counted_and_left_out() -> None:
    log = busy_log()
    before = log.view.pods.rows.copy()
    log.add("pod/p1", Opaque(type="pod.upgraded", type_version=1, payload=b""))
    log.add("spaceship/s1", pod.Prepared())

    assert log.view.unknown == 1
    assert log.view.pods.rows == before


def test_a_view_that_has_seen_events_takes_no_snapshot() -> None:
    log = busy_log()
    with pytest.raises(AssertionError, match="takes no snapshot"):
        log.view.restore(log.view.snapshot())


@pytest.mark.parametrize("damaged", [b"", b"\xc0", b"not a snapshot"])
def test_a_damaged_snapshot_is_refused(damaged: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        View(lambda digest: b"{}").restore(damaged)


def test_the_schema_has_a_fingerprint() -> None:
    assert len(bytes.fromhex(schema_hash())) == 32
    assert schema_hash() == schema_hash()


# --- the node --------------------------------------------------------------------------------------------------------


def test_the_node_knows_its_last_life_and_its_peers() -> None:
    log = busy_log()
    seq = next(one.seq for one in log.envelopes if isinstance(one.event, node.PeerSeen))
    assert log.view.node.peers == {seq: peer(5)}
    assert log.view.node.given_up == {"pod/p1": "ValueError"}
    log.add("node/self", sample(node.Recovered), node.Stopped(reason="asked to stop"))
    assert log.view.node.stopped
    assert log.view.node.recovered is not None
    log.add("node/self", sample(node.Started))
    assert not log.view.node.stopped
    assert log.view.node.recovered is None


def test_only_the_newest_peers_are_kept_at_hand() -> None:
    log = Log()
    for pid in range(PEERS_MAX + 3):
        log.add("node/self", peer(pid))

    assert len(log.view.node.peers) == PEERS_MAX
    assert min(one.pid for one in log.view.node.peers.values()) == 3


# --- any log at all --------------------------------------------------------------------------------------------------

KINDS: dict[str, list[Event]] = {}
for _kind in REGISTRY.values():
    _aggregate = {"image": "catalog"}.get(_kind.TYPE.partition(".")[0], _kind.TYPE.partition(".")[0])
    KINDS.setdefault(_aggregate, []).append(sample(_kind))
KINDS["pod"].append(pod_declared())
KINDS["container"].append(container_declared())


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """A log in which everything happens in any order: evolve refuses no fact, so the view must not either."""
    log = Log()
    for _ in range(draw(st.integers(0, 25))):
        aggregate = draw(st.sampled_from(sorted(KINDS)))
        name = draw(st.sampled_from(["a", "b"]))
        log.add(f"{aggregate}/{name}", draw(st.sampled_from(KINDS[aggregate])))
    return log


@given(logs())
def test_following_folding_and_restoring_are_the_same(log: Log) -> None:
    assert plain(log.view) == plain(log.folded())
    assert msgspec.msgpack.decode(log.restored().snapshot(), type=Snapshot) == plain(log.view)[0]
