"""kill -9 of a real daemon in the middle of anything: nothing is lost, nothing stays, the log tells the truth."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.cri.stubs import api_pb2 as pb
from ocid.events import exec as exec_events, node as node_events
from tests import images
from tests.host import daemon as host
from tests.host.daemon import GONE, IMAGE, Cri, Daemon, Kubelet, Stage, log_lines, wait_for
from tests.host.nodes import SLOW
from tests.registry import registry

pytestmark = [pytest.mark.host, pytest.mark.timeout(120 * SLOW)]
stage, daemon, kubelet, nothing_leaks = host.stage, host.daemon, host.kubelet, host.nothing_leaks

ROUNDS = int(os.environ.get("OCID_KILLS", "12"))
BROKEN = (*GONE, GRPCError, CancelledError, TimeoutError, AttributeError)  # the last: grpclib's, of a closed connection


class Churn:
    """Clients that make and unmake pods until they are told to stop, whatever happens to the daemon."""

    def __init__(self, daemon: Daemon, clients: int) -> None:
        self._daemon = daemon
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(n,), daemon=True) for n in range(clients)]
        self.made = 0
        self.refusals: list[str] = []
        self.errors: list[BaseException] = []

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        for one in self._threads:
            one.start()
        try:
            yield
        finally:
            self._over.set()
            for one in self._threads:
                one.join(30)

    def _client(self, number: int) -> None:
        cri = Cri(self._daemon.loop, self._daemon.socket)
        kubelet = Kubelet(cri, self._daemon.directory, self._daemon.cgroup_parent)
        try:
            while not self._over.is_set():
                try:
                    self._one_pod(kubelet, number)
                except GRPCError as error:
                    if error.status not in (Status.UNAVAILABLE, Status.NOT_FOUND, Status.FAILED_PRECONDITION):
                        self.refusals.append(f"{error.status}: {error.message}")
                except BROKEN:
                    time.sleep(0.01)
        except BaseException as error:
            self.errors.append(error)
        finally:
            cri.close()

    def _one_pod(self, kubelet: Kubelet, number: int) -> None:
        """Every second client has a pause process; some pods are left for the garbage collection at the end."""
        shared = pb.POD if number % 2 else pb.CONTAINER
        pod_id = kubelet.run_pod(pid=shared)
        security = {"namespace_options": pb.NamespaceOption(pid=shared)}
        container_id = kubelet.start(pod_id, "sleep", "1000", security=security)
        kubelet.exec(container_id, "true")
        self.made += 1
        if random.random() < 0.8:
            kubelet.call("StopContainer", container_id=container_id, timeout=0)
            kubelet.call("RemoveContainer", container_id=container_id)
            kubelet.end_pod(pod_id)


@pytest.mark.timeout(200 * SLOW)
def test_kills_at_random_moments_of_pod_churn(daemon: Daemon, kubelet: Kubelet) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    churn = Churn(daemon, 4)
    began = time.monotonic()
    with churn.going_on():
        for _ in range(ROUNDS):
            wait_for_events(daemon, moments.randrange(5, 90))
            time.sleep(moments.uniform(0, 0.02))
            daemon.kill()
            daemon.start()
    took_s = time.monotonic() - began
    assert not churn.errors
    assert not churn.refusals, churn.refusals
    wait_for(lambda: not _starting(daemon), "pods in the making are made", 20)
    kubelet.remove_everything()
    daemon.assert_no_leaks()
    daemon.check_log()
    starts = [one.event for one in daemon.events() if isinstance(one.event, node_events.Started)]
    assert len(starts) == daemon.lives
    assert [one.epoch for one in starts] == list(range(1, daemon.lives + 1))
    print(f"{churn.made} pods in {took_s:.1f} s, {ROUNDS} kills, {daemon.last_seq()} events")
    assert churn.made >= ROUNDS


def wait_for_events(daemon: Daemon, count: int, timeout_s: float = 3.0) -> None:
    """Wait until the log has so many events more, for a while: a loaded machine makes few."""
    until, wanted = time.monotonic() + timeout_s * SLOW, daemon.last_seq() + count
    with daemon.log() as log:
        while log.last_seq() < wanted and time.monotonic() < until:
            time.sleep(0.01)


def _starting(daemon: Daemon) -> list[str]:
    pods = daemon.view().pods.rows
    return [name for name, row in pods.items() if not (row.state.ready or row.state.stop_wanted)]


def test_running_containers_go_on(daemon: Daemon, kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    script = "i=0; while [ ! -e /dev/shm/stop ]; do echo $i; i=$((i+1)); sleep 0.03; done; exit 5"
    counting = kubelet.start(pod_id, "sh", "-c", script, name="counting")
    ending = kubelet.start(pod_id, "sh", "-c", "sleep 0.4; exit 9", name="ending")
    killed = kubelet.start(pod_id, "sleep", "1000", name="killed")
    staying = kubelet.start(pod_id, "sleep", "1000", name="staying")
    created = kubelet.create(pod_id, "sh", "-c", "exit 4", name="created")
    hog = kubelet.start(pod_id, "sh", "-c", "sleep 0.3; x=a; while true; do x=$x$x; done", name="hog", memory=16 << 20)
    before = {one: kubelet.status(one) for one in (counting, ending, killed, staying, created)}
    pids = {one: kubelet.info(one)["pid"] for one in (counting, killed, staying)}
    addresses = kubelet.addresses(pod_id)
    daemon.kill()
    os.kill(pids[killed], 15)  # an init without a handler ignores it: see pid_namespaces(7)
    os.kill(pids[killed], 9)
    time.sleep(0.8)
    daemon.start()
    for one in (counting, staying):
        assert kubelet.info(one)["pid"] == pids[one]
        assert kubelet.status(one) == before[one]
    for one, code, reason in ((ending, 9, "Error"), (killed, 137, "Error"), (hog, 137, "OOMKilled")):
        status = kubelet.exited(one)
        assert (status.exit_code, status.reason) == (code, reason)
    assert kubelet.status(ending).created_at == before[ending].created_at
    assert kubelet.status(ending).started_at == before[ending].started_at
    assert kubelet.addresses(pod_id) == addresses
    assert kubelet.exec(staying, "echo", "hello").stdout == b"hello\n"
    kubelet.call("StartContainer", container_id=created)
    assert kubelet.exited(created).exit_code == 4
    kubelet.sh(staying, "touch /dev/shm/stop")
    status = kubelet.exited(counting)
    assert (status.exit_code, status.reason) == (5, "Error")
    said = [text for _, _, text in log_lines(Path(status.log_path))]
    assert said == [str(number) for number in range(len(said))]
    assert len(said) > 20
    recovered = [one.event for one in daemon.events() if isinstance(one.event, node_events.Recovered)][-1]
    assert (recovered.pods, recovered.containers) == (1, 6)


def test_a_retry_after_a_kill_joins(daemon: Daemon, kubelet: Kubelet) -> None:
    for delay_s in (0.0, 0.02, 0.1):
        config, made = kubelet.pod_config(), kubelet.container_config("sleep", "1000")
        call = kubelet.begin("RunPodSandbox", config=config)
        time.sleep(delay_s)
        daemon.kill()
        with contextlib.suppress(*BROKEN):
            call.result(5)
        daemon.start()
        pod_id = kubelet.run_pod(config)
        call = kubelet.begin("CreateContainer", pod_sandbox_id=pod_id, config=made)
        time.sleep(delay_s)
        daemon.kill()
        with contextlib.suppress(*BROKEN):
            call.result(5)
        daemon.start()
        container_id = kubelet.create(pod_id, config=made)
        kubelet.call("StartContainer", container_id=container_id)
        pods = kubelet.call("ListPodSandbox").items
        containers = kubelet.call("ListContainers").containers
        assert ([one.id for one in pods], [one.id for one in containers]) == ([pod_id], [container_id])
        kubelet.end_pod(pod_id)


def test_a_stop_goes_on_after_a_kill(daemon: Daemon, kubelet: Kubelet) -> None:
    """The grace counts from the call, not from the restart."""
    pod_id = kubelet.run_pod()
    container_id = kubelet.start(pod_id, "sh", "-c", "trap '' TERM; while true; do sleep 0.05; done")
    time.sleep(0.2)
    seq = daemon.last_seq()
    call = kubelet.begin("StopContainer", container_id=container_id, timeout=2)
    wait_for(lambda: "container.stop_requested" in daemon.types(seq + 1), "the stop is in the log")
    daemon.kill()
    with contextlib.suppress(*BROKEN):
        call.result(5)
    daemon.start()
    assert kubelet.exited(container_id, 5).exit_code == 137


def test_a_kill_during_a_pull(daemon: Daemon, kubelet: Kubelet) -> None:
    built = images.image([images.files(a=os.urandom(400_000)), images.files(b=os.urandom(400_000))], packings=["", ""])
    with registry() as server:
        name = server.put("team/app", "v1", built)
        server.misdeeds[str(built.layers[1].blob)] = [("hang", 100_000)]
        seq = daemon.last_seq()
        call = kubelet.begin("PullImage", image=pb.ImageSpec(image=name))
        wait_for(lambda: "layer.ready" in daemon.types(seq + 1), "the first layer is ready")
        wait_for(lambda: any(daemon.root.glob("staging/*.part")), "the second one comes")
        daemon.kill()
        with contextlib.suppress(*BROKEN):
            call.result(5)
        seq = daemon.last_seq()
        daemon.start()
        server.stop.set()
        types = daemon.types(seq + 1)
        assert "pull.abandoned" in types
        assert "layer.failed" in types
        assert not os.listdir(daemon.root / "staging")
        asked = len(server.paths("/blobs/"))
        assert kubelet.call("PullImage", image=pb.ImageSpec(image=name)).image_ref == built.image_id
        again = [path for path in server.paths("/blobs/")[asked:] if str(built.layers[0].blob) in path]
        assert not again, "the first layer is in the store"
        kubelet.call("RemoveImage", image=pb.ImageSpec(image=name))
        wait_for(lambda: len(os.listdir(daemon.root / "layers")) == 1, "its layers go")


def test_a_kill_during_a_command(daemon: Daemon, kubelet: Kubelet) -> None:
    container_id = kubelet.start(kubelet.run_pod(), "sleep", "1000")
    call = kubelet.begin("ExecSync", container_id=container_id, cmd=["sh", "-c", "trap '' TERM; sleep 765 & sleep 764"])
    wait_for(lambda: _commands("sleep 764"), "the command runs")
    wait_for(lambda: _commands("sleep 765"), "its child runs")
    daemon.kill()
    with contextlib.suppress(*BROKEN):
        call.result(5)
    seq = daemon.last_seq()
    daemon.start()
    abandoned = [one for one in daemon.events(seq + 1) if isinstance(one.event, exec_events.Abandoned)]
    assert len(abandoned) == 1
    wait_for(lambda: not _commands("sleep 764") and not _commands("sleep 765"), "the command is gone")
    assert kubelet.status(container_id).state == pb.CONTAINER_RUNNING
    assert kubelet.exec(container_id, "true").exit_code == 0


def _commands(words: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip() == words:
                found.append(path.parent.name)
    return found


def test_what_was_lost_while_the_daemon_was_down(daemon: Daemon, kubelet: Kubelet) -> None:
    """Somebody takes the pod's namespaces and the container's monitor away."""
    pod_id = kubelet.run_pod()
    container_id = kubelet.start(pod_id, "sleep", "1000")
    pid = kubelet.info(container_id)["pid"]
    daemon.kill()
    for path in (daemon.run / "pods" / pod_id / "ns").iterdir():
        subprocess.run(["umount", str(path)], check=True)
    monitor = [line.split()[0] for line in daemon._processes() if "conmon" in line]
    assert len(monitor) == 1
    os.kill(int(monitor[0]), 9)
    os.kill(pid, 9)
    daemon.start()
    wait_for(lambda: kubelet.pod_status(pod_id).state == pb.SANDBOX_NOTREADY, "the pod is lost")
    status = kubelet.exited(container_id)
    assert status.exit_code in (137, 255)
    assert status.reason in ("Error", "ExitStatusUnknown")
    assert "pod.lost" in daemon.types()


def test_a_clean_stop(daemon: Daemon, kubelet: Kubelet) -> None:
    container_id = kubelet.start(kubelet.run_pod(), "sleep", "1000")
    waiting = kubelet.begin("ExecSync", container_id=container_id, cmd=["sleep", "543"])
    wait_for(lambda: _commands("sleep 543"), "a command runs")
    began = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - began < 5 * SLOW
    with pytest.raises(BROKEN):
        waiting.result(5)
    assert daemon.types()[-2:] == ["node.stopped", "log.sealed"]
    assert not daemon.socket.exists()
    daemon.start()
    started = [one.event for one in daemon.events() if isinstance(one.event, node_events.Started)][-1]
    assert started.after_clean_stop
    assert not started.rebooted
    assert kubelet.status(container_id).state == pb.CONTAINER_RUNNING
    assert not _commands("sleep 543")
    daemon.kill()
    daemon.start()
    started = [one.event for one in daemon.events() if isinstance(one.event, node_events.Started)][-1]
    assert not started.after_clean_stop


def test_a_second_daemon_is_refused(daemon: Daemon, kubelet: Kubelet, tmp_path: Path) -> None:
    """By the socket, and with another socket by the log; the first one does not notice."""
    pod_id = kubelet.run_pod()
    same = subprocess.run(daemon.words(), capture_output=True, text=True, check=False, timeout=20)
    assert same.returncode != 0
    assert f"another daemon listens on {str(daemon.socket)!r}" in same.stderr
    words = daemon.words(socket=str(tmp_path / "s"))
    other = subprocess.run(words, capture_output=True, text=True, check=False, timeout=20)
    assert other.returncode != 0
    assert f"is in use by process {daemon.pid}" in other.stderr
    assert "Traceback" not in same.stderr + other.stderr
    assert not (tmp_path / "s").exists()
    assert kubelet.pod_status(pod_id).state == pb.SANDBOX_READY
    with daemon.client() as cri:
        assert cri.call("Version").runtime_name == "ocid"


def test_daemons_side_by_side(daemon: Daemon, stage: Stage, kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    kubelet.start(pod_id, "sleep", "1000")
    with stage.daemon() as other, other.client() as cri:
        second = Kubelet(cri, other.directory, other.cgroup_parent)
        second.call("PullImage", image=pb.ImageSpec(image=IMAGE))
        pod_of_other = second.run_pod()
        container_id = second.start(pod_of_other, "sleep", "1000")
        assert [one.id for one in second.call("ListPodSandbox").items] == [pod_of_other]
        assert [one.id for one in kubelet.call("ListPodSandbox").items] == [pod_id]
        assert second.sh(container_id, "hostname") == second.pods[pod_of_other].hostname
        other.kill()
        other.start()
        second.end_pod(pod_of_other)
    assert kubelet.pod_status(pod_id).state == pb.SANDBOX_READY


NO_NFT = """
from ocid.adapters.nftables import Table
from ocid.errors import EffectFailed
async def refuses(self, ports):
    raise EffectFailed("writing table: nft says 'no'")
