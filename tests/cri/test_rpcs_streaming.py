"""Exec, Attach and PortForward: URLs, what the clients that open them get, and what the log says of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from grpclib.const import Status

from ocid.actors import session as sessions
from ocid.actors.session import SessionService
from ocid.cri.facade import Streaming
from ocid.cri.stubs import api_pb2 as pb
from ocid.events import session as events
from ocid.events.base import Event
from ocid.events.node import PeerSeen, RequestRefused
from ocid.ports.sessions import Grant, Kind, Outcome
from ocid.projections.words import words
from tests.cri.daemon import Daemon, pod_config, refused
from tests.fakes.clients import FakeClient, FakeForwardClient
from tests.fakes.tokens import FakeTokens

BASE = "http://127.0.0.1:10010"


class Server:
    """What the streaming server does with a token that a client brings."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.tokens = FakeTokens()
        daemon.facade.streaming = Streaming(base_url=BASE, tokens=self.tokens, sessions_max=5)
        self.service = SessionService(daemon.core.session_effects, daemon.core.sessions, self.tokens)

    def claim(self, url: str) -> Grant:
        kind, token = url.removeprefix(f"{BASE}/").split("/")
        grant = self.service.claim(token)
        assert grant is not None
        assert grant.kind == kind
        return grant

    async def serve(self, url: str, client: FakeClient) -> Outcome:
        return await self.service.serve(self.claim(url), client)

    async def forward(self, url: str, client: FakeForwardClient) -> None:
        await self.service.forward(self.claim(url), client)

    async def exec(self, container_id: str, *cmd: str, **fields: Any) -> str:
        wanted = {"stdin": True, "stdout": True, "stderr": True, **fields}
        response = await self.daemon.client.Exec(pb.ExecRequest(container_id=container_id, cmd=cmd, **wanted))
        url: str = response.url
        return url

    async def attach(self, container_id: str, **fields: Any) -> str:
        response = await self.daemon.client.Attach(pb.AttachRequest(container_id=container_id, **fields))
        url: str = response.url
        return url

    async def port_forward(self, pod_id: str, *ports: int) -> str:
        response = await self.daemon.client.PortForward(pb.PortForwardRequest(pod_sandbox_id=pod_id, port=ports))
        url: str = response.url
        return url


@pytest.fixture
def server(daemon: Daemon) -> Server:
    return Server(daemon)


@pytest.fixture
async def container_id(daemon: Daemon) -> str:
    """A running container."""
    await daemon.pull()
    return await daemon.run(await daemon.run_pod())


def only(daemon: Daemon, kind: type[Event]) -> Any:
    (envelope,) = daemon.log(kind)
    return envelope.event


@contextlib.asynccontextmanager
async def held(server: Server, url: str, client: FakeClient) -> AsyncIterator[list[Outcome]]:
    """Serve *client* in the background, until it leaves at the end."""
    outcomes: list[Outcome] = []

    async def serve() -> None:
        outcomes.append(await server.serve(url, client))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await trio.sleep(1)
        yield outcomes
        client.leave()


# --- exec ------------------------------------------------------------------------------------------------------------


async def test_a_command_has_its_client_and_its_code(daemon: Daemon, server: Server, container_id: str) -> None:
    client = FakeClient(b"typed")
    url = await server.exec(container_id[:13], "run:1", "code:3")
    assert url == f"{BASE}/exec/token1"
    assert not daemon.node.world.commands, "nothing runs before its client comes"

    assert await server.serve(url, client) == Outcome(exit_code=3)
    assert (client.out, client.err) == (b"run:1 code:3typed", b"err")
    assert not daemon.core.session_effects.jobs
    assert not daemon.view.sessions.rows


async def test_what_a_client_claims_of_its_api_request_is_recorded(
    daemon: Daemon, server: Server, container_id: str
) -> None:
    await server.serve(
        await server.exec(container_id, "env", "KUBERNETES_EXEC_AUDIT_ID=f4a3-b2", "run:1"), FakeClient(b"")
    )

    (requested,) = daemon.log(events.Requested)
    assert isinstance(requested.event, events.Requested)
    assert requested.event.audit_hints == ("KUBERNETES_EXEC_AUDIT_ID=f4a3-b2",)
    assert "[its client claims KUBERNETES_EXEC_AUDIT_ID=f4a3-b2]" in words(requested.event)


