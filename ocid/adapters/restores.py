"""Restores of container checkpoints that are unpacked, by monitor and OCI runtime, and what a dead daemon left of them.

``<writable>/restore`` holds what was unpacked, CRIU's ``restore.log`` and its working files, until the restore is done.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import trio

from ocid.adapters import bundles, mounts, process as processes
from ocid.adapters.conmon import QUIET_S, Monitor
from ocid.adapters.handlers import Handler
from ocid.domain import checkpoint_archive as rules
from ocid.errors import NotFound, tail
from ocid.ports import ContainerOrder, Process

RESTORE_S: Final = 300.0  # for gigabytes of memory from a slow disk
END_S: Final = 2.0  # for what was killed to be gone
_OPTIONS: Final = ("--tcp-established", "--file-locks")  # as the dump takes them
_LOG_TAIL_BYTES: Final = 256 << 10


def directory_of(order: ContainerOrder) -> Path:
    """Name where a checkpoint is unpacked."""
    return Path(order.writable, "restore")


def monitor_words(order: ContainerOrder, spec: Mapping[str, Any]) -> list[str]:
    """Return what makes a monitor restore instead of create.

    Of what confines the processes, only the security module's profile can be said anew: it is the specification's.
    """
    place, process = directory_of(order), spec["process"]
    options = ["--work-path", str(place), *_OPTIONS]
    for kind, key in (("apparmor", "apparmorProfile"), ("selinux", "selinuxLabel")):
        options += ["--lsm-profile", f"{kind}:{process[key]}"] if process.get(key) else []
    label = spec.get("linux", {}).get("mountLabel")
    options += ["--lsm-mount-context", label] if label else []
    return ["--restore", str(place / rules.IMAGES.decode()), *(f"--runtime-opt={one}" for one in options)]


async def found(handler: Handler, order: ContainerOrder, monitor: Monitor) -> Process | None:
    """Wait for a restore that a dead daemon, or a cancelled call, began; return init when it came to its good end.

    Init may have ended again by now: what came of it is in its exit file.
    """
    await _settled(order)
    state = await handler.init(order.container_id, Path(order.bundle, "runtime.log"))
    if state is None or state.process is None or not _has_init(order):
        return None
    if bundles.is_half_made(order):
        watcher = monitor.find(order)
        lives = watcher is not None and processes.alive(watcher)
        if not lives and monitor.exit_code(order) is None:
            return None  # nobody holds its output, and nobody will tell how it ends
        bundles.mark(order, "made")
    return state.process


async def _settled(order: ContainerOrder) -> None:
    quiet_since = trio.current_time()
    with trio.move_on_after(RESTORE_S):
        while bundles.is_half_made(order) and not _has_init(order):
            if processes.find_by_argument(order.bundle):
                quiet_since = trio.current_time()
            elif trio.current_time() - quiet_since >= QUIET_S:
                return
            await trio.sleep(0.05)


def _has_init(order: ContainerOrder) -> bool:
    """Say whether the runtime has come to the end of its restore."""
    return Path(order.bundle, "init.pid").exists()


def cause(order: ContainerOrder) -> str:
    """Return CRIU's last error but those that do not matter, "" when it wrote none."""
    with suppress(OSError), open(directory_of(order) / "restore.log", "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").splitlines()
        errors = [line for line in lines if "Error (" in line and "RLIMIT_NOFILE" not in line]
        if errors:
            return tail(errors[0], 500)
    return ""


async def end(order: ContainerOrder, monitor: Process | None) -> None:
    """End the CRIU of a restore whose monitor was killed, with its tools, and unmount what it had mounted for itself.

    They bear none of our paths among their words, but they are of the monitor's session, and no older.
    """
    with trio.move_on_after(END_S):
        while members := [] if monitor is None else _session_of(monitor):
            for one in members:
                processes.send(one, signal.SIGKILL)
                processes.reap_child(one.pid)  # we inherit them
            await trio.sleep(0.01)
    mounts.unmount_below(str(directory_of(order)))


def _session_of(leader: Process) -> list[Process]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != leader.pid and processes.session_of(int(name)) == leader.pid:
            with suppress(NotFound):
                found.append(processes.identify(int(name)))
    return [one for one in found if one.start_ticks >= leader.start_ticks]


async def forget(order: ContainerOrder) -> None:
    """Remove what was unpacked: running processes need it no more."""
    place = directory_of(order)
    await trio.to_thread.run_sync(lambda: shutil.rmtree(place, ignore_errors=True))
