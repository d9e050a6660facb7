"""A real daemon, called as a kubelet calls it: the life of pods and containers, and what is said of them."""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.cri.stubs import api_pb2 as pb
from ocid.events import node as node_events
from tests import images
from tests.host import daemon as host, nodes
from tests.host.daemon import IMAGE, Cri, Daemon, Kubelet, Stage, log_lines, refused, wait_for
from tests.host.nodes import SLOW

pytestmark = [pytest.mark.host, pytest.mark.timeout(90 * SLOW)]
stage, daemon, kubelet, nothing_leaks = host.stage, host.daemon, host.kubelet, host.nothing_leaks

NOBODY = "f" * 64
ODD_LABELS = {"empty": "", "unicode": "größe ☃ \u0001", "spaces": "  a\tb\n", "json": '{"a": "«b»"}'}


def test_the_node_presents_itself(daemon: Daemon, kubelet: Kubelet) -> None:
    version = kubelet.call("Version", version="0.1.0")
    assert (version.version, version.runtime_name, version.runtime_api_version) == ("0.1.0", "ocid", "v1")
    assert version.runtime_version
    status = kubelet.call("Status", verbose=True)
    assert {one.type: one.status for one in status.status.conditions} == {"RuntimeReady": True, "NetworkReady": True}
    assert {"", "runc"} <= {one.name for one in status.runtime_handlers}
    assert json.loads(status.info["config"])["network"]["bridge"] == daemon.bridge
    driver = pb.SYSTEMD if nodes.DRIVER == "systemd" else pb.CGROUPFS
    assert kubelet.call("RuntimeConfig").linux.cgroup_driver == driver


def test_images_by_tag_digest_and_id(daemon: Daemon, stage: Stage, kubelet: Kubelet) -> None:
    built = images.image([images.files(hello=b"world")], config={"User": "1234:50"})
    tagged = stage.registry.put("team/app", "v1", built)
    by_digest = f"{stage.registry.host}/team/app@{built.digest}"
    refs = {kubelet.call("PullImage", image=pb.ImageSpec(image=name)).image_ref for name in (tagged, by_digest)}
    assert refs == {built.image_id}
    for name in (tagged, by_digest, built.image_id, built.image_id.removeprefix("sha256:")[:12]):
        image = kubelet.call("ImageStatus", image=pb.ImageSpec(image=name)).image
        assert image.id == built.image_id, name
    assert list(image.repo_tags) == [tagged]
    assert list(image.repo_digests) == [by_digest]
    assert image.size > 0
    assert image.uid.value == 1234
    assert not image.pinned
    listed = kubelet.call("ListImages", filter=pb.ImageFilter(image=pb.ImageSpec(image=tagged))).images
    assert [one.id for one in listed] == [built.image_id]
    assert len(kubelet.call("ListImages").images) == 2
    same = stage.registry.put("other/name", "v1", built)
    kubelet.call("PullImage", image=pb.ImageSpec(image=same))
    for _ in range(2):  # the second time there is nothing to remove
        kubelet.call("RemoveImage", image=pb.ImageSpec(image=same))
        assert not kubelet.call("ImageStatus", image=pb.ImageSpec(image=tagged)).HasField("image")
    layers = Path(daemon.root, "layers")
    wait_for(lambda: len(os.listdir(layers)) == 1, "the removed image's layer goes")
    assert not kubelet.call("ListImages", filter=pb.ImageFilter(image=pb.ImageSpec(image="nothing:1"))).images


