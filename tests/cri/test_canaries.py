"""Canaries in all that a client, a tool or a plugin can say; none may sing in log, exports, messages or errors."""

from __future__ import annotations

import logging

import msgspec
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.actors import wishes
from ocid.adapters.messages import Redacting
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.redaction import DEFAULT_RULES
from ocid.errors import EffectFailed
from ocid.events.envelope import Envelope
from ocid.events.node import PluginLeft
from ocid.ids import ContainerId
from ocid.projections import fields, words
from tests.cri.daemon import IMAGE, Daemon, refused

CANARY = "c4nary"
ENVS = {
    "DB_PASSWORD": f"{CANARY}-1",
    "HARMLESS": f"eyJhbGciOiJIUzI1NiJ9.{CANARY}2.{CANARY}3",
    "DATABASE": f"postgres://app:{CANARY}-4@db.test/app",
    "HEADER": f"Authorization: Bearer {CANARY}-5",
}
WORDS = (f"--password={CANARY}-6", "--token", f"{CANARY}-7", f"API_KEY={CANARY}-8", ENVS["DATABASE"])


def envs() -> list[pb.KeyValue]:
    return [pb.KeyValue(key=name, value=value.encode()) for name, value in ENVS.items()]


def said(envelope: Envelope) -> str:
    """All forms in which a record leaves the log."""
    plain = msgspec.json.encode(fields.plain(envelope)).decode()
    return " ".join((plain, fields.brief(envelope.event), words.words(envelope.event), repr(envelope)))


@pytest.fixture(autouse=True)
def every_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.handler.setFormatter(Redacting(DEFAULT_RULES))  # as the daemon writes them


def check(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    assert [text for text in daemon.node.disk.readable() if CANARY.encode() in text] == []
    assert [one.type for one in daemon.log() if CANARY in said(one)] == []
    assert CANARY not in caplog.text
    assert len(list(daemon.node.disk.readable())) > len(daemon.node.disk.records), "documents are searched, too"


async def test_configurations_and_commands(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    await daemon.pull()
    pod_id = await daemon.run_pod()
    container_id = await daemon.run(pod_id, "app", "serve", *WORDS, envs=envs())
    await daemon.client.ExecSync(pb.ExecSyncRequest(container_id=container_id, cmd=("run:0.1", *WORDS)))
    with refused(Status.DEADLINE_EXCEEDED) as caught:
        await daemon.client.ExecSync(pb.ExecSyncRequest(container_id=container_id, cmd=("run:9", *WORDS), timeout=1))
    assert CANARY not in str(caught.value)
    with pytest.raises(GRPCError) as error:
        await daemon.client.Exec(pb.ExecRequest(container_id=container_id, cmd=WORDS, stdout=True))
    assert CANARY not in str(error.value)
    status = await daemon.client.ContainerStatus(pb.ContainerStatusRequest(container_id=container_id, verbose=True))
    assert CANARY.encode() not in status.SerializeToString()
    await daemon.restart()

    check(daemon, caplog)


async def provoke(daemon: Daemon, pod_id: str, container_id: str, operation: str) -> None:
    """Have the OCI runtime asked for *operation*."""
    if operation == "exec_sync":
        await daemon.client.ExecSync(pb.ExecSyncRequest(container_id=container_id, cmd=("x",)))
    else:
        await daemon.start(await daemon.create(pod_id, f"app-{operation}"))


async def test_what_tools_repeat(
    daemon: Daemon, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await daemon.pull()
    pod_id = await daemon.run_pod()
    words = f'runc: exec "{WORDS[3]}": not found; env DB_PASSWORD={CANARY}-9 --token {CANARY}-10 {ENVS["DATABASE"]}'

    async def fails(*_: object, **__: object) -> None:
        raise EffectFailed(words)

    runtime = type(daemon.core.host.runtime)
    container_id = await daemon.run(pod_id, "first")
    for name in ("create", "start", "exec_sync"):
        with monkeypatch.context() as patch:
            patch.setattr(runtime, name, fails)
            with pytest.raises(GRPCError) as error:
                await provoke(daemon, pod_id, container_id, name)
            assert CANARY not in (error.value.message or ""), name
    with monkeypatch.context() as patch:
        patch.setattr(type(daemon.core.host.sandboxes), "prepare", fails)
        with pytest.raises(GRPCError):
            await daemon.run_pod("other")

    check(daemon, caplog)


async def test_registry_credentials(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    daemon.node.shelf.put(IMAGE, "base")
    names = ("username", "password", "auth", "identity_token", "registry_token")
    auth = pb.AuthConfig(**{name: f"{CANARY}-{name}" for name in names})
    await daemon.client.PullImage(pb.PullImageRequest(image=pb.ImageSpec(image=IMAGE), auth=auth))
    with refused(Status.NOT_FOUND):
        await daemon.client.PullImage(pb.PullImageRequest(image=pb.ImageSpec(image="registry.test/no"), auth=auth))
    await daemon.run_pod()

    check(daemon, caplog)


async def test_what_plugins_say(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    await daemon.pull()
    container_id = ContainerId(await daemon.run(await daemon.run_pod()))
    actor = daemon.core.containers.get(container_id)
    reason = f"it has DB_PASSWORD={CANARY}-11"
    await wishes.evict(daemon.core.host, actor, "10-fake", reason, wait=True)
    await daemon.core.recorder.append(PluginLeft(plugin="10-fake", reason=reason))

    assert any("DB_PASSWORD=«redacted:" in said(one) for one in daemon.log(PluginLeft))
    check(daemon, caplog)


async def test_a_refused_request(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    await daemon.pull()
    pod_id = await daemon.run_pod()
    for config in (
        {"envs": [pb.KeyValue(key="A=B", value=b"x"), *envs()]},
        {"image": pb.ImageSpec(image="no/such:image"), "envs": envs()},
        {"image": pb.ImageSpec(image=f"no/such:TOKEN={CANARY}-12"), "envs": envs()},
    ):
        with pytest.raises(GRPCError):
            await daemon.create(pod_id, "app", *WORDS, **config)

    check(daemon, caplog)


async def test_annotations_are_kept_byte_for_byte_but_only_where_they_can_be_erased(daemon: Daemon) -> None:
    applied = '{"env":[{"name":"DB_PASSWORD","value":"c4nary"}]}'
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": applied}
    await daemon.pull()
    pod_id = await daemon.run_pod(annotations=annotations)
    container_id = await daemon.run(pod_id, annotations=annotations)

    assert (await daemon.pod_status(pod_id)).annotations == annotations
    assert (await daemon.status(container_id)).annotations == annotations
    disk = daemon.node.disk
    assert not [one for one in (*disk.records, *disk.documents.values()) if CANARY.encode() in one]
    assert [one for one in disk.readable() if CANARY.encode() in one], "it is in the confidential documents"
