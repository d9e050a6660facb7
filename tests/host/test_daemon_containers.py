"""Containers of a real daemon, as a kubelet sees them: how they end, what they log, and commands in them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.cri.stubs import api_pb2 as pb
from tests.host import daemon as host
from tests.host.daemon import Daemon, Kubelet, log_lines, wait_for
from tests.host.nodes import SLOW

pytestmark = [pytest.mark.host, pytest.mark.timeout(90 * SLOW)]
stage, daemon, kubelet, nothing_leaks = host.stage, host.daemon, host.kubelet, host.nothing_leaks


# --- how containers end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [("exit 0", 0, "Completed"), ("exit 3", 3, "Error"), ("kill -9 $$", 137, "Error"), ("kill -15 $$", 143, "Error")],
)
def test_exit_codes(kubelet: Kubelet, script: str, code: int, reason: str) -> None:
    pod_id = kubelet.run_pod()
    # The shell is not init of its PID namespace, or signals from within would not reach it.
    status = kubelet.exited(kubelet.start(pod_id, "sh", "-c", f"sh -c '{script}'; exit $?"))
    assert (status.exit_code, status.reason) == (code, reason)
    assert status.finished_at >= status.started_at > 0


def test_a_container_that_takes_too_much_memory_is_oom_killed(daemon: Daemon, kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    hog = "x=a; while true; do x=$x$x; done"
    status = kubelet.exited(kubelet.start(pod_id, "sh", "-c", hog, memory=16 << 20))
    assert (status.exit_code, status.reason) == (137, "OOMKilled")
    assert os.readlink(f"/proc/{daemon.pid}/cwd") == str(daemon.run)
    assert not (daemon.run / "oom").exists(), "the monitor's note is in the container's bundle"


def test_stop_gives_grace(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    script = "trap 'echo terminating; exit 7' TERM; echo up; while true; do sleep 0.05; done"
    container_id = kubelet.start(pod_id, "sh", "-c", script)
    log = Path(kubelet.status(container_id).log_path)
    wait_for(lambda: "up" in log.read_text(), "the trap is set")
    began = time.monotonic()
    kubelet.call("StopContainer", container_id=container_id, timeout=20)
    assert time.monotonic() - began < 5 * SLOW
    status = kubelet.status(container_id)
    assert (status.exit_code, status.reason) == (7, "Error")
    assert [text for _, _, text in log_lines(log)] == ["up", "terminating"]


def test_stop_kills_when_the_grace_is_over(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    container_id = kubelet.start(pod_id, "sh", "-c", "trap '' TERM; while true; do sleep 0.05; done")
    time.sleep(0.2)
    began = time.monotonic()
    kubelet.call("StopContainer", container_id=container_id, timeout=1)
    assert 0.9 < time.monotonic() - began < 4 * SLOW
    assert kubelet.status(container_id).exit_code == 137


def test_a_second_stop_with_less_grace_wins(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    container_id = kubelet.start(pod_id, "sh", "-c", "trap '' TERM; while true; do sleep 0.05; done")
    time.sleep(0.2)
    first = kubelet.begin("StopContainer", container_id=container_id, timeout=60)
    time.sleep(0.2)
    began = time.monotonic()
    kubelet.call("StopContainer", container_id=container_id, timeout=1)
    first.result(1)
    assert 0.9 < time.monotonic() - began < 4 * SLOW
    assert kubelet.status(container_id).exit_code == 137


def test_a_cancelled_stop_goes_on(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    container_id = kubelet.start(pod_id, "sh", "-c", "trap '' TERM; while true; do sleep 0.05; done")
    stop = kubelet.begin("StopContainer", container_id=container_id, timeout=1)
    time.sleep(0.3)
    stop.cancel()
    assert kubelet.exited(container_id, 4).exit_code == 137


def test_what_a_container_may_not_do_twice(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    container_id = kubelet.start(pod_id, "true")
    kubelet.exited(container_id)
    for rpc, fields in (("StartContainer", {}), ("ReopenContainerLog", {})):
        with pytest.raises(GRPCError) as error:
            kubelet.call(rpc, container_id=container_id, **fields)
        assert error.value.status is Status.FAILED_PRECONDITION
        assert "is exited, not" in (error.value.message or "")
    with pytest.raises(GRPCError) as error:
        kubelet.exec(container_id, "true")
    assert error.value.status is Status.NOT_FOUND
    kubelet.call("StopPodSandbox", pod_sandbox_id=pod_id)
    with pytest.raises(GRPCError) as error:
        kubelet.create(pod_id, "true", name="late")
    assert error.value.status is Status.FAILED_PRECONDITION
    assert "is stopped, not ready" in (error.value.message or "")


def test_stopping_and_removing_a_pod_ends_its_containers(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    running = kubelet.start(pod_id, "sleep", "1000", name="a")
    created = kubelet.create(pod_id, "sleep", "1000", name="b")
    kubelet.call("StopPodSandbox", pod_sandbox_id=pod_id)
    assert kubelet.status(running).state == pb.CONTAINER_EXITED
    assert kubelet.status(running).exit_code == 137
    assert kubelet.status(created).state == pb.CONTAINER_EXITED
    kubelet.call("RemovePodSandbox", pod_sandbox_id=pod_id)
    assert not kubelet.call("ListContainers").containers


# --- logs ------------------------------------------------------------------------------------------------------------


def test_log_rotation(kubelet: Kubelet) -> None:
    """The kubelet renames the file and has it opened anew; not a line is lost."""
    pod_id = kubelet.run_pod()
    script = "i=0; while [ $i -lt 400 ]; do echo $i; i=$((i+1)); sleep 0.005; done"
    container_id = kubelet.start(pod_id, "sh", "-c", script)
    log = Path(kubelet.status(container_id).log_path)
    rotated = []
    for number in range(3):
        wait_for(lambda: log.exists() and log.stat().st_size > 300, "the log grows")
        rotated.append(log.with_name(f"0.log.{number}"))
        log.rename(rotated[-1])
        kubelet.call("ReopenContainerLog", container_id=container_id)
        assert log.exists()
        assert log.stat().st_mode & 0o777 == 0o640
    kubelet.exited(container_id)
    said = [text for path in (*rotated, log) for _, _, text in log_lines(path)]
    assert said == [str(number) for number in range(400)]
    log.unlink()
    with pytest.raises(GRPCError):
        kubelet.call("ReopenContainerLog", container_id=container_id)
    assert not log.exists()


def test_a_log_of_long_lines(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    script = "head -c 40000 /dev/zero | tr '\\0' x; echo; printf rest"
    status = kubelet.exited(kubelet.start(pod_id, "sh", "-c", script))
    lines = log_lines(Path(status.log_path))
    long = [(tag, text) for _, tag, text in lines if text != "rest"]
    assert "".join(text for _, text in long) == "x" * 40000
    assert [tag for tag, _ in long] == ["P"] * (len(long) - 1) + ["F"]
    assert lines[-1][2] == "rest"


# --- commands --------------------------------------------------------------------------------------------------------


def test_exec_sync(kubelet: Kubelet) -> None:
    container_id = kubelet.start(kubelet.run_pod(), "sleep", "1000", env={"WHAT": "ever"})
    done = kubelet.exec(container_id, "sh", "-c", "echo out $WHAT; echo err >&2; exit 42")
    assert (done.exit_code, done.stdout, done.stderr) == (42, b"out ever\n", b"err\n")
    assert kubelet.exec(container_id, "sh", "-c", "kill -9 $$").exit_code == 137
    with pytest.raises(GRPCError) as error:
        kubelet.exec(container_id, "/no/such/program")
    assert "/no/such/program" in (error.value.message or "")


def test_exec_sync_output_is_capped(kubelet: Kubelet) -> None:
    container_id = kubelet.start(kubelet.run_pod(), "sleep", "1000")
    script = "head -c 20000000 /dev/zero >&2; head -c 20000000 /dev/zero; exit 5"
    done = kubelet.exec(container_id, "sh", "-c", script, timeout_s=30)
    assert (done.exit_code, len(done.stdout), len(done.stderr)) == (5, 16 << 20, 16 << 20)


def test_exec_sync_that_takes_too_long_is_killed(kubelet: Kubelet) -> None:
    container_id = kubelet.start(kubelet.run_pod(), "sleep", "1000")
    began = time.monotonic()
    with pytest.raises(GRPCError) as error:
        kubelet.exec(container_id, "sh", "-c", "trap '' TERM; sleep 321 & sleep 321", timeout_s=1)
    assert error.value.status is Status.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 4 * SLOW
    assert "sleep 321" not in kubelet.sh(container_id, "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; done; true")


def test_exec_sync_does_not_wait_for_a_grandchild(kubelet: Kubelet) -> None:
    container_id = kubelet.start(kubelet.run_pod(), "sleep", "1000")
    began = time.monotonic()
    done = kubelet.exec(container_id, "sh", "-c", "sleep 300 & echo up")
    assert (done.exit_code, done.stdout) == (0, b"up\n")
    assert time.monotonic() - began < 4 * SLOW


def test_a_cancelled_exec_is_killed(daemon: Daemon, kubelet: Kubelet) -> None:
    container_id = kubelet.start(kubelet.run_pod(), "sleep", "1000")
    seq = daemon.last_seq()
    call = kubelet.begin("ExecSync", container_id=container_id, cmd=["sleep", "654"])
    running = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; done; true"
    wait_for(lambda: "sleep 654" in kubelet.sh(container_id, running), "the command runs")
    call.cancel()
    wait_for(lambda: "sleep 654" not in kubelet.sh(container_id, running), "the command is killed")
    assert "exec.requested" in daemon.types(seq + 1)
