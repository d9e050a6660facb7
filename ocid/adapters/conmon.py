"""The monitor of one container: conmon holds its stdio, writes the CRI log and the exit file, and outlives the daemon.

Files in the bundle: ``init.pid`` (by the OCI runtime, the last act of its create), ``monitor.json`` (conmon's pid and
start time, by us), ``monitor.err``, ``runtime.log``, ``attach`` (socket), ``ctl`` and ``winsz`` (FIFOs), ``oom``.

``--sync`` keeps conmon our direct child; it has a session of its own, so nothing that ends us ends it. A service
manager must be told to leave it alone (``KillMode=process``), or be given ``monitor_cgroup``.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import trio

from ocid.adapters import process as processes
from ocid.adapters.command import Child, spawn, tool_environment
from ocid.errors import EffectFailed, InvalidRequest, Unavailable, WrongState, tail
from ocid.ports import ContainerOrder, Process

CREATE_S: Final = 60.0  # an OCI runtime that takes longer to create hangs in a hook or in the kernel
QUIET_S: Final = 0.2  # without a process of a create whose daemon died, before it counts as over
SETTLE_S = 2.0  # how long a create that nobody waits for any more may still take before it is killed
REOPEN_S: Final = 5.0
EXIT_FILE_S: Final = 3.0  # from init's end until conmon has drained its pipes, written the file and left
LOG_MODE: Final = 0o640
_SYNC_FD: Final = 3
_SYNC_BYTES_MAX: Final = 64 << 10
_LOG_TAIL_BYTES: Final = 64 << 10
_REOPEN_LOGS: Final = b"2 0 0\n"  # conmon's ctrl.c: REOPEN_LOGS_EVENT height width


class Monitor:
    """Starts conmon and speaks with it.

    Args:
        path: conmon's executable.
        exits: directory of the exit files, one a container, named by its id.
        scratch: directory for its console sockets; a short path, for a socket's name holds 107 bytes.
        monitor_cgroup: cgroup directories that monitors are put in; none leaves them in the daemon's.
    """

    def __init__(self, path: str, exits: Path, scratch: Path, monitor_cgroup: Sequence[str] = ()) -> None:
        self.exits = exits
        self._path = path
        self._scratch = scratch
        self._unread: dict[str, int] = {}
        self._cgroup = tuple(monitor_cgroup)

    async def create(
        self,
        order: ContainerOrder,
        runtime: Sequence[str],
        *,
        systemd_cgroup: bool,
        restore: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> int:
        """Run the OCI runtime's ``create`` under a new monitor, and return the pid of the container's init.

        Args:
            runtime: the runtime's path and its global arguments.
            timeout_s: for the runtime to come to an end; None is ``CREATE_S``.
            restore: further words that make the monitor run "restore" instead, and so start the container at once.

        A cancelled create goes on: an OCI runtime that is killed leaves mounts behind, and the next order for the
        container finds what came of it.

        Raises:
            EffectFailed: the runtime or the monitor refused; its own words are in the message.
            Unavailable: no answer in *timeout_s*.
        """
        bundle, timeout_s = Path(order.bundle), CREATE_S if timeout_s is None else timeout_s
        prepare_log(order.log_path)
        reader, writer = _sync_pipe(lasting=bool(restore))
        errors = os.open(bundle / "monitor.err", os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            child = spawn(
                [*self._arguments(order, runtime, systemd_cgroup=systemd_cgroup), *restore],
                environment={**runtime_environment(self._scratch), "_OCI_SYNCPIPE": str(_SYNC_FD)},
                descriptors={0: null, 1: null, 2: errors, _SYNC_FD: writer},
                new_session=True,
                directory=order.bundle,  # it writes "oom" there, and dumps core
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            for descriptor in (writer, errors, null):
                os.close(descriptor)
        os.set_blocking(reader, False)
        self.forget_create(order)
        self._unread[order.container_id] = reader  # conmon dies when nobody can read what it says
        try:
            self._adopt(bundle, child)
            with trio.fail_after(timeout_s):
                said = await _first_line(reader)
        except trio.TooSlowError as error:
            child.kill()  # its runtime dies with it
            raise Unavailable(f"create of container {order.container_id!r}: no answer in {timeout_s:g} s") from error
        finally:
            child.close()
        self.forget_create(order)
        if said.pid <= 0:
            await self.end(order)
            raise EffectFailed(f"create of container {order.container_id!r}: {_cause(bundle, said.message)}")
        return said.pid

    def forget_create(self, order: ContainerOrder) -> None:
        """Stop listening to a create that was cancelled."""
        unread = self._unread.pop(order.container_id, None)
        if unread is not None:
            os.close(unread)

    def listens(self, order: ContainerOrder) -> bool:
        """Say whether a create that was cancelled can still tell this process what came of it."""
        return order.container_id in self._unread

    async def settle(self, order: ContainerOrder) -> None:
        """Give a create that is in flight ``SETTLE_S`` to come to its end. It may be a dead daemon's."""
        reader = self._unread.get(order.container_id)
        with trio.move_on_after(SETTLE_S):
            if reader is not None:
                await trio.lowlevel.wait_readable(reader)  # until it tells us, who still listen
            # A dead daemon's child shows only once it has become conmon: one empty look proves nothing.
            quiet_since, needed_s = trio.current_time(), 0.0 if reader is not None else QUIET_S
            while not _is_created(order):
                if processes.find_by_argument(order.bundle):
                    quiet_since = trio.current_time()
                elif trio.current_time() - quiet_since >= needed_s:
                    return
                await trio.sleep(0.005)

    def _arguments(self, order: ContainerOrder, runtime: Sequence[str], *, systemd_cgroup: bool) -> list[str]:
        bundle, container_id = order.bundle, order.container_id
        words = [self._path, "--sync", "--full-attach", "--no-sync-log", "--log-level", "warn"]
        words += ["-c", container_id, "-u", container_id, "-n", container_id, "-b", bundle, "-r", runtime[0]]
        words += [f"--runtime-arg={word}" for word in runtime[1:]]
        words += ["-p", f"{bundle}/init.pid", "--exit-dir", str(self.exits), "--persist-dir", bundle]
        words += ["-l", f"k8s-file:{_log_name(order)}" if order.log_path else "null"]
        words += ["-s"] if systemd_cgroup else []
        words += ["-t"] if order.tty else []
        words += ["-i"] if order.stdin else []
        words += ["--leave-stdin-open"] if order.stdin and not order.stdin_once else []
        return words

    def _adopt(self, bundle: Path, child: Child) -> None:
        """Write down who the monitor is, and put it where it belongs."""
        monitor = processes.identify(child.pid)  # a direct child: at worst a zombie, never someone else
        (bundle / "monitor.json").write_bytes(msgspec.json.encode(monitor))
        for directory in self._cgroup:
            with suppress(OSError):
                Path(directory, "cgroup.procs").write_text(str(child.pid))

    def find(self, order: ContainerOrder) -> Process | None:
        """Return the container's monitor as it was written down, whether it lives or not."""
        try:
            return msgspec.json.decode(Path(order.bundle, "monitor.json").read_bytes(), type=Process)
        except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError, msgspec.ValidationError):
            return None

    async def wait(self, order: ContainerOrder, timeout_s: float = EXIT_FILE_S) -> bool:
        """Wait until the monitor has ended, and reap it if it is our child. False when it has not in that time.

        Its exit file is the last it writes, so after this the file is there or never will be.
        """
        monitor = self.find(order)
        if monitor is None:
            await trio.lowlevel.checkpoint()
            return True
        with trio.move_on_after(timeout_s) as limit:
            await processes.wait_gone(monitor)
        if limit.cancelled_caught:
            return False
        processes.reap_child(monitor.pid)
        return True

    async def end(self, order: ContainerOrder, timeout_s: float = EXIT_FILE_S) -> None:
        """Give the monitor that time to leave by itself, then kill it. Gone already is success."""
        if await self.wait(order, timeout_s):
            return
        monitor = self.find(order)
        if monitor is not None and not await processes.kill_and_wait(monitor, EXIT_FILE_S):
            raise Unavailable(f"monitor {monitor.pid} of container {order.container_id!r} does not end")
        if monitor is not None:
            processes.reap_child(monitor.pid)

    async def end_unrecorded(self, order: ContainerOrder) -> None:
        """Kill every process that has the bundle among its arguments: what a daemon that died was just creating.

        Reads all of /proc.
        """
        self.forget_create(order)
        for _ in range(8):  # conmon, its runtime, and what they forked meanwhile
            found = processes.find_by_argument(order.bundle)
            for one in found:
                await processes.kill_and_wait(one, EXIT_FILE_S)
                processes.reap_child(one.pid)
            if not found:
                return

    def exit_code(self, order: ContainerOrder) -> tuple[int, int] | None:
        """Return (exit code, nanoseconds since the epoch when it was written), None when the file is not there."""
        path = self.exits / order.container_id
        try:
            written_ns = path.stat().st_mtime_ns
            return int(path.read_text()) & 0xFF, written_ns
        except (FileNotFoundError, ValueError):
            return None

    def forget(self, order: ContainerOrder) -> None:
        """Remove the exit file."""
        self.forget_create(order)
        with suppress(FileNotFoundError):
            (self.exits / order.container_id).unlink()

    def saw_oom(self, order: ContainerOrder) -> bool:
        """Say whether the monitor was told of an out-of-memory event in the container's cgroup."""
        return Path(order.bundle, "oom").exists()

    async def reopen_log(self, order: ContainerOrder) -> None:
        """Make the monitor reopen the log file; returns when it has.

        Raises:
            WrongState: there is no monitor; the file is not created then.
            Unavailable: it did not in ``REOPEN_S``.
        """
        before = _inode(order.log_path)
        control = open_control(order)
        try:
            os.makedirs(os.path.dirname(order.log_path), mode=0o755, exist_ok=True)  # conmon dies where it is missing
            os.write(control, _REOPEN_LOGS)
        finally:
            os.close(control)
        pause_s = 0.0005
        with trio.move_on_after(REOPEN_S):
            while _inode(order.log_path) in (before, None):
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, 0.02)
                os.close(open_control(order))
            os.chmod(order.log_path, LOG_MODE)
            return
        raise Unavailable(f"log of container {order.container_id!r} was not reopened in {REOPEN_S:g} s")


