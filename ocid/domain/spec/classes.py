"""Classes of service by annotation: Intel RDT and block I/O, as the kubelet passes them on from pods.

Source: the annotations of goresctrl, which other CRI runtimes read, too; OCI config-linux.md "IntelRdt".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ocid.domain.configs import ContainerConfig, PodConfig
from ocid.domain.spec.inputs import SpecInputs
from ocid.errors import InvalidRequest, Unsupported

NAME_BYTES_MAX: Final = 255  # a directory below /sys/fs/resctrl

_RDT: Final = ("io.kubernetes.cri.rdt-class", "rdt.resources.beta.kubernetes.io")
_BLOCK_IO: Final = ("io.kubernetes.cri.blockio-class", "blockio.resources.beta.kubernetes.io")


def rdt_class(inputs: SpecInputs) -> str:
    """Return the RDT class that a container asks for, or "".

    Raises:
        InvalidRequest: it can be no name of one.
    """
    name = _class(_RDT, inputs.pod, inputs.container)
    if name and (len(name.encode()) > NAME_BYTES_MAX or "/" in name or name in (".", "..") or "\0" in name):
        raise InvalidRequest(f"RDT class {name[:100]!r}: wanted the name of a directory")
    return name


def intel_rdt(inputs: SpecInputs) -> Mapping[str, object] | None:
    """The OCI ``linux.intelRdt``: what CDI devices say, else the class that annotations name.

    Raises:
        Unsupported: one is asked for, and the host has no resctrl file system mounted.
    """
    name = rdt_class(inputs)
    wanted = {"closID": name} if name and inputs.intel_rdt is None else inputs.intel_rdt
    if wanted is not None and not inputs.host.resctrl_mounted:
        asked = f"RDT class {name!r}" if name else "Intel RDT"
        raise Unsupported(f"{asked} is asked for, but /sys/fs/resctrl is not mounted on this host")
    return wanted


def block_io_class(pod: PodConfig, container: ContainerConfig) -> str:
    """Return the block I/O class that a container asks for, or ""."""
    return _class(_BLOCK_IO, pod, container)


def block_io(inputs: SpecInputs) -> Mapping[str, object] | None:
    """The OCI ``linux.resources.blockIO``: what the class that annotations name comes to on this host.

    Raises:
        Unsupported: one is asked for, and there are no classes here, or the host's cgroups cannot limit block I/O.
    """
    name = block_io_class(inputs.pod, inputs.container)
    if not name:
        return None
    if inputs.block_io is None:
        raise Unsupported(f"block I/O class {name[:100]!r} is asked for, but no [blockio] config_file is configured")
    if "io" not in inputs.host.cgroup_controllers:  # "blkio" of version 1 is called so, too
        raise Unsupported(f"block I/O class {name[:100]!r} is asked for, but this host has no cgroup controller for it")
    return inputs.block_io


def _class(keys: tuple[str, str], pod: PodConfig, container: ContainerConfig) -> str:
    """The container's own annotation beats the pod's for this container, which beats the pod's for all."""
    own, of_pod = keys
    name = container.metadata.name
    annotations = pod.annotations
    places = (
        container.annotations.get(own),
        annotations.get(f"{of_pod}/container.{name}"),
        annotations.get(f"{of_pod}/pod"),
    )
    return next((one for one in places if one), "")
