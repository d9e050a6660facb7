"""Containers through an OCI runtime and conmon: the ``Runtime`` port.

What the kernel can do directly is not left to a command: a container is started by opening its FIFO, signalled through
a pidfd, and, under the cgroupfs driver, deleted by removing what runc or crun made.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from ocid.adapters import bundles, kernel_log, linux, mounts, process as processes, restores
from ocid.adapters.cgroups import Cgroups
from ocid.adapters.checkpoints import Checkpoints
from ocid.adapters.command import find_tool
from ocid.adapters.conmon import EXIT_FILE_S, Monitor
from ocid.adapters.execs import Execs
from ocid.adapters.handlers import Handler, HandlerConfig, InitState
from ocid.adapters.hostfacts import gather_host_facts
from ocid.adapters.limits import UPDATE_FILES, LimitUpdates
from ocid.adapters.migration import MigrationLock
from ocid.adapters.oom import OomCounts
from ocid.adapters.start import release
from ocid.domain.spec.build import HostFacts
from ocid.domain.spec.cgroups import CgroupDriver
from ocid.errors import EffectFailed, InvalidRequest, NotFound, Unavailable
from ocid.ids import CheckpointId, ContainerId, ExecId
from ocid.ports import (
    CheckpointOrder,
    ContainerOrder,
    ExecProcess,
    ExecResult,
    Exit,
    HandlerFeatures,
    LimitsOrder,
    Process,
    Signalled,
    Wanting,
)

KILL_S: Final = 10.0  # a process that outlives SIGKILL this long hangs in the kernel
_OURS: Final = (  # files in a bundle
    *("init.pid", "monitor.json", "monitor.err", "runtime.log", "attach", "ctl", "winsz", "oom", "exit", "log"),
    *("begun", "made", *UPDATE_FILES),
)


class OciRuntime:
    """Implements ``ocid.ports.Runtime``. Made by ``open``."""

    def __init__(self, handlers: Mapping[str, Handler], monitor: Monitor, cgroups: Cgroups, facts: HostFacts) -> None:
        self._handlers = handlers
        self._monitor = monitor
        self._cgroups = cgroups
        self._facts = facts
        self._oom = OomCounts(cgroups)
        self._updates = LimitUpdates(cgroups)
        self.execs = Execs(cgroups)
        self._checkpoints = Checkpoints(cgroups)
        self._migration = MigrationLock(cgroups.hierarchies)

    @classmethod
    async def open(
        cls,
        run_dir: Path,
        cgroups: Cgroups,
        handlers: Mapping[str, HandlerConfig],
        *,
        default: str = "runc",
        monitor: str = "conmon",
        monitor_cgroup: str = "",
    ) -> OciRuntime:
        """Find monitor and OCI runtimes, and learn what they and this host can do.

        Args:
            handlers: by name; *default* is one of them and also answers to "".
            monitor_cgroup: cgroupfs path of a cgroup that exists, for monitors; "" leaves them in the daemon's.
        Raises:
            EffectFailed: one is not installed, or does not answer.
        """
        linux.become_subreaper()  # the status of a command in a container comes to us when its runtime has left
        found = {}
        for name, config in handlers.items():
            found[name] = await Handler.find(name, config, run_dir / "runtime")
        if default not in found:
            raise InvalidRequest(f"default handler {default!r} is not configured: wanted one of {sorted(found)}")
        exits, scratch = run_dir / "exits", run_dir / "tmp"
        for directory in (exits, scratch):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        mounts.clear_files(scratch)
        mounts.clear_files(run_dir / "runtime")
        places = cgroups.directories(monitor_cgroup) if monitor_cgroup else []
        path = monitor if monitor.startswith("/") else find_tool(monitor)
        facts = gather_host_facts(cgroups)
        return cls({"": found[default], **found}, Monitor(path, exits, scratch, places), cgroups, facts)

    def handlers(self) -> Mapping[str, HandlerFeatures]:
        """Return the configured handlers by name; "" is the default one. From memory."""
        return {name: handler.features for name, handler in self._handlers.items()}

    def handler(self, name: str) -> Handler:
        """Return a configured handler.

        Raises:
            InvalidRequest: there is none of that name.
        """
        if name not in self._handlers:
            raise InvalidRequest(f"runtime handler {name!r} is not configured: wanted one of {sorted(self._handlers)}")
        return self._handlers[name]

    def host_facts(self) -> HostFacts:
        """Return what the specification builder needs to know of this host. From memory."""
        return self._facts

    async def write_bundle(self, order: ContainerOrder, spec: Mapping[str, Any]) -> None:
        """Write the bundle's config.json, mode 0600. It may hold secrets; it lies under the run directory.

        Raises:
            EffectFailed: the file system refused.
        """
        await trio.lowlevel.checkpoint()
        bundles.write(Path(order.bundle), msgspec.json.encode(spec))

    def read_bundle(self, order: ContainerOrder) -> dict[str, Any]:
        """Return the specification that ``write_bundle`` wrote.

        Raises:
            EffectFailed: it is gone.
        """
        try:
            return msgspec.json.decode(Path(order.bundle, "config.json").read_bytes(), type=dict[str, Any])
        except (OSError, msgspec.DecodeError) as error:
            raise EffectFailed(f"specification of container {order.container_id!r}: {error}") from error

    async def create(self, order: ContainerOrder) -> Process:
        """Make the container of a written bundle through monitor and runtime; return its waiting init.

        Finds and returns a container that was created already. One that is half made is deleted first.

        Raises:
            EffectFailed: the runtime refused; its own words are in the message.
            Unavailable: it did not answer in time.
        """
        handler = self.handler(order.handler)
        if bundles.is_half_made(order):
            await self._monitor.settle(order)
        if bundles.was_begun(order) or handler.state_directory(order.container_id).exists():
            found = await self._created(handler, order)
            if found is not None:
                bundles.mark(order, "made")
                self._monitor.forget_create(order)
                return found
            await self._remove_all(order, monitor_s=0)
        systemd = self._cgroups.driver is CgroupDriver.SYSTEMD
        log = Path(order.bundle, "runtime.log")
        self._migration.warm()
        bundles.mark(order, "begun")
        try:
            pid = await self._monitor.create(order, handler.words(log), systemd_cgroup=systemd)
            bundles.mark(order, "made")
            self._oom.made(order)
            state = await handler.init(order.container_id, log)
        except EffectFailed:
            await self._remove_all(order, monitor_s=0)
            raise
        known = state.process if state is not None else None
        return known if known is not None and known.pid == pid else processes.identify(pid)

    async def _created(self, handler: Handler, order: ContainerOrder) -> Process | None:
        """Return init of a container whose creation was finished and that lives under its monitor."""
        bundle = Path(order.bundle)
        state = await handler.init(order.container_id, bundle / "runtime.log")
        monitor = self._monitor.find(order)
        if state is None or state.process is None or monitor is None or not (bundle / "init.pid").exists():
            return None
        if not (bundle / "made").exists() and not self._monitor.listens(order):
            return None  # its monitor has yet to find that the daemon it would tell is dead, and dies of that
        return state.process if processes.alive(state.process) and processes.alive(monitor) else None

    async def require_restore(self, order: ContainerOrder) -> None:
        """Return when the container's OCI runtime on this host can restore; Unsupported, with the reason, when not."""
        await self._checkpoints.require(self.handler(order.handler))

    async def restore(self, order: ContainerOrder) -> Process:
        """Bring back the processes of the checkpoint that is unpacked for the container; they run. Never done twice.

        Raises:
            EffectFailed: runtime or CRIU refused; their own words are in the message.
            Unavailable: it did not end in time, or the daemon's death cut it short; nothing of it runs.
        """
        handler = self.handler(order.handler)
        if bundles.was_begun(order):
            init = await restores.found(handler, order, self._monitor)
            if init is None:
                await self._remove_all(order, monitor_s=0)
                message = "was cut short, and is not tried again, for it may have run: create it anew"
                raise Unavailable(f"restore of container {order.container_id!r} {message}")
        else:
            init = await self._restored(handler, order)
        self._oom.made(order)
        self._monitor.forget_create(order)
        await restores.forget(order)
        return init

    async def _restored(self, handler: Handler, order: ContainerOrder) -> Process:
        log = Path(order.bundle, "runtime.log")
        systemd = self._cgroups.driver is CgroupDriver.SYSTEMD
        bundles.mark(order, "begun")
        try:
            pid = await self._monitor.create(
                order,
                handler.words(log),
                systemd_cgroup=systemd,
                restore=restores.monitor_words(order, self.read_bundle(order)),
                timeout_s=restores.RESTORE_S,
            )
            bundles.mark(order, "made")
            state = await handler.init(order.container_id, log)
        except EffectFailed as error:
            cause = restores.cause(order)
            await self._remove_all(order, monitor_s=0)
            raise EffectFailed(f"restore of container {order.container_id!r}: {cause or error.message}") from error
        known = state.process if state is not None else None
        return known if known is not None and known.pid == pid else processes.identify(pid)

    async def start(self, order: ContainerOrder) -> None:
        """Let the container's program run. Success when it runs already or ran.

        Raises:
            NotFound: the runtime knows no such container.
            EffectFailed: the program could not be executed.
        """
        handler = self.handler(order.handler)
        log = Path(order.bundle, "runtime.log")
        state = await handler.init(order.container_id, log)
        if state is None or (state.process is None and not state.status):
            raise NotFound("container", order.container_id)
        fifo = handler.exec_fifo(order.container_id)
        if fifo is None or state.process is None:
            if state.status not in ("created", ""):
                return
            await handler.call(f"start of container {order.container_id!r}", log, "start", order.container_id)
            return
        await release(handler.kind, fifo, state.process, order, self._monitor)

    async def update(self, order: ContainerOrder, limits: LimitsOrder) -> None:
        """Put limits into force, and into the bundle's specification: all of them, or none.

        Raises:
            WrongState: the container has no init any more.
            EffectFailed: the kernel or the OCI runtime refused; the limits are again what they were before.
            Unavailable: the runtime did not answer in time; the limits are again what they were before.
        """
        await self._updates.run(self.handler(order.handler), order, limits)

    async def wait(self, order: ContainerOrder, process: Process) -> Exit:
        """Wait until the container's init is gone, and return how it ended, from the monitor's exit file.

        Where the monitor was lost, the kernel is asked (source "kernel"); only what nobody knows is 255, "unknown".
        """
        self._oom.begin(order)
        with processes.opened(process) as pidfd:
            if pidfd >= 0:
                await trio.lowlevel.wait_readable(pidfd)
            killed = self._oom.happened(order)
            ours = processes.reap_child(process.pid) if pidfd >= 0 else None  # we inherit it from a dead monitor
            await self._monitor.wait(order)
            written = self._monitor.exit_code(order)
            if written is not None:
                exit_code, at_ns, source = *written, "monitor"
            else:
                status = linux.reaped_status(pidfd) if pidfd >= 0 and ours is None else None
                known = ours if status is None else processes.exit_code_of(status)
                exit_code, at_ns = 255 if known is None else known, time.time_ns()
                source = "unknown" if known is None else "kernel"
        if (killed := self._monitor.saw_oom(order) or killed) is None:  # in a thread: the kernel's log is long
            killed = await trio.to_thread.run_sync(kernel_log.oom_killed, process, exit_code)
        oom_killed = killed and exit_code != 0 and source != "unknown"
        return Exit(at_ns=at_ns, exit_code=exit_code, oom_killed=oom_killed, source=source)

    async def signal(self, order: ContainerOrder, process: Process, what: Signalled) -> None:
        """Send a signal. Success when the process is gone."""
        await trio.lowlevel.checkpoint()
        if what.everyone:
            self._cgroups.send(order.cgroup, what.signal)
        else:
            processes.send(process, what.signal)

    async def delete(self, order: ContainerOrder) -> None:
        """Remove the runtime's state, what is left of processes, and the cgroup of an ended container.

        Raises:
            Unavailable: a process in it does not end.
        """
        await self._remove_all(order, monitor_s=EXIT_FILE_S)
        bundles.remove_files(order.bundle, ("config.json",))

    async def _remove_all(self, order: ContainerOrder, monitor_s: float) -> None:
        """Remove everything but the bundle's config.json; the monitor is given that time to leave by itself."""
        handler = self.handler(order.handler)
        if bundles.is_half_made(order):
            await self._monitor.settle(order)
            await self._monitor.end(order, 0)
            await self._monitor.end_unrecorded(order)
            if restores.directory_of(order).exists():
                await restores.end(order, self._monitor.find(order))
        state = await handler.init(order.container_id, Path(order.bundle, "runtime.log"))
        init = None if state is None else state.process
        if init is not None and processes.alive(init) and not await processes.kill_and_wait(init, KILL_S):
            raise Unavailable(f"init {init.pid} of container {order.container_id!r} does not end")
        self._cgroups.kill(order.cgroup)
        await self._monitor.end(order, monitor_s)
        if init is not None:
            processes.reap_child(init.pid)
        if state is not None:
            await self._forget(handler, order)
        await self._cgroups.remove(order.cgroup)
        self._oom.forget(order)
        self.execs.remove_files(order)
        self._monitor.forget(order)
        bundles.remove_files(str(handler.root), (_delete_log(order),))  # a daemon that died while it deleted left it
        bundles.remove_files(order.bundle, _OURS)

    async def _forget(self, handler: Handler, order: ContainerOrder) -> None:
        """Remove the runtime's state: by itself where hooks, scopes or resctrl groups hang on it, else directly."""
        directory = handler.state_directory(order.container_id)
        if handler.kind != "other" and self._cgroups.driver is CgroupDriver.CGROUPFS and bundles.is_plain(order):
            handler.remove_state(order.container_id)
            return
        bundles.remove_files(str(directory), ("exec.fifo",))  # left behind, runc would say "created" and wait 100 ms
        log = handler.root / _delete_log(order)
        try:
            await handler.call(f"delete of container {order.container_id!r}", log, "delete", order.container_id)
        except EffectFailed:
            if await handler.init(order.container_id, log) is not None:
                raise

    async def reopen_log(self, order: ContainerOrder) -> None:
        """Make the monitor reopen the log file; returns when it has.

        Raises:
            WrongState: there is no monitor; the file is not created then.
            Unavailable: it did not in time.
        """
        await self._monitor.reopen_log(order)

    async def exec_sync(
        self,
        order: ContainerOrder,
        exec_id: ExecId,
        process: ExecProcess,
        timeout_s: float | None,
        unwanted: Wanting,
    ) -> ExecResult:
        """Run a command in the running container and gather its output; kill it when its time is up.

        It is killed, too, when *unwanted* is set: nobody waits for it any more.

        Raises:
            WrongState: the container does not run.
            EffectFailed: the command could not be executed.
        """
        handler, state = await self.ready_for_exec(order)
        return await self.execs.run(handler, order, state, exec_id, process, timeout_s, unwanted)

    async def ready_for_exec(self, order: ContainerOrder) -> tuple[Handler, InitState | None]:
        """Return a container's handler and what it knows of init, with the way cleared for an exec."""
        handler = self.handler(order.handler)
        self._migration.warm()
        return handler, await handler.init(order.container_id, Path(order.bundle, "runtime.log"))

    async def abandon_exec(self, order: ContainerOrder, exec_id: ExecId) -> None:
        """Kill what a daemon that died left running of this command, and remove its files."""
        await self.execs.abandon(order, exec_id)

    async def checkpoint(self, order: ContainerOrder, what: CheckpointOrder) -> int:
        """Write memory and changed files of a running container to an archive, and return the archive's bytes."""
        return await self._checkpoints.make(self.handler(order.handler), order, what)

    async def abandon_checkpoint(
        self, order: ContainerOrder | None, checkpoint_id: CheckpointId, location: str
    ) -> None:
        """Clear away what a daemon that died left of this checkpoint, and let the container go on."""
        handler = None if order is None else self.handler(order.handler)
        await self._checkpoints.abandon(handler, order, checkpoint_id, location)

    async def container_ids(self) -> frozenset[ContainerId]:
        """List what the runtime's state directories hold, for finding orphans."""
        await trio.lowlevel.checkpoint()
        named = (handler for name, handler in self._handlers.items() if name)
        return frozenset(ContainerId(found) for handler in named for found in handler.container_ids())


def _delete_log(order: ContainerOrder) -> str:
    return f".{order.container_id}.log"  # in the runtime's root: the bundle may be gone first