Table.replace = refuses
"""


def test_a_start_without_the_rules_of_the_network(daemon: Daemon, kubelet: Kubelet) -> None:
    """A node whose nft fails is better than none: pods are served, and the next one has the rules written."""
    pod_id = kubelet.run_pod()
    daemon.kill()
    daemon.prelude = NO_NFT
    try:
        daemon.start()
        assert "nft says 'no'" in daemon.said()
        assert kubelet.pod_status(pod_id).state == pb.SANDBOX_READY
        kubelet.run_pod()
    finally:
        daemon.prelude = ""


DIES_WRITING = """
import os, pathlib
def dies_writing(self, content, *more, **fields):
    with open(self, "wb") as file:
        if self.name.startswith({name!r}):
            os._exit(9)
        return file.write(content.encode() if isinstance(content, str) else content)
pathlib.Path.write_text = pathlib.Path.write_bytes = dies_writing
"""


@pytest.mark.parametrize(
    "name",
    [
        "cgroups-made",
        "resolv.conf",
        "monitor.json",
    ],
)
def test_a_death_in_the_middle_of_writing_a_file(stage: Stage, private_mounts: None, name: str) -> None:
    """The file is there, and empty; the next life goes on all the same."""
    with stage.daemon(prelude=DIES_WRITING.format(name=name)) as one, one.client() as cri:
        kubelet = Kubelet(cri, one.directory, one.cgroup_parent)
        kubelet.call("PullImage", image=pb.ImageSpec(image=IMAGE))
        config, made = kubelet.pod_config(), kubelet.container_config("sleep", "1000")
        with pytest.raises(BROKEN):
            kubelet.start(kubelet.run_pod(config), config=made)
        assert one.keeper.ended(one.pid, 10) == 9
        one.prelude = ""
        one.start()
        pod_id = kubelet.run_pod(config)
        container_id = kubelet.create(pod_id, config=made)
        kubelet.call("StartContainer", container_id=container_id)
        assert kubelet.exec(container_id, "true").exit_code == 0
        kubelet.end_pod(pod_id)
        one.assert_no_leaks()
        one.check_log()