def runtime_environment(scratch: Path) -> dict[str, str]:
    """Return the environment of OCI runtimes: what one leaves behind when it is killed is below *scratch* then."""
    return tool_environment(TMPDIR=str(scratch), _LIBCONTAINER_STATEDIR=str(scratch))


def _sync_pipe(*, lasting: bool) -> tuple[int, int]:
    """Return both ends of the pipe that a monitor tells through; a *lasting* one it can write to when we are dead."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    if lasting:  # a writer that could read, too, never writes to nobody, of which the monitor would die
        other, writer = writer, os.open(f"/proc/self/fd/{writer}", os.O_RDWR | os.O_CLOEXEC)
        os.close(other)
    return reader, writer


def _is_created(order: ContainerOrder) -> bool:
    return Path(order.bundle, "init.pid").exists()


class _Said(msgspec.Struct, frozen=True):
    """A line of conmon's sync pipe."""

    pid: int = -1
    message: str = ""


async def _first_line(reader: int) -> _Said:
    text = b""
    while b"\n" not in text and len(text) < _SYNC_BYTES_MAX:
        await trio.lowlevel.wait_readable(reader)
        piece = os.read(reader, _SYNC_BYTES_MAX)
        if not piece:
            return _Said()
        text += piece
    try:
        return msgspec.json.decode(text.partition(b"\n")[0], type=_Said)
    except (msgspec.DecodeError, UnicodeDecodeError):  # an old conmon escapes the runtime's words badly, or cuts them
        return _Said(message=tail(text))


