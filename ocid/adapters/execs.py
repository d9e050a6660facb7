"""Commands in running containers: ``exec --detach`` of the OCI runtime, our own pipes, and the true exit status.

The runtime leaves as soon as the command runs, and the kernel gives the orphan to us, for this process is a subreaper.
So we wait for the command itself, and a child of it that holds the pipes open keeps nobody waiting. Detached costs no
more than the runtime staying in between, and spares its 10 MiB for as long as the command runs.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from ocid.adapters import linux, process as processes
from ocid.adapters.cgroups import Cgroups
from ocid.adapters.command import DRAIN_S, Capture, Child, spawn
from ocid.adapters.conmon import runtime_error
from ocid.adapters.handlers import Handler, InitState
from ocid.errors import EffectFailed, WrongState, tail
from ocid.ids import ExecId
from ocid.ports import ContainerOrder, ExecProcess, ExecResult, Process, Wanting

REAP_S: Final = 2.0  # how long a killed command may take to end
LAUNCH_S: Final = 1.0  # how long a runtime may still take to launch a command that is to be killed
_KILL_ROUNDS: Final = 16
_SPEC_FD: Final = 3


class Execs:
    """Runs commands in containers. The process must be a subreaper (``processes.Reaper``)."""

    def __init__(self, cgroups: Cgroups) -> None:
        self._cgroups = cgroups
        self._running: set[Command] = set()

    async def run(
        self,
        handler: Handler,
        order: ContainerOrder,
        state: InitState | None,
        exec_id: ExecId,
        process: ExecProcess,
        timeout_s: float | None,
        unwanted: Wanting,
    ) -> ExecResult:
        """Run a command to its end, its time limit, which counts from now, or until *unwanted* is set.

        A time limit of None or 0 is none.

        Raises:
            WrongState: the container does not run.
            EffectFailed: the command could not be executed.
        """
        out, err = Capture(process.output_bytes_max), Capture(process.output_bytes_max)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            descriptors = {0: null, 1: out.write_fd, 2: err.write_fd}
            async with self.launched(handler, order, state, exec_id, process.spec, descriptors) as command:
                out.close_writer()
                err.close_writer()
                timed_out = await self._finish(command, order, (out, err), timeout_s, unwanted)
        finally:
            os.close(null)
            out.close()
            err.close()
        if command.refusal is not None:
            said = tail(command.refusal or bytes(err.kept) or bytes(out.kept))
            raise EffectFailed(f"exec in container {order.container_id!r}: {said}")
        return ExecResult(
            exit_code=command.exit_code,
            timed_out=timed_out,
            stdout=bytes(out.kept),
            stderr=bytes(err.kept),
            stdout_bytes=out.total,
            stderr_bytes=err.total,
        )

    @asynccontextmanager
    async def launched(
        self,
        handler: Handler,
        order: ContainerOrder,
        state: InitState | None,
        exec_id: ExecId,
        spec: Mapping[str, Any],
        descriptors: Mapping[int, int],
        words: Sequence[str] = (),
    ) -> AsyncIterator[Command]:
        """Launch a command. Whatever happens inside, it is dead and reaped, and its files are gone, afterwards.

        Args:
            spec: OCI process object.
            descriptors: standard ones of the command, as number there to descriptor here.
            words: further arguments of the runtime's exec.
        Raises:
            WrongState: the container does not run.
            EffectFailed: the runtime cannot be run.
        """
        if state is None or state.process is None or not processes.alive(state.process):
            is_now = "absent" if state is None else "not running"
            raise WrongState("container", order.container_id, wants="running", is_now=is_now)
        files = _Files(order, exec_id)
        files.prepare()
        try:
            command = Command(_launch(handler, order, files, spec, descriptors, words), files, state.process)
            self._running.add(command)
            try:
                yield command
            finally:
                if not command.ended:
                    await self.end(command, order)
                self._running.discard(command)
        finally:
            files.remove()

    async def _finish(
        self,
        command: Command,
        order: ContainerOrder,
        captures: tuple[Capture, Capture],
        timeout_s: float | None,
        unwanted: Wanting,
    ) -> bool:
        """Read and wait; say whether time was up. Whatever happens, the command is dead and reaped afterwards."""
        limit = trio.CancelScope(deadline=trio.current_time() + timeout_s if timeout_s else float("inf"))
        async with trio.open_nursery() as watch:
            watch.start_soon(_cancel_when_set, unwanted, limit)
            async with trio.open_nursery() as readers:
                for capture in captures:
                    readers.start_soon(capture.run)
                try:
                    with limit:
                        await command.wait()
                finally:
                    if not command.ended:
                        await self.end(command, order)
                readers.cancel_scope.deadline = trio.current_time() + DRAIN_S
            watch.cancel_scope.cancel()
        return limit.cancelled_caught and not unwanted.is_set()

    async def end(self, command: Command, order: ContainerOrder) -> None:
        """Kill the command and its descendants, and reap, in a bounded time even when cancelled.

        The runtime is let finish launching it: one that is killed leaves mounts, and a command that nobody knows.
        """
        with trio.move_on_after(LAUNCH_S) as limit:
            limit.shield = True
            await command.child.wait()
        await command.child.end()
        pid = command.find()
        if pid is not None:
            self._kill_tree(order, pid)
            with trio.move_on_after(REAP_S) as limit:
                limit.shield = True
                await command.wait()
        else:
            for stray in self._strays(order, command):
                self._kill_tree(order, stray)
        command.ended = True
        processes.reap_orphans()

    def _strays(self, order: ContainerOrder, command: Command) -> set[int]:
        """Return what a killed runtime left in the container: our children there that nobody has written down."""
        known = {other.find() for other in self._running} | {command.init.pid}
        members = {pid for pid in self._cgroups.processes(order.cgroup) if pid not in known}
        return {pid for pid in members if processes.parent_of(pid) == os.getpid()}

    def _kill_tree(self, order: ContainerOrder, top: int) -> None:
        """Kill a command, its session, and its descendants as far as they are still linked to it.

        A child that a command makes while it is killed is linked by the session only. That is the command's own under
        runc, and under crun that of the runtime, which we have given one of its own, too.
        """
        killed: set[int] = set()
        sessions = {top, processes.session_of(top)} - {None, 0, os.getsid(0)}
        for _ in range(_KILL_ROUNDS):
            members = self._cgroups.processes(order.cgroup)
            parents = {pid: processes.parent_of(pid) for pid in members}
            doomed = {top}
            for pid in members:
                if processes.session_of(pid) in sessions or top in _ancestors(pid, parents):
                    doomed.add(pid)
            if doomed <= killed:
                return
            for pid in doomed - killed:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            killed |= doomed

    async def abandon(self, order: ContainerOrder, exec_id: ExecId) -> None:
        """Kill what is left of a command whose daemon died, and remove its files. Nothing left is success."""
        files = _Files(order, exec_id)
        if not files.present():  # nothing was under way: of a probe, the rule. Looking for it would read all of /proc
            await trio.lowlevel.checkpoint()
            return
        for runtime in processes.find_by_argument(str(files.pid)):
            with trio.move_on_after(LAUNCH_S):
                await processes.wait_gone(runtime)
            await processes.kill_and_wait(runtime, REAP_S)
        pid = files.read_pid()
        if pid is not None and self._is_the_command(order, files, pid):
            self._kill_tree(order, pid)
        files.remove()
        await trio.lowlevel.checkpoint()

    def _is_the_command(self, order: ContainerOrder, files: _Files, pid: int) -> bool:
        """Say whether the pid still means what the file was written for: in the container, and not younger than it."""
        ticks = processes.start_ticks(pid)
        if ticks is None or pid not in self._cgroups.processes(order.cgroup):
            return False
        started_s = ticks / os.sysconf("SC_CLK_TCK")
        written_s = files.pid.stat().st_mtime - (time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))
        return started_s <= written_s + 1

    def remove_files(self, order: ContainerOrder) -> None:
        """Remove what all execs of a container left in its bundle."""
        directory = Path(order.bundle, "exec")
        with suppress(FileNotFoundError, NotADirectoryError):
            for entry in list(directory.iterdir()):
                entry.unlink()
            directory.rmdir()


class _Files:
    """Where one exec's files are."""

    def __init__(self, order: ContainerOrder, exec_id: ExecId) -> None:
        self.directory = Path(order.bundle, "exec")
        self.pid = self.directory / f"{exec_id}.pid"
        self.log = self.directory / f"{exec_id}.log"

    def prepare(self) -> None:
        """Leave a mark, before anything runs, by which a later life of the daemon knows that something did."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        os.close(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def present(self) -> bool:
        """Say whether the command may have been running when its daemon died."""
        return self.log.exists() or self.pid.exists()

    def read_pid(self) -> int | None:
        try:
            return int(self.pid.read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None

    def remove(self) -> None:
        for path in (self.pid, self.log):
            with suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()


class Command:
    """A command being run: first its runtime, then itself."""

    def __init__(self, child: Child, files: _Files, init: Process) -> None:
        self.child = child
        self.init = init
        self.exit_code = 255
        self.refusal: bytes | None = None  # the runtime's words when it could not run the command
        self.ended = False
        self._files = files

    def find(self) -> int | None:
        """Return the command's pid, once the runtime has written it down."""
        return self._files.read_pid()

    async def launch(self) -> int | None:
        """Wait for the runtime, and return the command's pid; None when it could not be run, see ``refusal``."""
        launched = await self.child.wait()
        pid = self.find()
        if launched != 0 or pid is None:
            self.refusal = runtime_error(self._files.log).encode()
            self.ended = True
            processes.reap_orphans()  # the runtime's own child, in the container's PID namespace
            return None
        return pid

    async def wait(self) -> None:
        """Wait for the runtime, then for the command, and reap it."""
        pid = await self.launch()
        if pid is not None:
            self.exit_code = await _outlive(pid)
            self.ended = True


