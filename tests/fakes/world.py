"""The machine under the daemon, as strict as a kernel, in memory. It survives the daemon's crashes.

What a kernel would refuse, or what would hurt somebody, is a *violation*: it is written down here and fails the test
at its end, whatever the daemon makes of it. Time is Trio's, so a ``MockClock`` makes it virtual.
"""

from __future__ import annotations

import hashlib
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from ocid.ids import ChainId
from ocid.ports import Exit, LayerSize, Process

EPOCH_NS = 1_763_956_800 * 10**9
RUN, ROOT = "/run/ocid", "/var/lib/ocid"  # all below RUN is gone after a reboot


@dataclass(frozen=True)
class Program:
    """What a container's init does, spelled in its arguments: ``run:5 code:3 term:trap:2 oom noexec stuck:40``."""

    runs_s: float | None = None  # None: until killed
    code: int = 0
    on_term: str = "die"  # "die", "trap" (ends with ``code`` after ``trap_s``) or "ignore"
    trap_s: float = 1.0
    oom: bool = False  # is killed by the kernel when its time is up
    noexec: bool = False  # cannot be executed
    stuck_s: float = 0.0  # in uninterruptible sleep for so long when it is killed

    @staticmethod
    def of(args: Sequence[str]) -> Program:
        """Read a program from the arguments of its process."""
        made = {}
        for word in args:
            name, *rest = word.split(":")
            match name:
                case "run":
                    made["runs_s"] = float(rest[0])
                case "code":
                    made["code"] = int(rest[0])
                case "term":
                    made["on_term"] = rest[0]
                    made["trap_s"] = float(rest[1]) if len(rest) > 1 else 1.0
                case "oom" | "noexec":
                    made[name] = True
                case "stuck":
                    made["stuck_s"] = float(rest[0])
        return Program(**made)  # type: ignore[arg-type]


@dataclass(eq=False)
class Task:
    """One process."""

    process: Process
    cgroup: str
    netns: str  # path it was joined at; "" for the host's
    program: Program
    owner: str  # container or pod
    pid_init: Task | None = None  # the init of the PID namespace it joined
    running: bool = False  # false while it waits for the start
    gone: trio.Event = field(default_factory=trio.Event)
    code: int = 0

    def __repr__(self) -> str:
        return f"process {self.process.pid} of {self.owner[:12]} ({self.program})"


@dataclass
class Contained:
    """What the runtime's state directory says of one container."""

    task: Task | None = None  # None while half made
    started: bool = False


