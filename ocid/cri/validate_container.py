"""What a container's configuration must be. CRI ContainerConfig; used by ``ocid.cri.validate``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from ocid.cri import checks
from ocid.cri.stubs import api_pb2 as pb
from ocid.cri.validate_resources import linux_resources
from ocid.cri.validate_security import container_security
from ocid.domain.spec.mounts import MOUNTS_MAX, normal_path
from ocid.errors import InvalidRequest

CONTAINER_NAME_BYTES_MAX: Final = 253  # Kubernetes stops at 63; leaves room for other clients
CONFIG_BYTES_MAX: Final = 4 * 1024 * 1024  # of all of it; arguments and variables alone stop at 2 MiB
ARGUMENT_BYTES_MAX: Final = 128 * 1024 - 1  # MAX_ARG_STRLEN, execve(2)
ARGUMENTS_BYTES_MAX: Final = 2 * 1024 * 1024  # a quarter of the default 8 MiB stack, execve(2)
ENVS_MAX: Final = 16_384
DEVICES_MAX: Final = 4096
IMAGE_MOUNTS_MAX: Final = 64  # each is a mount of its own on the host
CDI_NAME_BYTES_MAX: Final = 512
MAPPINGS_MAX: Final = 340  # lines of uid_map, user_namespaces(7)

_CDI: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*=[A-Za-z0-9][A-Za-z0-9_.:-]*")


def container_config(config: pb.ContainerConfig, where: str) -> None:
    """All of a container's configuration; *where* is its path in the request, with a dot at the end."""
    checks.present(config, "metadata", where)
    checks.name(config.metadata.name, f"{where}metadata.name", CONTAINER_NAME_BYTES_MAX)
    checks.present(config, "image", where)
    checks.image(config.image, f"{where}image.")
    checks.labels(config.labels, f"{where}labels")
    checks.labels(config.annotations, f"{where}annotations")
    _log_path(config.log_path, f"{where}log_path")
    checks.short(config.working_dir, f"{where}working_dir", checks.PATH_BYTES_MAX - 1)
    arguments((*config.command, *config.args), f"{where}command and args")
    _envs(config.envs, f"{where}envs")
    _mounts(config.mounts, f"{where}mounts")
    checks.at_most(len(config.devices), f"{where}devices", DEVICES_MAX)
    for index, device in enumerate(config.devices):
        _device(device, f"{where}devices[{index}]")
    _cdi_devices(config.CDI_devices, f"{where}CDI_devices")
    if config.linux.HasField("resources"):
        linux_resources(config.linux.resources, f"{where}linux.resources.")
    container_security(config.linux.security_context, f"{where}linux.security_context.")
    checks.within(config.ByteSize(), f"size of {where.rstrip('.')} in bytes", 0, CONFIG_BYTES_MAX)


def arguments(words: Sequence[str], field: str) -> None:
    """What execve(2) takes."""
    sizes = [len(word.encode()) for word in words]
    if sizes and max(sizes) > ARGUMENT_BYTES_MAX:
        raise InvalidRequest(f"{field} has a word of {max(sizes)} bytes, the kernel's limit is {ARGUMENT_BYTES_MAX}")
    if sum(sizes) > ARGUMENTS_BYTES_MAX:
        raise InvalidRequest(f"{field} is {sum(sizes)} bytes, the limit is {ARGUMENTS_BYTES_MAX}")


def _log_path(path: str, field: str) -> None:
    """A file's path below the pod's log directory. The monitor takes a ":" in its last part for something else."""
    checks.relative_path(path, field)
    last = path.rpartition("/")[2]
    if path and (last in ("", ".") or ":" in last):
        raise InvalidRequest(f"{field} is {path[:100]!r}, wanted a file's path without ':' in its name")


