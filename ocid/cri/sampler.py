"""What is looked at in the background, so that stats and metrics answer from memory.

One task samples the CPU time of all cgroups, for rates, and looks into networks and processes; another one measures
writable layers, however long that takes. What begins to run is looked at soon, everything once a period.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import trio

from ocid.actors.core import Core
from ocid.domain.container import Container
from ocid.domain.pod import Pod
from ocid.domain.spec.cgroups import CgroupDriver, parent_path
from ocid.errors import InvalidRequest, OcidError
from ocid.events import container, pod
from ocid.events.envelope import Envelope
from ocid.ports.usage import CpuSample, InterfaceUsage, ProcessUsage, SampleOrder

log = logging.getLogger(__name__)

NS = 1_000_000_000
PERIOD_S = 10.0
SOON_S = 0.02  # what begins within so short a time is looked at together
WINDOW_SHARE = 0.5  # of a period: a rate over less would be noise
AT_ONCE_MAX = 16  # containers that are looked into while somebody waits: each takes about 0.2 ms
METRICS_S = 300.0  # after metrics were asked for, processes are looked into for so long


class CpuWindow(NamedTuple):
    """The last two samples of one cgroup."""

    latest: CpuSample
    previous: CpuSample | None = None


class NetworkSample(NamedTuple):
    """The interfaces of one pod at one moment."""

    at_ns: int
    interfaces: tuple[InterfaceUsage, ...]


class ProcessSample(NamedTuple):
    """The processes of one container at one moment."""

    at_ns: int
    usage: ProcessUsage


def is_counted(state: Container) -> bool:
    """Say whether a container has stats: its program runs, and it is watched."""
    return state.running and state.gave_up is None


class Sampler:
    """One per daemon. All answers are from memory; before the first sample, and of what is gone, they are None."""

    def __init__(self, core: Core, period_s: float = PERIOD_S) -> None:
        self.period_s = period_s
        self.measured = False  # the writable layers have been, once at least
        self.networks: Mapping[str, NetworkSample] = {}
        self.processes: Mapping[str, ProcessSample] = {}
        self._core = core
        self._windows: Mapping[str, CpuWindow] = {}
        self._metrics_until_s = 0.0  # Trio's clock
        self._begun = trio.Event()
        self._written = trio.Event()

    def notice(self, envelope: Envelope) -> None:
        """Take note of what may have to be looked at soon."""
        if isinstance(envelope.event, container.Started | pod.Ready):
            self._begun.set()
            self._written.set()

    def metrics_are_wanted(self) -> None:
        """Keep looking into processes for a while."""
        self._metrics_until_s = trio.current_time() + METRICS_S

    def look_into_new(self) -> None:
        """Look at once into the processes of containers that began since the last sample, of a few at most."""
        new = list(self._running(only_new=True).items())[:AT_ONCE_MAX]
        at_ns = self._core.host.clock.wall_ns()
        looked = {name: self._core.host.usage.processes(path) for name, path in new}
        found = {name: ProcessSample(at_ns, usage) for name, usage in looked.items() if usage is not None}
        if found:
            self.processes = {**self.processes, **found}

    def nano_cores(self, name: str, now: CpuSample) -> int | None:
        """Return the rate at which a container or pod used CPU until *now*; None when too little is known."""
        window = self._windows.get(name)
        if window is None:
            return None
        enough_ns = self.period_s * WINDOW_SHARE * NS
        base = window.latest if now.boot_ns - window.latest.boot_ns >= enough_ns else window.previous
        if base is None or now.boot_ns - base.boot_ns < enough_ns or now.cpu_ns < base.cpu_ns:
            return None
        return (now.cpu_ns - base.cpu_ns) * NS // (now.boot_ns - base.boot_ns)

    def pod_cgroups(self) -> dict[str, str]:
        """Return the cgroups of ready pods that have one for themselves, as paths."""
        ready = {name: row.state for name, row in self._core.view.pods.rows.items() if row.state.is_ready}
        users = Counter(state.declared.cgroup_parent for state in ready.values() if state.declared is not None)
        parents = {name: self._own_parent(name, state) for name, state in ready.items()}
        paths = {name: self.path_of(parent) for name, parent in parents.items() if parent and users[parent] == 1}
        return {name: path for name, path in paths.items() if path not in ("", "/")}

    def path_of(self, parent: str) -> str:
        """Return the path of a parent cgroup; "" for a name that the cgroup driver of today cannot have."""
        try:
            return parent_path(CgroupDriver(self._core.host.settings.cgroup_driver), parent)
        except InvalidRequest:
            return ""

    def _own_parent(self, name: str, state: Pod) -> str:
        """Return the parent cgroup that the pod's request names; one that is the default belongs to nobody."""
        assert state.declared is not None, "only declared pods have rows"
        return state.declared.cgroup_parent if self._core.view.pods.config(name).linux.cgroup_parent else ""

    # --- the tasks ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Sample until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sample_for_ever)
            nursery.start_soon(self._measure_for_ever)

    async def _sample_for_ever(self) -> None:
        next_s = trio.current_time()
        while True:
            whole = trio.current_time() >= next_s
            if whole:
                next_s = trio.current_time() + self.period_s
            try:
                await self.sample(only_new=not whole)
            except OcidError as error:
                log.warning("no sample was taken: %s", error)
            with trio.move_on_at(next_s):
                await self._begun.wait()
                await trio.sleep(SOON_S)
            self._begun = trio.Event()

    async def _measure_for_ever(self) -> None:
        while True:
            try:
                await self._core.host.layers.measure()
                self.measured = True
            except OcidError as error:
                log.warning("cannot measure the store: %s", error)
            with trio.move_on_after(self.period_s):
                await self._written.wait()
                await trio.sleep(SOON_S)
            self._written = trio.Event()

    async def sample(self, *, only_new: bool = False) -> None:
        """Look at everything that runs, or only at what was never looked at."""
        order = self._order(only_new=only_new)
        if only_new and not (order.cpu or order.networks or order.processes):
            return
        taken = await self._core.host.usage.sample(order)
        at_ns = self._core.host.clock.wall_ns()
        windows = {
            name: CpuWindow(sample, before.latest if (before := self._windows.get(name)) is not None else None)
            for name, sample in taken.cpu.items()
        }
        networks = {name: NetworkSample(at_ns, interfaces) for name, interfaces in taken.networks.items()}
        processes = {name: ProcessSample(at_ns, usage) for name, usage in taken.processes.items()}
        if only_new:
            windows, networks = {**self._windows, **windows}, {**self.networks, **networks}
        self._windows, self.networks = windows, networks
        rows = self._core.view.containers.rows
        known = {**self.processes, **processes}
        self.processes = {name: one for name, one in known.items() if name in rows and is_counted(rows[name].state)}

    def _running(self, *, only_new: bool = False) -> dict[str, str]:
        """Return the cgroups of the containers that are counted, or of those whose processes were never looked into."""
        return {
            name: row.state.declared.cgroup
            for name, row in self._core.view.containers.rows.items()
            if row.state.declared is not None and is_counted(row.state)
            if not only_new or name not in self.processes
        }

    def _order(self, *, only_new: bool) -> SampleOrder:
        view = self._core.view
        running = self._running()
        netns = {
            name: row.state.declared.netns
            for name, row in view.pods.rows.items()
            if row.state.declared is not None and row.state.declared.netns and row.state.is_ready
        }
        cpu = {**running, **self.pod_cgroups()}
        wanted = trio.current_time() < self._metrics_until_s
        if only_new:
            cpu = {name: path for name, path in cpu.items() if name not in self._windows}
            netns = {name: path for name, path in netns.items() if name not in self.networks}
        if only_new or not wanted:
            running = {name: path for name, path in running.items() if name not in self.processes}
        return SampleOrder(cpu=cpu, networks=netns, processes=running)