class World:
    """Processes, mounts, namespaces, cgroups, links, addresses and files of one machine."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.boot = 1
        self.violations: list[str] = []
        self.nursery: trio.Nursery | None = None  # of what lives beside the daemon
        self.ids = 0
        self.pids = 100
        self.tasks: dict[int, Task] = {}
        self.mounts: dict[str, tuple[str, ...]] = {}  # target → layers it is made of
        self.pins: dict[str, str] = {}  # path of a pinned namespace → its pod
        self.paths: dict[str, bytes] = {}  # files and directories; b"" for a directory
        self.cgroups: set[str] = set()
        self.contained: dict[str, Contained] = {}
        self.limits: dict[str, dict[str, object]] = {}  # container → what its cgroup has, by part of OCI's resources
        self.before_update: dict[str, tuple[str, dict[str, object]]] = {}  # container → a change, limits before it
        self.frozen: set[str] = set()  # containers that stand still
        self.exits: dict[str, Exit] = {}  # the monitors' exit files
        self.links: dict[str, str] = {}  # interface → pod
        self.addresses: dict[str, str] = {}  # address → pod
        self.plugins: dict[str, bytes] = {}  # pod → result of the CNI ADD that no DEL has undone
        self.layers: dict[ChainId, LayerSize] = {}
        self.commands: dict[str, Task] = {}  # execs by id
        self.moods: dict[str, tuple[str, ...]] = {}  # words of commands that mean others for now
        self.starts: Counter[str] = Counter()  # programs started, by container
        self.truth: dict[str, tuple[int, bool]] = {}  # how each container's init really ended
        self.signals: dict[str, list[int]] = {}

    def violate(self, what: str) -> None:
        """Write down what must never happen."""
        self.violations.append(what)

    def wall_ns(self) -> int:
        return EPOCH_NS + self.boot_ns()

    def boot_ns(self) -> int:
        return int((trio.current_time() + 1.0) * 1e9)

    def new_id(self, digits: int) -> str:
        """Return the next of a fixed series of ids."""
        self.ids += 1
        return hashlib.sha256(f"{self.seed}/{self.ids}".encode()).hexdigest()[:digits]

    # --- mounts and files --------------------------------------------------------------------------------------------

    def mount(self, target: str, layers: Sequence[str] = ()) -> None:
        if target in self.mounts:
            self.violate(f"{target} is mounted over")
        self.mounts[target] = tuple(layers)

    def unmount(self, target: str) -> None:
        if self.mounts.pop(target, None) is None:
            self.violate(f"{target} is unmounted, but not mounted")

    def pin(self, path: str, pod_id: str) -> None:
        """Make a namespace and bind it to *path*."""
        self.mount(path)
        self.pins[path] = pod_id

    def unpin(self, path: str) -> None:
        users = [task.owner for task in self.tasks.values() if task.netns == path]
        if users:
            self.violate(f"{path} is removed while {users} live in it")
        self.unmount(path)
        del self.pins[path]

    def below(self, directory: str) -> list[str]:
        """List files, directories and mounts at and below *directory*."""
        prefix = directory + "/"
        return [path for path in (*self.paths, *self.mounts) if path == directory or path.startswith(prefix)]

    def remove_tree(self, directory: str) -> None:
        for path in self.below(directory):
            if path in self.mounts:
                self.violate(f"{directory} is removed with {path} mounted")
            self.paths.pop(path, None)

    def remove_cgroup(self, cgroup: str) -> None:
        busy = [task.owner for task in self.tasks.values() if task.cgroup == cgroup]
        if busy:
            self.violate(f"cgroup {cgroup} is removed with processes of {busy}")
        self.cgroups.discard(cgroup)

    # --- processes ---------------------------------------------------------------------------------------------------

    def spawn(self, owner: str, cgroup: str, netns: str, program: Program, pid_init: Task | None = None) -> Task:
        """Make a process that waits for its start."""
        if netns and netns not in self.pins:
            self.violate(f"a process of {owner} joins {netns}, which is not there")
        self.pids += 1
        process = Process(pid=self.pids, start_ticks=self.boot_ns() // 10_000_000)
        task = self.tasks[process.pid] = Task(process, cgroup, netns, program, owner, pid_init)
        self.cgroups.add(cgroup)
        return task

    def begin(self, task: Task) -> None:
        """Let the program run."""
        task.running = True
        if task.program.runs_s is not None:
            self._later(task.program.runs_s, task, 137 if task.program.oom else task.program.code)

    def end(self, task: Task, code: int, *, oom: bool = False) -> None:
        """End a process; its monitor writes the exit file, and its PID namespace dies with it."""
        if task.gone.is_set():
            return
        del self.tasks[task.process.pid]
        task.code = code
        task.gone.set()
        if task.owner in self.contained and self.contained[task.owner].task is task:
            self.exits[task.owner] = Exit(at_ns=self.wall_ns(), exit_code=code, oom_killed=oom, source="monitor")
            self.truth[task.owner] = (code, oom)
        for other in [one for one in self.tasks.values() if one.pid_init is task]:
            self.end(other, 137)

    def forget(self, name: str) -> None:
        """Remove what the runtime knows of a container."""
        self.limits.pop(name, None)
        self.before_update.pop(name, None)
        self.frozen.discard(name)
        known = self.contained.pop(name, None)
        if known is not None and known.task is not None and not known.task.gone.is_set():
            self.violate(f"the state of container {name} is removed while its init lives")

    def send(self, task: Task, number: int) -> None:
        """Deliver a signal."""
        self.signals.setdefault(task.owner, []).append(number)
        program = task.program
        if number == signal.SIGKILL:
            self._later(program.stuck_s, task, 137)
        elif number == signal.SIGTERM and task.running and program.on_term == "trap":
            self._later(program.trap_s, task, program.code)
        elif number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT) and program.on_term == "die":
            self._later(0.0, task, 128 + number)

    def _later(self, after_s: float, task: Task, code: int) -> None:
        oom = task.program.oom and code == 137 and after_s == task.program.runs_s
        if after_s == 0.0:
            self.end(task, code, oom=oom)
            return
        assert self.nursery is not None, "the world has no nursery"
        self.nursery.start_soon(self._end_later, after_s, task, code, oom)

    async def _end_later(self, after_s: float, task: Task, code: int, oom: bool) -> None:
        with trio.move_on_after(after_s):
            await task.gone.wait()
        self.end(task, code, oom=oom)

    def reboot(self) -> None:
        """Lose everything but what disks hold. The daemon must be dead."""
        self.boot += 1
        for task in list(self.tasks.values()):
            self.contained.pop(task.owner, None)  # no monitor is left to write an exit file
            self.end(task, 137)
        for path in [path for path in self.paths if path.startswith(RUN)]:
            del self.paths[path]
        for gone in (self.mounts, self.pins, self.cgroups, self.contained, self.exits, self.links, self.addresses):
            gone.clear()
        for gone in (self.plugins, self.commands, self.limits, self.before_update, self.frozen):
            gone.clear()
