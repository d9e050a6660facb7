"""The whole daemon but for its adapters: core on a fake machine, real facade, real socket, and a client of it.

Time is virtual. A unix socket within one process is as fast as memory: what is sent can be read at once, so the clock
never jumps over a message.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio_asyncio
from grpclib.client import Channel
from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError

from ocid.actors.core import Core
from ocid.cri import server
from ocid.cri.facade import Facade
from ocid.cri.stubs import api_grpc, api_pb2 as pb
from ocid.events.base import Event
from ocid.events.envelope import Envelope
from ocid.projections.view import View
from tests.fakes.images import Built
from tests.fakes.node import Node

IMAGE = "registry.test/app:1"
LABELS = {"io.kubernetes.pod.uid": "uid-web", "app": "schön\n"}
ANNOTATIONS = {"note": "a=b, c\t☃", "empty": ""}


class Call:
    """One RPC of a connection. Trio-flavoured when it is called; ``open`` is grpclib's own."""

    def __init__(self, method: Any) -> None:
        self.open = method.open
        self._method = method

    async def __call__(self, request: Any, timeout_s: float | None = None) -> Any:
        return await trio_asyncio.aio_as_trio(self._method)(request, timeout=timeout_s)


class Client:
    """A connection, with every RPC of both services as an attribute."""

    def __init__(self, channel: Channel) -> None:
        self.close = channel.close
        self._stubs = (api_grpc.RuntimeServiceStub(channel), api_grpc.ImageServiceStub(channel))

    def __getattr__(self, name: str) -> Call:
        return Call(next(getattr(stub, name) for stub in self._stubs if hasattr(stub, name)))


Equip = Callable[["Daemon", trio.Nursery], None]


class Daemon:
    """One machine, the daemon that lives on it now, and its socket."""

    def __init__(self, socket: Path, equip: Equip | None = None) -> None:
        self.node = Node(on_core=self._on_core)
        self.socket = socket
        self._equip = equip  # what more each life of the daemon has; its tasks end with that life
        self.facade: Facade
        self._serving = trio.CancelScope()
        self._nursery: trio.Nursery
        self._default: Client

    @property
    def client(self) -> Client:
        """A connection that is always there, one per life."""
        return self._default

    @property
    def core(self) -> Core:
        return self.facade.core

    @property
    def view(self) -> View:
        return self.facade.view

    def log(self, *kinds: type[Event]) -> list[Envelope]:
        """What the log holds, of these kinds if any are given."""
        assert self.node.writer is not None
        return [one for one in self.node.writer.replay() if not kinds or isinstance(one.event, kinds)]

    async def restart(self, *, reboot: bool = False) -> None:
        """Kill the daemon and start it again; connections break, as they do."""
        self._serving.cancel()
        await self.node.kill(reboot=reboot)
        await self._serve()

    @contextlib.asynccontextmanager
    async def connect(
        self, config: Configuration | None = None, codec: CodecBase | None = None
    ) -> AsyncIterator[Client]:
        """Open a connection of its own."""
        channel = Channel(path=str(self.socket), config=config, codec=codec)
        try:
            await trio_asyncio.aio_as_trio(channel.__connect__)()
            yield Client(channel)
        finally:
            channel.close()
            await trio.lowlevel.checkpoint()

    # --- what most tests need ----------------------------------------------------------------------------------------

    async def pull(self, name: str = IMAGE, *contents: str, **fields: str) -> Built:
        """Put an image on the registry and pull it."""
        built = self.node.shelf.put(name, *(contents or ("base", "app")), **fields)
        await self.client.PullImage(pb.PullImageRequest(image=pb.ImageSpec(image=name)))
        return built

    async def run_pod(self, name: str = "web", **fields: Any) -> str:
        """Run a pod and return its id."""
        response = await self.client.RunPodSandbox(pb.RunPodSandboxRequest(config=pod_config(name, **fields)))
        pod_id: str = response.pod_sandbox_id
        return pod_id

    async def create(self, pod_id: str, name: str = "app", *args: str, **fields: Any) -> str:
        """Create a container whose program is spelled in *args*, see ``tests.fakes.world.Program``."""
        config = container_config(name, *args, **fields)
        response = await self.client.CreateContainer(
            pb.CreateContainerRequest(pod_sandbox_id=pod_id, config=config, sandbox_config=pod_config())
        )
        container_id: str = response.container_id
        return container_id

    async def start(self, container_id: str) -> None:
        await self.client.StartContainer(pb.StartContainerRequest(container_id=container_id))

    async def run(self, pod_id: str, name: str = "app", *args: str, **fields: Any) -> str:
        """Create and start a container."""
        container_id = await self.create(pod_id, name, *args, **fields)
        await self.start(container_id)
        return container_id

    async def status(self, container_id: str) -> pb.ContainerStatus:
        response = await self.client.ContainerStatus(pb.ContainerStatusRequest(container_id=container_id))
        status: pb.ContainerStatus = response.status
        return status

    async def pod_status(self, pod_id: str) -> pb.PodSandboxStatus:
        response = await self.client.PodSandboxStatus(pb.PodSandboxStatusRequest(pod_sandbox_id=pod_id))
        status: pb.PodSandboxStatus = response.status
        return status

    async def exited(self, container_id: str) -> pb.ContainerStatus:
        """Poll until a container has ended, as the kubelet does."""
        for _ in range(1000):
            if (status := await self.status(container_id)).state == pb.CONTAINER_EXITED:
                return status
            await trio.sleep(0.1)
        raise AssertionError(f"container {container_id} goes on")

    def left(self) -> dict[str, list[str]]:
        """What the machine has of pods and containers, and must not have when they are gone."""
        world = self.node.world
        found = {
            "processes": [task.owner for task in world.tasks.values()],
            "mounts": list(world.mounts),
            "pins": list(world.pins),
            "links": list(world.links),
            "addresses": list(world.addresses),
            "states": list(world.contained),
            "bundles": [path for path in world.paths if "/containers/" in path],
        }
        return {kind: names for kind, names in found.items() if names}

    # --- inside ------------------------------------------------------------------------------------------------------

    def _on_core(self, core: Core) -> None:
        """A new life: its facade follows its log from the first event on. Nobody is answered yet."""
        facade = self.facade = Facade(core=core, config_json=b'{"root":"/var/lib/ocid"}', warnings=("a warning",))
        assert self.node.writer is not None
        self.node.writer.subscribe(lambda envelope: facade.publish((envelope,)))

    async def _serve(self) -> None:
        await self._nursery.start(self._server)
        await self.node.serving()
        self.facade.open = True

    async def _server(self, task_status: trio.TaskStatus[None]) -> None:
        with trio.CancelScope() as self._serving:
            async with trio.open_nursery() as nursery:
                await nursery.start(server.serve, self.facade, server.bind(self.socket))
                async with self.connect() as self._default:
                    if self._equip is not None:
                        self._equip(self, nursery)
                    task_status.started()
                    await trio.sleep_forever()


