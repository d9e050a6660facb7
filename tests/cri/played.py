"""Requests played to a daemon that has something to lose, and its answers judged."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import trio
import trio_asyncio
from google.protobuf import text_format
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from trio.testing import MockClock

from ocid.actors.session import SessionService
from ocid.cri.facade import Streaming
from ocid.cri.stubs import api_pb2 as pb
from ocid.events import node as node_events
from ocid.ports.sessions import Grant, Kind
from ocid.ports.streaming import Size
from tests.cri import fuzzing
from tests.cri.daemon import Client, Daemon, running
from tests.cri.fuzzing import PATIENCE_S
from tests.fakes.clients import FakeClient, FakeForwardClient
from tests.fakes.tokens import FakeTokens

BASE_URL = "http://127.0.0.1:10010"
SESSIONS_MAX = 24
SETTLED_S = 600.0
FOLLOWED_S = 1.0  # how long a stream is read
SHOWN_MAX = 1500
FORBIDDEN = (Status.UNKNOWN, Status.INTERNAL)
OURS = ("crashed", "the record of a", "is a bug")  # what only we can understand
PULL_PREFIXES = ("RegistryUnavailable: ", "SignatureValidationFailed: ")
HELD_S = 2.0  # how long a client of a streaming session stays
ENDS = {"": "served", "the client went away": "left"}  # by what a session's client was told
URLS = (pb.ExecResponse, pb.AttachResponse, pb.PortForwardResponse)

Answers = Counter[tuple[str, str]]


class Session:
    """One daemon, what was made on it before, and what it was asked."""

    def __init__(self, answers: Answers) -> None:
        self.daemon: Daemon
        self.client: Client | None = None  # to call with, instead of the daemon's own
        self.ids: dict[str, str] = {"@gone-pod": "f" * 64, "@gone-container": "e" * 64}
        self.faults: list[str] = []
        self.answers = answers
        self._tokens = FakeTokens()
        self._clients: trio.Nursery  # of streaming sessions; ends with the daemon's life
        self._urls = 0
        self._made = 0

    def equip(self, daemon: Daemon, nursery: trio.Nursery) -> None:
        """Give a life of the daemon what is beside its core: a streaming server, and looks at what is used."""
        self.daemon, self._clients, self._tokens = daemon, nursery, FakeTokens()
        daemon.facade.streaming = Streaming(base_url=BASE_URL, tokens=self._tokens, sessions_max=SESSIONS_MAX)
        nursery.start_soon(daemon.facade.sampler.run)

    # --- what there is -----------------------------------------------------------------------------------------------

    async def replenish(self) -> None:
        """Have an image, a pod, and a container of each state, whatever the requests before took away.

        ``@new-pod`` and ``@new-container`` are what requests make and may remove; the others are replaced when they
        have gone.
        """
        daemon, ids = self.daemon, self.ids
        if ids.get("@image") not in daemon.facade.catalog_state().images:
            built = await daemon.pull()
            ids["@image"], ids["@image-short"] = built.image_id, built.image_id[7:19]
        pods, containers = daemon.view.pods.rows, daemon.view.containers.rows
        if not self._is_in("@pod", "ready"):
            ids["@gone-pod"] = ids.get("@pod", ids["@gone-pod"])
            ids["@pod"] = await daemon.run_pod(self._name("web"))
        if ids.get("@new-pod") not in pods:
            ids["@new-pod"] = await daemon.run_pod(self._name("new"))
        if not self._is_in("@running", "running"):
            ids["@gone-container"] = ids.get("@running", ids["@gone-container"])
            ids["@running"] = await daemon.run(ids["@pod"], self._name("app"))
        if not self._is_in("@created", "created"):
            ids["@created"] = await daemon.create(ids["@pod"], self._name("waits"))
        if not self._is_in("@exited", "exited"):
            ids["@exited"] = await daemon.run(ids["@pod"], self._name("short"), "run:0.01")
            await trio.sleep(FOLLOWED_S)
        if ids.get("@new-container") not in containers:
            ids["@new-container"] = await daemon.run(ids["@pod"], self._name("spare"))
        for name in ("@pod", "@running"):
            ids[f"{name}-short"], ids[f"{name}-longer"] = ids[name][:12], ids[name] + "0"

    def _is_in(self, marker: str, phase: str) -> bool:
        name = self.ids.get(marker, "")
        view = self.daemon.view.pods if marker == "@pod" else self.daemon.view.containers
        row = view.rows.get(name)
        return row is not None and row.state.phase == phase

    def _name(self, kind: str) -> str:
        self._made += 1
        return f"{kind}-{self._made}"

    # --- requests ----------------------------------------------------------------------------------------------------

    async def send(self, request: fuzzing.Request) -> None:
        """Send one request and judge its answer."""
        name, message = request.method.name, fuzzing.resolved(request.message, self.ids)
        try:
            reply = await self.call(request.method, message, request.patience_s)
        except GRPCError as error:
            self.answers[name, error.status.name] += 1
            if _is_bug(name, error):
                self.fault(f"{name}: {error.status.name}: {error.message}", message)
        except TimeoutError:
            self.answers[name, "gone"] += 1  # the client's own deadline, before anything was sent
        except StreamTerminatedError as error:
            self.answers[name, "broken"] += 1
            self.fault(f"{name}: the stream broke: {error}", message)
        else:
            self.answers[name, "OK"] += 1
            self._keep(reply)

    def _keep(self, reply: Any) -> None:
        """Remember what was made; open every second URL."""
        if isinstance(reply, pb.RunPodSandboxResponse):
            self.ids["@new-pod"] = reply.pod_sandbox_id
        elif isinstance(reply, pb.CreateContainerResponse):
            self.ids["@new-container"] = reply.container_id
        elif isinstance(reply, URLS):
            self._urls += 1
            if self._urls % 2:
                self._clients.start_soon(self._open, reply.url)

    async def call(self, method: Any, message: Any, patience_s: float = PATIENCE_S) -> Any:
        return await call(self.client or self.daemon.client, method, message, patience_s)

    # --- streaming sessions ------------------------------------------------------------------------------------------

    async def _open(self, url: str) -> None:
        """Do what the streaming server does for a client: claim the token, and serve for a while."""
        core = self.daemon.core
        service = SessionService(core.session_effects, core.sessions, self._tokens)
        kind, token = url.removeprefix(f"{BASE_URL}/").split("/")
        grant = service.claim(token)
        if grant is None or grant.kind != kind:
            self.fault(f"{kind}: its URL is good for nothing: {grant}")
        elif grant.kind is Kind.FORWARD:
            self.answers["(portforward opened)", await self._forward(service, grant)] += 1
        else:
            client = FakeClient(b"typed", size=Size(columns=80, rows=24))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_leave, client)
                outcome = await service.serve(grant, client)
                nursery.cancel_scope.cancel()
            self.answers[f"({kind} opened)", ENDS.get(outcome.error, "failed")] += 1
            if any(words in outcome.error for words in OURS):
                self.fault(f"{kind}: its client got {outcome}")

    async def _forward(self, service: SessionService, grant: Grant) -> str:
        client = FakeForwardClient()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_leave, client)
            tunnels = [client.connect(port) for port in (*grant.ports[:2], 80, 1)]
            for tunnel in tunnels:
                tunnel.send(b"typed")
                tunnel.finish()
            await service.forward(grant, client)
            nursery.cancel_scope.cancel()
        return "served" if any(tunnel.received for tunnel in tunnels) else "failed"

    # --- judgement ---------------------------------------------------------------------------------------------------

    def fault(self, what: str, message: Any = None) -> None:
        shown = "" if message is None else text_format.MessageToString(message, as_one_line=True)
        self.faults.append(what if not shown else f"{what}\n    {shown[:SHOWN_MAX]}")

    async def finish(self, *, restart: bool) -> None:
        """The daemon serves still, also after its death, and everything can be removed."""
        if restart:
            await self.daemon.restart()
        client = self.daemon.client
        await trio.sleep(SETTLED_S)  # what callers did not wait for is done by then
        try:
            await client.Version(pb.VersionRequest(), PATIENCE_S)
            await client.Status(pb.StatusRequest(verbose=True), PATIENCE_S)
            await client.ListImages(pb.ListImagesRequest(), PATIENCE_S)
            for item in (await client.ListContainers(pb.ListContainersRequest(), PATIENCE_S)).containers:
                await client.ContainerStatus(pb.ContainerStatusRequest(container_id=item.id, verbose=True), PATIENCE_S)
            for item in (await client.ListPodSandbox(pb.ListPodSandboxRequest(), PATIENCE_S)).items:
                await client.PodSandboxStatus(
                    pb.PodSandboxStatusRequest(pod_sandbox_id=item.id, verbose=True), PATIENCE_S
                )
                await client.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=item.id), PATIENCE_S)
                await client.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=item.id), PATIENCE_S)
        except GRPCError as error:
            self.fault(f"afterwards: {error.status.name}: {error.message}")
        await trio.sleep(SETTLED_S)
        if left := self.daemon.left():
            self.fault(f"afterwards there are {left}")
        if jobs := self.daemon.core.session_effects.jobs:
            self.fault(f"afterwards there are jobs of sessions: {len(jobs)}")
        for crash in self.daemon.log(node_events.ActorCrashed, node_events.ActorGaveUp):
            self.fault(f"{crash.event.stream.partition('/')[0]}: {crash.event.error}")  # type: ignore[attr-defined]


async def call(client: Client, method: Any, message: Any, patience_s: float = PATIENCE_S) -> Any:
    """Call any RPC; of one that streams, read what comes for a while, and return the last of it, if anything."""
    rpc, last = getattr(client, method.name), None
    if not method.server_streaming:
        return await rpc(message, patience_s)
    async with trio_asyncio.aio_as_trio(rpc.open(timeout=patience_s)) as stream:
        await trio_asyncio.aio_as_trio(stream.send_message)(message, end=True)
        with trio.move_on_after(FOLLOWED_S) as scope:
            while (received := await trio_asyncio.aio_as_trio(stream.recv_message)()) is not None:
                last = received
            await trio_asyncio.aio_as_trio(stream.recv_trailing_metadata)()
        if scope.cancelled_caught:
            await trio_asyncio.aio_as_trio(stream.cancel)()
    return last


async def _leave(client: FakeClient | FakeForwardClient) -> None:
    await trio.sleep(HELD_S)
    client.leave()


def _is_bug(name: str, error: GRPCError) -> bool:
    """Whether an answer does not say whose fault it is. Of PullImage the kubelet wants UNKNOWN, and a first word."""
    message = error.message or ""
    if any(words in message for words in OURS):
        return True
    return error.status in FORBIDDEN and not (name == "PullImage" and message.startswith(PULL_PREFIXES))


@contextlib.asynccontextmanager
async def playing(directory: Path, answers: Answers) -> AsyncIterator[Session]:
    """A session on a new daemon, with everything that requests are about."""
    session = Session(answers)
    async with running(directory, session.equip) as daemon:
        daemon.node.shelf.put("registry.test/other:2", "base", "other")
        await session.replenish()
        yield session


def play(
    directory: Path, requests: Iterable[Iterable[fuzzing.Request]], *, restart: bool, answers: Answers
) -> list[str]:
    """Send *requests* to a new daemon, those of one group at once; return what was wrong with its answers."""
    faults: list[str] = []

    async def main() -> None:
        async with playing(directory, answers) as session:
            for group in requests:
                await session.replenish()
                async with trio.open_nursery() as nursery:
                    for request in group:
                        nursery.start_soon(session.send, request)
            await session.finish(restart=restart)
            faults.extend(session.faults)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    return faults


def kind_of(fault: str) -> str:
    """Two faults of one kind are told apart by their digits at most."""
    first = fault.partition("\n")[0]
    return "".join("#" if one.isdigit() else one for one in first)[:90]
