"""What a request is about, said before it is checked: ids and names, and nothing else that may have got there."""

from __future__ import annotations

from typing import Any

import pytest

from ocid.cri.server import CHANGES
from ocid.cri.stubs import api_pb2 as pb
from ocid.cri.subject import subject_of
from ocid.domain.container import Container
from ocid.ids import Digest
from ocid.projections.fold import Row
from ocid.projections.view import View
from tests.fakes.declared import container_declared

ID, POD = "ab" * 32, "cd" * 32
SECRET = "user:hunter2@registry.test/app"


def view() -> View:
    def document(digest: Digest) -> bytes:
        raise AssertionError(digest)

    made = View(document)
    declared = container_declared(ID)
    made.containers.rows[ID] = Row(Container(declared=declared), 1, 1)
    return made


def pod_config(name: str = "web", namespace: str = "prod") -> pb.PodSandboxConfig:
    return pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name=name, namespace=namespace))


def container_config(name: str) -> pb.ContainerConfig:
    return pb.ContainerConfig(metadata=pb.ContainerMetadata(name=name))


def image(name: str) -> pb.ImageSpec:
    return pb.ImageSpec(image=name)


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (pb.RunPodSandboxRequest(config=pod_config()), ("", "prod/web")),
        (pb.RunPodSandboxRequest(), ("", "")),
        (pb.RunPodSandboxRequest(config=pod_config("a b; TOKEN=x")), ("", "")),
        (pb.StopPodSandboxRequest(pod_sandbox_id=POD), (f"pod/{POD}", "")),
        (pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id=POD), (f"pod/{POD}", "")),
        (pb.PortForwardRequest(pod_sandbox_id=POD, port=[80]), (f"pod/{POD}", "")),
        (
            pb.CreateContainerRequest(pod_sandbox_id=POD, config=container_config("app"), sandbox_config=pod_config()),
            (f"pod/{POD}", "app"),
        ),
        (pb.ExecRequest(container_id=ID, cmd=["sh"]), (f"container/{ID}", "")),
        (pb.ExecSyncRequest(container_id=ID[:9]), (f"container/{ID}", "")),  # the beginning of an id
        (pb.StopContainerRequest(container_id="ff"), ("container/ff", "")),  # there is none
        (pb.AttachRequest(container_id="PASSWORD=hunter2"), ("", "")),
        (pb.AttachRequest(container_id="a" * 65), ("", "")),
        (pb.UpdateContainerResourcesRequest(container_id=ID), (f"container/{ID}", "")),
        (pb.CheckpointContainerRequest(container_id=ID, location="/x"), (f"container/{ID}", "")),
        (pb.PullImageRequest(image=image("busybox")), ("", "docker.io/library/busybox:latest")),
        (pb.PullImageRequest(image=image(SECRET), auth=pb.AuthConfig(password="hunter2")), ("", "")),
        (pb.RemoveImageRequest(image=image("sha256:" + ID)), ("", "sha256:" + ID)),
        (pb.RemoveImageRequest(image=image("A" * 5000)), ("", "")),
        (pb.RemoveImageRequest(), ("", "")),
        (pb.UpdateRuntimeConfigRequest(), ("", "")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_it_is_about(request_: Any, told: tuple[str, str]) -> None:
    assert subject_of(request_, view()) == told


def test_every_change_is_about_something() -> None:
    silent = []
    for rpc in CHANGES:
        request = getattr(pb, f"{rpc}Request")()
        for field, value in (("container_id", ID), ("pod_sandbox_id", POD)):
            if field in request.DESCRIPTOR.fields_by_name:
                setattr(request, field, value)
        if "image" in request.DESCRIPTOR.fields_by_name:
            request.image.image = "busybox"
        if rpc == "RunPodSandbox":
            request.config.CopyFrom(pod_config())
        if subject_of(request, view()) == ("", ""):
            silent.append(rpc)

    assert silent == ["UpdateRuntimeConfig"]
