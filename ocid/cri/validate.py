"""What a request must be before anything is done for it: one function per RPC, each a list of checks.

All raise InvalidRequest, which names the field, what was wanted and what is. What only the builder can know (is the
user in the image, does the host have the profile) is not looked at here. Stop, Remove and Status check no more than
that something is named, for they must never fail over a detail.

The parts of a request that are large have files of their own, ``validate_pod`` and so on.

Source: CRI v1; notes of what the kubelet and critest rely on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ocid.cri import checks
from ocid.cri.stubs import api_pb2 as pb
from ocid.cri.validate_container import arguments, container_config
from ocid.cri.validate_pod import pod_config
from ocid.cri.validate_resources import linux_resources
from ocid.errors import InvalidRequest

HANDLER_BYTES_MAX: Final = 63  # a DNS label; Kubernetes RuntimeClass.handler
LOCATION_BYTES_MAX: Final = 1024  # it is in a record of the log; a kubelet's are 400 at most
CIDR_BYTES_MAX: Final = 256  # room for several
FORWARDS_MAX: Final = 64  # ports of one PortForward: a record of the log has to hold them
TIMEOUT_S_MAX: Final = 10 * 365 * 86_400  # beyond this a timeout is a slip, and overflows clocks further down
CREDENTIAL_BYTES_MAX: Final = 64 * 1024  # of one; the longest tokens are below 16 KiB

ListOfPods = (
    pb.ListPodSandboxRequest
    | pb.StreamPodSandboxesRequest
    | pb.ListPodSandboxStatsRequest
    | pb.StreamPodSandboxStatsRequest
)
ListOfContainers = (
    pb.ListContainersRequest
    | pb.StreamContainersRequest
    | pb.ListContainerStatsRequest
    | pb.StreamContainerStatsRequest
)


# --- pods ------------------------------------------------------------------------------------------------------------


def run_pod_sandbox(request: pb.RunPodSandboxRequest) -> None:
    """RunPodSandbox. An empty hostname is accepted: the pod then gets one, see PodConfig.effective_hostname."""
    checks.present(request, "config", "")
    checks.plain(request)
    checks.short(request.runtime_handler, "runtime_handler", HANDLER_BYTES_MAX)
    pod_config(request.config, "config.")


def list_pods(request: ListOfPods) -> None:
    """ListPodSandbox, and the other lists of pods: a filter that can match nothing is a slip."""
    checks.plain(request)
    checks.short(request.filter.id, "filter.id", checks.ID_BYTES_MAX)


def update_pod_sandbox_resources(request: pb.UpdatePodSandboxResourcesRequest) -> None:
    """UpdatePodSandboxResources."""
    pod_id(request.pod_sandbox_id)
    checks.plain(request)
    for field in ("overhead", "resources"):
        if request.HasField(field):
            linux_resources(getattr(request, field), f"{field}.")


def update_runtime_config(request: pb.UpdateRuntimeConfigRequest) -> None:
    """UpdateRuntimeConfig. Whether the text is a CIDR is for those who use it."""
    checks.plain(request)
    checks.line(
        request.runtime_config.network_config.pod_cidr, "runtime_config.network_config.pod_cidr", CIDR_BYTES_MAX
    )


def port_forward(request: pb.PortForwardRequest) -> None:
    """PortForward."""
    pod_id(request.pod_sandbox_id)
    checks.at_most(len(request.port), "port", FORWARDS_MAX)
    for port in request.port:
        checks.within(port, "port", 1, 65535)


def pod_id(text: str) -> None:
    """Any RPC that names a pod."""
    checks.filled(text, "pod_sandbox_id", checks.ID_BYTES_MAX)


# --- containers ------------------------------------------------------------------------------------------------------


def create_container(request: pb.CreateContainerRequest) -> None:
    """CreateContainer."""
    pod_id(request.pod_sandbox_id)
    checks.present(request, "config", "")
    checks.plain(request)
    container_config(request.config, "config.")
    privileged = request.config.linux.security_context.privileged
    if (
        privileged
        and request.HasField("sandbox_config")
        and not request.sandbox_config.linux.security_context.privileged
    ):
        raise InvalidRequest("config.linux.security_context.privileged is set, but the pod is not privileged")


def list_containers(request: ListOfContainers) -> None:
    """ListContainers, and the other lists of containers."""
    checks.plain(request)
    checks.short(request.filter.id, "filter.id", checks.ID_BYTES_MAX)
    checks.short(request.filter.pod_sandbox_id, "filter.pod_sandbox_id", checks.ID_BYTES_MAX)


def update_container_resources(request: pb.UpdateContainerResourcesRequest) -> None:
    """UpdateContainerResources."""
    container_id(request.container_id)
    checks.present(request, "linux", "")
    checks.plain(request)
    linux_resources(request.linux, "linux.")


def exec_sync(request: pb.ExecSyncRequest) -> None:
    """ExecSync. Timeout 0 is none."""
    container_id(request.container_id)
    _command(request.cmd)
    checks.within(request.timeout, "timeout", 0, TIMEOUT_S_MAX)


def exec_stream(request: pb.ExecRequest) -> None:
    """Exec."""
    container_id(request.container_id)
    _command(request.cmd)
    _streams(request)


def attach(request: pb.AttachRequest) -> None:
    """Attach."""
    container_id(request.container_id)
    _streams(request)


def stop_timeout(seconds: int) -> int:
    """The grace that StopContainer gives, in seconds: never refused, for a stop must not fail over a detail.

    Less than none is none; more than ``TIMEOUT_S_MAX`` is that.
    """
    return max(0, min(seconds, TIMEOUT_S_MAX))


def checkpoint_container(request: pb.CheckpointContainerRequest) -> None:
    """CheckpointContainer. The location is the archive's path."""
    container_id(request.container_id)
    checks.plain(request)
    checks.absolute_path(request.location, "location")
    if request.location.endswith(("/", "/.")):
        raise InvalidRequest(f"location is {request.location[:100]!r}, wanted a file's path")
    checks.short(request.location, "location", LOCATION_BYTES_MAX)
    checks.within(request.timeout, "timeout", 0, TIMEOUT_S_MAX)