async def test_what_the_log_says_of_a_command(daemon: Daemon, server: Server, container_id: str) -> None:
    argv = ("run:1", "--password=hunter2")
    await server.serve(await server.exec(container_id, *argv, stderr=False, tty=True), FakeClient(b"typed"))

    requested, opened, closed = daemon.log(events.Requested, events.Opened, events.Closed)
    assert isinstance(requested.event, events.Requested)
    assert requested.stream == f"session/{requested.event.session_id}"
    assert (requested.event.kind, requested.event.container_id) == ("exec", container_id)
    assert requested.event.pod_id == daemon.view.containers.rows[container_id].state.declared.pod_id  # type: ignore[union-attr]
    assert (requested.event.stdin, requested.event.stdout, requested.event.stderr) == (True, True, False)
    assert requested.event.tty
    assert requested.event.argv_brief.startswith("run:1 --password=«redacted")
    assert requested.event.argv is not None
    assert "hunter2" not in "".join(map(str, daemon.log()))
    assert b"redacted" in daemon.node.writer.document(requested.event.argv)  # type: ignore[union-attr]
    assert requested.context.who == daemon.log(PeerSeen)[0].seq
    assert opened.event == events.Opened(remote="127.0.0.1:40312")
    assert isinstance(closed.event, events.Closed)
    assert (closed.event.exit_code, closed.event.stdin_bytes, closed.event.stdout_bytes) == (0, 5, 3)
    assert 1000 <= closed.event.took_ms < 1300
    assert requested.context.correlation == opened.context.correlation == closed.context.correlation


async def test_outputs_that_were_not_asked_for_are_not_sent(daemon: Daemon, server: Server, container_id: str) -> None:
    client = FakeClient(b"typed")
    await server.serve(await server.exec(container_id, "run:1", stdin=False, stderr=False), client)

    assert (client.out, client.err) == (b"run:1", b"")


async def test_a_terminal_has_a_kind(daemon: Daemon, server: Server, container_id: str) -> None:
    seen = []
    streams = daemon.core.host.streams
    run = streams.exec

    async def spy(order: Any, exec_id: Any, process: Any, *args: Any, **fields: Any) -> Any:
        seen.append(process.spec)
        return await run(order, exec_id, process, *args, **fields)

    streams.exec = spy  # type: ignore[method-assign]
    for tty in (True, False):
        await server.serve(await server.exec(container_id, "run:1", stderr=False, tty=tty), FakeClient())

    assert [spec["terminal"] for spec in seen] == [True, False]
    assert ["TERM=xterm" in spec["env"] for spec in seen] == [True, False]


async def test_a_client_that_leaves_ends_its_command(daemon: Daemon, server: Server, container_id: str) -> None:
    client = FakeClient(None)
    async with held(server, await server.exec(container_id, "serve"), client):
        assert daemon.node.world.commands

    assert not daemon.node.world.commands
    assert (only(daemon, events.Closed).exit_code, only(daemon, events.Closed).reason) == (137, "the client went away")


async def test_a_server_that_lets_go_ends_the_command(daemon: Daemon, server: Server, container_id: str) -> None:
    with trio.move_on_after(1):
        await server.serve(await server.exec(container_id, "serve"), FakeClient(None))
    await trio.sleep(1)

    assert not daemon.node.world.commands
    assert only(daemon, events.Closed).exit_code == 137
    assert not daemon.core.session_effects.jobs


async def test_a_command_that_cannot_be_run_fails_with_its_cause(
    daemon: Daemon, server: Server, container_id: str
) -> None:
    daemon.node.faults.script("streams.exec", "fail")
    outcome = await server.serve(await server.exec(container_id, "run:1"), FakeClient())

    assert outcome == Outcome(error="streams.exec: injected failure")
    assert only(daemon, events.Failed) == events.Failed(error="EffectFailed", message="streams.exec: injected failure")