def _launch(
    handler: Handler,
    order: ContainerOrder,
    files: _Files,
    spec: Mapping[str, Any],
    descriptors: Mapping[int, int],
    words: Sequence[str],
) -> Child:
    command = [*handler.words(files.log), "exec", "--detach", "--pid-file", str(files.pid), *words]
    command += ["--process", f"/proc/self/fd/{_SPEC_FD}", order.container_id]
    memory = os.memfd_create("process.json", os.MFD_CLOEXEC)  # secrets in its environment never touch a disk
    try:
        content = msgspec.json.encode(spec)
        assert os.write(memory, content) == len(content)
        os.lseek(memory, 0, os.SEEK_SET)
        return spawn(
            command,
            environment=handler.environment,
            descriptors={**descriptors, _SPEC_FD: memory},
            new_session=True,
        )
    finally:
        os.close(memory)


async def _outlive(pid: int) -> int:
    """Wait for a process that we inherit, reap it and return its exit code; 255 when nobody can tell it."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:  # ended and swept by the reaper, which remembers
        code = processes.reap_child(pid)
        return 255 if code is None else code
    try:
        await trio.lowlevel.wait_readable(pidfd)
        code = processes.reap_child(pid)
        if code is None:
            status = linux.reaped_status(pidfd)
            code = 255 if status is None else processes.exit_code_of(status)
        return code
    finally:
        os.close(pidfd)


async def _cancel_when_set(unwanted: Wanting, scope: trio.CancelScope) -> None:
    await unwanted.wait()
    scope.cancel()


def _ancestors(pid: int, parents: dict[int, int | None]) -> set[int]:
    chain: set[int] = set()
    above = parents.get(pid)
    while above is not None and above not in chain:
        chain.add(above)
        above = parents.get(above)
    return chain
