"""A pod's own resources: pinned namespaces, /dev/shm, resolver files, cgroup parent and pause process.

Namespaces are made in a thread that ends at once, and live on through bind mounts of its /proc/…/ns files, so a pod
needs no process. The directory of all pods is a private mount: pins are seen nowhere else and are never busy there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from ocid.adapters import linux, mounts, sysctls as parameters, usernamespace
from ocid.adapters.cgroups import Cgroups
from ocid.adapters.labels import set_label
from ocid.adapters.pause import PauseProcesses
from ocid.domain import sysctls
from ocid.domain.configs import UserNamespace
from ocid.domain.resolv import resolv_conf
from ocid.errors import EffectFailed, InvalidRequest
from ocid.ports import Process, SandboxOrder

_RESOLV_BYTES_MAX: Final = 64 << 10
_SHM_MODE: Final = 0o1777
_NO_DIRECTORY: Final = (errno.EEXIST, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)  # whatever we do
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1


class PodSandboxes:
    """Implements ``ocid.ports.Sandboxes``.

    Args:
        pods_dir: ``<run>/pods``, under which all ``run_dir`` of orders lie; made a private mount.
        host_resolv_conf: what a pod without a DNS configuration gets.
    """

    def __init__(
        self,
        pods_dir: Path,
        cgroups: Cgroups,
        pause: PauseProcesses,
        *,
        host_resolv_conf: str = "/etc/resolv.conf",
    ) -> None:
        self._cgroups = cgroups
        self._pause = pause
        self._host_resolv_conf = host_resolv_conf
        pods_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        mounts.make_private(str(pods_dir))

    async def prepare(self, order: SandboxOrder) -> None:
        """Pin net, ipc and uts namespaces, mount /dev/shm, write files, apply sysctls but the network's.

        Raises:
            InvalidRequest: a sysctl belongs to no namespace of the pod's own, or the log directory cannot be one.
            EffectFailed: the kernel refused.
        """
        sysctls.check(order.sysctls, _own(order))
        await _in_own_thread(lambda: self._prepare(order), "ocid-pod")

    def _prepare(self, order: SandboxOrder) -> None:
        run_dir = Path(order.run_dir)
        (run_dir / "ns").mkdir(mode=0o711, parents=True, exist_ok=True)
        self._cgroups.ensure_parent(order.cgroup_parent, run_dir / "cgroups-made")
        (run_dir / "resolv.conf").write_text(resolv_conf(order.dns, self._host_resolver()), encoding="utf-8")
        _give(run_dir / "resolv.conf", order)
        if order.hostname:
            (run_dir / "hostname").write_text(f"{order.hostname}\n", encoding="utf-8")
            _give(run_dir / "hostname", order)
        if order.log_directory:
            _make_log_directory(order.log_directory)
        shm = run_dir / "shm"
        if not order.host_ipc and not mounts.is_mount(str(shm)):
            shm.mkdir(mode=0o711, exist_ok=True)
            quiet = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
            mounts.tmpfs(str(shm), order.shm_bytes, _SHM_MODE, quiet, order.selinux.files)
            _give(shm, order)
        if not self.present(order):
            for pin in _pins(order).values():
                mounts.unmount(pin)  # one that was made before a crash goes with its half-made siblings
            if order.users is None:
                _make_namespaces(order)
            else:
                _make_owned_namespaces(order, order.users)

    def _host_resolver(self) -> str:
        try:
            with open(self._host_resolv_conf, encoding="utf-8", errors="replace") as file:
                return file.read(_RESOLV_BYTES_MAX)
        except FileNotFoundError:
            return ""

    async def tune(self, order: SandboxOrder) -> None:
        """Write the network's sysctls, which those of interfaces are among: the network is there now.

        Raises:
            InvalidRequest: the kernel has no such sysctl, or the value is none of it; the message names it.
            EffectFailed: the kernel refused.
        """
        wanted = sysctls.of("net", order.sysctls)
        if wanted:
            await _in_own_thread(
                lambda: parameters.write_inside(wanted, order.netns, linux.CLONE_NEWNET), "ocid-sysctl"
            )

    async def furnish_again(self, order: SandboxOrder) -> None:
        """Give the pod its own name and sysctls back: a restored container brought those of its old pod along.

        Raises:
            EffectFailed: the kernel refused.
        """
        await _in_own_thread(lambda: _furnish_again(order), "ocid-pod")

    async def start_pause(self, order: SandboxOrder) -> Process:
        """Run the process that holds the shared PID namespace, through the OCI runtime, and return it.

        Raises:
            EffectFailed: the runtime refused; its own words are in the message.
        """
        return await self._pause.start(order)

    async def wait_pause(self, process: Process) -> None:
        """Return when the pause process is gone; at once when it is already."""
        await self._pause.wait(process)

    async def release(self, order: SandboxOrder) -> None:
        """End the pause process, unmount everything under the run directory and remove it. Nothing left is success.

        Raises:
            Unavailable: the pause process or its cgroup does not end.
        """
        if order.shared_pid:
            await self._pause.end(order)
        await self._cgroups.stop_made(Path(order.run_dir, "cgroups-made"))
        await trio.to_thread.run_sync(self._release, order)

    def _release(self, order: SandboxOrder) -> None:
        run_dir = Path(order.run_dir)
        for pin in _pins(order).values():
            mounts.unmount(pin)
            _unlink(Path(pin))
        mounts.unmount(str(run_dir / "shm"))
        self._cgroups.remove_made(run_dir / "cgroups-made")
        for name in ("resolv.conf", "hostname", "cgroups-made"):
            _unlink(run_dir / name)
        for directory in (run_dir / "ns", run_dir / "shm", run_dir):
            with suppress(OSError):
                directory.rmdir()
        if run_dir.exists():
            _remove_rest(run_dir)

    def present(self, order: SandboxOrder) -> bool:
        """Say whether the pod's pinned namespaces are still there. They are not after a reboot."""
        pins = _pins(order)
        return all(mounts.is_mount(pin) for pin in pins.values()) if pins else os.path.isdir(order.run_dir)