def test_the_life_of_a_pod(daemon: Daemon, kubelet: Kubelet) -> None:
    """One pod with one container, and every field that the kubelet reads of them."""
    image_ref = kubelet.call("PullImage", image=pb.ImageSpec(image=IMAGE)).image_ref
    began_ns = time.time_ns()
    config = kubelet.pod_config("web-0", annotations=ODD_LABELS, labels=ODD_LABELS)
    pod_id = kubelet.run_pod(config)
    pod = kubelet.pod_status(pod_id)
    assert pod.id == pod_id
    assert pod.state == pb.SANDBOX_READY
    assert pod.metadata == config.metadata
    assert pod.labels == config.labels
    assert pod.annotations == config.annotations
    assert began_ns < pod.created_at < time.time_ns()
    assert pod.linux.namespaces.options.pid == pb.CONTAINER
    assert pod.network.ip.startswith("10.201.")
    assert [one.ip.startswith("fd00:201:") for one in pod.network.additional_ips] == [True]

    script = "echo out; echo err >&2; exec sleep 1000"
    made = kubelet.container_config("sh", "-c", script, image=image_ref, labels=ODD_LABELS, annotations=ODD_LABELS)
    container_id = kubelet.create(pod_id, config=made)
    created = kubelet.status(container_id)
    assert created.state == pb.CONTAINER_CREATED
    assert (created.started_at, created.finished_at, created.exit_code) == (0, 0, 0)
    kubelet.call("StartContainer", container_id=container_id)
    status = kubelet.status(container_id)
    assert status.state == pb.CONTAINER_RUNNING
    assert status.id == container_id
    assert status.metadata == made.metadata
    assert status.labels == made.labels
    assert status.annotations == made.annotations
    assert pod.created_at < status.created_at <= status.started_at < time.time_ns()
    assert status.created_at == created.created_at
    assert status.image.image == "busybox:1"
    assert status.image_id == image_ref
    assert status.image_ref.startswith("docker.io/test/busybox@sha256:")
    assert status.log_path == f"{config.log_directory}/main/0.log"
    assert status.resources.linux.cpu_shares == 102
    assert status.user.linux.uid == 0
    item = kubelet.call("ListContainers").containers[0]
    assert (item.id, item.pod_sandbox_id, item.image_id) == (container_id, pod_id, image_ref)
    assert (item.image_ref, item.created_at, item.labels) == (status.image_ref, status.created_at, status.labels)
    info = kubelet.info(container_id)
    assert info["sandboxID"] == pod_id
    assert info["runtimeSpec"]["process"]["args"][0] == "sh"
    assert Path(f"/proc/{info['pid']}/comm").read_text() in ("sleep\n", "sh\n")

    log = Path(status.log_path)
    assert log.stat().st_mode & 0o777 == 0o640
    wait_for(lambda: len(log.read_text().splitlines()) == 2, "both lines are in the log")
    assert set(log_lines(log)) == {("stdout", "F", "out"), ("stderr", "F", "err")}

    for _ in range(2):
        kubelet.call("StopContainer", container_id=container_id, timeout=0)
    ended = kubelet.status(container_id)
    assert (ended.state, ended.exit_code, ended.reason) == (pb.CONTAINER_EXITED, 137, "Error")
    assert ended.started_at < ended.finished_at
    assert kubelet.info(container_id)["pid"] == 0
    for _ in range(2):
        kubelet.call("RemoveContainer", container_id=container_id)
    with pytest.raises(GRPCError) as error:
        kubelet.status(container_id)
    assert refused(error)[0] is Status.NOT_FOUND
    assert log.exists()

    for _ in range(2):
        kubelet.call("StopPodSandbox", pod_sandbox_id=pod_id)
    stopped = kubelet.pod_status(pod_id)
    assert stopped.state == pb.SANDBOX_NOTREADY
    assert stopped.network.ip == ""
    for _ in range(2):
        kubelet.call("RemovePodSandbox", pod_sandbox_id=pod_id)
    with pytest.raises(GRPCError) as error:
        kubelet.pod_status(pod_id)
    assert refused(error)[0] is Status.NOT_FOUND


def test_what_is_absent(kubelet: Kubelet) -> None:
    """Stop and remove succeed, the rest is NotFound: the kubelet looks for that."""
    for rpc, field in (
        ("StopPodSandbox", "pod_sandbox_id"),
        ("RemovePodSandbox", "pod_sandbox_id"),
        ("StopContainer", "container_id"),
        ("RemoveContainer", "container_id"),
    ):
        kubelet.call(rpc, **{field: NOBODY})
    kubelet.call("RemoveImage", image=pb.ImageSpec(image="no/such/image:1"))
    assert not kubelet.call("ImageStatus", image=pb.ImageSpec(image="no/such/image:1")).HasField("image")
    for rpc, fields in (
        ("PodSandboxStatus", {"pod_sandbox_id": NOBODY}),
        ("ContainerStatus", {"container_id": NOBODY}),
        ("StartContainer", {"container_id": NOBODY}),
        ("ReopenContainerLog", {"container_id": NOBODY}),
        ("ExecSync", {"container_id": NOBODY, "cmd": ["true"]}),
        ("CreateContainer", {"pod_sandbox_id": NOBODY, "config": kubelet.container_config("true")}),
    ):
        with pytest.raises(GRPCError) as error:
            kubelet.call(rpc, **fields)
        assert error.value.status is Status.NOT_FOUND, rpc
        assert NOBODY in (error.value.message or ""), rpc