def _cause(bundle: Path, message: str) -> str:
    """Choose the clearest words for a failed create: the runtime's log, what conmon passed on, what conmon said."""
    logged = runtime_error(bundle / "runtime.log")
    if logged or message:
        return tail(logged or message)
    with suppress(OSError):
        return tail((bundle / "monitor.err").read_bytes()) or "the monitor ended without a word"
    return "the monitor ended without a word"


def runtime_error(log: Path) -> str:
    """Return the last error of an OCI runtime's JSON log, "" when there is none."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        with suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, Mapping) and entry.get("level") in ("error", "fatal"):
                return str(entry.get("msg", ""))
    return ""


def prepare_log(log_path: str) -> None:
    """Make the log file with the mode that log collectors expect, and the directories above it.

    Raises:
        EffectFailed: it cannot be made.
    """
    if not log_path:
        return
    try:
        os.makedirs(os.path.dirname(log_path), mode=0o755, exist_ok=True)
        log = os.open(log_path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, LOG_MODE)
        os.fchmod(log, LOG_MODE)
        os.close(log)
    except OSError as error:
        raise EffectFailed(f"log file {log_path!r}: {error.strerror}") from error


def _log_name(order: ContainerOrder) -> str:
    """Return a name of the log file without ":", at which conmon cuts; a directory with one is reached by a link."""
    directory, name = os.path.split(order.log_path)
    if ":" in name:
        raise InvalidRequest(f"log path {order.log_path!r} has a ':' in its last part: conmon cannot write it")
    if ":" not in directory:
        return order.log_path
    link = f"{order.bundle}/log"
    with suppress(FileNotFoundError):
        os.unlink(link)
    os.symlink(directory, link)
    return f"{link}/{name}"


def open_control(order: ContainerOrder) -> int:
    """Open conmon's control FIFO; it has a reader exactly as long as conmon lives."""
    try:
        return os.open(f"{order.bundle}/ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ENXIO, errno.ENOENT, errno.ENOTDIR):
            raise EffectFailed(f"control of container {order.container_id!r}: {error.strerror}") from error
        raise WrongState(
            "container", order.container_id, wants="running under its monitor", is_now="without one"
        ) from error


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return None