def _own(order: SandboxOrder) -> frozenset[str]:
    """Return the kinds of namespace that the pod has for itself."""
    return frozenset(_pins(order)) - {"user"}


def _pins(order: SandboxOrder) -> dict[str, str]:
    """Return where each of the pod's own namespaces is pinned; net is the last to be made."""
    pins = {}
    if order.userns:
        pins["user"] = order.userns
    if not order.host_ipc:
        pins["ipc"] = f"{order.run_dir}/ns/ipc"
    if order.netns or order.hostname:
        pins["uts"] = f"{order.run_dir}/ns/uts"
    if order.netns:
        pins["net"] = order.netns
    return pins


def _make_namespaces(order: SandboxOrder) -> None:
    """Leave this thread's namespaces for new ones, furnish and pin them. The thread must end after this."""
    flags = {"ipc": linux.CLONE_NEWIPC, "uts": linux.CLONE_NEWUTS, "net": linux.CLONE_NEWNET}
    pins = _pins(order)
    if not pins:
        return
    linux.unshare(sum(flags[kind] for kind in pins))
    _furnish(order)
    parameters.write(sysctls.of("ipc", order.sysctls))
    _pin(pins, "/proc/thread-self/ns")


def _make_owned_namespaces(order: SandboxOrder, users: UserNamespace) -> None:
    """Make a user namespace and the others in it, furnish and pin them. The thread must end after this."""
    pins = _pins(order)
    others = [kind for kind in pins if kind != "user"]
    with usernamespace.made(others, users) as directory:
        usernamespace.enter(directory, others)
        _furnish(order)
        usernamespace.write_as_root(directory, sysctls.of("ipc", order.sysctls))
        _pin(pins, directory)


def _furnish(order: SandboxOrder) -> None:
    if order.hostname:
        linux.set_hostname(order.hostname)
    if order.netns:
        _raise_loopback()
    parameters.write(sysctls.of("uts", order.sysctls))


def _furnish_again(order: SandboxOrder) -> None:
    """Enter the pod's namespaces one by one. The thread must end after this."""
    pins = _pins(order)
    if "uts" in pins:
        linux.enter_pinned(pins["uts"], linux.CLONE_NEWUTS)
        if order.hostname:
            linux.set_hostname(order.hostname)
        parameters.write(sysctls.of("uts", order.sysctls))
    if "ipc" in pins:
        linux.enter_pinned(pins["ipc"], linux.CLONE_NEWIPC)
        parameters.write(sysctls.of("ipc", order.sysctls))


def _pin(pins: Mapping[str, str], directory: str) -> None:
    for kind, pin in pins.items():
        os.makedirs(os.path.dirname(pin), mode=0o711, exist_ok=True)
        os.close(os.open(pin, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o444))
        mounts.bind(f"{directory}/{kind}", pin)


def _make_log_directory(path: str) -> None:
    try:
        os.makedirs(path, mode=0o755, exist_ok=True)
    except OSError as error:
        kind = InvalidRequest if error.errno in _NO_DIRECTORY else EffectFailed
        raise kind(f"log directory {path[:200]!r} cannot be made: {error.strerror}") from error


def _give(path: Path, order: SandboxOrder) -> None:
    """Let the pod's root own what containers write to, and label it as theirs."""
    if order.selinux.files and path.is_file():
        set_label(str(path), order.selinux.files)
    if order.users is not None:
        os.chown(path, order.users.uids[0].host_id, order.users.gids[0].host_id)


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        flags: int = struct.unpack_from("H", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request), 16)[0]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def _unlink(path: Path) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):
        path.unlink()


def _remove_rest(run_dir: Path) -> None:
    """Remove what else is below a pod's directory, never through a mount."""
    mounts.unmount_below(str(run_dir))
    if mounts.targets_below(os.path.realpath(run_dir)):
        raise EffectFailed(f"pod directory {str(run_dir)!r} still has mounts")
    for parent, directories, files in os.walk(run_dir, topdown=False):
        for name in files:
            _unlink(Path(parent, name))
        for name in directories:
            path = Path(parent, name)
            path.unlink() if path.is_symlink() else path.rmdir()
    run_dir.rmdir()


async def _in_own_thread(work: Callable[[], None], name: str) -> None:
    """Run *work* in a thread that is used for nothing else and ends then; not cancelled on the way.

    Raises:
        EffectFailed: it failed with an ``OSError``.
    """
    failure: list[BaseException] = []
    finished = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failure.append(error)
        finally:
            token.run_sync_soon(finished.set)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    with trio.CancelScope(shield=True):
        await finished.wait()
    await trio.lowlevel.checkpoint_if_cancelled()
    if failure:
        if isinstance(failure[0], OSError):
            raise EffectFailed(f"pod resources: {failure[0].strerror} {failure[0].filename or ''}") from failure[0]
        raise failure[0]
