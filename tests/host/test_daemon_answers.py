"""A real incident on a real daemon, solved with the answering commands alone: the log of what was done tells it all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ocid.cri.stubs import api_pb2 as pb
from tests.host import daemon as host
from tests.host.daemon import IMAGE, Daemon, Kubelet, wait_for
from tests.host.nodes import SLOW

pytestmark = [pytest.mark.host, pytest.mark.timeout(120 * SLOW)]
stage, daemon, kubelet, nothing_leaks = host.stage, host.daemon, host.kubelet, host.nothing_leaks
TREE = Path(__file__).parents[2]
REPLAY = "import sys; from tests.replay import conftest; from ocid_replay.__main__ import main; sys.exit(main())"
# Another process, as a person's crictl is, makes one call.
CALL = """
import json, sys
from pathlib import Path
from tests.host.kubelet import Cri, Loop
loop = Loop()
cri = Cri(loop, Path(sys.argv[1]))
cri.call(sys.argv[2], **json.loads(sys.argv[3]))
cri.close()
loop.close()
"""


def answer(one: Daemon, *words: str) -> Any:
    """Run a command on the live log and return the document that it prints."""
    command = [sys.executable, "-c", REPLAY, *words, "--log", str(one.root / "log"), "-o", "json"]
    done = subprocess.run(command, cwd=TREE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return json.loads(done.stdout)


def by_another(one: Daemon, rpc: str, **fields: Any) -> int:
    """Make a call from a process of its own and return its pid."""
    command = [sys.executable, "-c", CALL, str(one.socket), rpc, json.dumps(fields)]
    with subprocess.Popen(command, cwd=TREE) as process:
        assert process.wait(60 * SLOW) == 0
        return process.pid


def died(one: Daemon, container_id: str) -> tuple[str, str]:
    found = answer(one, "why-died", container_id)
    return found["cause"], found["confidence"]


def test_each_death_is_told_as_it_was(daemon: Daemon, kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    ended = kubelet.start(pod_id, "sh", "-c", "exit 3", name="ended")
    hog = kubelet.start(pod_id, "sh", "-c", "x=a; while true; do x=$x$x; done", name="hog", memory=16 << 20)
    struck = kubelet.start(pod_id, "sleep", "1000", name="struck")
    stubborn = kubelet.start(pod_id, "sh", "-c", "trap '' TERM; while true; do sleep 0.1; done", name="stubborn")
    missed = kubelet.start(pod_id, "sh", "-c", "while [ ! -e /dev/shm/go ]; do sleep 0.05; done; exit 9", name="missed")
    swept = kubelet.start(pod_id, "sleep", "1000", name="swept")
    kubelet.sh(struck, "echo probed")
    for one in (ended, hog):
        kubelet.exited(one)
    os.kill(kubelet.info(struck)["pid"], 9)
    kubelet.exited(struck)
    person = by_another(daemon, "StopContainer", container_id=stubborn, timeout=1)
    before = daemon.last_seq()

    pid = kubelet.info(missed)["pid"]
    daemon.kill()
    Path(f"/proc/{pid}/root/dev/shm/go").touch()
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "the container ends without a daemon")
    time.sleep(0.1)
    daemon.start()
    kubelet.exited(missed)
    sweeper = by_another(daemon, "StopPodSandbox", pod_sandbox_id=pod_id)

    assert died(daemon, ended) == ("failed", "high")
    assert died(daemon, hog) == ("oom", "high")
    assert died(daemon, stubborn) == ("killed-after-grace", "high")
    assert died(daemon, missed) == ("failed", "high")
    assert died(daemon, swept) == ("killed-on-request", "high")
    told = answer(daemon, "why-died", struck)
    assert (told["cause"], told["confidence"], told["signal"]) == ("signal", "high", "SIGKILL")
    assert any("echo probed" in each["text"] for each in told["evidence"])
    assert any("found it ended" in each["text"] for each in answer(daemon, "why-died", missed)["evidence"])
    for container_id, asker in ((stubborn, person), (swept, sweeper)):
        assert answer(daemon, "why-died", container_id)["asked_by"]["peer"]["pid"] == asker

    ends = answer(daemon, "who-did", "container.exited")["records"]
    asked = {each["stream"].partition("/")[2]: each["asked_by"] for each in ends}
    assert {name for name, by in asked.items() if by["kind"] == "nobody"} == {ended, hog, struck, missed}
    assert (asked[swept]["rpc"], asked[swept]["peer"]["pid"]) == ("StopPodSandbox", sweeper)
    found = answer(daemon, "diff", str(before), "now")["differences"]
    changed = {each["id"]: (each["sign"], each["who"]) for each in found}
    assert changed[missed] == ("~", "nobody")
    assert changed[swept][1].endswith(f"[{sweeper}]")
    starts = answer(daemon, "recovery")["starts"]
    assert (starts[-1]["after_clean_stop"], starts[-1]["lost"] >= 0) == (False, True)
    assert starts[-1]["correlation"]
    assert len(answer(daemon, "peers")["peers"][0]["connections"]) >= 3
    assert answer(daemon, "fold", "--twice")["same"]


def test_lineage_and_removal_of_an_image(daemon: Daemon, kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    container_id = kubelet.start(pod_id, "sleep", "1000")
    found = answer(daemon, "lineage", container_id)
    assert found["pull"]["asked_by"]
    assert [bool(each["ready_seq"]) for each in found["layers"]] == [True] * len(found["layers"])
    assert found["layers"]
    assert found["spec"].startswith("sha256:")
    kubelet.end_pod(pod_id)
    remover = by_another(daemon, "RemoveImage", image={"image": IMAGE})
    try:
        collected = wait_for(
            lambda: [each for each in daemon.events() if each.type == "image.layers_collected"], "layers are collected"
        )
        assert collected
        for record in answer(daemon, "who-did", "image.removed", "layer.removed", "image.layers_collected")["records"]:
            assert record["asked_by"]["peer"]["pid"] == remover, record
    finally:
        kubelet.call("PullImage", image=pb.ImageSpec(image=IMAGE))


def test_commands_are_listed_with_who_ran_them(daemon: Daemon, kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    container_id = kubelet.start(pod_id, "sleep", "1000")
    kubelet.exec(container_id, "sh", "-c", "echo out; exit 4")
    (listed,) = answer(daemon, "execs", "--container", container_id)["execs"]
    assert (listed["kind"], listed["exit_code"], listed["state"], listed["bytes_out"]) == ("execsync", 4, "finished", 4)
    assert listed["argv"] == ["sh", "-c", "echo out; exit 4"]
    assert listed["peer"]["pid"] == os.getpid()
    shown = answer(daemon, "state-at", "now", "--inspect", container_id)
    assert shown["documents"]["spec"]["content"]["process"]["args"] == ["sleep", "1000"]
