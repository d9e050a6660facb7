"""Runs CNI plugins as programs: told what they must know, bounded in time and output, killed with their children.

Source: CNI specification 1.1.0, sections 2 and 3.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from ocid.adapters.command import Child, spawn, tool_environment
from ocid.domain import cni
from ocid.domain.cni import NetworkList, Plugin
from ocid.errors import EffectFailed, Unavailable

PLUGIN_S_MAX: Final = 60.0
PLUGINS_AT_ONCE_MAX: Final = 32
STDERR_BYTES_MAX: Final = 64 << 10
READ_BYTES: Final = 64 << 10
DRAIN_S: Final = 0.1  # how long output is read after the end of a plugin whose children hold its pipes


class Plugins:
    """The plugins in *bin_dirs*, looked for in this order. *timeout_s* is for one run, of the whole process group."""

    def __init__(self, bin_dirs: Sequence[Path], timeout_s: float) -> None:
        self.bin_dirs = tuple(bin_dirs)
        self._timeout_s = timeout_s
        self._running = trio.CapacityLimiter(PLUGINS_AT_ONCE_MAX)

    def missing(self, network: NetworkList) -> tuple[str, ...]:
        """Return the programs that the network needs and that no directory has."""
        names = {program: None for plugin in network.plugins for program in plugin.programs}
        return tuple(name for name in names if self._find(name) is None)

    async def run(self, command: str, network: NetworkList, plugin: Plugin, told: bytes, **about: str) -> bytes:
        """Run one plugin and return what it printed.

        Args:
            command: the verb: ADD, DEL, CHECK, GC or STATUS.
            told: what it reads on standard input.
            about: further environment: CNI_CONTAINERID and so on.
        Raises:
            EffectFailed: it is not there, failed, or wrote too much; network, plugin and its words are in the message.
            Unavailable: it did not end in time, or asked to be tried again later.
        """
        program = self._find(plugin.type)
        places = [str(place) for place in self.bin_dirs]
        if program is None:
            where = ", ".join(places)
            raise EffectFailed(f"CNI network {network.name!r}: no plugin {plugin.type!r} in {where}; install it")
        environment = tool_environment(CNI_COMMAND=command, CNI_PATH=":".join(places), **about)
        async with self._running:
            doing = f"CNI network {network.name!r}: plugin {plugin.type!r}, asked to {command},"
            exit_code, out, err = await self._execute(program, environment, told, doing)
        if exit_code != 0:
            raise cni.failure(network, plugin.type, command, exit_code, out, err)
        return out

    async def _execute(
        self, program: str, environment: Mapping[str, str], told: bytes, doing: str
    ) -> tuple[int, bytes, bytes]:
        """Run a program as a process group of its own; return its exit code, output and errors."""
        out, err = _Output(cni.OUTPUT_BYTES_MAX), _Output(STDERR_BYTES_MAX)
        told_fd = os.memfd_create("cni-config", os.MFD_CLOEXEC)
        try:
            with os.fdopen(os.dup(told_fd), "wb") as file:
                file.write(told)
            os.lseek(told_fd, 0, os.SEEK_SET)
            descriptors = {0: told_fd, 1: out.write_fd, 2: err.write_fd}
            child = spawn([program], environment=environment, descriptors=descriptors, new_session=True)
            out.close_writer()
            err.close_writer()
            exit_code = -1
            try:
                with trio.fail_after(self._timeout_s):
                    exit_code = await _finish(child, out, err)
            except trio.TooSlowError as error:
                raise Unavailable(f"{doing} did not end within {self._timeout_s:g} s, and was killed") from error
            finally:
                if exit_code < 0:
                    _kill_group(child)
                await child.end()
        finally:
            os.close(told_fd)
            await out.close()
            await err.close()
        if out.total > cni.OUTPUT_BYTES_MAX:
            raise EffectFailed(f"{doing} wrote more than {cni.OUTPUT_BYTES_MAX} bytes, and was killed")
        return exit_code, bytes(out.kept), bytes(err.kept)

    def _find(self, name: str) -> str | None:
        for place in self.bin_dirs:
            path = os.path.join(place, name)
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return path
        return None


class _Output:
    """A pipe for a child to write to, and the first *limit* bytes of what it wrote."""

    def __init__(self, limit: int) -> None:
        self.kept = bytearray()
        self.total = 0
        self._limit = limit
        reading, self.write_fd = os.pipe2(os.O_CLOEXEC)
        self._stream = trio.lowlevel.FdStream(reading)

    async def read(self, too_much: Callable[[], None]) -> None:
        """Read to the end; call *too_much* when there is more than the limit, and drop the rest."""
        while piece := await self._stream.receive_some(READ_BYTES):
            self.total += len(piece)
            self.kept += piece[: max(0, self._limit - len(self.kept))]
            if self.total > self._limit:
                too_much()

    def close_writer(self) -> None:
        """Close our copy of the writing end, once the child has its own."""
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    async def close(self) -> None:
        """Close both ends."""
        self.close_writer()
        with trio.CancelScope(shield=True):  # closing a descriptor does not wait
            await self._stream.aclose()


async def _finish(child: Child, out: _Output, err: _Output) -> int:
    """Read the child's output until it has ended, and return its exit code. One that says too much is killed."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(out.read, lambda: _kill_group(child))
        nursery.start_soon(err.read, lambda: None)
        exit_code = await child.wait()
        nursery.cancel_scope.deadline = trio.current_time() + DRAIN_S
    return exit_code


def _kill_group(child: Child) -> None:
    """Kill the child and all that it started, as far as that stayed in its group."""
    with suppress(ProcessLookupError, ChildProcessError):
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # reaped: its number is no longer its own
        os.killpg(child.pid, signal.SIGKILL)
