"""The CRI socket: which RPC is served by what, and the server itself."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import trio
import trio_asyncio
from grpclib.config import Configuration
from grpclib.const import Handler

from ocid.cri import bridge, deadline
from ocid.cri.attach import attach
from ocid.cri.container_checkpoint import checkpoint_container
from ocid.cri.container_create import create_container
from ocid.cri.container_list import list_containers
from ocid.cri.container_log import reopen_container_log
from ocid.cri.container_remove import remove_container
from ocid.cri.container_start import start_container
from ocid.cri.container_stats import all_container_stats, container_stats
from ocid.cri.container_status import container_status
from ocid.cri.container_stop import stop_container
from ocid.cri.container_update import update_container_resources
from ocid.cri.encoded import Codec
from ocid.cri.events_rpc import get_container_events
from ocid.cri.exec import exec_stream
from ocid.cri.exec_sync import exec_sync
from ocid.cri.facade import Facade
from ocid.cri.image_fs_info import image_fs_info
from ocid.cri.image_list import image_status, list_images
from ocid.cri.image_pull import pull_image
from ocid.cri.image_remove import remove_image
from ocid.cri.inline import Answer, InlineServer
from ocid.cri.port_forward import port_forward
from ocid.cri.runtime_config import runtime_config, update_runtime_config
from ocid.cri.sandbox_list import list_pod_sandbox
from ocid.cri.sandbox_metrics import all_pod_sandbox_metrics, list_metric_descriptors
from ocid.cri.sandbox_remove import remove_pod_sandbox
from ocid.cri.sandbox_run import run_pod_sandbox
from ocid.cri.sandbox_stats import all_pod_sandbox_stats, pod_sandbox_stats
from ocid.cri.sandbox_status import pod_sandbox_status
from ocid.cri.sandbox_stop import stop_pod_sandbox
from ocid.cri.sandbox_update import update_pod_sandbox_resources
from ocid.cri.status_rpc import status
from ocid.cri.streams import stream_containers, stream_images, stream_pod_sandboxes
from ocid.cri.stubs import api_grpc
from ocid.cri.version import version
from ocid.errors import AlreadyExists

SOCKET_MODE = 0o660
BACKLOG = 128
CODEC = Codec()
WINDOW_BYTES = 4 << 20  # of HTTP/2 flow control: a list of many containers goes out in one piece

READS: Mapping[str, bridge.Read] = {
    "Version": version,
    "Status": status,
    "RuntimeConfig": runtime_config,
    "PodSandboxStatus": pod_sandbox_status,
    "ListPodSandbox": list_pod_sandbox,
    "ContainerStatus": container_status,
    "ListContainers": list_containers,
    "ListImages": list_images,
    "ImageStatus": image_status,
    "ImageFsInfo": image_fs_info,
    "ContainerStats": container_stats,
    "PodSandboxStats": pod_sandbox_stats,
    "ListMetricDescriptors": list_metric_descriptors,
}
GATHERS: Mapping[str, bridge.Gather] = {
    "ListContainerStats": all_container_stats,
    "StreamContainerStats": all_container_stats,
    "ListPodSandboxStats": all_pod_sandbox_stats,
    "StreamPodSandboxStats": all_pod_sandbox_stats,
    "ListPodSandboxMetrics": all_pod_sandbox_metrics,
    "StreamPodSandboxMetrics": all_pod_sandbox_metrics,
}
STREAMS: Mapping[str, bridge.Streaming] = {
    "StreamPodSandboxes": stream_pod_sandboxes,
    "StreamContainers": stream_containers,
    "StreamImages": stream_images,
}
CHANGES: Mapping[str, bridge.Change] = {
    "RunPodSandbox": run_pod_sandbox,
    "StopPodSandbox": stop_pod_sandbox,
    "RemovePodSandbox": remove_pod_sandbox,
    "UpdatePodSandboxResources": update_pod_sandbox_resources,
    "UpdateRuntimeConfig": update_runtime_config,
    "CreateContainer": create_container,
    "StartContainer": start_container,
    "StopContainer": stop_container,
    "RemoveContainer": remove_container,
    "CheckpointContainer": checkpoint_container,
    "UpdateContainerResources": update_container_resources,
    "ReopenContainerLog": reopen_container_log,
    "ExecSync": exec_sync,
    "Exec": exec_stream,
    "Attach": attach,
    "PortForward": port_forward,
    "PullImage": pull_image,
    "RemoveImage": remove_image,
}
FOLLOWS: Mapping[str, bridge.Follow] = {"GetContainerEvents": get_container_events}


class _Service:
    """One CRI service as grpclib wants it: a mapping from path to handler."""

    def __init__(self, facade: Facade, base: type) -> None:
        self._facade = facade
        self._base = base

    def __mapping__(self) -> dict[str, Handler]:
        theirs: Mapping[str, Handler] = _mapping_of(self._base)
        return {path: handler._replace(func=self._rpc(path, handler)) for path, handler in theirs.items()}

    def _rpc(self, path: str, handler: Handler) -> Callable[..., Any]:
        name = path.rpartition("/")[2]
        if name in READS:
            return bridge.reading(self._facade, name, READS[name])
        if name in GATHERS:
            kind, batched = handler.reply_type, handler.cardinality.server_streaming
            return bridge.gathering(self._facade, name, GATHERS[name], kind, batched=batched)
        if name in STREAMS:
            return bridge.streaming(self._facade, name, STREAMS[name])
        if name in CHANGES:
            return bridge.changing(self._facade, name, CHANGES[name])
        if name in FOLLOWS:
            return bridge.following(self._facade, name, FOLLOWS[name])
        return bridge.unimplemented(name)


def _mapping_of(base: type) -> Mapping[str, Handler]:
    """Read the generated mapping of an abstract service, whose methods are never called."""
    names = {name: (lambda *_: None) for name in base.__abstractmethods__ if name != "__mapping__"}  # type: ignore[attr-defined]
    concrete = type(base.__name__, (base,), names)
    mapping: Mapping[str, Handler] = concrete().__mapping__()
    return mapping


def services(facade: Facade) -> list[_Service]:
    """Return RuntimeService and ImageService over *facade*."""
    return [_Service(facade, api_grpc.RuntimeServiceBase), _Service(facade, api_grpc.ImageServiceBase)]


def answers(facade: Facade) -> dict[str, Answer]:
    """Return what answers the RPCs that only read, by path."""
    methods = {**_mapping_of(api_grpc.RuntimeServiceBase), **_mapping_of(api_grpc.ImageServiceBase)}
    found = {}
    for path, method in methods.items():
        name = path.rpartition("/")[2]
        if name in READS:
            found[path] = bridge.answering(facade, name, READS[name], CODEC, method)
    return found


def configuration() -> Configuration:
    """Return grpclib's settings: windows large enough for the largest lists."""
    return Configuration(http2_connection_window_size=WINDOW_BYTES, http2_stream_window_size=WINDOW_BYTES)