def test_lists_and_their_filters(kubelet: Kubelet) -> None:
    pods = [kubelet.run_pod(labels={"n": str(n), "all": "yes"}) for n in range(3)]
    running = kubelet.start(pods[0], "sleep", "1000", name="a", labels={"n": "0"})
    created = kubelet.create(pods[0], "sleep", "1000", name="b", labels={"n": "1"})
    ended = kubelet.start(pods[1], "true", name="a", labels={"n": "0"})
    kubelet.exited(ended)
    kubelet.call("StopPodSandbox", pod_sandbox_id=pods[2])

    def listed_pods(**fields: object) -> set[str]:
        return {one.id for one in kubelet.call("ListPodSandbox", filter=pb.PodSandboxFilter(**fields)).items}

    def listed(**fields: object) -> set[str]:
        return {one.id for one in kubelet.call("ListContainers", filter=pb.ContainerFilter(**fields)).containers}

    ready, not_ready = (pb.PodSandboxStateValue(state=one) for one in (pb.SANDBOX_READY, pb.SANDBOX_NOTREADY))
    assert listed_pods() == set(pods)
    assert listed_pods(id=pods[1]) == listed_pods(id=pods[1][:13]) == {pods[1]}
    assert listed_pods(state=ready) == set(pods[:2])
    assert listed_pods(state=not_ready) == {pods[2]}
    assert listed_pods(label_selector={"n": "1"}) == {pods[1]}
    assert listed_pods(label_selector={"all": "yes"}, state=ready) == set(pods[:2])
    assert listed_pods(label_selector={"n": "1"}, state=not_ready) == set()
    assert listed_pods(id=NOBODY) == set()

    names = ("CREATED", "RUNNING", "EXITED")
    states = {name: pb.ContainerStateValue(state=getattr(pb, f"CONTAINER_{name}")) for name in names}
    assert listed() == {running, created, ended}
    assert listed(id=running[:13]) == {running}
    assert listed(pod_sandbox_id=pods[0]) == listed(pod_sandbox_id=pods[0][:13]) == {running, created}
    assert listed(state=states["CREATED"]) == {created}
    assert listed(state=states["RUNNING"]) == {running}
    assert listed(state=states["EXITED"]) == {ended}
    assert listed(label_selector={"n": "0"}) == {running, ended}
    assert listed(label_selector={"n": "0"}, pod_sandbox_id=pods[1]) == {ended}
    assert kubelet.status(running[:13]).id == running
    assert kubelet.pod_status(pods[0][:13]).id == pods[0]


def test_created_at_never_goes_back(kubelet: Kubelet) -> None:
    """Also not from one attempt of a pod to the next, nor from one container of a pod to the next."""
    times = []
    for attempt in range(3):
        pod_id = kubelet.run_pod(kubelet.pod_config("again", uid="again", attempt=attempt))
        times.append(kubelet.pod_status(pod_id).created_at)
        times += [kubelet.status(kubelet.create(pod_id, "true", name=f"c{n}")).created_at for n in range(3)]
        kubelet.call("StopPodSandbox", pod_sandbox_id=pod_id)
    assert times == sorted(set(times))


# --- joined calls ----------------------------------------------------------------------------------------------------


def test_concurrent_and_repeated_creates_give_one_id(daemon: Daemon, kubelet: Kubelet) -> None:
    config = kubelet.pod_config("one")
    seq = daemon.last_seq()
    calls = [kubelet.begin("RunPodSandbox", config=config) for _ in range(8)]
    pods = {call.result(30).pod_sandbox_id for call in calls}
    assert pods == {kubelet.run_pod(config)}
    pod_id = pods.pop()
    made = kubelet.container_config("sleep", "1000")
    calls = [kubelet.begin("CreateContainer", pod_sandbox_id=pod_id, config=made) for _ in range(8)]
    containers = {call.result(30).container_id for call in calls}
    assert containers == {kubelet.create(pod_id, config=made)}
    assert daemon.types(seq + 1).count("pod.declared") == 1
    assert daemon.types(seq + 1).count("container.declared") == 1
    other = kubelet.pod_config("one", attempt=1)
    assert kubelet.run_pod(other) != pod_id


