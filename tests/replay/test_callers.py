"""What a story tells of its callers: the unusual ones, what they run, and their traces."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from ocid_replay.__main__ import main
from ocid_replay.callers import inserted, remarks
from ocid_replay.cloudevents import cloud_event

from ocid.events import container, exec as execution, node, pod
from ocid.events.envelope import Context
from ocid.projections.words import who_in_full, words
from tests.events.samples import envelope
from tests.fakes.declared import container_declared, exec_requested, pod_declared
from tests.fakes.lives import APP, CRICTL, WEB, Life, write_begin

TRACE = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HASH = "5e" * 32
WHY = "it runs /usr/bin/crictl; the usual peer runs /usr/bin/kubelet"


def call(rpc: str, subject: str, named: str = "") -> node.UnusualCall:
    return node.UnusualCall(rpc=rpc, subject=subject, named=named, reason=WHY)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A container of the kubelet's is stopped through crictl; a command in it was refused, one in another ran."""
    life = Life(tmp_path / "log")
    write_begin(life)
    usual = node.UsualPeerSet(exes=("/usr/bin/kubelet",), uid=0, contained=False, peer=2)
    measured = node.PeerMeasured(peer=3, exe_hash=HASH, size_bytes=40 << 20, reason="")
    kubelet = Context(who=2, correlation="k", trace=TRACE)
    life.write(f"pod/{WEB}", pod_declared(WEB), pod.Ready(), context=kubelet)
    life._versions["node/self"] = 3
    life.write("node/self", usual, measured, context=Context())
    life.write(f"container/{APP}", container_declared(APP, pod_id=WEB), container.Started(at_ns=1), context=kubelet)
    refused = Context(who=3, correlation="refused", command_id="Exec")
    life.write("node/self", call("Exec", f"container/{APP}"), context=refused)
    life.write("node/self", call("StopContainer", f"container/{APP}"), context=CRICTL)
    stop = container.StopRequested(grace_ms=0, kill_at_boot_ns=0, signal="SIGTERM")
    life.write(f"container/{APP}", stop, context=CRICTL)
    life.write("node/self", call("ExecSync", "container/ff"), context=Context(who=3, correlation="other"))
    life.write("exec/e9", exec_requested("e9", container_id="ff"), context=Context(who=3, correlation="other"))
    life.store.close(stopped_at_ns=life.now_ns)
    return tmp_path / "log"


def told(log: Path, capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    command, *rest = arguments
    assert main([command, "--log", str(log), *rest], guard=lambda work: work()) == 0
    return capfd.readouterr().out


@pytest.mark.parametrize("subject", [WEB, APP])
def test_explain_tells_of_unusual_calls_what_their_callers_run_and_traces(
    log: Path, capfd: pytest.CaptureFixture[str], subject: str
) -> None:
    out = told(log, capfd, "explain", subject)

    stop = f"unusual: StopContainer of container {APP[:12]} is not asked for by the usual peer: {WHY}, by crictl[900]"
    assert stop in out
    assert "unusual: Exec of" in out
    assert "ExecSync" not in out
    assert f"in trace {TRACE[:32]}" in out
    assert (
        f"crictl[900]: /usr/bin/crictl (pid 900, uid 0, logged in as uid 1004) [3], sha256 of the program {HASH}" in out
    )
    lines = json.loads(told(log, capfd, "explain", subject, "-o", "json"))["lines"]
    assert [line["seq"] for line in lines] == sorted(line["seq"] for line in lines)
    assert {line["trace"] for line in lines} == {"", TRACE[:32]}


def test_log_and_exports_tell_of_them(log: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = told(log, capfd, "timeline", "--stream", "node")
    assert "the usual peer is /usr/bin/kubelet, uid 0: it ran a pod first [2]" in out
    assert f"what peer [3] runs has sha256 {HASH}, 40.0 MiB" in out
    assert out.count("node.unusual_call") == 3

    native = [json.loads(line) for line in told(log, capfd, "export", "--pod", WEB).splitlines()]
    assert native[0]["trace"] == TRACE
    events = [json.loads(line) for line in told(log, capfd, "export", "--format", "cloudevents").splitlines()]
    traced = [event["traceparent"] for event in events if "traceparent" in event]
    assert len(traced) == 4
    assert set(traced) == {f"00-{TRACE}"}


def test_a_record_without_a_trace_exports_none() -> None:
    assert "traceparent" not in cloud_event(envelope(pod.Ready()), "/ocid/n1")


def test_calls_without_a_correlation_belong_to_nobody() -> None:
    asked = msgspec.structs.replace(envelope(execution.Abandoned(reason="x")), context=Context())
    unusual = msgspec.structs.replace(envelope(call("Exec", ""), seq=3), context=Context())

    assert inserted([asked], remarks([unusual], [asked])) == [asked]


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (
            call("RunPodSandbox", "", "prod/web"),
            "unusual: RunPodSandbox of prod/web is not asked for by the usual peer",
        ),
        (call("UpdateRuntimeConfig", ""), "unusual: UpdateRuntimeConfig is not asked for by"),
        (call("CreateContainer", f"pod/{WEB}", "app"), f"unusual: CreateContainer of pod {WEB[:12]} app is not"),
        (node.PeerMeasured(peer=3, exe_hash="", size_bytes=0, reason="it is gone"), "could not be hashed: it is gone"),
        (node.UsualPeerSet(exes=(), uid=0, contained=False, configured=True), "names no usual peer any more"),
        (
            node.UsualPeerSet(exes=("/a", "/b"), uid=0, contained=True, configured=True),
            "the usual peer is /a or /b, uid 0, also inside a container: the configuration says so",
        ),
    ],
)
def test_words(event: node.Event, said: str) -> None:
    assert said in words(event)


def test_who_asked_in_full_tells_session_and_container() -> None:
    peer = node.PeerSeen(
        pid=7, start_ticks=1, uid=0, gid=0, exe="/bin/x", comm="x", cgroup="/", login_uid=1004, session_id=3,
        container_id="ab" * 32,
    )  # fmt: skip
    said = "/bin/x (pid 7, uid 0, logged in as uid 1004 (session 3), inside container abababababab) [3]"
    assert who_in_full(peer, 3) == said