def bind(path: Path) -> socket.socket:
    """Listen on the CRI socket, mode 0660; one that a dead daemon left is replaced.

    Raises:
        AlreadyExists: a living daemon answers there, or it is something else than a socket.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(path):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise AlreadyExists(f"{str(path)!r} is there and is no socket; move it away or choose another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except OSError as error:
                if error.errno not in (errno.ECONNREFUSED, errno.ENOENT):
                    raise
            else:
                raise AlreadyExists(f"another daemon listens on {str(path)!r}; stop it or choose another socket")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    before = os.umask(0o117)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    path.chmod(SOCKET_MODE)
    listener.listen(BACKLOG)
    return listener


def unbind(path: str) -> None:
    """Remove the socket that ``bind`` made."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


async def serve(
    facade: Facade, listener: socket.socket, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve the CRI until cancelled. Runs under an open asyncio loop; the caller's tasks are Trio's."""
    deadline.install()
    server = InlineServer(services(facade), answers(facade), codec=CODEC, config=configuration())
    await trio_asyncio.aio_as_trio(server.start)(sock=listener)
    try:
        task_status.started()
        await trio.sleep_forever()
    finally:
        server.close()
        with trio.move_on_after(2, shield=True), contextlib.suppress(Exception):
            await trio_asyncio.aio_as_trio(server.wait_closed)()
