"""Session actors: serve one client of exec, attach or port-forward, once. ``Sessions`` is what the server asks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, assert_never

import msgspec
import trio

from ocid.actors.actor import Note
from ocid.actors.container import ContainerEffects, ContainerOf, PodOf
from ocid.actors.directory import Kind as Directory
from ocid.actors.forwarding import Forwarding
from ocid.actors.host import Host
from ocid.domain import session as domain
from ocid.domain.redaction import redact_text
from ocid.domain.session import Session
from ocid.errors import OcidError, WrongState
from ocid.events import session as events
from ocid.ids import ExecId
from ocid.ports import ContainerOrder, ExecProcess
from ocid.ports.sessions import Grant, Kind, Outcome
from ocid.ports.streaming import Client, ForwardClient, Output, StreamEnd

TOKEN_S = 60.0  # how long a client has to come; longer than the kubelet ever needs to connect
STREAMS_S = 30.0  # how long a client that came has to open its streams
MESSAGE_CHARS_MAX = 1000
TERM = "TERM"


class TokenIssuer(Protocol):
    """One-time tokens, each for one grant."""

    def issue(self, grant: Grant) -> str:
        """Return a new token for *grant*.

        Raises:
            Exhausted: too many are waiting to be claimed.
        """

    def claim(self, token: str) -> Grant | None:
        """Return what a token stands for, once."""


@dataclass
class Job:
    """What must not, or cannot, be in the log: the command as it was given, and the client."""

    argv: tuple[str, ...] = ()
    claimed: trio.Event = field(default_factory=trio.Event)  # set when a client has shown the token
    client: Client | None = None
    forward: ForwardClient | None = None
    unwanted: trio.Event = field(default_factory=trio.Event)  # set when the server has let the client go
    begun: bool = False
    error: str = ""  # for the client: unlike the log's words it is not redacted


class SessionEffects:
    """Runs the effects of every session. A job lives in memory only: after a crash it is abandoned, never repeated."""

    def __init__(self, host: Host, containers: ContainerEffects, container_of: ContainerOf, pod_of: PodOf) -> None:
        self._host = host
        self._containers = containers
        self._container_of = container_of
        self._pod_of = pod_of
        self.jobs: dict[str, Job] = {}
        self.streams_s = STREAMS_S

    async def perform(self, effect: domain.Effect, state: Session) -> Note:
        """Run one effect and say what came of it. Foreseen failures are notes, too."""
        assert state.requested is not None, "a session that nobody requested owes nothing"
        job = self.jobs.get(state.requested.session_id)
        if job is None:
            return Note(domain.NoteAbandoned(reason="its client was let go before it was served"))
        match effect:
            case domain.AwaitClient():
                reason = await self._wait(job)
                self.jobs.pop(state.requested.session_id, None)
                return Note(domain.NoteExpired(reason=reason))
            case domain.Serve():
                return await self._serve(state.requested, job)
            case _:
                assert_never(effect)

    async def _wait(self, job: Job) -> str:
        """Return why the session expires, when it does."""
        with trio.move_on_after(TOKEN_S):
            await job.claimed.wait()
        if not job.claimed.is_set():
            return f"no client came within {TOKEN_S:g} s"
        await trio.sleep(self.streams_s)
        return f"a client came, but opened no streams within {self.streams_s:g} s"

    async def _serve(self, requested: events.Requested, job: Job) -> Note:
        if job.begun:  # the actor crashed meanwhile; what ran was cancelled with it
            job.error = "serving it failed"
            return Note(domain.NoteFailed(error="EffectFailed", message=job.error))
        job.begun = True
        began_ns = self._host.clock.boot_ns()
        try:
            closed = await self._served(requested, job)
        except OcidError as error:
            job.error = error.message
            settings = self._host.settings
            said = redact_text(error.message[:MESSAGE_CHARS_MAX], settings.redaction, settings.salt)
            return Note(domain.NoteFailed(error=type(error).__name__, message=said))
        took_ms = (self._host.clock.boot_ns() - began_ns) // 1_000_000
        return Note(domain.NoteClosed(closed=msgspec.structs.replace(closed, took_ms=took_ms)))

    async def _served(self, requested: events.Requested, job: Job) -> events.Closed:
        """Serve the client to its end; ``took_ms`` is still to be filled in."""
        if job.forward is not None:
            pod = self._pod_of(requested.pod_id)
            if pod.declared is None or not pod.is_ready:
                raise WrongState("pod", requested.pod_id, wants="ready", is_now=pod.phase)
            forwarding = Forwarding(self._host.streams, pod.declared.netns, requested.ports)
            reason = await forwarding.serve(job.forward, job.unwanted)
            return events.Closed(took_ms=0, reason=reason, ports=forwarding.uses())
        assert job.client is not None, "a session is opened with its client in hand"
        client = _Chosen(job.client, requested, job.unwanted)
        order = self._order(requested)
        if requested.kind == Kind.ATTACH:
            end = await self._host.streams.attach(order, client, stdin=requested.stdin)
        else:
            exec_id, process = ExecId(requested.session_id), self._process(order, job.argv, requested.tty)
            end = await self._host.streams.exec(
                order, exec_id, process, client, stdin=requested.stdin, tty=requested.tty
            )
        job.error = end.reason
        return _closed(end)

    def _order(self, requested: events.Requested) -> ContainerOrder:
        container = self._container_of(requested.container_id)
        if container.declared is None or not container.running:
            raise WrongState("container", requested.container_id, wants="running", is_now=container.phase)
        return self._containers.order(container.declared)

    def _process(self, order: ContainerOrder, argv: tuple[str, ...], tty: bool) -> ExecProcess:
        process: dict[str, Any] = dict(self._host.runtime.read_bundle(order)["process"])
        process["args"] = list(argv)
        process["terminal"] = tty
        process.pop("consoleSize", None)
        environment = list(process.get("env") or ())
        if tty and not any(one.startswith(f"{TERM}=") for one in environment):
            process["env"] = [*environment, f"{TERM}=xterm"]
        return ExecProcess(spec=process)

    async def sweep(self, state: Session) -> None:
        """End what an earlier life of the daemon left running of this session."""
        requested = state.requested
        if requested is None or requested.kind != Kind.EXEC or state.opened is None or state.ended:
            return
        container = self._container_of(requested.container_id)
        if container.declared is not None:
            order = self._containers.order(container.declared)
            await self._host.runtime.abandon_exec(order, ExecId(requested.session_id))


class SessionService:
    """Implements ``ocid.ports.sessions.Sessions``."""

    def __init__(self, effects: SessionEffects, sessions: Directory[Session], tokens: TokenIssuer) -> None:
        self._effects = effects
        self._sessions = sessions
        self._tokens = tokens

    def claim(self, token: str) -> Grant | None:
        """Return what a token stands for, once; None for one that is unknown, used or too old."""
        grant = self._tokens.claim(token)
        job = None if grant is None else self._effects.jobs.get(grant.session_id)
        if job is None:
            return None
        job.claimed.set()
        return grant

    async def serve(self, grant: Grant, client: Client) -> Outcome:
        """Serve an exec or attach to its end. A caller that is cancelled lets the client go, and its command is ended.

        The session is in the log as opened before anything runs.
        """
        job = self._effects.jobs.get(grant.session_id)
        if job is None:
            return Outcome(error=f"session {grant.session_id} is over")
        job.client = client
        return await self._follow(grant, job, client)

    async def forward(self, grant: Grant, client: ForwardClient) -> None:
        """Serve a port-forward until its client has gone."""
        job = self._effects.jobs.get(grant.session_id)
        if job is not None:
            job.forward = client
            await self._follow(grant, job, client)

    async def _follow(self, grant: Grant, job: Job, client: Client | ForwardClient) -> Outcome:
        try:
            actor = self._sessions.get(grant.session_id)
            await actor.ask(domain.Open(remote=client.remote))
            end = await actor.until(lambda one: one.ended)
        except OcidError as error:
            return Outcome(error=error.message)
        except trio.Cancelled:
            job.unwanted.set()
            raise
        finally:
            self._effects.jobs.pop(grant.session_id, None)
        if end.closed is not None:
            return Outcome(exit_code=end.closed.exit_code, error=job.error)
        if end.failed is not None:
            return Outcome(error=job.error or end.failed.message)
        return Outcome(error=f"session {grant.session_id} is {end.phase}")


def grant_of(requested: events.Requested) -> Grant:
    """Return what a token for this session stands for."""
    return Grant(
        session_id=requested.session_id,
        kind=Kind(requested.kind),
        stdin=requested.stdin,
        stdout=requested.stdout,
        stderr=requested.stderr,
        tty=requested.tty,
        ports=requested.ports,
    )


def _closed(end: StreamEnd) -> events.Closed:
    return events.Closed(
        took_ms=0,
        exit_code=end.exit_code,
        reason=end.reason,
        stdin_bytes=end.stdin_bytes,
        stdout_bytes=end.stdout_bytes,
        stderr_bytes=end.stderr_bytes,
    )


class _Chosen:
    """A client that gets no more than it asked for, and is gone when its server has let it go."""

    def __init__(self, client: Client, requested: events.Requested, unwanted: trio.Event) -> None:
        self._client = client
        self._outputs = {
            output
            for output, wanted in ((Output.STDOUT, requested.stdout), (Output.STDERR, requested.stderr))
            if wanted
        }
        self._unwanted = unwanted
        self.remote = client.remote
        self.read_stdin = client.read_stdin
        self.next_size = client.next_size

    async def write(self, output: Output, data: bytes) -> None:
        if output in self._outputs and not self._unwanted.is_set():
            await self._client.write(output, data)
        else:
            await trio.lowlevel.checkpoint()

    async def gone(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_unwanted, nursery.cancel_scope)
            await self._client.gone()
            nursery.cancel_scope.cancel()

    async def _until_unwanted(self, scope: trio.CancelScope) -> None:
        await self._unwanted.wait()
        scope.cancel()