def _mounts(mounts: Sequence[pb.Mount], where: str) -> None:
    """Two mounts of one place are refused, for one of them would be seen by nobody; the same one twice is not."""
    checks.at_most(len(mounts), where, MOUNTS_MAX)
    checks.at_most(sum(bool(mount.image.image) for mount in mounts), f"{where} with an image", IMAGE_MOUNTS_MAX)
    taken: dict[str, pb.Mount] = {}
    for index, mount in enumerate(mounts):
        _mount(mount, f"{where}[{index}]")
        other = taken.setdefault(normal_path(mount.container_path), mount)
        if other.host_path != mount.host_path or other.image.image != mount.image.image:
            raise InvalidRequest(
                f"{where}[{index}].container_path is {mount.container_path[:100]!r}, where {where} has another mount"
            )


def _mount(mount: pb.Mount, where: str) -> None:
    checks.absolute_path(mount.container_path, f"{where}.container_path")
    if not mount.container_path.strip("/."):
        raise InvalidRequest(f"{where}.container_path is {mount.container_path!r}, wanted a path below the root")
    if mount.HasField("image") and (mount.image.image or not mount.host_path):
        if mount.host_path:
            raise InvalidRequest(f"{where}.host_path is {mount.host_path[:100]!r}, wanted it empty beside an image")
        checks.image(mount.image, f"{where}.image.")
        if not mount.readonly:
            raise InvalidRequest(f"{where}.readonly is false, wanted true for an image")
    else:
        checks.absolute_path(mount.host_path, f"{where}.host_path")
        if mount.image_sub_path:
            raise InvalidRequest(f"{where}.image_sub_path is set, wanted an image beside it")
    checks.relative_path(mount.image_sub_path, f"{where}.image_sub_path")
    if mount.recursive_read_only:
        if not mount.readonly:
            raise InvalidRequest(f"{where}.recursive_read_only is set, wanted readonly beside it")
        if mount.propagation != pb.PROPAGATION_PRIVATE:
            raise InvalidRequest(f"{where}.recursive_read_only is set, wanted propagation PROPAGATION_PRIVATE")
    for field in ("uidMappings", "gidMappings"):
        _mappings(getattr(mount, field), f"{where}.{field}")


def _mappings(mappings: Sequence[pb.IDMapping], field: str) -> None:
    checks.at_most(len(mappings), field, MAPPINGS_MAX)
    for one in mappings:
        if one.length == 0 or max(one.host_id, one.container_id) + one.length > 2**32 - 1:
            raise InvalidRequest(f"{field} maps {one.length} ids from {one.host_id}, wanted 1 to {2**32 - 1} in all")


def _device(device: pb.Device, where: str) -> None:
    checks.absolute_path(device.host_path, f"{where}.host_path")
    if device.container_path:
        checks.absolute_path(device.container_path, f"{where}.container_path")
    if set(device.permissions) - set("rwm"):
        raise InvalidRequest(f"{where}.permissions is {device.permissions[:32]!r}, wanted some of 'rwm'")


def _cdi_devices(devices: Sequence[pb.CDIDevice], where: str) -> None:
    checks.at_most(len(devices), where, DEVICES_MAX)
    for index, device in enumerate(devices):
        checks.filled(device.name, f"{where}[{index}].name", CDI_NAME_BYTES_MAX)
        if _CDI.fullmatch(device.name) is None:
            raise InvalidRequest(f"{where}[{index}].name is {device.name[:100]!r}, wanted 'vendor/class=device'")


def _envs(envs: Sequence[pb.KeyValue], where: str) -> None:
    checks.at_most(len(envs), where, ENVS_MAX)
    for index, variable in enumerate(envs):
        checks.filled(variable.key, f"{where}[{index}].key", ARGUMENT_BYTES_MAX)
        if "=" in variable.key:
            raise InvalidRequest(f"{where}[{index}].key is {variable.key[:100]!r}, wanted a name without '='")
        if b"\0" in variable.value:
            raise InvalidRequest(f"{where}[{index}].value of {variable.key[:100]!r} holds a NUL byte")
        try:
            variable.value.decode()
        except UnicodeDecodeError:
            at = f"{where}[{index}].value of {variable.key[:100]!r}"
            raise InvalidRequest(f"{at} is not UTF-8, which an OCI spec cannot hold") from None
        size = len(variable.key.encode()) + len(variable.value) + 1
        checks.within(size, f"size of {where}[{index}] in bytes", 0, ARGUMENT_BYTES_MAX)
