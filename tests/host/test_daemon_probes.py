"""Probes on a real daemon: a repeated command is counted, and one that a killed daemon left running is ended."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
from grpclib.exceptions import GRPCError

from ocid.cri.stubs import api_pb2 as pb
from ocid.events import exec as exec_events
from tests.host import daemon as host
from tests.host.daemon import GONE, Daemon, Kubelet, wait_for
from tests.host.nodes import SLOW

pytestmark = [pytest.mark.host, pytest.mark.timeout(120 * SLOW)]
stage, daemon, kubelet, nothing_leaks = host.stage, host.daemon, host.kubelet, host.nothing_leaks

PROBE = "if [ -e /dev/shm/slow ]; then sleep 763 & sleep 762; fi; [ ! -e /dev/shm/ill ]"
BROKEN = (*GONE, GRPCError, CancelledError, TimeoutError, AttributeError)  # the last: grpclib's, of a closed connection


def probe(kubelet: Kubelet, container_id: str) -> int:
    return int(kubelet.exec(container_id, "sh", "-c", PROBE).exit_code)


def told(daemon: Daemon, seq: int) -> list[str]:
    """Return the types of events of commands after *seq*, but for those that prepare something."""
    ours = [one for one in daemon.events(seq + 1) if one.stream.startswith("exec/")]
    others = {
        one.stream
        for one in ours
        if isinstance(one.event, exec_events.Requested) and "/dev/shm/slow ]" not in one.event.argv_brief
    }
    return [one.type.removeprefix("exec.") for one in ours if one.stream not in others]


FIRST = ["requested", "finished"] * 2


def test_probes_are_counted(daemon: Daemon, kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    container_id, seq = kubelet.start(pod_id, "sleep", "1000"), daemon.last_seq()
    for _ in range(10):
        assert probe(kubelet, container_id) == 0
    assert told(daemon, seq) == FIRST
    kubelet.sh(container_id, "touch /dev/shm/ill")
    for _ in range(3):
        assert probe(kubelet, container_id) == 1
    assert told(daemon, seq) == [*FIRST, "repeated", "changed"]
    kubelet.call("StopContainer", container_id=container_id, timeout=0)
    wait_for(lambda: told(daemon, seq) == [*FIRST, "repeated", "changed", "repeated", "ended"], "it ends")
    counts = [one.event for one in daemon.events(seq + 1) if isinstance(one.event, exec_events.Repeated)]
    assert [(one.count, one.exit_code) for one in counts] == [(8, 0), (2, 1)]
    assert all(0 < one.took_ms_min <= one.took_ms_max <= one.took_ms_total for one in counts)


def test_a_stop_writes_what_was_counted(daemon: Daemon, kubelet: Kubelet) -> None:
    container_id, seq = kubelet.start(kubelet.run_pod(), "sleep", "1000"), daemon.last_seq()
    for _ in range(5):
        probe(kubelet, container_id)
    assert daemon.stop() == 0
    assert told(daemon, seq) == [*FIRST, "repeated", "ended"]
    daemon.start()
    assert "exec.abandoned" not in daemon.types(seq + 1)
    assert probe(kubelet, container_id) == 0


def test_a_kill_during_a_repeated_command(daemon: Daemon, kubelet: Kubelet) -> None:
    """The run is in the log by the name of its stream alone; that is enough for the next life to end it."""
    container_id, seq = kubelet.start(kubelet.run_pod(), "sleep", "1000"), daemon.last_seq()
    for _ in range(4):
        assert probe(kubelet, container_id) == 0
    kubelet.sh(container_id, "touch /dev/shm/slow")
    call = kubelet.begin("ExecSync", container_id=container_id, cmd=["sh", "-c", PROBE], timeout=int(10 * SLOW))
    wait_for(lambda: _commands("sleep 762"), "the command runs")
    wait_for(lambda: _commands("sleep 763"), "its child runs")
    assert told(daemon, seq) == FIRST
    files = os.listdir(daemon.run / "containers" / container_id / "exec")
    (second,) = (one for one in daemon.events(seq + 1) if getattr(one.event, "repeats", ""))
    assert {name.partition(".")[0] for name in files} == {second.stream.removeprefix("exec/")}
    daemon.kill()
    with contextlib.suppress(*BROKEN):
        call.result(5)
    daemon.start()
    (left,) = (one.event for one in daemon.events(seq + 1) if isinstance(one.event, exec_events.Abandoned))
    last = [one.seq for one in daemon.events(seq + 1) if one.stream == second.stream][-2]
    assert left.since_seq == last
    wait_for(lambda: not _commands("sleep 762") and not _commands("sleep 763"), "the command is gone")
    assert not list((daemon.run / "containers" / container_id).glob("exec/*"))
    assert kubelet.status(container_id).state == pb.CONTAINER_RUNNING
    kubelet.sh(container_id, "rm /dev/shm/slow")
    for _ in range(3):
        assert probe(kubelet, container_id) == 0
    assert told(daemon, seq) == [*FIRST, "abandoned", *FIRST]


def _commands(words: str) -> list[str]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if Path("/proc", name, "cmdline").read_bytes().replace(bytes(1), b" ").decode().strip() == words:
                found.append(name)
    return found
