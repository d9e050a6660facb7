"""Where plugins come from: the socket that they connect to, and the directory of those that the daemon starts.

A plugin that the daemon starts gets its end of a socket pair as descriptor 3, its name in its environment, and nothing
else of either. It ends with its connection; it is not started again, for it may have left containers half adjusted.

Source: github.com/containerd/nri, "Plugin Registration", and pkg/api/plugin.go for the variables.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import trio

from ocid.errors import AlreadyExists, EffectFailed, InvalidRequest, OcidError
from ocid.nri.plugin import checked_name
from ocid.nri.service import NriPlugins
from ocid.ports.plugins import Node

log = logging.getLogger("ocid.nri")

CONNECTIONS_MAX: Final = 32  # plugins at once, those not registered yet included
BACKLOG: Final = 8
SOCKET_MODE: Final = 0o600  # whoever may connect can change any container: root alone
DIRECTORY_MODE: Final = 0o700
DESCRIPTOR: Final = 3
ACCEPT_AGAIN_S: Final = 1.0  # after the kernel had no descriptor or memory left
_UCRED: Final = struct.Struct("iII")


class Child(Protocol):
    """A process that was started."""

    pid: int

    async def end(self) -> None:
        """Kill and reap it."""


class Spawn(Protocol):
    """How programs are started."""

    def __call__(
        self, argv: Sequence[str], *, environment: Mapping[str, str], descriptors: Mapping[int, int], new_session: bool
    ) -> Child:
        """Start a program with exactly these descriptors, given as number in the child to descriptor here.

        Raises:
            OcidError: it cannot be executed.
        """


async def serve(
    plugins: NriPlugins, node: Node, spawn: Spawn, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Start the plugins of the directory, then take in those that connect, until cancelled; then take leave of all.

    Raises:
        AlreadyExists, EffectFailed: the socket cannot be where it is to be.
    """
    settings = plugins.settings
    listener = None if settings.disable_external else _listen(settings.socket)
    async with trio.open_nursery() as outer:
        attending: trio.Nursery = await outer.start(_shielded)
        try:
            for index, base, path in discovered(settings.plugin_dir):
                await attending.start(_run_launched, plugins, node, spawn, (index, base), path)
            plugins.opened()
            task_status.started()
            if listener is None:
                await trio.sleep_forever()
            else:
                await _accept(plugins, node, listener, attending)
        finally:
            await plugins.take_leave()
            attending.cancel_scope.cancel()
            if listener is not None:
                listener.close()
                settings.socket.unlink(missing_ok=True)


def discovered(directory: Path) -> list[tuple[str, str, Path]]:
    """Return index, name and path of the plugins in a directory, in the order in which they are asked.

    What is not executable, or not called as a plugin is, is left alone. So is what others than root may write.
    """
    found: list[tuple[str, str, Path]] = []
    try:
        entries = sorted(directory.iterdir())
    except OSError as error:
        if error.errno != errno.ENOENT:
            log.warning("no plugins are started from %s: %s", directory, error.strerror)
        return []
    for path in entries:
        index, _, base = path.name.partition("-")
        try:
            checked_name(index, base)
        except InvalidRequest:
            continue
        try:
            status = path.stat()
        except OSError:
            continue  # a link that leads nowhere, or gone
        if not stat.S_ISREG(status.st_mode) or not status.st_mode & 0o111:
            continue
        if status.st_uid != 0 or status.st_mode & 0o022:
            log.warning("plugin %s is not started: others than root can write it", path)
            continue
        found.append((index, base, path))
    return found


async def _shielded(*, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """Hold a nursery that outlives the cancellation of its parent, so that plugins can take leave."""
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.shield = True
        task_status.started(nursery)
        await trio.sleep_forever()


async def _accept(plugins: NriPlugins, node: Node, listener: trio.socket.SocketType, attending: trio.Nursery) -> None:
    while True:
        try:
            accepted, _ = await listener.accept()
        except OSError as error:
            log.warning("cannot take a plugin's connection: %s", error.strerror)
            await trio.sleep(ACCEPT_AGAIN_S)
            continue
        if len(attending.child_tasks) >= CONNECTIONS_MAX:
            log.warning("a plugin is turned away: %d are connected already", CONNECTIONS_MAX)
            accepted.close()
            continue
        pid, _, _ = _UCRED.unpack(accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        attending.start_soon(_attend, plugins, node, trio.SocketStream(accepted), pid)


async def _attend(plugins: NriPlugins, node: Node, stream: trio.SocketStream, pid: int) -> None:
    await plugins.welcome(stream, node, pid=pid)


async def _run_launched(
    plugins: NriPlugins,
    node: Node,
    spawn: Spawn,
    name: tuple[str, str],
    path: Path,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    """Start one plugin and stay until it is gone. It has *started* when it is taken in, or never will be."""
    try:
        child, ours = _launch(spawn, name, path)
    except (OcidError, OSError) as error:
        log.warning("plugin %s cannot be started: %s", path, error)
        task_status.started()
        return
    try:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        await plugins.welcome(stream, node, pid=child.pid, name=name, task_status=task_status)
    finally:
        await child.end()


def _launch(spawn: Spawn, name: tuple[str, str], path: Path) -> tuple[Child, socket.socket]:
    """Start a plugin; return it and our end of its socket.

    Raises:
        OcidError, OSError: it cannot be started.
    """
    environment = {
        "NRI_PLUGIN_IDX": name[0],
        "NRI_PLUGIN_NAME": name[1],
        "NRI_PLUGIN_SOCKET": str(DESCRIPTOR),
    }
    ours, theirs = socket.socketpair()
    with theirs, open(os.devnull, "r+b", buffering=0) as null:
        descriptors = {0: null.fileno(), 1: 2, 2: 2, DESCRIPTOR: theirs.fileno()}  # it speaks where we do
        try:
            return spawn([str(path)], environment=environment, descriptors=descriptors, new_session=True), ours
        except BaseException:
            ours.close()
            raise


def _listen(path: Path) -> trio.socket.SocketType:
    """Listen on the socket, for root alone; one that a dead daemon left is replaced.

    Raises:
        AlreadyExists: a living daemon answers there, or it is something else than a socket.
        EffectFailed: the kernel refuses.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        _clear(path)
        before = os.umask(0o777 ^ SOCKET_MODE)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise EffectFailed(f"cannot listen on {str(path)!r} for plugins: {error.strerror}") from error
    except BaseException:
        listener.close()
        raise
    return trio.socket.from_stdlib_socket(listener)


def _clear(path: Path) -> None:
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise AlreadyExists(f"{str(path)!r} is there and is no socket; move it away or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise AlreadyExists(f"another runtime listens on {str(path)!r}; stop it or choose another nri.socket")
    path.unlink()
