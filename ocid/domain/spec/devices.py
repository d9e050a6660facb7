"""Device nodes of a container and what its device cgroup allows.

Source: CRI Device; OCI config-linux.md "Devices", "Allowed Device list", "Default Devices".
"""

from __future__ import annotations

from typing import Final

from ocid.domain.spec.inputs import DeviceNode
from ocid.errors import InvalidRequest

ACCESS: Final = "rwm"
DEVICES_MAX: Final = 4096  # of one container; the rules end up in one BPF program on cgroup v2

# The nodes that every OCI runtime makes, and the terminals: kind, major, minor (None: any).
DEFAULT_DEVICES: Final[tuple[tuple[str, int, int | None], ...]] = (
    ("c", 1, 3),  # /dev/null
    ("c", 1, 5),  # /dev/zero
    ("c", 1, 7),  # /dev/full
    ("c", 1, 8),  # /dev/random
    ("c", 1, 9),  # /dev/urandom
    ("c", 5, 0),  # /dev/tty
    ("c", 5, 1),  # /dev/console
    ("c", 5, 2),  # /dev/ptmx
    ("c", 136, None),  # /dev/pts/*
)


def device_nodes(devices: tuple[DeviceNode, ...]) -> list[dict[str, object]]:
    """The OCI ``linux.devices``; where a path comes twice the later one wins, as a config beats the host's list.

    Raises:
        InvalidRequest: there are too many, or a path is not absolute.
    """
    if len(devices) > DEVICES_MAX:
        raise InvalidRequest(f"container has {len(devices)} devices, the limit is {DEVICES_MAX}")
    by_path = {_checked(device).path: device for device in devices}
    return [_node(device) for device in by_path.values()]


def device_rules(devices: tuple[DeviceNode, ...], *, privileged: bool) -> list[dict[str, object]]:
    """The OCI ``linux.resources.devices``: deny all, then allow what is listed; privileged containers have all."""
    if privileged:
        return [{"allow": True, "access": ACCESS}]
    rules: list[dict[str, object]] = [{"allow": False, "access": ACCESS}]
    for kind, major, minor in DEFAULT_DEVICES:
        rule: dict[str, object] = {"allow": True, "type": kind, "major": major}
        if minor is not None:
            rule["minor"] = minor
        rules.append({**rule, "access": ACCESS})
    for device in devices:
        if device.kind in ("c", "b"):
            access = "".join(one for one in ACCESS if one in (device.access or ACCESS))
            numbers = {"type": device.kind, "major": device.major, "minor": device.minor}
            rules.append({"allow": True, **numbers, "access": access})
    return rules


def _node(device: DeviceNode) -> dict[str, object]:
    node: dict[str, object] = {"path": device.path, "type": device.kind}
    if device.kind != "p":
        node |= {"major": device.major, "minor": device.minor}
    return {**node, "fileMode": device.file_mode & 0o7777, "uid": device.uid, "gid": device.gid}


def _checked(device: DeviceNode) -> DeviceNode:
    if device.kind not in ("c", "b", "p"):
        raise InvalidRequest(f"device {device.path!r} is of type {device.kind!r}, wanted 'c', 'b' or 'p'")
    if not device.path.startswith("/") or ".." in device.path.split("/"):
        raise InvalidRequest(f"device path {device.path!r}: wanted an absolute path in the container without '..'")
    return device
