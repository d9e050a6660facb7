"""Container checkpoints: a running container, frozen, dumped by CRIU through its OCI runtime, packed, and let go on.

While it is made there are, named by the order: a directory beside the writable layer, on disk and not in memory, and a
half-written archive beside the location. The container's cgroup is frozen from before the dump until its files are
packed, so that memory and files are of the same moment.

Source: OCI runtime command line "checkpoint", "pause", "resume"; kernel freezer-subsystem.rst, cgroup-v2.rst; criu(8).
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import trio

from ocid.adapters import linux, process as processes
from ocid.adapters.archives import Stopped, pack
from ocid.adapters.cgroups import Cgroups
from ocid.adapters.command import find_tool, run, spawn
from ocid.adapters.conmon import runtime_error
from ocid.adapters.handlers import Handler
from ocid.errors import EffectFailed, InvalidRequest, OcidError, TimedOut, Unavailable, Unsupported, tail
from ocid.ports import CheckpointOrder, ContainerOrder

CHECK_S: Final = 20.0  # for CRIU to find out what this kernel can do
GO_ON_S: Final = 10.0  # for a frozen container to be thawed, whatever became of the caller
DIE_S: Final = 5.0  # for a CRIU that is killed to let go of the processes it holds
_NOT_A_DIRECTORY: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_ARCHIVE_MODE: Final = 0o600  # it has every page of memory
_DUMP_OPTIONS: Final = ("--leave-running", "--tcp-established", "--file-locks")
_OWN_MOUNTS: Final = ("--mount", "--propagation", "slave", "--")  # unshare(1): what a killed CRIU mounted goes with it


class Checkpoints:
    """Makes checkpoints of containers that live in *cgroups*."""

    def __init__(self, cgroups: Cgroups) -> None:
        self._cgroups = cgroups
        self._refusals: dict[str, str] = {}  # handler → why it cannot, "" when it can

    async def make(self, handler: Handler, order: ContainerOrder, what: CheckpointOrder) -> int:
        """Make one, and return the bytes of its archive. The container goes on, whatever came of it.

        Raises:
            Unsupported: the OCI runtime or this host cannot do it.
            TimedOut: it took longer than the order allows.
            InvalidRequest: the archive cannot be where it is to be.
            EffectFailed: the runtime refused, or the archive could not be written.
        """
        await self.require(handler)
        work = _work(order, what.checkpoint_id)
        with _directory_of(what.location) as directory:
            half = _half(what.checkpoint_id)
            try:
                with trio.fail_after(what.timeout_s):
                    os.mkdir(work, 0o700)
                    await self._freeze(handler, order)
                    await self._dump(handler, order, work)
                    archive = os.open(
                        half, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, _ARCHIVE_MODE, dir_fd=directory
                    )
                    size_bytes = await _packed(archive, order, what, work)
                    os.rename(half, os.path.basename(what.location), src_dir_fd=directory, dst_dir_fd=directory)
                    os.fsync(directory)
            except trio.TooSlowError as error:
                raise TimedOut(f"it was not made within {what.timeout_s} s") from error
            except OSError as error:
                raise EffectFailed(f"archive {what.location!r}: {error.strerror}") from error
            finally:
                await self._go_on(handler, order)
                with suppress(FileNotFoundError):
                    os.unlink(half, dir_fd=directory)
                await _remove(work)
        return size_bytes

    async def abandon(
        self, handler: Handler | None, order: ContainerOrder | None, checkpoint_id: str, location: str
    ) -> None:
        """Clear away what a daemon that died left of a checkpoint, and let the container go on."""
        if handler is not None and order is not None:
            work = _work(order, checkpoint_id)
            for runtime in processes.find_by_argument(str(work / "checkpoint")):
                await _end_session(runtime.pid)
            await self._go_on(handler, order)
            await _remove(work)
        with suppress(OcidError), _directory_of(location) as directory, suppress(FileNotFoundError):
            os.unlink(_half(checkpoint_id), dir_fd=directory)

    # --- steps -------------------------------------------------------------------------------------------------------

    async def require(self, handler: Handler) -> None:
        """Return when the runtime on this host can checkpoint and restore.

        Raises:
            Unsupported: it cannot; the reason is in the message.
        """
        if handler.path not in self._refusals:
            with trio.CancelScope(shield=True):  # "criu check" forks, and killed it would leave its children behind
                self._refusals[handler.path] = await _refusal(handler)
        if self._refusals[handler.path]:
            raise Unsupported(self._refusals[handler.path])

    async def _freeze(self, handler: Handler, order: ContainerOrder) -> None:
        log = Path(order.bundle, "checkpoint.log")
        await handler.call(f"pause of container {order.container_id!r}", log, "pause", order.container_id)

    async def _dump(self, handler: Handler, order: ContainerOrder, work: Path) -> None:
        """Have the runtime dump the processes. Killed, it leaves them as they were: CRIU's parasite cures them."""
        log, images = work / "runtime.log", work / "checkpoint"
        words = [find_tool("unshare"), *_OWN_MOUNTS, *handler.words(log), "checkpoint", *_DUMP_OPTIONS]
        words += ["--image-path", str(images), "--work-path", str(work), order.container_id]
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            descriptors = {0: null, 1: null, 2: null}
            child = spawn(words, environment=handler.environment, descriptors=descriptors, new_session=True)
        finally:
            os.close(null)
        try:
            code = await child.wait()
        except BaseException:
            await _end_session(child.pid)
            raise
        finally:
            await child.end()
        if code != 0:
            raise EffectFailed(f"dump of container {order.container_id!r}: {_cause(work, log)}")

    async def _go_on(self, handler: Handler, order: ContainerOrder) -> None:
        """Thaw the container by the runtime, which keeps what it knows in step, and in any case by the kernel."""
        log = Path(order.bundle, "checkpoint.log")
        with trio.move_on_after(GO_ON_S) as limit:
            limit.shield = True
            with suppress(EffectFailed, Unavailable):  # it was not frozen, or is gone
                await handler.call(f"resume of container {order.container_id!r}", log, "resume", order.container_id)
        self._cgroups.thaw(order.cgroup)
        with suppress(FileNotFoundError):
            os.unlink(log)