async def test_a_crash_of_the_actor_runs_nothing_twice(daemon: Daemon, server: Server, container_id: str) -> None:
    daemon.node.faults.script("streams.exec", "bug")
    outcome = await server.serve(await server.exec(container_id, "run:1"), FakeClient())

    assert outcome == Outcome(error="serving it failed")
    assert only(daemon, events.Failed).message == "serving it failed"


async def test_a_container_that_ends_before_its_client_comes(daemon: Daemon, server: Server, container_id: str) -> None:
    url = await server.exec(container_id, "run:1")
    await daemon.client.StopContainer(pb.StopContainerRequest(container_id=container_id, timeout=0))
    outcome = await server.serve(url, FakeClient())
    assert outcome == Outcome(error=f"container {container_id!r} is exited, not running")

    url = await server.port_forward(await daemon.run_pod("other"))
    await daemon.client.RemoveContainer(pb.RemoveContainerRequest(container_id=container_id))
    client = FakeForwardClient()
    client.leave()
    await server.forward(url, client)


# --- tokens ----------------------------------------------------------------------------------------------------------


async def test_a_token_is_good_once(server: Server, container_id: str) -> None:
    url = await server.exec(container_id, "run:1")
    grant = server.claim(url)

    assert grant == Grant(session_id=grant.session_id, kind=Kind.EXEC, stdin=True, stdout=True, stderr=True)
    assert server.service.claim("token1") is None
    assert server.service.claim("guess") is None


async def test_a_session_is_served_once(daemon: Daemon, server: Server, container_id: str) -> None:
    grant = server.claim(await server.exec(container_id, "run:1"))
    await server.service.serve(grant, FakeClient())
    again = await server.service.serve(grant, FakeClient())

    assert again == Outcome(error=f"session {grant.session_id} is over")
    assert len(daemon.log(events.Opened)) == 1


async def test_a_session_whose_client_does_not_come_expires(daemon: Daemon, server: Server, container_id: str) -> None:
    url = await server.exec(container_id, "run:1")
    await trio.sleep(sessions.TOKEN_S + 1)

    assert only(daemon, events.Expired).reason == "no client came within 60 s"
    assert server.service.claim(url.rpartition("/")[2]) is None
    assert not daemon.core.session_effects.jobs
    assert not daemon.view.sessions.rows


async def test_a_client_that_came_late_still_has_time_for_its_streams(
    daemon: Daemon, server: Server, container_id: str
) -> None:
    url = await server.exec(container_id, "run:1")
    await trio.sleep(sessions.TOKEN_S - 1)
    grant = server.claim(url)
    await trio.sleep(sessions.STREAMS_S - 2)
    assert await server.service.serve(grant, FakeClient()) == Outcome(exit_code=0)

    grant = server.claim(await server.exec(container_id, "run:1"))
    await trio.sleep(sessions.STREAMS_S + 1)
    assert only(daemon, events.Expired).reason == "a client came, but opened no streams within 30 s"
    assert (await server.service.serve(grant, FakeClient())).error == f"session {grant.session_id} is over"


async def test_sessions_have_a_limit(daemon: Daemon, server: Server, container_id: str) -> None:
    for _ in range(5):
        await server.exec(container_id, "run:1")
    with refused(Status.RESOURCE_EXHAUSTED, "5 streaming sessions", "streaming.sessions_max"):
        await server.exec(container_id, "run:1")
    await trio.sleep(sessions.TOKEN_S + 1)
    await server.exec(container_id, "run:1")


async def test_without_a_streaming_server_there_are_no_sessions(daemon: Daemon, container_id: str) -> None:
    calls = (
        daemon.client.Exec(pb.ExecRequest(container_id=container_id, cmd=["true"], stdout=True)),
        daemon.client.Attach(pb.AttachRequest(container_id=container_id, stdout=True)),
        daemon.client.PortForward(pb.PortForwardRequest(pod_sandbox_id=await daemon.run_pod())),
    )
    for call in calls:
        with refused(Status.UNAVAILABLE, "no streaming server runs"):
            await call
    assert len(daemon.log(RequestRefused)) == 3
    assert daemon.log(events.Requested) == []


# --- attach ----------------------------------------------------------------------------------------------------------