def test_a_create_after_a_cancelled_one_joins_it(daemon: Daemon, kubelet: Kubelet) -> None:
    for delay_s in (0.001, 0.005, 0.02, 0.05):
        config, seq = kubelet.pod_config(), daemon.last_seq()
        call = kubelet.begin("RunPodSandbox", config=config)
        time.sleep(delay_s)
        call.cancel()
        pod_id = kubelet.run_pod(config)
        made = kubelet.container_config("sleep", "1000")
        call = kubelet.begin("CreateContainer", pod_sandbox_id=pod_id, config=made)
        time.sleep(delay_s)
        call.cancel()
        container_id = kubelet.create(pod_id, config=made)
        kubelet.call("StartContainer", container_id=container_id)
        assert len(kubelet.call("ListContainers", filter={"pod_sandbox_id": pod_id}).containers) == 1
        types = daemon.types(seq + 1)
        assert (types.count("pod.declared"), types.count("container.declared")) == (1, 1)


def test_a_call_with_a_deadline_ends_the_wait_only(kubelet: Kubelet) -> None:
    config = kubelet.pod_config()
    with pytest.raises((GRPCError, TimeoutError, CancelledError)):
        kubelet.begin("RunPodSandbox", config=config, deadline_s=0.003).result(10)
    pod_id = kubelet.run_pod(config)
    assert len(kubelet.call("ListPodSandbox").items) == 1
    assert kubelet.pod_status(pod_id).state == pb.SANDBOX_READY


def test_concurrent_pulls_are_one(daemon: Daemon, stage: Stage, kubelet: Kubelet) -> None:
    built = images.image([images.files(large=os.urandom(3_000_000)), images.files(more=os.urandom(2_000_000))])
    name = stage.registry.put("team/wanted", "v1", built)
    seq, before = daemon.last_seq(), len(stage.registry.seen)
    calls = [kubelet.begin("PullImage", image=pb.ImageSpec(image=name)) for _ in range(6)]
    assert {call.result(30).image_ref for call in calls} == {built.image_id}
    types = daemon.types(seq + 1)
    assert types.count("pull.requested") == types.count("pull.completed") == 1
    blobs = [one.path for one in stage.registry.seen[before:] if "/blobs/" in one.path]
    assert len(blobs) == len(set(blobs)) == 3
    kubelet.call("RemoveImage", image=pb.ImageSpec(image=name))


def test_layers_go_with_the_last_container_that_needs_them(daemon: Daemon, stage: Stage, kubelet: Kubelet) -> None:
    built = images.image([host.busybox_layer(), images.files(more=os.urandom(1000))])
    name = stage.registry.put("team/short-lived", "v1", built)
    image = kubelet.call("PullImage", image=pb.ImageSpec(image=name)).image_ref
    top = daemon.root / "layers" / built.layers[1].chain_id.removeprefix("sha256:")
    pod_id = kubelet.run_pod()
    container_id = kubelet.start(pod_id, "sleep", "1000", image=image)
    kubelet.call("RemoveImage", image=pb.ImageSpec(image=name))
    assert kubelet.sh(container_id, "cat /more | wc -c") == "1000"
    kubelet.end_pod(pod_id)
    try:
        wait_for(lambda: not top.exists(), "the layer goes", 3)
    finally:  # another image that goes takes the layer along
        other = stage.registry.put("team/other", "v1", images.image([images.files(hello=b"x")]))
        kubelet.call("PullImage", image=pb.ImageSpec(image=other))
        kubelet.call("RemoveImage", image=pb.ImageSpec(image=other))
        wait_for(lambda: not top.exists(), "the layer goes at last")


# --- those who follow ------------------------------------------------------------------------------------------------


