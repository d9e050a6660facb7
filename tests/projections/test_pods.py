"""Pods by key, their leases and their configurations."""

from __future__ import annotations

import msgspec

from ocid.domain.configs import Metadata, PodConfig
from ocid.domain.pod import Pod
from ocid.events import pod
from ocid.ids import digest_of
from ocid.projections.pods import PodKey, is_listed, key_of
from tests.fakes.declared import pod_declared
from tests.projections.logs import Log

P, R, S, X = pod.Prepared(), pod.Ready(), pod.StopRequested(), pod.RemoveRequested()
A = pod.NetworkAttached(addresses=("10.88.0.2",), via="bridge")
C, N, T = pod.ContainersStopped(), pod.NetworkDetached(), pod.Stopped()
DUAL = pod_declared(addresses=("10.88.0.2/16", "fd00:88::2/64"))
KEY = PodKey("prod", "web", "u1", 0)


def test_a_key_is_held_from_the_declaration_to_the_wish_to_remove() -> None:
    log = Log()
    pods = log.view.pods
    log.add("pod/p1", DUAL)
    assert pods.by_key == {KEY: "p1"} == {key_of(DUAL): "p1"}
    log.add("pod/p1", P, A, R, S, C, N, T)
    assert pods.by_key == {KEY: "p1"}, "a stopped pod still answers for its request"
    log.add("pod/p1", X)
    assert pods.by_key == {}


def test_the_successor_of_a_removed_pod_keeps_the_key() -> None:
    log = Log()
    log.add("pod/p1", DUAL, S, X)
    log.add("pod/p2", pod_declared("p2", addresses=()))
    log.add("pod/p1", C, N, T, pod.Removed())

    assert log.view.pods.by_key == {KEY: "p2"}
    assert set(log.view.pods.rows) == {"p2"}


def test_leases_last_until_the_network_is_detached() -> None:
    log = Log()
    pods = log.view.pods
    log.add("pod/p1", DUAL, P, A, R, S, C)
    assert pods.leases == dict.fromkeys(DUAL.addresses, "p1")
    log.add("pod/p1", N)
    assert pods.leases == {}
    assert pods.last_leased == DUAL.addresses, "the next one is chosen after these"


def test_a_lease_that_another_pod_took_over_is_not_let_go_by_the_first() -> None:
    log = Log()
    log.add("pod/p1", DUAL, S, C, N)
    log.add("pod/p2", pod_declared("p2", addresses=DUAL.addresses))
    log.add("pod/p1", T, X, pod.Removed())

    assert log.view.pods.leases == dict.fromkeys(DUAL.addresses, "p2")


def test_a_row_goes_with_the_last_event() -> None:
    log = Log()
    log.add("pod/p1", DUAL, S, X, C, N, T)
    assert log.view.pods.rows["p1"].version == 6
    log.add("pod/p1", pod.Removed())
    assert log.view.pods.rows == {}


def test_a_configuration_is_read_once() -> None:
    config = PodConfig(metadata=Metadata(name="web"))
    document = msgspec.json.encode(config)
    log = Log([document])
    log.add("pod/p1", pod_declared(config=digest_of(document)))

    assert log.view.pods.config("p1") == config
    assert log.view.pods.config("p1") is log.view.pods.config("p1")


def test_created_after_is_of_the_same_pod_only() -> None:
    log = Log()
    log.add("pod/p1", pod_declared("p1", created_at_ns=5))
    log.add("pod/p2", pod_declared("p2", created_at_ns=9, attempt=1))
    log.add("pod/p3", pod_declared("p3", created_at_ns=99, uid="other"))

    assert log.view.pods.created_after("prod", "web", "u1") == 9
    assert log.view.pods.created_after("prod", "web", "nobody") == 0


def test_what_cri_lists() -> None:
    made = {"ready": Pod(ready=True), "making": Pod()}
    stays = {
        "failed": Pod(failed=pod.Failed(step="Attach", error="E", message="m")),
        "given up": Pod(gave_up="crashed"),
    }

    assert is_listed(made["ready"])
    assert not is_listed(made["making"])
    assert all(is_listed(state) for state in stays.values())


def test_a_pod_is_found_by_the_beginning_of_its_id() -> None:
    log = Log()
    log.add("pod/aabb", pod_declared("aabb"))
    log.add("pod/aacc", pod_declared("aacc", attempt=1))
    pods = log.view.pods

    assert pods.find("aabb") is pods.find("aab") is pods.rows["aabb"]
    assert pods.find("aa") is None, "two begin so"
    assert pods.find("x") is None
    assert pods.find("") is None