async def test_attaching_kills_nothing(daemon: Daemon, server: Server, container_id: str) -> None:
    client = FakeClient(None)
    url = await server.attach(container_id, stdout=True)
    assert url == f"{BASE}/attach/token1"
    async with held(server, url, client):
        assert client.out == b"out of init"

    assert (await daemon.status(container_id)).state == pb.CONTAINER_RUNNING
    closed = only(daemon, events.Closed)
    assert (closed.exit_code, closed.stdout_bytes, closed.reason) == (None, 11, "the client went away")
    assert only(daemon, events.Requested).argv is None


async def test_a_container_that_ends_ends_its_clients(daemon: Daemon, server: Server) -> None:
    await daemon.pull()
    container_id = await daemon.run(await daemon.run_pod(), "app", "run:3")

    assert await server.serve(await server.attach(container_id, stdout=True), FakeClient(None)) == Outcome()
    assert only(daemon, events.Closed).reason == ""


# --- port-forward ----------------------------------------------------------------------------------------------------


async def test_connections_are_carried_and_counted(daemon: Daemon, server: Server) -> None:
    client, pod_id = FakeForwardClient(), await daemon.run_pod()
    url = await server.port_forward(pod_id, 80, 81, 80)
    assert url == f"{BASE}/portforward/token1"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.forward, url, client)
        good, again, closed_port, foreign = (client.connect(port) for port in (80, 80, 81, 82))
        for tunnel in (good, again):
            tunnel.send(b"ping")
            tunnel.finish()
            await tunnel.closed.wait()
            assert (tunnel.received, tunnel.error) == (b"ping", "")
        await closed_port.closed.wait()
        assert closed_port.error == "cannot connect to port 81 of the pod: refused"
        await foreign.closed.wait()
        assert foreign.error == "port 82 was not asked for: wanted one of 80, 81"
        client.leave()

    closed = only(daemon, events.Closed)
    assert closed.ports == (
        events.PortUse(port=80, connections=2, failed=0, bytes_in=8, bytes_out=8),
        events.PortUse(port=81, connections=1, failed=1, bytes_in=0, bytes_out=0),
        events.PortUse(port=82, connections=1, failed=1, bytes_in=0, bytes_out=0),
    )
    assert only(daemon, events.Requested).ports == (80, 81)
    assert only(daemon, events.Requested).container_id == ""
    assert only(daemon, events.Opened).remote == "127.0.0.1:40313"


async def test_without_ports_the_client_names_them(daemon: Daemon, server: Server) -> None:
    client, url = FakeForwardClient(), await server.port_forward(await daemon.run_pod())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.forward, url, client)
        tunnels = [client.connect(port) for port in (80, *range(1000, 1020))]
        tunnels[0].send(b"ping")
        tunnels[0].finish()
        for tunnel in tunnels:
            await tunnel.closed.wait()
        assert tunnels[0].received == b"ping"
        client.leave()

    uses = only(daemon, events.Closed).ports
    assert len(uses) == 13
    assert (uses[0].port, sum(use.connections for use in uses), uses[0].failed) == (0, 21, 9)


async def test_a_connection_that_breaks_leaves_the_others_alone(daemon: Daemon, server: Server) -> None:
    client, url = FakeForwardClient(), await server.port_forward(await daemon.run_pod())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.forward, url, client)
        broken, good = client.connect(80), client.connect(80)
        broken.broken = True
        broken.send(b"ping")
        await trio.sleep(1)
        good.send(b"ping")
        good.finish()
        await good.closed.wait()
        assert good.received == b"ping"
        client.leave()


async def test_a_server_that_lets_go_of_a_port_forward(daemon: Daemon, server: Server) -> None:
    client, url = FakeForwardClient(), await server.port_forward(await daemon.run_pod())
    with trio.move_on_after(1):
        client.connect(80)
        await server.forward(url, client)
    await trio.sleep(1)

    assert only(daemon, events.Closed).reason == "its server let it go"


