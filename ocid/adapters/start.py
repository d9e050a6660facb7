"""Starting a created container by opening the FIFO that its init waits at: 1 ms, where a command takes 10.

runc's init opens the FIFO for writing and writes a byte, crun's reads one from it. Both close it before they execute
the program, so its end does not tell whether that went well. The name of the process does: the kernel changes it when a
program is executed, and a zombie keeps it. What is missing or not executable both find at create; a wrong format, a
missing interpreter or loader shows only here.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from ocid.adapters import process as processes
from ocid.adapters.conmon import Monitor
from ocid.errors import EffectFailed, Unavailable, tail
from ocid.ports import ContainerOrder, Process

START_S: Final = 30.0  # for startContainer hooks and a slow exec
_SPINS: Final = 12  # looks before the first sleep: an exec takes 0.3 ms, and a sleep at least 1 ms
_ALIVE_S: Final = 0.1  # an init that still has the runtime's name then may be a program of that name
_SLOW_S: Final = 5.0  # and one that has the runtime's executable, too, is one when it still has both then
_SHOWN_BYTES: Final = 1024
_WAITING: Final = {"runc": "runc:[", "crun": "crun"}  # how init is called until it executes the program
_RUNC_REFUSAL: Final = re.compile(r"exec \S+: .+")


async def release(kind: str, fifo: Path, init: Process, order: ContainerOrder, monitor: Monitor) -> None:
    """Let the init of a runc or crun container execute its program. Success when it has already.

    Raises:
        EffectFailed: init is dead, or could not execute the program.
        Unavailable: init did not answer in time.
    """
    if not _exists(fifo):
        await trio.lowlevel.checkpoint()
        return
    if not processes.alive(init):
        raise EffectFailed(f"start of container {order.container_id!r}: its init {init.pid} is dead")
    if _waits(kind, init):
        waited_as = processes.executable_of(init.pid)
        try:
            with trio.fail_after(START_S):
                await (_release_runc(fifo, init) if kind == "runc" else _release_crun(fifo))
        except trio.TooSlowError as error:
            raise Unavailable(f"start of container {order.container_id!r}: no answer in {START_S:g} s") from error
        except OSError as error:
            raise EffectFailed(f"start of container {order.container_id!r}: {error.strerror}") from error
        executed = await has_executed(kind, init, waited_as)
    else:
        executed = True  # a daemon that died opened the FIFO, and did not come to remove it
    _remove(fifo)  # left behind it makes the runtime say "created" for ever
    if not executed:
        await _raise_refusal(kind, order, monitor, certain=executed is False)


def _exists(path: Path) -> bool:
    return path.exists()


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()


def _waits(kind: str, init: Process) -> bool:
    name = processes.name_of(init.pid)
    return name is not None and name.startswith(_WAITING[kind])


async def _release_runc(fifo: Path, init: Process) -> None:
    """Open the FIFO for reading, which lets init's open for writing go on, and wait for its byte."""
    descriptor = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_gone, init, nursery.cancel_scope)
            await trio.lowlevel.wait_readable(descriptor)
            nursery.cancel_scope.cancel()
    finally:
        os.close(descriptor)


async def _cancel_when_gone(init: Process, scope: trio.CancelScope) -> None:
    await processes.wait_gone(init)
    scope.cancel()


async def _release_crun(fifo: Path) -> None:
    """Write a byte into the FIFO that init has open for reading."""
    await trio.lowlevel.checkpoint()
    try:
        descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ENXIO:  # nobody reads: init went on, or died
            raise
        return
    try:
        os.write(descriptor, b"\0")
    finally:
        os.close(descriptor)


async def has_executed(kind: str, init: Process, waited_as: tuple[int, int] | None = None) -> bool | None:
    """Say whether init executed its program; None when it ended and was reaped before we could see.

    Args:
        waited_as: device and inode of what init executed while it waited, where that was seen.
    """
    looks, began = 0, trio.current_time()
    while (passed := trio.current_time() - began) < _SLOW_S:
        name = processes.name_of(init.pid)
        if name is None:
            return None
        if not name.startswith(_WAITING[kind]):
            return True
        ended_as = processes.ended_as(init)
        if ended_as is not None:
            return not ended_as.startswith(_WAITING[kind])
        if passed >= _ALIVE_S and processes.executable_of(init.pid) not in (waited_as, None):
            return True
        looks += 1
        if looks < _SPINS:
            await trio.lowlevel.checkpoint()
        else:
            await trio.sleep(0.001)
    return True


async def _raise_refusal(kind: str, order: ContainerOrder, monitor: Monitor, *, certain: bool) -> None:
    """Raise what the runtime wrote into the container's log when it could not execute the program.

    When that is not *certain*, for init was reaped already, a program that was quick is told from one that never ran
    by those words and the runtime's exit code 1.
    """
    await monitor.wait(order)
    words = _last_words(order.log_path)
    refusal = _crun_refusal(words) if kind == "crun" else words if _RUNC_REFUSAL.fullmatch(words) else ""
    written = monitor.exit_code(order)
    if refusal and written is not None and written[0] == 1:
        raise EffectFailed(f"start of container {order.container_id!r}: {refusal}")
    if certain:
        raise EffectFailed(f"start of container {order.container_id!r}: init died before the program: {words}")


def _last_words(log_path: str) -> str:
    """Return the content of the last line of a CRI log."""
    try:
        with open(log_path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _SHOWN_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return ""
    return tail(lines[-1].split(b" ", 3)[-1]) if lines else ""


def _crun_refusal(words: str) -> str:
    with suppress(ValueError, RecursionError):  # anything may have written the container's last words
        entry = json.loads(words)
        if isinstance(entry, Mapping) and str(entry.get("msg", "")).startswith("exec container process"):
            return str(entry["msg"])
    return ""
