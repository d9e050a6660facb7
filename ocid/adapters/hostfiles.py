"""Read-only looks at the host that building a specification needs: the ``HostFiles`` port."""

from __future__ import annotations

import errno
import glob
import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

import msgspec
import trio

from ocid.adapters import labels
from ocid.domain import blockio, cdi
from ocid.domain.spec.inputs import DeviceNode
from ocid.errors import EffectFailed, Exhausted, InvalidRequest

_DEVICES_MAX: Final = 4096
_PROFILES_BYTES_MAX: Final = 8 << 20  # some 100,000 profiles
# Not devices of the host but of other containers, sessions or programs.
_SKIPPED_DIRECTORIES: Final = frozenset({"pts", "shm", "fd", "mqueue", "hugepages", ".lxc", ".lxd-mounts", ".udev"})
_SKIPPED_FILES: Final = frozenset({"/dev/console"})
_NOT_A_PATH: Final = (errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
_KINDS: Final = {stat.S_IFCHR: "c", stat.S_IFBLK: "b", stat.S_IFIFO: "p"}


class HostDirectory:
    """Implements ``ocid.ports.HostFiles`` on this host's own root."""

    def __init__(
        self,
        device_root: str = "/dev",
        cdi_dirs: Sequence[str] = (),
        apparmor: str = "/sys/kernel/security/apparmor/profiles",
        block_sysfs: str = "/sys/dev/block",
    ) -> None:
        self._device_root = device_root
        self._apparmor = apparmor
        self._block_sysfs = block_sysfs
        self._cdi_dirs = cdi_dirs

    def resolve_mount(self, host_path: str, *, create: bool) -> str:
        """Resolve symbolic links of a bind mount's source; make a missing one a directory when *create* is set.

        Raises:
            InvalidRequest: it is missing, or no path that can be.
            EffectFailed: it cannot be made.
        """
        try:
            real = os.path.realpath(host_path)
            if not os.path.lexists(real):
                if not create:
                    raise InvalidRequest(f"mount source {host_path!r} does not exist on this host")
                os.makedirs(real, mode=0o755, exist_ok=True)
            return os.path.realpath(host_path, strict=True)
        except OSError as error:
            raise _refusal(f"mount source {host_path!r}", error) from error

    def devices(self, host_path: str, container_path: str, permissions: str) -> Sequence[DeviceNode]:
        """Return the device node at *host_path*, or all below it when it is a directory, as seen in the container.

        Raises:
            InvalidRequest: it is missing, or no device.
            EffectFailed: it cannot be looked at.
        """
        try:
            real = os.path.realpath(host_path, strict=True)
            status = os.stat(real)
        except OSError as error:
            raise _refusal(f"device {host_path!r}", error) from error
        if stat.S_ISDIR(status.st_mode):
            nodes = tuple(_limited(real))
        else:
            node = _node(real, status)
            if node is None:
                raise InvalidRequest(f"{host_path!r} is no device node of this host")
            nodes = (node,)
        return tuple(
            msgspec.structs.replace(node, path=container_path + node.path.removeprefix(real), access=permissions)
            for node in nodes
        )

    def all_devices(self) -> Sequence[DeviceNode]:
        """Return every device node of the host's /dev, for privileged containers."""
        return tuple(_limited(self._device_root))

    def read(self, path: str, limit: int) -> bytes:
        """Read at most *limit* bytes of a host file.

        Raises:
            InvalidRequest: it is missing, or no file.
            EffectFailed: it cannot be read.
        """
        try:
            with open(path, "rb") as file:
                return file.read(limit)
        except OSError as error:
            raise _refusal(f"host file {path!r}", error) from error

    async def relabel(self, path: str, label: str) -> None:
        """Give a mount's source, and all below it, this SELinux label. Done already is success.

        Raises:
            InvalidRequest: *path* is a directory of the host itself.
            EffectFailed: the kernel refused.
        """
        await trio.to_thread.run_sync(labels.relabel, path, label, abandon_on_cancel=True)

    def apparmor_profiles(self) -> frozenset[str] | None:
        """Return the names of the AppArmor profiles that are loaded; None where the kernel does not tell."""
        try:
            with open(self._apparmor, encoding="utf-8", errors="surrogateescape") as file:
                return frozenset(line.rpartition(" (")[0] for line in file.read(_PROFILES_BYTES_MAX).splitlines())
        except OSError:
            return None

    def block_devices(self, patterns: Sequence[str]) -> Sequence[tuple[int, int]]:
        """Return major and minor of the whole disks that these paths and patterns name, each once, in order.

        Links are followed, but not out of /dev. Partitions are left out: the kernel limits disks alone. What is not
        there names nothing, so that one file of classes can serve nodes with other disks.

        Raises:
            Exhausted: there are too many.
        """
        found: dict[tuple[int, int], None] = {}
        for pattern in patterns:
            for path in itertools.islice(glob.iglob(pattern), _DEVICES_MAX):
                real = os.path.realpath(path)
                with suppress(OSError):
                    status = os.stat(real)
                    numbers = os.major(status.st_rdev), os.minor(status.st_rdev)
                    is_part = os.path.exists(f"{self._block_sysfs}/{numbers[0]}:{numbers[1]}/partition")
                    if real.startswith(f"{self._device_root}/") and stat.S_ISBLK(status.st_mode) and not is_part:
                        found[numbers] = None
            if len(found) > blockio.DEVICES_MAX:
                raise Exhausted(f"{', '.join(patterns)[:200]} name more than {blockio.DEVICES_MAX} block devices")
        return tuple(found)

    def cdi_specs(self) -> Sequence[cdi.Source]:
        """Return the specifications of CDI devices that this node has now; of a later directory, of higher priority.

        Raises:
            Exhausted: there are too many.
        """
        found: list[cdi.Source] = []
        for priority, directory in enumerate(self._cdi_dirs):
            for path in _specs_in(directory):
                if len(found) == cdi.SPECS_MAX:
                    raise Exhausted(f"more than {cdi.SPECS_MAX} CDI specifications in {', '.join(self._cdi_dirs)}")
                found.append(cdi.Source(path=path, priority=priority, content=_spec(path)))
        return found


def _refusal(what: str, error: OSError) -> InvalidRequest | EffectFailed:
    """Tell what a request names and is not there from what is there and fails."""
    if error.errno == errno.ENOENT:
        return InvalidRequest(f"{what} does not exist on this host")
    if error.errno in _NOT_A_PATH:
        return InvalidRequest(f"{what} cannot exist on this host: {error.strerror}")
    return EffectFailed(f"{what}: {error.strerror}")


def _specs_in(directory: str) -> list[str]:
    with suppress(OSError), os.scandir(directory) as entries:
        return sorted(entry.path for entry in entries if entry.name.endswith(cdi.SUFFIXES) and entry.is_file())
    return []


def _spec(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            content = file.read(cdi.SPEC_BYTES_MAX + 1)
    except OSError:
        return None
    return content if len(content) <= cdi.SPEC_BYTES_MAX else None


def _limited(directory: str) -> Iterator[DeviceNode]:
    for count, node in enumerate(_walk(directory)):
        if count == _DEVICES_MAX:
            raise Exhausted(f"{directory!r} has more than {_DEVICES_MAX} device nodes")
        yield node


def _walk(directory: str) -> Iterator[DeviceNode]:
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return  # unplugged while we look
    for entry in entries:
        if entry.is_symlink() or entry.path in _SKIPPED_FILES:
            continue
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in _SKIPPED_DIRECTORIES:
                yield from _walk(entry.path)
            continue
        try:
            node = _node(entry.path, entry.stat(follow_symlinks=False))
        except OSError:
            continue
        if node is not None:
            yield node


def _node(path: str, status: os.stat_result) -> DeviceNode | None:
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    return DeviceNode(
        path=path,
        kind=kind,
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        file_mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
    )