@contextlib.asynccontextmanager
async def running(directory: Path, equip: Equip | None = None) -> AsyncIterator[Daemon]:
    """A daemon that serves; at the end nothing that a kernel would mind may have happened."""
    daemon = Daemon(directory / "ocid.sock", equip)
    async with trio_asyncio.open_loop(), trio.open_nursery() as nursery:
        daemon._nursery = nursery
        await nursery.start(_live, daemon.node)
        await daemon._serve()
        yield daemon
        nursery.cancel_scope.cancel()
    assert daemon.node.world.violations == []


async def _live(node: Node, task_status: trio.TaskStatus[None]) -> None:
    async def scenario(node: Node) -> None:
        await node.serving()
        task_status.started()
        await trio.sleep_forever()

    await node.run(scenario)


@contextlib.contextmanager
def refused(status: Status, *words: str) -> Any:
    """Expect a gRPC error of that status, with *words* in its message."""
    with pytest.raises(GRPCError) as caught:
        yield caught
    assert caught.value.status is status, caught.value
    for word in words:
        assert word in (caught.value.message or "")


def pod_config(name: str = "web", **fields: Any) -> pb.PodSandboxConfig:
    """A pod as a kubelet asks for it."""
    metadata = pb.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="prod", attempt=fields.pop("attempt", 0))
    config = pb.PodSandboxConfig(
        **{
            "metadata": metadata,
            "log_directory": f"/var/log/pods/{name}",
            "labels": {**LABELS, "name": name},
            "annotations": ANNOTATIONS,
            **fields,
        }
    )
    config.linux.security_context.namespace_options.pid = pb.CONTAINER
    return config


def container_config(name: str = "app", *args: str, **fields: Any) -> pb.ContainerConfig:
    """A container as a kubelet asks for it."""
    config = pb.ContainerConfig(
        **{
            "metadata": pb.ContainerMetadata(name=name, attempt=fields.pop("attempt", 0)),
            "image": pb.ImageSpec(image=IMAGE, user_specified_image="app:1"),
            "command": args or ("serve",),
            "log_path": f"{name}/0.log",
            "labels": {**LABELS, "name": name},
            "annotations": ANNOTATIONS,
            **fields,
        }
    )
    config.linux.security_context.namespace_options.pid = pb.CONTAINER
    return config
