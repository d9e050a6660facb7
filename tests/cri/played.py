"""Requests played to a daemon that has something to lose, and its answers judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import trio
import trio_asyncio
from google.protobuf import text_format
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from trio.testing import MockClock

from ocid.cri.stubs import api_pb2 as pb
from ocid.events import node as node_events
from tests.cri import fuzzing
from tests.cri.daemon import Client, Daemon, running
from tests.cri.fuzzing import PATIENCE_S

SETTLED_S = 600.0
FOLLOWED_S = 1.0  # how long a stream is read
SHOWN_MAX = 1500
FORBIDDEN = (Status.UNKNOWN, Status.INTERNAL)
OURS = ("crashed", "the record of a", "is a bug")  # what only we can understand
PULL_PREFIXES = ("RegistryUnavailable: ", "SignatureValidationFailed: ")

Answers = Counter[tuple[str, str]]


class Session:
    """One daemon, what was made on it before, and what it was asked."""

    def __init__(self, daemon: Daemon, answers: Answers) -> None:
        self.daemon = daemon
        self.client: Client | None = None  # to call with, instead of the daemon's own
        self.ids: dict[str, str] = {}
        self.faults: list[str] = []
        self.answers = answers

    async def prepare(self) -> None:
        """Have an image, a pod, and a container of each state."""
        daemon, ids = self.daemon, self.ids
        daemon.facade.measured = True
        built = await daemon.pull()
        daemon.node.shelf.put("registry.test/other:2", "base", "other")
        ids["@image"], ids["@image-short"] = built.image_id, built.image_id[7:19]
        ids["@pod"] = ids["@new-pod"] = await daemon.run_pod()
        ids["@running"] = ids["@new-container"] = await daemon.run(ids["@pod"])
        ids["@created"] = await daemon.create(ids["@pod"], "waits")
        ids["@exited"] = await daemon.run(ids["@pod"], "short", "run:0.01")
        for name in ("@pod", "@running"):
            ids[f"{name}-short"], ids[f"{name}-longer"] = ids[name][:12], ids[name] + "0"

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
            if isinstance(reply, pb.RunPodSandboxResponse):
                self.ids["@new-pod"] = reply.pod_sandbox_id
            elif isinstance(reply, pb.CreateContainerResponse):
                self.ids["@new-container"] = reply.container_id

    async def call(self, method: Any, message: Any, patience_s: float = PATIENCE_S) -> Any:
        call = getattr(self.client or self.daemon.client, method.name)
        if not method.server_streaming:
            return await call(message, patience_s)
        async with trio_asyncio.aio_as_trio(call.open(timeout=patience_s)) as stream:
            await trio_asyncio.aio_as_trio(stream.send_message)(message, end=True)
            with trio.move_on_after(FOLLOWED_S) as scope:
                while await trio_asyncio.aio_as_trio(stream.recv_message)() is not None:
                    pass
                await trio_asyncio.aio_as_trio(stream.recv_trailing_metadata)()
            if scope.cancelled_caught:
                await trio_asyncio.aio_as_trio(stream.cancel)()
        return None

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
        for crash in self.daemon.log(node_events.ActorCrashed, node_events.ActorGaveUp):
            self.fault(f"{crash.event.stream.partition('/')[0]}: {crash.event.error}")  # type: ignore[attr-defined]


def _is_bug(name: str, error: GRPCError) -> bool:
    """Whether an answer does not say whose fault it is. Of PullImage the kubelet wants UNKNOWN, and a first word."""
    message = error.message or ""
    if any(words in message for words in OURS):
        return True
    return error.status in FORBIDDEN and not (name == "PullImage" and message.startswith(PULL_PREFIXES))


def play(
    directory: Path, requests: Iterable[Iterable[fuzzing.Request]], *, restart: bool, answers: Answers
) -> list[str]:
    """Send *requests* to a new daemon, those of one group at once; return what was wrong with its answers."""
    sessions: list[Session] = []

    async def main() -> None:
        async with running(directory) as daemon:
            session = Session(daemon, answers)
            sessions.append(session)
            await session.prepare()
            for group in requests:
                async with trio.open_nursery() as nursery:
                    for request in group:
                        nursery.start_soon(session.send, request)
            await session.finish(restart=restart)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    return sessions[0].faults


def kind_of(fault: str) -> str:
    """Two faults of one kind are told apart by their digits at most."""
    first = fault.partition("\n")[0]
    return "".join("#" if one.isdigit() else one for one in first)[:90]
