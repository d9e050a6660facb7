"""CDI devices: what the node's specifications, and the host's own device nodes, make of the names a container has."""

from __future__ import annotations

from ocid.domain import cdi
from ocid.domain.configs import ContainerConfig
from ocid.domain.spec.inputs import DeviceNode
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
