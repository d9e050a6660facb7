"""A machine with its disk, and the lives of the daemon on it: killed at one moment, and started again."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio
import trio._core._run as trio_run
from trio.testing import MockClock

from ocid.actors import recovery
from ocid.actors.core import Core
from ocid.actors.host import Host, Settings
from ocid.actors.policy import scrubber
from ocid.domain.checkpoint_facts import CheckpointFacts
from ocid.domain.redaction import DEFAULT_RULES
from ocid.events import node as node_events
from ocid.ids import digest_of
from ocid.journal.memory import Crash, Disk, MemoryLog, memory_journal
from ocid.journal.writer import Writer
from ocid.ports.archives import NoArchives
from ocid.ports.plugins import NoPlugins
from ocid.projections.view import View
from tests.fakes.archives import FakeArchives
from tests.fakes.images import FakeLayers, FakeRegistry, Shelf
from tests.fakes.life import Faults, Killed, Life, Moment
from tests.fakes.plugins import Answer, FakePlugins
from tests.fakes.pods import FakeClock, FakeHostFiles, FakeNetwork, FakeSandboxes, FakeSecrets
from tests.fakes.runtime import FakeRuntime
from tests.fakes.streams import FakeStreams
from tests.fakes.usage import FakeUsage
from tests.fakes.world import ROOT, RUN, World

BOOT_ID = "00000000-0000-4000-8000-{:012d}"
COMMIT_S = 0.001
Scenario = Callable[["Node"], Awaitable[None]]


@dataclass
class Node:
    """One machine in one test."""

    seed: int = 0
    moment: Moment | None = None  # when the daemon is killed
    cni: bool = False
    watched: bool = False  # by plugins
    faults: Faults = field(default_factory=Faults)
    disk: Disk = field(default_factory=Disk)
    shelf: Shelf = field(default_factory=Shelf)
    steps: list[str] = field(default_factory=list)  # of all effects, over all lives
    told: list[tuple[str, str]] = field(default_factory=list)  # to plugins: (event, id), over all lives
    answers: dict[tuple[str, str], Answer] = field(default_factory=dict)  # of plugins, to (event, id)
    lives: int = 0
    interesting: tuple[int, int] = (0, 0)  # commits and steps before what a scenario is about
    down: bool = False  # the machine is off: no life begins
    checkpoints: dict[str, CheckpointFacts] = field(default_factory=dict)  # by path, or by chain id of a layer
    restores: bool = True  # whether containers may go on from them
    on_core: Callable[[Core], None] = lambda core: None  # what a test changes in every new core

    def __post_init__(self) -> None:
        self.world = World(self.seed)
        self.usage = FakeUsage(self.world)
        self.life: Life | None = None
        self.core: Core | None = None
        self.writer: Writer | None = None
        self._serving = trio.Event()
        self._ended = trio.Event()
        self._stamp = 0

    # --- for the kubelet and for tests -------------------------------------------------------------------------------

    async def serving(self) -> tuple[Life, Core]:
        """Wait until the daemon has recovered, and return it."""
        await self._serving.wait()
        while self.life is None or self.life.dead or not self._serving.is_set():
            if self.life is not None and self.life.dead:
                await self.life.over.wait()
            await self._serving.wait()
        assert self.life is not None, "a daemon that serves is alive"
        assert self.core is not None, "a daemon that serves has a core"
        return self.life, self.core

    async def kill(self, *, reboot: bool = False) -> None:
        """Kill the daemon and wait until the next one serves."""
        life = self.life
        assert life is not None, "no daemon runs"
        self.down = reboot
        life.kill()
        await life.over.wait()
        if reboot:
            self.world.reboot()
            self.down = False
            self._ended.set()
        await self.serving()

    @property
    def serves(self) -> bool:
        """Whether a daemon has recovered and lives."""
        return self._serving.is_set()

    @property
    def died(self) -> bool:
        """Whether a daemon was killed."""
        return self.lives > 1 or (self.life is not None and self.life.dead)

    def view(self) -> View:
        """Return the living daemon's view."""
        assert self.core is not None
        return self.core.view

    # --- lives -------------------------------------------------------------------------------------------------------

    async def run(self, scenario: Scenario) -> None:
        """Let the daemon live, and die at its moment, until *scenario* is done."""
        async with trio.open_nursery() as nursery:
            self.world.nursery = nursery
            nursery.start_soon(self._live_on)
            await scenario(self)
            nursery.cancel_scope.cancel()

    async def _live_on(self) -> None:
        rebooted = False
        while True:
            self.lives += 1
            boot = self.world.boot
            again = self.moment.again if self.moment is not None and self.lives == 2 else 0
            life = Life(self.world, self.faults, self.moment, self.steps, again=again)
            self.life = life
            try:
                await self._live(life, rebooted)
            except* (Crash, Killed):
                pass
            life.kill()
            if self._serving.is_set():
                self._serving = trio.Event()
            self._ended = trio.Event()
            life.over.set()
            if self.moment is not None and self.moment.reboot and self.lives == 1:
                self.world.reboot()
            await trio.sleep(0.05)
            while self.down:
                await self._ended.wait()
            rebooted = self.world.boot != boot

    async def _live(self, life: Life, rebooted: bool) -> None:
        with life.scope:
            log = MemoryLog(
                self.disk,
                boot_id=BOOT_ID.format(self.world.boot),
                before_commit=life.before_commit,
                after_commit=life.after_commit,
            )
            clock = FakeClock(self.world)
            writer = self.writer = memory_journal(
                log, clock, commit_s=COMMIT_S, scrub=scrubber(DEFAULT_RULES, bytes(16))
            )
            view = View(writer.document)
            for envelope in writer.replay():
                view.apply(envelope)
            writer.subscribe(view.apply)
            async with trio.open_nursery() as outer:
                await outer.start(writer.run)
                async with trio.open_nursery() as actors:
                    core = Core(self._host(life, writer, clock), view, actors)
                    self.on_core(core)
                    actors.start_soon(core.recorder.run)
                    await self._begin(core, log.epoch, rebooted)
                    await recovery.recover(core, rebooted=rebooted)
                    await recovery.collect_orphans(core)
                    self.core = core
                    self._serving.set()
                    await trio.sleep_forever()

    async def _begin(self, core: Core, epoch: int, rebooted: bool) -> None:
        document = b"{}"
        started = node_events.Started(
            epoch=epoch,
            ocid_version="0",
            pid=1,
            kernel="6.1",
            cgroup_mode="v2",
            cgroup_driver="cgroupfs",
            config=digest_of(document),
            after_clean_stop=False,
            rebooted=rebooted,
        )
        await core.recorder.append(started, documents=(document,))

    def _host(self, life: Life, writer: Writer, clock: FakeClock) -> Host:
        return Host(
            settings=Settings(root=Path(ROOT), run=Path(RUN)),
            clock=clock,
            journal=writer,
            secrets=FakeSecrets(),
            sandboxes=FakeSandboxes(life),
            network=FakeNetwork(life, cni=self.cni),
            runtime=FakeRuntime(life),
            streams=FakeStreams(life),
            layers=FakeLayers(life),
            registry=FakeRegistry(life, self.shelf),
            files=FakeHostFiles(),
            usage=self.usage,
            new_id=self.world.new_id,
            plugins=FakePlugins(life, self.told, self.answers) if self.watched else NoPlugins(),
            archives=FakeArchives(life, self.checkpoints) if self.restores else NoArchives(),
        )


def simulate(scenario: Scenario, **options: object) -> Node:
    """Run *scenario* on a new machine under a virtual clock, every interleaving decided by the seed; return it."""
    seed = options.get("seed", 0)
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True
    trio_run._r.seed(seed)
    made: list[Node] = []

    async def main() -> None:
        node = Node(**options)  # type: ignore[arg-type]
        made.append(node)
        await node.run(scenario)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    return made[0]


def dice(seed: int, rate: float = 0.0) -> Faults:
    """Return faults that a seed decides."""
    return Faults(dice=random.Random(seed), rate=rate, latency_s=(0.001, 0.01, 0.1) if rate else (0.01,))
