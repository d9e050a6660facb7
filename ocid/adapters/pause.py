"""Pause processes: ``catatonit -P`` as PID 1 of the PID namespace that a pod's containers share, and its reaper.

They run through the pod's OCI runtime, for its seccomp filter, capabilities and cgroup, but without a monitor: they
write nothing, and how they end tells nothing.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from ocid.adapters import mounts, process as processes
from ocid.adapters.cgroups import Cgroups
from ocid.adapters.command import find_tool
from ocid.adapters.handlers import Handler
from ocid.adapters.runc import OciRuntime
from ocid.adapters.start import has_executed
from ocid.domain.configs import LinuxPodConfig, Metadata, NamespaceMode, NamespaceOptions, PodConfig, PodSecurityContext
from ocid.domain.spec.build import NamespacePaths, PauseInputs, build_pause_spec
from ocid.domain.spec.cgroups import CgroupDriver, cgroups_path
from ocid.errors import EffectFailed, Unavailable
from ocid.ports import Process, SandboxOrder

KILL_S: Final = 10.0


class PauseProcesses:
    """Starts and ends them.

    Args:
        state_dir: where the OCI runtimes keep their state of pause containers, apart from that of containers.
        binary: a static program that waits and reaps, given ``-P``.
    """

    def __init__(self, state_dir: Path, runtime: OciRuntime, cgroups: Cgroups, binary: str = "catatonit") -> None:
        self._state_dir = state_dir
        self._runtime = runtime
        self._cgroups = cgroups
        self._binary = binary
        mounts.clear_files(state_dir)

    async def start(self, order: SandboxOrder) -> Process:
        """Run the pause process and return it. Runs already is success.

        Raises:
            EffectFailed: the runtime refused; its own words are in the message.
        """
        handler = self._handler(order)
        bundle = Path(order.run_dir, "pause")
        found = await handler.init(order.pod_id, bundle / "runtime.log")
        if found is not None and found.process is not None and processes.alive(found.process):
            return found.process
        if found is not None or _begun(bundle):
            await self.end(order)
        self._write_bundle(order, bundle)
        command = ["run", "--detach", "--bundle", str(bundle), "--pid-file", str(bundle / "init.pid"), order.pod_id]
        words = ["--systemd-cgroup"] if self._cgroups.driver is CgroupDriver.SYSTEMD else []
        doing = f"pause process of pod {order.pod_id!r}"
        await handler.call(doing, bundle / "runtime.log", *words, *command, capture=False)
        state = await handler.init(order.pod_id, bundle / "runtime.log")
        if state is None or state.process is None:
            raise EffectFailed(f"{doing} left no state at {handler.root}")
        if handler.kind != "other" and await has_executed(handler.kind, state.process) is not True:
            raise EffectFailed(f"{doing}: {self._binary!r} could not be executed")
        return state.process

    def _handler(self, order: SandboxOrder) -> Handler:
        return self._runtime.handler(order.handler).rooted(self._state_dir)

    def _write_bundle(self, order: SandboxOrder, bundle: Path) -> None:
        (bundle / "rootfs").mkdir(mode=0o711, parents=True, exist_ok=True)
        if order.users is not None:  # whose root makes the mount points
            os.chown(bundle / "rootfs", order.users.uids[0].host_id, order.users.gids[0].host_id)
        pins = Path(order.run_dir, "ns")
        options = NamespaceOptions(
            network=NamespaceMode.POD if order.netns else NamespaceMode.NODE,
            pid=NamespaceMode.POD,
            ipc=NamespaceMode.NODE if order.host_ipc else NamespaceMode.POD,
            userns_options=order.users,
        )
        pod = PodConfig(
            metadata=Metadata(), linux=LinuxPodConfig(security_context=PodSecurityContext(namespace_options=options))
        )
        inputs = PauseInputs(
            pod=pod,
            pod_id=order.pod_id,
            rootfs=str(bundle / "rootfs"),
            binary=self._binary if self._binary.startswith("/") else find_tool(self._binary),
            namespaces=NamespacePaths(
                net=order.netns,
                ipc="" if order.host_ipc else str(pins / "ipc"),
                uts=str(pins / "uts") if order.netns or order.hostname else "",
                user=order.userns,
            ),
            cgroups_path=self._cgroup(order),
            selinux=order.selinux,
            host=self._runtime.host_facts(),
        )
        (bundle / "config.json").write_bytes(msgspec.json.encode(build_pause_spec(inputs)))

    def _cgroup(self, order: SandboxOrder) -> str:
        return cgroups_path(self._cgroups.driver, order.cgroup_parent, order.pod_id)

    async def wait(self, process: Process) -> None:
        """Return when a pause process is gone, and reap it if we inherited it."""
        await processes.wait_gone(process)
        processes.reap_child(process.pid)

    async def end(self, order: SandboxOrder) -> None:
        """Kill the pause process and remove its state and cgroup. Nothing there is success.

        Raises:
            Unavailable: it does not end.
        """
        handler = self._handler(order)
        bundle = Path(order.run_dir, "pause")
        state = await handler.init(order.pod_id, bundle / "runtime.log")
        if state is not None and state.process is not None:
            if not await processes.kill_and_wait(state.process, KILL_S):
                raise Unavailable(f"pause process {state.process.pid} of pod {order.pod_id!r} does not end")
            processes.reap_child(state.process.pid)
        if _begun(bundle) and not _finished(bundle):
            for late in processes.find_by_argument(str(bundle)):  # a runtime of a dead daemon's, half way through
                await processes.kill_and_wait(late, KILL_S)
        self._cgroups.kill(self._cgroup(order))
        await self._forget(handler, order, known=state is not None)
        await self._cgroups.remove(self._cgroup(order))
        shutil.rmtree(bundle, ignore_errors=True)

    async def _forget(self, handler: Handler, order: SandboxOrder, *, known: bool) -> None:
        log = handler.root / f".{order.pod_id}.log"
        if known and (handler.kind == "other" or self._cgroups.driver is CgroupDriver.SYSTEMD):
            with suppress(EffectFailed):
                await handler.call(f"delete of pause process {order.pod_id!r}", log, "delete", order.pod_id)
        if known:
            handler.remove_state(order.pod_id)
        log.unlink(missing_ok=True)  # also that of a daemon that died while it deleted


def _begun(bundle: Path) -> bool:
    return bundle.exists()


def _finished(bundle: Path) -> bool:
    return (bundle / "init.pid").exists()