async def test_a_pod_in_the_hosts_network_is_served_from_there(daemon: Daemon, server: Server) -> None:
    config = pod_config("host")
    config.linux.security_context.namespace_options.network = pb.NODE
    response = await daemon.client.RunPodSandbox(pb.RunPodSandboxRequest(config=config))
    client, url = FakeForwardClient(), await server.port_forward(response.pod_sandbox_id)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.forward, url, client)
        tunnel = client.connect(80)
        tunnel.finish()
        await tunnel.closed.wait()
        assert tunnel.error == ""
        client.leave()


async def test_a_pod_that_is_stopped_takes_no_connections(daemon: Daemon, server: Server) -> None:
    pod_id = await daemon.run_pod()
    url = await server.port_forward(pod_id)
    await daemon.client.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=pod_id))
    with refused(Status.FAILED_PRECONDITION, f"pod '{pod_id}' is stopped, not ready"):
        await server.port_forward(pod_id)
    with refused(Status.NOT_FOUND):
        await server.port_forward("none")
    await server.forward(url, FakeForwardClient())

    assert only(daemon, events.Failed).message == f"pod '{pod_id}' is stopped, not ready"


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rpc", "request_", "words"),
    [
        ("Exec", pb.ExecRequest(container_id="x", stdout=True), "cmd"),
        ("Exec", pb.ExecRequest(container_id="x", cmd=["a\0b"], stdout=True), "NUL"),
        ("Exec", pb.ExecRequest(container_id="x", cmd=["true"]), "at least one"),
        ("Exec", pb.ExecRequest(container_id="x", cmd=["true"], tty=True, stderr=True), "tty and stderr"),
        ("Exec", pb.ExecRequest(cmd=["true"], stdout=True), "container_id"),
        ("Attach", pb.AttachRequest(container_id="x"), "at least one"),
        ("Attach", pb.AttachRequest(container_id="x", tty=True, stderr=True), "tty and stderr"),
        ("PortForward", pb.PortForwardRequest(), "pod_sandbox_id"),
        ("PortForward", pb.PortForwardRequest(pod_sandbox_id="x", port=[0]), "port is 0"),
        ("PortForward", pb.PortForwardRequest(pod_sandbox_id="x", port=[65536]), "port is 65536"),
        ("PortForward", pb.PortForwardRequest(pod_sandbox_id="x", port=range(1, 66)), "64"),
    ],
)
async def test_refusals(daemon: Daemon, server: Server, rpc: str, request_: Any, words: str) -> None:
    with refused(Status.INVALID_ARGUMENT, words):
        await getattr(daemon.client, rpc)(request_)


async def test_what_does_not_run_takes_no_clients(daemon: Daemon, server: Server) -> None:
    await daemon.pull()
    pod_id = await daemon.run_pod()
    created, ended = await daemon.create(pod_id), await daemon.run(pod_id, "done", "run:0.1")
    await daemon.exited(ended)
    for container_id in (created, ended):
        with refused(Status.NOT_FOUND, f"running container '{container_id}' not found"):
            await server.exec(container_id, "true")
        with refused(Status.NOT_FOUND, f"running container '{container_id}' not found"):
            await server.attach(container_id, stdout=True)
    with refused(Status.NOT_FOUND):
        await server.exec("none", "true")
    assert daemon.log(events.Requested) == []


# --- another life ----------------------------------------------------------------------------------------------------


async def test_sessions_of_a_dead_daemon_are_abandoned_and_their_commands_killed(
    daemon: Daemon, server: Server, container_id: str
) -> None:
    waiting = await server.exec(container_id, "run:1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, await server.exec(container_id, "serve"), FakeClient(None))
        nursery.start_soon(server.serve, await server.attach(container_id, stdout=True), FakeClient(None))
        await trio.sleep(1)
        assert daemon.node.world.commands
        await daemon.restart()
        assert not daemon.node.world.commands
        nursery.cancel_scope.cancel()

    reasons = sorted(one.event.reason for one in daemon.log(events.Abandoned))  # type: ignore[attr-defined]
    assert reasons == ["the daemon ended before its client came"] + ["the daemon ended while it was open"] * 2
    assert not daemon.view.sessions.rows
    assert (await daemon.status(container_id)).state == pb.CONTAINER_RUNNING
    assert Server(daemon).service.claim(waiting.rpartition("/")[2]) is None
