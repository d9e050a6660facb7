"""What the node's files and device nodes make of names that a container has: CDI devices, block I/O classes."""

from __future__ import annotations

from collections.abc import Mapping

from ocid.domain import blockio, cdi
from ocid.domain.configs import ContainerConfig, PodConfig
from ocid.domain.spec.classes import block_io_class
from ocid.domain.spec.inputs import DeviceNode
from ocid.errors import InvalidRequest
from ocid.ports import HostFiles


def cdi_edits(files: HostFiles, container: ContainerConfig) -> cdi.Edits:
    """Return everything that the container's CDI devices add; nothing is read where it has none.

    Raises:
        InvalidRequest: a device is unknown, or there twice.
    """
    names = cdi.requested(container)
    return cdi.edits_of(cdi.registry(files.cdi_specs()), names) if names else cdi.Edits()


def cdi_nodes(files: HostFiles, edits: cdi.Edits) -> list[DeviceNode]:
    """Return the device nodes of *edits*, completed from the host where a specification leaves that to it.

    Raises:
        InvalidRequest: the host has no such device.
    """
    return [
        cdi.completed(node, found)
        for node in edits.device_nodes
        for found in (
            files.devices(node.host_path or node.path, node.path, node.permissions) if cdi.needs_host(node) else (None,)
        )
    ]


def block_io_of(
    files: HostFiles, config_file: str, pod: PodConfig, container: ContainerConfig
) -> Mapping[str, object] | None:
    """Return the OCI ``blockIO`` of the class that the container asks for; None without one, or without any classes.

    Raises:
        InvalidRequest: the class is unknown, or the file of classes is malformed.
        EffectFailed: the file cannot be read.
    """
    name = block_io_class(pod, container)
    if not name or not config_file:
        return None
    known = blockio.classes(config_file, files.read(config_file, blockio.FILE_BYTES_MAX + 1))
    if name not in known:
        has = ", ".join(sorted(known))[:500] or "none"
        raise InvalidRequest(f"block I/O class {name[:100]!r} is not in {config_file}, which has {has}")
    return blockio.oci_block_io(known[name], files.block_devices)