def container_id(text: str) -> None:
    """Any RPC that names a container."""
    checks.filled(text, "container_id", checks.ID_BYTES_MAX)


# --- images ----------------------------------------------------------------------------------------------------------


def image(spec: pb.ImageSpec) -> None:
    """Any RPC that names an image."""
    checks.plain(spec, "image.")
    checks.image(spec, "image.")


def list_images(request: pb.ListImagesRequest | pb.StreamImagesRequest) -> None:
    """ListImages. A filter without an image is none."""
    checks.plain(request)
    checks.short(request.filter.image.image, "filter.image.image", checks.IMAGE_BYTES_MAX)


def pull_image(request: pb.PullImageRequest) -> None:
    """PullImage. What its pod is does not matter to it."""
    image(request.image)
    checks.plain(request.auth, "auth.")
    for field in ("username", "password", "auth", "server_address", "identity_token", "registry_token"):
        checks.secret(getattr(request.auth, field), f"auth.{field}", CREDENTIAL_BYTES_MAX)
    if not request.auth.registry_token.isascii():
        raise InvalidRequest("auth.registry_token is not ASCII, which no header can hold")


# --- parts -----------------------------------------------------------------------------------------------------------


def _command(argv: Iterable[str]) -> None:
    words = tuple(argv)
    if not words or not words[0]:
        raise InvalidRequest("cmd is empty, wanted at least one word")
    if any("\0" in word for word in words):
        raise InvalidRequest("cmd holds a NUL byte")
    arguments(words, "cmd")


def _streams(request: pb.ExecRequest | pb.AttachRequest) -> None:
    """A terminal has one output; and with no stream at all there is nothing to serve."""
    if request.tty and request.stderr:
        raise InvalidRequest("tty and stderr are both set, wanted one: a terminal has no stderr of its own")
    if not (request.stdin or request.stdout or request.stderr):
        raise InvalidRequest("none of stdin, stdout and stderr is set, wanted at least one")
