"""Secrets pass through a real daemon, and stay nowhere that outlives their use: not in the log, not on its stderr."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpclib.exceptions import GRPCError

from ocid.cri.stubs import api_pb2 as pb
from tests import images
from tests.host import daemon as host
from tests.host.daemon import Daemon, Kubelet
from tests.host.nodes import SLOW
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


FORBIDDEN = (b"canary", b"Y2FuYXJ5")  # as it is, and in the base64 of "user:canary" for a user of five letters


def check_nothing_shows(daemon: Daemon) -> None:
    places = {path: path.read_bytes() for path in (*(daemon.root / "log").iterdir(), daemon.errors)}
    assert not [(path, word) for path, content in places.items() for word in FORBIDDEN if word in content]
    assert b"visible-word" in places[daemon.root / "log" / "data.mdb"], "the log is searched as it is"


@pytest.fixture
def secretive(daemon: Daemon, kubelet: Kubelet) -> Iterator[Kubelet]:
    """A kubelet with secrets; after the test, and after a restart of the daemon, none of them shows."""
    container_id = kubelet.start(kubelet.run_pod(), "sleep", "1000", env=PLAIN)
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