def test_container_events_carry_snapshots(kubelet: Kubelet) -> None:
    with kubelet.cri.container_events() as seen:
        pod_id = kubelet.run_pod()
        container_id = kubelet.start(pod_id, "sh", "-c", "exit 3")
        kubelet.exited(container_id)
        kubelet.call("RemoveContainer", container_id=container_id)
        kubelet.end_pod(pod_id)
        wait_for(lambda: len(seen) >= 8, f"all events come: {[one.container_event_type for one in seen]}")
    kinds = [(one.container_id, pb.ContainerEventType.Name(one.container_event_type).split("_")[1]) for one in seen]
    steps = ("CREATED", "STARTED", "STOPPED", "DELETED")
    assert [kind for name, kind in kinds if name == pod_id] == list(steps)
    assert [kind for name, kind in kinds if name == container_id] == list(steps)
    assert all(one.created_at > 0 for one in seen)
    by = {(one.container_id, kind): one for one, (_, kind) in zip(seen, kinds, strict=True)}
    for kind, state in (("STARTED", pb.CONTAINER_RUNNING), ("STOPPED", pb.CONTAINER_EXITED)):
        event = by[container_id, kind]
        assert event.pod_sandbox_status.id == pod_id
        assert event.pod_sandbox_status.state == pb.SANDBOX_READY
        assert [(one.id, one.state) for one in event.containers_statuses] == [(container_id, state)]
    assert by[container_id, "STOPPED"].containers_statuses[0].exit_code == 3
    assert by[container_id, "DELETED"].pod_sandbox_status.id == pod_id
    assert not by[container_id, "DELETED"].containers_statuses
    assert by[pod_id, "STARTED"].pod_sandbox_status.state == pb.SANDBOX_READY
    assert by[pod_id, "STOPPED"].pod_sandbox_status.state == pb.SANDBOX_NOTREADY


def test_many_clients_come_and_go(daemon: Daemon, kubelet: Kubelet) -> None:
    """Connections that break in the middle of anything leave nothing behind."""
    errors: list[BaseException] = []

    def come_and_go() -> None:
        try:
            for _ in range(5):
                with daemon.client() as cri:
                    cri.begin("GetContainerEvents", pb.GetEventsRequest())
                    cri.begin("RunPodSandbox", config=kubelet.pod_config())
                    cri.call("ListPodSandbox")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not errors
    kubelet.call("Status")
    wait_for(lambda: all(row.state.ready for row in daemon.view().pods.rows.values()), "pods that nobody waits for")


# --- who asked -------------------------------------------------------------------------------------------------------


def test_events_say_who_asked(daemon: Daemon, kubelet: Kubelet, stage: Stage) -> None:
    cri = Cri(stage.loop, daemon.socket)
    try:
        seq = daemon.last_seq()
        config = kubelet.pod_config()
        pod_id = cri.call("RunPodSandbox", config=config).pod_sandbox_id
        cri.call("RemovePodSandbox", pod_sandbox_id=pod_id)
    finally:
        cri.close()
    all_events = {one.seq: one for one in daemon.events()}
    ours = [one for one in all_events.values() if one.seq > seq and one.stream == f"pod/{pod_id}"]
    assert (ours[0].type, ours[-1].type) == ("pod.declared", "pod.removed")
    for one in ours:
        asked = one  # what follows from a request by itself cites what led to it
        while not asked.context.who:
            assert asked.context.cause < asked.seq
            asked = all_events[asked.context.cause]
            assert asked.context.correlation == one.context.correlation
        peer = all_events[asked.context.who].event
        assert isinstance(peer, node_events.PeerSeen)
        assert (peer.pid, peer.uid, peer.gid) == (os.getpid(), os.getuid(), os.getgid())
        assert peer.exe == os.readlink("/proc/self/exe")
        assert peer.comm == Path("/proc/self/comm").read_text().strip()
        assert peer.cgroup in {line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines()}
        assert asked.context.command_id == ("RunPodSandbox" if asked is ours[0] else "RemovePodSandbox")
    assert len({one.context.correlation for one in ours}) == 2


def test_the_store_is_measured(daemon: Daemon, kubelet: Kubelet) -> None:
    """In the background, every ten seconds."""
    usage = wait_for(lambda: _used(kubelet), "the store is measured with the image in it", 12)
    assert usage.used_bytes.value > 1 << 20
    assert usage.timestamp > 0
    assert usage.fs_id.mountpoint.startswith(str(daemon.root))


def _used(kubelet: Kubelet) -> pb.FilesystemUsage | None:
    usage = kubelet.call("ImageFsInfo").image_filesystems[0]
    return usage if usage.used_bytes.value else None
