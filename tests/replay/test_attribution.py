"""Who is behind a record: on records made for it, on any records at all, and on what the daemon itself writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given, strategies as st
from ocid_replay.attribution import STEPS_MAX, Attribution, attribute, brief, facts, in_full
from ocid_replay.lookup import Listed

from ocid.cri.stubs import api_pb2 as pb
from ocid.events import container, exec as execution, image, layer, node, pod
from ocid.events.base import REGISTRY, Event, Opaque
from ocid.events.envelope import Context, Envelope
from ocid.events.node import PeerSeen
from ocid.ids import StreamId
from tests.cri.conftest import on_virtual_time
from tests.cri.daemon import IMAGE, running
from tests.events.samples import envelope, events
from tests.fakes.declared import container_declared, exec_requested, pod_declared

PEER = PeerSeen(pid=7, start_ticks=1, uid=3, gid=0, exe="/usr/bin/crictl", comm="crictl", cgroup="/", login_uid=1004)
STOP = container.StopRequested(grace_ms=1, kill_at_boot_ns=1, signal="SIGTERM")
EXITED = container.Exited(at_ns=1, exit_code=137, source="monitor")
LATER = Opaque(type="later.kind", type_version=1, payload=b"\x80")


def records(*rows: tuple[str, Event, dict[str, Any]]) -> list[Envelope]:
    """Number records from 1: stream, event, and what its context has."""
    return [
        msgspec.structs.replace(
            envelope(event, seq), stream=StreamId(stream), type=getattr(event, "type", event.TYPE),
            context=Context(**context),
        )
        for seq, (stream, event, context) in enumerate(rows, 1)
    ]  # fmt: skip


def behind(*rows: tuple[str, Event, dict[str, Any]]) -> Attribution:
    """Return who is behind the last of these records."""
    made = records(*rows)
    return attribute(made[-1], Listed(made))


DECLARED = ("container/c1", container_declared(), {"who": 9, "command_id": "CreateContainer"})
STARTED = ("container/c1", container.StartRequested(), {"who": 9, "command_id": "StartContainer"})
POD = ("pod/p1", pod_declared(), {"who": 9, "command_id": "RunPodSandbox"})
POD_STOP = ("pod/p1", pod.StopRequested(), {"who": 8, "command_id": "StopPodSandbox"})


@pytest.mark.parametrize(
    ("rows", "kind", "who", "because"),
    [
        ([DECLARED], "client", 9, ()),
        ([DECLARED, ("container/c1", EXITED, {"cause": 1})], "nobody", 0, ()),
        ([DECLARED, ("container/c1", STOP, {"who": 8}), ("container/c1", EXITED, {"cause": 1})], "client", 8, (2,)),
        ([DECLARED, STARTED, ("container/c1", container.Started(at_ns=1), {"cause": 2})], "client", 9, (2,)),
        ([DECLARED, ("container/c1", EXITED, {}), ("container/c1", container.Released(), {})], "daemon", 0, (2,)),
        # A stop that cites its container's start follows from it in no sense: the pod's stop is behind it.
        ([POD, DECLARED, STARTED, POD_STOP, ("container/c1", STOP, {"cause": 3})], "client", 8, (4,)),
        ([POD, DECLARED, STARTED, POD_STOP, ("container/c1", STOP, {"cause": 4})], "client", 8, (4,)),
        ([POD, DECLARED, STARTED, ("container/c1", STOP, {"cause": 3})], "daemon", 0, ()),
        (
            [DECLARED, ("container/c1", msgspec.structs.replace(STOP, plugin="10-a"), {"cause": 1})],
            "plugin", 0, (),
        ),
        ([("pod/p1", pod.Lost(reason="x"), {"cause": 1})], "daemon", 0, ()),
        (
            [POD, ("pod/p1", pod.Failed(step="s", error="E", message="m"), {}), ("pod/p1", pod.StopRequested(), {})],
            "client", 9, (2, 1),
        ),
        # The catalog's records cite what the catalog did before, in logs of daemons that did not know better.
        (
            [
                ("catalog/images", image.ImageRemoved(image_id="i"), {"who": 8}),
                ("catalog/images", image.ImageNamed(image_id="j", name="n"), {"cause": 1}),
            ],
            "daemon", 0, (),
        ),
        (
            [
                ("pull/f", image.PullRequested(pull_id="f", reference="r", with_credentials=False), {"who": 9}),
                (
                    "layer/l",
                    layer.Wanted(chain_id="l", diff_id="d", blob="b", media_type="", blob_bytes=1, pull_id="f"),
                    {},
                ),
                ("layer/l", layer.Ready(size_bytes=1, inodes=1), {}),
            ],
            "client", 9, (2, 1),
        ),
        ([("x/y", LATER, {"who": 4})], "client", 4, ()),
        ([("x/y", LATER, {"who": 4}), ("x/y", LATER, {"cause": 1})], "client", 4, (1,)),
        ([("exec/e1", exec_requested(), {"who": 9}), ("exec/e1", LATER, {})], "client", 9, (1,)),
        ([("x/y", LATER, {"cause": 1})], "daemon", 0, ()),  # it cites itself
        ([("x/y", LATER, {"cause": 99})], "daemon", 0, ()),  # it cites what is not there yet
        ([("exec/e1", execution.Failed(error="E", message="m"), {"cause": 0})], "daemon", 0, ()),  # the log was trimmed
    ],
)  # fmt: skip
def test_who_is_behind_a_record(
    rows: list[tuple[str, Event, dict[str, Any]]], kind: str, who: int, because: tuple[int, ...]
) -> None:
    found = behind(*rows)
    assert (found.kind, found.who, found.because) == (kind, who, because)


def test_following_causes_comes_to_an_end() -> None:
    rows = [("x/y", LATER, {"cause": seq}) for seq in range(STEPS_MAX + 10)]
    found = behind(*rows)
    assert found.kind == "daemon"
    assert len(found.because) == STEPS_MAX


@given(st.lists(st.sampled_from(sorted(REGISTRY)).flatmap(lambda name: events(REGISTRY[name])), max_size=6))
def test_any_log_has_somebody_behind_each_record(log: list[Event]) -> None:
    made = records(*(("container/c1", event, {"cause": seq - 1}) for seq, event in enumerate(log, 1)))
    for each in made:
        found = attribute(each, Listed(made))
        assert in_full(found, lambda _: None)
        assert list(found.because) == sorted(found.because, reverse=True)


def test_it_is_said_in_words_and_as_data() -> None:
    stop = ("container/c1", STOP, {"who": 8, "command_id": "StopContainer"})
    found = behind(DECLARED, stop, ("container/c1", EXITED, {}))
    assert brief(found, lambda _: PEER) == "crictl[7]"
    assert in_full(found, lambda _: PEER) == (
        "/usr/bin/crictl (pid 7, uid 3, logged in as uid 1004) [8] called StopContainer, by way of [2]"
    )
    told = facts(found, lambda _: PEER)
    assert (told["peer"]["login_uid"], told["because"], told["rpc"]) == (1004, [2], "StopContainer")
    nobody = behind(DECLARED, ("container/c1", EXITED, {}))
    assert in_full(nobody, lambda _: None) == "nobody asked for it"
    daemon = behind(DECLARED, ("container/c1", EXITED, {}), ("container/c1", container.Released(), {}))
    assert brief(daemon, lambda _: None) == "the daemon, because of [2]"


RPCS = {
    container.Declared: "CreateContainer",
    container.Prepared: "CreateContainer",
    container.Created: "CreateContainer",
    container.Started: "StartContainer",
    container.StopRequested: "StopPodSandbox",
    container.Exited: "StopPodSandbox",
    container.Removed: "RemovePodSandbox",
    pod.Ready: "RunPodSandbox",
    pod.Stopped: "StopPodSandbox",
    pod.Removed: "RemovePodSandbox",
    image.PullCompleted: "PullImage",
    image.ImageAdded: "PullImage",
    image.ImageNamed: "PullImage",
    image.ImageRemoved: "RemoveImage",
    image.LayersCollected: "RemoveImage",
    layer.Wanted: "PullImage",
    layer.Ready: "PullImage",
    layer.RemoveRequested: "RemoveImage",
    layer.Removed: "RemoveImage",
}


@pytest.mark.trio(run=on_virtual_time)
async def test_the_daemons_own_log_blames_the_call_that_it_was(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        await daemon.pull()
        pod_id = await daemon.run_pod()
        await daemon.run(pod_id, "app", "run:1000")
        await daemon.client.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=pod_id))
        await daemon.client.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod_id))
        await daemon.client.RemoveImage(pb.RemoveImageRequest(image=pb.ImageSpec(image=IMAGE)))
        for _ in range(100):
            if daemon.log(image.LayersCollected):
                break
            await trio.sleep(1)
        log = daemon.log()

    checked = set()
    for each in log:
        if (rpc := RPCS.get(type(each.event))) is not None:
            found = attribute(each, Listed(log))
            assert (found.kind, found.rpc) == ("client", rpc), each
            checked.add(type(each.event))
    assert checked == set(RPCS)


@pytest.mark.trio(run=on_virtual_time)
async def test_a_recoverys_records_share_a_correlation(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        await daemon.pull()
        pod_id = await daemon.run_pod()
        await daemon.run(pod_id, "app", "run:1000")
        await daemon.restart(reboot=True)
        log = daemon.log()

    recovered = [each for each in log if isinstance(each.event, node.Recovered)][-1]
    assert recovered.context.correlation
    found = {each.type for each in log if each.context.correlation == recovered.context.correlation}
    assert {"pod.lost", "container.exited", "node.recovered"} <= found
