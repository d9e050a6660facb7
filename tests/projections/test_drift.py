"""What the log claims of the host, phase by phase."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ocid.domain.drift import (
    ANYTHING,
    ITS_OWN,
    NOTHING,
    PRESENT,
    THE_HOSTS,
    Expected,
    Sighting,
    Thing,
    Where,
    compare,
    overlay_text,
    process_text,
)
from ocid.events import container, layer, pod
from ocid.ids import digest_of
from ocid.projections.drift import expected
from tests.fakes.declared import container_declared, exec_requested, pod_declared, session_requested
from tests.projections.logs import Log

WHERE = Where(
    root="/var/lib/ocid",
    run="/run/ocid",
    cgroup_parent="/ocid",
    cgroup_driver="cgroupfs",
    bridge="ocid0",
    subnets=("10.88.0.0/16", "fd00:88::/64"),
)
BUNDLE, WRITABLE, PODS = "/run/ocid/containers/c1", "/var/lib/ocid/containers/c1", "/run/ocid/pods/p1"
SPEC = json.dumps(
    {
        "linux": {
            "namespaces": [
                {"type": "mount"},
                {"type": "pid"},
                {"type": "network", "path": f"{PODS}/ns/net"},
                {"type": "ipc", "path": f"{PODS}/ns/ipc"},
            ]
        }
    }
).encode()
PORTS = json.dumps({"port_mappings": [{"protocol": "TCP", "container_port": 80, "host_port": 8080}]}).encode()
DOCUMENTS = (SPEC, PORTS)
PREPARED = container.Prepared(spec=digest_of(SPEC), uid=0, gid=0)
CREATED = container.Created(pid=77, start_ticks=990)
RUNNING = (PREPARED, CREATED, container.StartRequested(), container.Started(at_ns=5))
EXITED = container.Exited(at_ns=6, exit_code=0, source="monitor")
ATTACHED = pod.NetworkAttached(addresses=("10.88.0.2",), via="bridge")
READY = (pod.Prepared(), ATTACHED, pod.Ready())


def said(log: Log) -> Expected:
    return expected(log.view, WHERE, log.document)


def claims(log: Log) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for one in said(log).claims:
        if found.get(one.thing, ANYTHING) == ANYTHING:
            found[one.thing] = one.expected
    return found


def log_of(*facts: Any, pod_facts: tuple[Any, ...] = READY, **declared: Any) -> Log:
    log = Log(DOCUMENTS)
    log.add("pod/p1", pod_declared(**declared), *pod_facts)
    if facts:
        log.add("container/c1", container_declared(), *facts)
    return log


def test_an_empty_log_claims_nothing_but_its_own_parent() -> None:
    assert claims(Log()) == {("cgroup", "/ocid"): ANYTHING, ("link", "ocid0"): ANYTHING}
    assert not said(Log()).asked.network.used


@pytest.mark.parametrize(
    ("facts", "rootfs", "bundle", "writable", "process"),
    [
        ((), ANYTHING, ANYTHING, ANYTHING, None),
        ((PREPARED,), overlay_text(WRITABLE), PRESENT, PRESENT, None),
        ((PREPARED, CREATED), overlay_text(WRITABLE), PRESENT, PRESENT, process_text(77, 990)),
        (RUNNING, overlay_text(WRITABLE), PRESENT, PRESENT, process_text(77, 990)),
        ((*RUNNING, EXITED), ANYTHING, ANYTHING, PRESENT, NOTHING),
        ((*RUNNING, EXITED, container.Released()), None, ANYTHING, PRESENT, NOTHING),
        ((*RUNNING, EXITED, container.Released(), container.RemoveRequested()), None, ANYTHING, ANYTHING, NOTHING),
        (
            (PREPARED, CREATED, container.StartFailed(at_ns=1, error="EffectFailed", message="x")),
            ANYTHING,
            ANYTHING,
            PRESENT,
            ANYTHING,
        ),
    ],
)
def test_a_containers_things_by_phase(
    facts: tuple[Any, ...], rootfs: str | None, bundle: str, writable: str, process: str | None
) -> None:
    found = claims(log_of(container.LogReopened(), *facts))

    assert found.get(("mount", f"{BUNDLE}/rootfs")) == rootfs
    assert found[("directory", BUNDLE)] == bundle
    assert found[("directory", WRITABLE)] == writable
    assert found.get(("process", "container/c1")) == process
    assert (("cgroup", "/ocid/c1") in found) == (container.Released() not in facts)


def test_a_removed_container_is_claimed_by_nobody() -> None:
    gone = (EXITED, container.Released(), container.RemoveRequested(), container.Removed())

    assert not [thing for thing in claims(log_of(*RUNNING, *gone)) if "c1" in thing[1]]


def test_namespaces_are_those_of_the_specification() -> None:
    found = claims(log_of(*RUNNING))

    assert {thing[1]: text for thing, text in found.items() if thing[0] == "namespace"} == {
        "container/c1 mnt": ITS_OWN,
        "container/c1 pid": ITS_OWN,
        "container/c1 net": f"that of {PODS}/ns/net",
        "container/c1 ipc": f"that of {PODS}/ns/ipc",
        "container/c1 uts": THE_HOSTS,
        "container/c1 user": THE_HOSTS,
    }


def test_without_the_specification_nothing_is_said_of_namespaces() -> None:
    lost = container.Prepared(spec=digest_of(b"trimmed"), uid=0, gid=0)
    found = claims(log_of(lost, *RUNNING[1:]))

    assert not [thing for thing in found if thing[0] == "namespace"]
    assert ("process", "container/c1") in found


def test_a_container_is_closed_unless_the_daemon_is_at_work_in_it() -> None:
    log = log_of(*RUNNING)
    assert [one.closed for one in said(log).asked.lives] == [True]
    log.add("exec/e1", exec_requested())
    assert [one.closed for one in said(log).asked.lives] == [False]
    other = log_of(*RUNNING)
    other.add("session/s1", session_requested())
    assert [one.closed for one in said(other).asked.lives] == [False]
    assert [one.closed for one in said(log_of(PREPARED, CREATED)).asked.lives] == [False], "runtime's init is in it"


@pytest.mark.parametrize("cgroup", ["/a/../../b", "/", "", "//"])
def test_a_cgroup_that_no_daemon_wrote_is_not_looked_into(cgroup: str) -> None:
    log = Log(DOCUMENTS)
    log.add("container/c1", container_declared(cgroup=cgroup), *RUNNING)

    assert [one.closed for one in said(log).asked.lives] == [False]


@pytest.mark.parametrize(
    ("facts", "expected_of_pin"),
    [
        ((), ANYTHING),
        ((pod.Prepared(),), "namespace"),
        (READY, "namespace"),
        ((*READY, pod.Lost(reason="rebooted", network_gone=True)), ANYTHING),
        ((*READY, pod.StopRequested()), ANYTHING),
        ((*READY, pod.StopRequested(), pod.Stopped()), None),
    ],
)
def test_a_pods_pins_by_phase(facts: tuple[Any, ...], expected_of_pin: str | None) -> None:
    found = claims(log_of(pod_facts=facts))

    assert {found.get(("mount", f"{PODS}/ns/{kind}")) for kind in ("net", "ipc", "uts")} == {expected_of_pin}
    assert found.get(("mount", f"{PODS}/shm")) == ("tmpfs" if expected_of_pin == "namespace" else expected_of_pin)


def test_a_pod_of_the_hosts_network_and_ipc_has_no_pins() -> None:
    found = claims(log_of(pod_facts=(pod.Prepared(),), network="host", netns="", host_ipc=True, addresses=()))

    assert not [thing for thing in found if thing[0] == "mount"]
    assert found[("directory", PODS)] == PRESENT


def test_an_attached_pod_is_in_the_bridge_with_its_addresses() -> None:
    found = claims(log_of())

    assert found[("link", "veth1")] == "in bridge ocid0"
    assert found[("link", "ocid0")] == "bridge, up, 10.88.0.1/16, fd00:88::1/64"
    assert found[("addresses", "pod/p1")] == "10.88.0.2"
    assert found[("sysctl", "ipv4/ip_forward")] == found[("sysctl", "ipv6/conf/all/forwarding")] == "1"
    (inside,) = said(log_of()).asked.insides
    assert (inside.netns, inside.strict) == (f"{PODS}/ns/net", True)


def test_a_detached_pod_has_no_link() -> None:
    log = log_of(pod_facts=(*READY, pod.StopRequested(), pod.ContainersStopped(), pod.NetworkDetached()))

    assert ("link", "veth1") not in claims(log)
    assert not said(log).asked.insides


def test_host_ports_must_be_of_attached_pods_and_may_be_of_others() -> None:
    ready = said(log_of(config=digest_of(PORTS))).asked.network
    assert [(one.host_port, one.address) for one in ready.must] == [(8080, "10.88.0.2")]
    assert (ready.may, ready.seqs) == ((), {"p1": 4})
    begun = said(log_of(pod_facts=(pod.Prepared(),), config=digest_of(PORTS))).asked.network
    assert (begun.must, [one.host_port for one in begun.may], begun.used) == ((), [8080], False)
    by_plugin = pod.NetworkAttached(addresses=("10.9.0.2",), via="cni:net")
    cni = {"network": "cni", "addresses": (), "interface": "", "config": digest_of(PORTS)}
    plugged = said(log_of(pod_facts=(pod.Prepared(), by_plugin, pod.Ready()), **cni)).asked
    assert (plugged.network.must, [one.address for one in plugged.network.may]) == ((), ["10.9.0.2"])
    assert (plugged.network.used, [one.strict for one in plugged.insides]) == (False, [False])


def test_a_pause_process_has_the_pods_namespaces_and_a_cgroup() -> None:
    paused = pod.PauseStarted(pid=50, start_ticks=880)
    log = log_of(pod_facts=(pod.Prepared(), ATTACHED, paused, pod.Ready()), shared_pid=True)
    found = claims(log)
    (life,) = said(log).asked.lives

    assert found[("process", "pod/p1")] == process_text(50, 880)
    assert found[("runtime state", "p1")] == "pid 50"
    assert life.cgroup == "/ocid/ocid-p1"
    assert found[("namespace", "pod/p1 net")] == f"that of {PODS}/ns/net"
    assert found[("namespace", "pod/p1 pid")] == ITS_OWN
    log.add("pod/p1", pod.StopRequested())
    assert not said(log).asked.lives, "it may run or not"
    log.add("pod/p1", pod.Stopped())
    assert claims(log)[("process", "pod/p1")] == NOTHING


def test_parents_of_pods_are_nothing_strange() -> None:
    log = log_of(cgroup_parent="/kubepods/burstable/podu1")
    found = claims(log)

    assert [found[("cgroup", path)] for path in ("/kubepods", "/kubepods/burstable", "/kubepods/burstable/podu1")]
    assert said(log).asked.parents == ("/kubepods/burstable/podu1",)


def test_layers_are_there_when_the_log_says_so() -> None:
    log = Log()
    wanted = {"diff_id": digest_of(b"d"), "blob": digest_of(b"b"), "media_type": "", "blob_bytes": 1, "pull_id": "p"}
    for name in ("ready", "begun"):
        log.add(f"layer/sha256:{name}", layer.Wanted(chain_id=f"sha256:{name}", **wanted))  # type: ignore[arg-type]
    log.add("layer/sha256:ready", layer.Ready(size_bytes=1, inodes=1))
    found = claims(log)

    assert (found[("layer", "ready")], found[("layer", "begun")]) == (PRESENT, ANYTHING)


def test_a_difference_cites_the_last_event_of_its_stream() -> None:
    log = log_of(*RUNNING)
    differences = compare(said(log).claims, Sighting(found={}))

    by_subject = {(one.kind, one.subject): one.seq for one in differences}
    assert by_subject[("process", "container/c1")] == log.view.containers.rows["c1"].seq == 9
    assert by_subject[("mount", f"{PODS}/ns/net")] == log.view.pods.rows["p1"].seq == 4
    assert Thing("namespace", "container/c1 net") not in by_subject, "its process is gone: that says it all"
