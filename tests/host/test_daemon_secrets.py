"""Secrets pass through a real daemon, and stay nowhere that outlives their use: not in the log, not on its stderr."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpclib.exceptions import GRPCError

from ocid.cri.stubs import api_pb2 as pb
from ocid.errors import Erased
from ocid.events import log
from ocid.events.exec import Requested
from ocid.events.log import LOG
from ocid.ids import ContainerId, PodId
from ocid.journal.looking import envelopes, look
from tests import images
from tests.host import daemon as host
from tests.host.daemon import IMAGE, Daemon, Kubelet, Stage
from tests.host.kubelet import wait_for
from tests.host.nodes import SLOW
from tests.host.test_daemon_seals import replay
from tests.registry import Registry, registry

pytestmark = [pytest.mark.host, pytest.mark.timeout(90 * SLOW)]
stage, daemon, kubelet, nothing_leaks = host.stage, host.daemon, host.kubelet, host.nothing_leaks

# Each is found by its name, or by its shape; none of these words may be in the log.
BY_NAME = {
    "DB_PASSWORD": "canary-a1-password",
    "API_TOKEN": "canary-a2-token",
    "AWS_SECRET_ACCESS_KEY": "canary-a3/secret+key",
    "SSH_PASSPHRASE": "canary-a4 with spaces",
}
BY_SHAPE = {
    "HARMLESS": "eyJhbGciOiJIUzI1NiJ9.Y2FuYXJ5LWI1LWp3dA.canaryb1signature",
    "DATABASE": "postgres://app:canary-b2-url@db.test/app",
    "KEY": "-----BEGIN RSA PRIVATE KEY-----\ncanary-b3-pem\n-----END RSA PRIVATE KEY-----",
    "HEADER": "Authorization: Bearer canary-b4-bearer",
}
PLAIN = {"GREETING": "visible-word"}


DEBUG = """
import ocid.adapters.messages as m, ocid.main
ocid.main.write_messages = lambda level, rules: (m.write_messages("debug", rules), __import__("logging").debug("begun"))
"""
LEAVING = (
    ("timeline", "-o", "jsonl"), ("timeline",), ("export",),
    ("export", "--format", "cloudevents"), ("state", "-o", "json"),
)  # fmt: skip
FORBIDDEN = (b"canary", b"Y2FuYXJ5")  # as it is, and in the base64 of "user:canary" for a user of five letters


def check_nothing_shows(daemon: Daemon) -> None:
    places = {path: path.read_bytes() for path in (*(daemon.root / "log").iterdir(), daemon.errors)}
    places |= {Path(" ".join(words)): replay(daemon, *words)[1].encode() for words in LEAVING}
    assert not [(path, word) for path, content in places.items() for word in FORBIDDEN if word in content]
    assert b"visible-word" in places[daemon.root / "log" / "data.mdb"], "the log is searched as it is"


@pytest.fixture
def secretive(daemon: Daemon, kubelet: Kubelet) -> Iterator[Kubelet]:
    """A kubelet with secrets; after the test, and after a restart of the daemon, none of them shows."""
    container_id = kubelet.start(kubelet.run_pod(), "sleep", "1000", env=PLAIN)
    kubelet.exec(container_id, "echo", "visible-word")  # its beginning is in the record, for people need it
    kubelet.call("RemoveContainer", container_id=container_id)
    yield kubelet
    check_nothing_shows(daemon)
    kubelet.remove_everything()
    assert daemon.stop() == 0
    daemon.start()
    check_nothing_shows(daemon)


def test_environment(daemon: Daemon, secretive: Kubelet) -> None:
    kubelet, secrets = secretive, {**BY_NAME, **BY_SHAPE}
    container_id = kubelet.start(kubelet.run_pod(), "sleep", "1000", env=secrets)
    for name, value in secrets.items():
        assert kubelet.exec(container_id, "sh", "-c", f'printf %s "${name}"').stdout.decode() == value
    assert "canary" not in str(kubelet.info(container_id)["runtimeSpec"])
    assert kubelet.status(container_id).state == pb.CONTAINER_RUNNING
    config = daemon.run / "containers" / container_id / "config.json"
    assert config.stat().st_mode & 0o777 == 0o600


def test_secrets_outlive_a_kill_only_in_the_bundle(daemon: Daemon, secretive: Kubelet) -> None:
    kubelet, pod_id = secretive, secretive.run_pod()
    created = kubelet.create(pod_id, "sh", "-c", "echo $DB_PASSWORD", env=BY_NAME)
    running = kubelet.start(pod_id, "sleep", "1000", name="other", env=BY_NAME)
    daemon.kill()
    daemon.start()
    kubelet.call("StartContainer", container_id=created)
    log = Path(kubelet.exited(created).log_path)
    assert BY_NAME["DB_PASSWORD"] in log.read_text()
    assert kubelet.sh(running, "echo $API_TOKEN") == BY_NAME["API_TOKEN"]


def test_arguments(daemon: Daemon, secretive: Kubelet) -> None:
    kubelet = secretive
    words = [
        "sh",
        "-c",
        'echo "$@"; sleep 1000; true',
        "--password=canary-c1",
        "--token",
        "canary-c2",
        "-H",
        BY_SHAPE["HEADER"],
    ]
    container_id = kubelet.start(kubelet.run_pod(), *words)
    told = kubelet.exec(container_id, "sh", "-c", "tr '\\0' ' ' </proc/1/cmdline").stdout.decode()
    assert "--password=canary-c1 --token canary-c2" in told
    done = kubelet.exec(container_id, "echo", "--api-key", "canary-c3", "password=canary-c4", BY_SHAPE["DATABASE"])
    assert done.stdout.decode().split()[:3] == ["--api-key", "canary-c3", "password=canary-c4"]
    with pytest.raises(GRPCError):
        kubelet.exec(container_id, "/no/such/program", "--token=canary-c5")
    with pytest.raises(GRPCError):
        kubelet.exec(container_id, "sh", "-c", "sleep 9", "--token=canary-c6", timeout_s=1)


def test_refused_requests(daemon: Daemon, secretive: Kubelet) -> None:
    kubelet, pod_id = secretive, secretive.run_pod()
    for fields in (
        {"env": BY_NAME, "image": "no/such:image"},
        {"env": BY_NAME, "security": {"run_as_username": "nobody-here"}},
        {"env": {**BY_NAME, "A=B": "canary-d1"}},
        {"args": ["--password", "canary-d2"], "image": "no/such:image"},
    ):
        with pytest.raises(GRPCError):
            kubelet.create(pod_id, "sh", **fields)
    container_id = kubelet.create(pod_id, "/no/such/program", "--password=canary-d3", env=BY_NAME)
    with pytest.raises(GRPCError):
        kubelet.call("StartContainer", container_id=container_id)


def test_debug_messages(stage: Stage) -> None:
    with stage.daemon(prelude=DEBUG) as daemon, daemon.client() as cri:
        cri.call("PullImage", image=pb.ImageSpec(image=IMAGE))
        kubelet = Kubelet(cri, daemon.directory, daemon.cgroup_parent)
        pod_id = kubelet.run_pod()
        container_id = kubelet.start(
            pod_id, "sh", "-c", "sleep 1000; true", "--token", "canary-g1", env={**BY_NAME, **BY_SHAPE}
        )
        kubelet.exec(container_id, "echo", "--password=canary-g2")
        with pytest.raises(GRPCError):
            kubelet.exec(container_id, "/no/PASSWORD=canary-g3")
        kubelet.remove_everything()
        said = daemon.errors.read_bytes()
        assert b"DEBUG" in said
        assert not [word for word in FORBIDDEN if word in said]


def test_annotations_and_mounts_are_kept_where_they_can_be_erased(daemon: Daemon, kubelet: Kubelet) -> None:
    applied = {"kubectl.kubernetes.io/last-applied-configuration": '{"value":"canary-f1"}'}
    pod_id = kubelet.run_pod(annotations=applied)
    container_id = kubelet.start(pod_id, "sleep", "1000", "plain-f2", annotations=applied)
    assert kubelet.status(container_id).annotations == applied
    assert kubelet.pod_status(pod_id).annotations == applied
    raw = (daemon.root / "log" / "data.mdb").read_bytes()
    assert b"canary-f1" not in raw
    assert b"plain-f2" not in raw


def test_a_pod_that_is_gone_is_erased_for_good(daemon: Daemon, kubelet: Kubelet) -> None:
    pod_id, other = kubelet.run_pod(), kubelet.run_pod(name="other")
    container_id = kubelet.start(pod_id, "sleep", "1000")
    kept = kubelet.start(other, "sleep", "1000")
    for one in (container_id, kept):
        kubelet.exec(one, "echo", "hello")
    code, said = erase(daemon, pod_id)
    assert (code, "still on it" in said) == (1, True), said
    kubelet.end_pod(pod_id)
    verified = replay(daemon, "verify", "-o", "json")
    code, said = erase(daemon, pod_id[:12])
    assert (code, json.loads(said)["erased"]) == (0, True), said
    assert json.loads(said)["entries"] == 4, "configurations of pod and container, specification, command"
    seq = json.loads(said)["seq"]
    for life in range(2):
        with look(daemon.root / "log") as reader:
            asked = (one.event for one in envelopes(reader) if isinstance(one.event, Requested))
            commands = {one.container_id: one.argv for one in asked}
            with pytest.raises(Erased, match=f"record {seq} says why"):
                reader.document(commands[ContainerId(container_id)])
            assert reader.document(commands[ContainerId(kept)]) == b'["echo","hello"]'
            assert reader.confidences(PodId(pod_id)) == 0
        code, again = replay(daemon, "verify", "-o", "json")
        assert (code, json.loads(again)["fault"]) == (verified[0], None)
        if not life:
            daemon.kill()
            daemon.start()
    assert kubelet.status(kept).state == pb.CONTAINER_RUNNING
    code, said = erase(daemon, pod_id)
    assert (code, "not found" in said) == (1, True), said
    kubelet.remove_everything()


def test_what_is_wished_while_no_daemon_runs_is_done_by_the_next(daemon: Daemon, kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    kubelet.end_pod(pod_id)
    assert daemon.stop() == 0
    code, said = erase(daemon, pod_id)
    assert (code, json.loads(said)["erased"]) == (0, False), said
    daemon.start()
    wait_for(lambda: not list((daemon.root / "erase").iterdir()), "the wish is granted", 10)
    with look(daemon.root / "log") as reader:
        last = [one.event for one in reader.read_stream(LOG) if isinstance(one.event, log.Erased)][-1]
    assert (last.pod_id, last.entries, last.reason) == (pod_id, 1, "a request")


def erase(daemon: Daemon, pod_id: str) -> tuple[int, str]:
    command = [*daemon.words()[:-3], "erase", "--pod", pod_id, "--reason", "a request", "-o", "json"]
    done = subprocess.run([*command, *daemon.words()[-2:]], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def guarded() -> Iterator[tuple[Registry, str]]:
    with registry() as server:
        server.basic = "alice", "canary-e1-registry"
        yield server, server.put("team/private", "v1", images.image([images.files(hello=b"x")]))


def test_registry_credentials(daemon: Daemon, secretive: Kubelet, guarded: tuple[Registry, str]) -> None:
    kubelet, (server, name) = secretive, guarded
    image = pb.ImageSpec(image=name)
    both = base64.b64encode(b"alice:canary-e1-registry").decode()
    for auth in (
        pb.AuthConfig(username="alice", password="canary-e1-registry"),
        pb.AuthConfig(auth=both),
    ):
        assert kubelet.call("PullImage", image=image, auth=auth).image_ref
        kubelet.call("RemoveImage", image=image)
    for auth in (
        pb.AuthConfig(username="alice", password="canary-e2-wrong"),
        pb.AuthConfig(registry_token="canary-e3-token"),
        pb.AuthConfig(identity_token="canary-e4-identity"),
        pb.AuthConfig(auth="canary-e5-nonsense"),
    ):
        with pytest.raises(GRPCError) as error:
            kubelet.call("PullImage", image=image, auth=auth)
        assert "canary" not in (error.value.message or "")
    server.misdeeds["/manifests/"] = [("status", 403)] * 3  # this one repeats the header that it was sent
    with pytest.raises(GRPCError) as error:
        kubelet.call("PullImage", image=image, auth=pb.AuthConfig(username="alice", password="canary-e1-registry"))
    assert both not in (error.value.message or "")


def test_files_of_the_daemon_are_its_own(daemon: Daemon, kubelet: Kubelet) -> None:
    log = daemon.root / "log"
    assert log.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in log.iterdir()} == {0o600}
    assert (daemon.root / "redaction.salt").stat().st_mode & 0o777 == 0o600
    assert daemon.socket.stat().st_mode & 0o777 == 0o660
    assert (daemon.root / "layers").stat().st_mode & 0o777 == 0o700
