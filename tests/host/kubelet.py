"""A client of a daemon's socket, and a kubelet made of one.

``Cri`` makes the calls in a thread of its own, so that tests are plain functions. ``Kubelet`` makes a kubelet's.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any, Final

import pytest
from grpclib.client import Channel
from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from ocid.cri.stubs import api_grpc, api_pb2 as pb
from tests.host import nodes

IMAGE: Final = "docker.io/test/busybox:1"
GONE: Final = (StreamTerminatedError, ProtocolError, OSError)  # the daemon died under a call
_numbers = itertools.count()


def wait_for(holds: Callable[[], Any], what: str, timeout_s: float = 10.0) -> Any:
    """Wait until *holds* returns something true, and return that."""
    deadline = time.monotonic() + timeout_s * nodes.SLOW
    while not (found := holds()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s for this: {what}"
        time.sleep(0.02)
    return found


def refusal(call: Callable[[], Any]) -> GRPCError:
    """Return the error that a call must end with."""
    with pytest.raises(GRPCError) as error:
        call()
    return error.value


class Loop:
    """An asyncio loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.SelectorEventLoop()  # not the default one, which trio_asyncio replaces
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def begin(self, work: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Cri:
    """One connection to a CRI socket, as the kubelet has it; it comes back when the daemon does."""

    def __init__(self, loop: Loop, socket: Path) -> None:
        self._loop = loop
        self._socket = socket
        self._channel = loop.begin(self._connect()).result(10)
        self._stubs = [api_grpc.RuntimeServiceStub(self._channel), api_grpc.ImageServiceStub(self._channel)]

    async def _connect(self) -> Channel:
        windows = Configuration(http2_connection_window_size=4 << 20, http2_stream_window_size=4 << 20)
        return Channel(path=str(self._socket), config=windows)

    def close(self) -> None:
        self._loop.begin(self._close()).result(10)

    async def _close(self) -> None:
        self._channel.close()

    def begin(self, rpc: str, request: Any = None, *, deadline_s: float | None = None, **fields: Any) -> Future[Any]:
        """Begin a call; ``cancel`` of the future cancels the call, as a client does that does not want it any more."""
        message = request if request is not None else getattr(pb, f"{rpc}Request")(**fields)
        method = next(getattr(stub, rpc) for stub in self._stubs if hasattr(stub, rpc))
        return self._loop.begin(method(message, timeout=deadline_s))

    def call(self, rpc: str, request: Any = None, *, wait_s: float = 60, **fields: Any) -> Any:
        """Make a call and return the answer.

        Raises:
            GRPCError: the daemon refused.
        """
        future = self.begin(rpc, request, **fields)
        try:
            return future.result(wait_s * nodes.SLOW)
        except FutureTimeoutError:
            if future.done():
                raise
            future.cancel()
            raise AssertionError(f"{rpc} did not answer within {wait_s} s") from None

    @contextlib.contextmanager
    def container_events(self) -> Iterator[list[pb.ContainerEventResponse]]:
        """Follow GetContainerEvents while the block lasts; the list grows."""
        found: list[pb.ContainerEventResponse] = []
        listening = threading.Event()

        async def follow() -> None:
            with contextlib.suppress(*GONE, GRPCError):
                async with self._stubs[0].GetContainerEvents.open() as stream:
                    await stream.send_message(pb.GetEventsRequest(), end=True)
                    await stream.recv_initial_metadata()
                    listening.set()
                    while (event := await stream.recv_message()) is not None:
                        found.append(event)

        following = self._loop.begin(follow())
        assert listening.wait(10), "GetContainerEvents does not begin"
        try:
            yield found
        finally:
            following.cancel()
            with contextlib.suppress(BaseException):
                following.result(5)


def refused(error: pytest.ExceptionInfo[GRPCError]) -> tuple[Status, str]:
    """Return code and message of a refusal."""
    return error.value.status, error.value.message or ""


class Kubelet:
    """Makes CRI requests as a kubelet does, with fields of one's own where a test needs them."""

    def __init__(self, cri: Cri, directory: Path, cgroup_parent: str, image: str = IMAGE) -> None:
        self.cri = cri
        self.call = cri.call
        self.begin = cri.begin
        self.logs = directory / "log-of-pods"
        self.cgroup_parent = cgroup_parent
        self.image = image
        self.pods: dict[str, pb.PodSandboxConfig] = {}  # by id

    # --- messages ---

    def pod_config(self, name: str = "", *, pid: Any = pb.CONTAINER, **fields: Any) -> pb.PodSandboxConfig:
        """A pod's configuration. *fields*: of PodSandboxConfig; *network*, *ipc* and *linux* go where they belong."""
        name = name or f"pod-{next(_numbers)}"
        options = pb.NamespaceOption(pid=pid, network=fields.pop("network", pb.POD), ipc=fields.pop("ipc", pb.POD))
        uid = fields.pop("uid", f"uid-{name}")
        attempt = fields.pop("attempt", 0)
        linux = fields.pop("linux", {})
        config = pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name=name, uid=uid, namespace="tests", attempt=attempt),
            hostname=fields.pop("hostname", name if options.network == pb.POD else ""),
            log_directory=str(self.logs / f"tests_{name}_{uid}"),
            labels={"io.kubernetes.pod.name": name, "io.kubernetes.pod.uid": uid, **fields.pop("labels", {})},
            linux=pb.LinuxPodSandboxConfig(
                cgroup_parent=linux.pop("cgroup_parent", nodes.pod_cgroup(self.cgroup_parent, uid)),
                security_context=pb.LinuxSandboxSecurityContext(
                    namespace_options=options, privileged=linux.pop("privileged", False)
                ),
                **linux,
            ),
        )
        config.MergeFrom(pb.PodSandboxConfig(**fields))
        return config

    def container_config(self, *command: str, name: str = "main", **fields: Any) -> pb.ContainerConfig:
        """A container's configuration. *security*: fields of LinuxContainerSecurityContext; *memory*: a limit."""
        attempt = fields.pop("attempt", 0)
        resources = {"memory_limit_in_bytes": fields.pop("memory")} if "memory" in fields else {}
        security = fields.pop("security", {})
        security.setdefault("namespace_options", pb.NamespaceOption(pid=pb.CONTAINER))
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=name, attempt=attempt),
            image=pb.ImageSpec(image=fields.pop("image", self.image), user_specified_image="busybox:1"),
            command=command,
            log_path=fields.pop("log_path", f"{name}/{attempt}.log"),
            labels={"io.kubernetes.container.name": name, **fields.pop("labels", {})},
            envs=[pb.KeyValue(key=k, value=v.encode()) for k, v in fields.pop("env", {}).items()],
            linux=pb.LinuxContainerConfig(
                resources=pb.LinuxContainerResources(oom_score_adj=500, cpu_shares=102, **resources),
                security_context=pb.LinuxContainerSecurityContext(**security),
            ),
        )
        config.MergeFrom(pb.ContainerConfig(**fields))
        return config

    # --- pods ---

    def run_pod(self, config: pb.PodSandboxConfig | None = None, handler: str = "", **fields: Any) -> str:
        """RunPodSandbox."""
        config = config or self.pod_config(**fields)
        found = self.call("RunPodSandbox", config=config, runtime_handler=handler).pod_sandbox_id
        self.pods[found] = config
        return str(found)

    def pod_status(self, pod_id: str) -> pb.PodSandboxStatus:
        return self.call("PodSandboxStatus", pod_sandbox_id=pod_id).status

    def addresses(self, pod_id: str) -> list[str]:
        network = self.pod_status(pod_id).network
        return [network.ip, *(one.ip for one in network.additional_ips)]

    def end_pod(self, pod_id: str) -> None:
        """StopPodSandbox and RemovePodSandbox."""
        self.call("StopPodSandbox", pod_sandbox_id=pod_id)
        self.call("RemovePodSandbox", pod_sandbox_id=pod_id)
        self.pods.pop(pod_id, None)

    # --- containers ---

    def create(self, pod_id: str, *command: str, config: pb.ContainerConfig | None = None, **fields: Any) -> str:
        """CreateContainer."""
        config = config or self.container_config(*command, **fields)
        sandbox = self.pods.get(pod_id)
        answer = self.call("CreateContainer", pod_sandbox_id=pod_id, config=config, sandbox_config=sandbox)
        return str(answer.container_id)

    def start(self, pod_id: str, *command: str, **fields: Any) -> str:
        """CreateContainer and StartContainer."""
        container_id = self.create(pod_id, *command, **fields)
        self.call("StartContainer", container_id=container_id)
        return container_id

    def status(self, container_id: str) -> pb.ContainerStatus:
        return self.call("ContainerStatus", container_id=container_id).status

    def info(self, container_id: str) -> Any:
        """Return the verbose part of ContainerStatus."""
        return json.loads(self.call("ContainerStatus", container_id=container_id, verbose=True).info["info"])

    def exited(self, container_id: str, timeout_s: float = 20) -> pb.ContainerStatus:
        """Wait until a container has ended."""
        wait_for(lambda: self.status(container_id).state == pb.CONTAINER_EXITED, "the container ends", timeout_s)
        return self.status(container_id)

    def run(self, pod_id: str, *command: str, **fields: Any) -> tuple[int, str]:
        """Run a container to its end and return exit code and output; the container is removed."""
        container_id = self.start(pod_id, *command, **fields)
        status = self.exited(container_id)
        output = "".join(text + "\n" * (tag == "F") for _, tag, text in log_lines(Path(status.log_path))).rstrip("\n")
        self.call("RemoveContainer", container_id=container_id)
        Path(status.log_path).unlink()
        return status.exit_code, output

    def exec(
        self, container_id: str, *command: str, timeout_s: int = int(10 * nodes.SLOW), wait_s: float = 30
    ) -> pb.ExecSyncResponse:
        """ExecSync."""
        return self.call("ExecSync", container_id=container_id, cmd=command, timeout=timeout_s, wait_s=wait_s)

    def sh(self, container_id: str, script: str) -> str:
        """Run a shell script in a container and return its output; it must succeed."""
        done = self.exec(container_id, "sh", "-c", script)
        assert done.exit_code == 0, (script, done.stdout, done.stderr)
        return done.stdout.decode().strip()

    def remove_everything(self) -> None:
        """Stop and remove whatever is listed, as the kubelet's garbage collection does."""
        listed = [item.id for item in self.call("ListPodSandbox").items]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self.end_pod, listed))
        assert not self.call("ListPodSandbox").items
        assert not self.call("ListContainers").containers


def log_lines(path: Path) -> list[tuple[str, str, str]]:
    """Return stream, tag and content of a CRI log's lines, each checked for its form."""
    found = []
    for line in path.read_text().splitlines():
        moment, stream, tag, content = line.split(" ", 3)
        assert moment[10] == "T", line
        assert stream in ("stdout", "stderr"), line
        assert tag in ("P", "F"), line
        found.append((stream, tag, content))
    return found