async def _packed(archive: int, order: ContainerOrder, what: CheckpointOrder, work: Path) -> int:
    """Write the archive in a thread, and return its bytes. Cancelled, the thread is told to stop, and waited for."""
    stopped, size_bytes = Stopped(), 0
    failure: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_tell_when_cancelled, stopped)
            try:
                size_bytes = await trio.to_thread.run_sync(pack, archive, order, what, work, stopped)
            except (OSError, OcidError) as error:  # the nursery would wrap it; cancelled, it says so itself
                failure = error
            nursery.cancel_scope.cancel()
    finally:
        os.close(archive)
    if failure is not None:
        raise failure
    return size_bytes


async def _tell_when_cancelled(stopped: Stopped) -> None:
    try:
        await trio.sleep_forever()
    finally:
        stopped.set()


async def _refusal(handler: Handler) -> str:
    """Say why this runtime on this host cannot checkpoint, "" when it can."""
    asked = await run([handler.path, "checkpoint", "--help"], doing="checkpoint --help", timeout_s=CHECK_S, check=False)
    if asked.exit_code != 0:
        return f"OCI runtime {handler.path!r} has no command 'checkpoint'; use a handler that has"
    try:
        criu = find_tool("criu")
    except EffectFailed as error:
        return f"{error.message}; install CRIU to make container checkpoints"
    checked = await run([criu, "check"], doing="criu check", timeout_s=CHECK_S, check=False)
    if checked.exit_code != 0:
        return f"{criu!r} cannot work on this kernel: {tail(checked.stderr, 300)}"
    return ""


async def _remove(work: Path) -> None:
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(lambda: shutil.rmtree(work, ignore_errors=True))


def _cause(work: Path, log: Path) -> str:
    """Choose the clearest words: the last error of CRIU's own log, else the runtime's."""
    with suppress(OSError):
        errors = [line for line in (work / "dump.log").read_text("utf-8", "replace").splitlines() if "Error (" in line]
        if errors:
            return tail(errors[-1], 500)
    return tail(runtime_error(log), 500) or "the runtime ended without a word"


async def _end_session(leader: int) -> None:
    """Kill a runtime with the CRIU it runs, and wait, within bounds, until they have let go."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
    with trio.move_on_after(DIE_S) as limit:
        limit.shield = True
        while _living(leader):  # noqa: ASYNC110 (no event tells of the end of another process's children)
            await trio.sleep(0.01)


def _living(leader: int) -> list[int]:
    """List the living of a session; its dead whom nobody else waits for, CRIU above all, are reaped."""
    found = []
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
        if processes.session_of(pid) != leader:
            continue
        if not processes.is_zombie(pid):
            found.append(pid)
        elif pid != leader and processes.parent_of(pid) == os.getpid():
            processes.reap_child(pid)
    return found


def _work(order: ContainerOrder, checkpoint_id: str) -> Path:
    return Path(order.writable, f"checkpoint-{checkpoint_id}")


def _half(checkpoint_id: str) -> str:
    """Name what is half written, beside its location."""
    return f".{checkpoint_id}.half"


@contextmanager
def _directory_of(location: str) -> Iterator[int]:
    """Open the directory of an archive, on a way without symbolic links.

    Raises:
        InvalidRequest: it is not there, a link is on the way, or the location is itself a directory.
        EffectFailed: it cannot be opened.
    """
    parent, name = os.path.split(location)
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        directory = linux.openat2(root, parent.lstrip("/") or ".", flags, linux.RESOLVE_NO_SYMLINKS)
    except OSError as error:
        kind = InvalidRequest if error.errno in _NOT_A_DIRECTORY else EffectFailed
        raise kind(f"directory {parent!r} of the archive: {error.strerror}") from error
    finally:
        os.close(root)
    try:
        with suppress(FileNotFoundError):
            if not name or stat.S_ISDIR(os.lstat(name, dir_fd=directory).st_mode):
                raise InvalidRequest(f"location {location!r} is a directory, wanted the name of a file")
        yield directory
    finally:
        os.close(directory)
