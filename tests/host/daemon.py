"""Real daemons for tests: each with its own root, run directory, socket, bridge, subnets and cgroup parent.

``Daemon`` is one daemon over many lives: it can be killed and started again.
Whatever a daemon has made is named in its log; ``Daemon.leaks`` looks for all of it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from grpclib.exceptions import GRPCError

from ocid.adapters import mounts
from ocid.adapters.cgroups import Cgroups
from ocid.adapters.shaping import detour_of
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain import catalog, container, exec as execution, layer, pod, pull, session
from ocid.events import pod as pod_events
from ocid.events.envelope import Envelope
from ocid.journal.reader import Reader
from ocid.journal.verify import verify
from ocid.projections.view import View
from tests import images
from tests.host import nodes
from tests.host.busybox import busybox_layer
from tests.host.kubelet import (  # part of this module to all who use it
    GONE as GONE,
    IMAGE as IMAGE,
    Cri as Cri,
    Kubelet as Kubelet,
    Loop as Loop,
    log_lines as log_lines,
    refused as refused,
    wait_for as wait_for,
)
from tests.registry import Registry, registry

OCID: Final = Path(sys.executable).with_name("ocid")
START_S: Final = 20.0 * nodes.SLOW
SETTLE_S: Final = 5.0 * nodes.SLOW  # for what goes on after an answer: a failed pod takes itself down
_numbers = itertools.count()

# --- a process that inherits what daemons leave, as init does on a node -----------------------------------------------

_KEEPER: Final = """
import ctypes, json, os, signal, sys, threading, time
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
def reap():
    while True:
        try:
            pid, status = os.waitpid(-1, 0)
            print("ended", pid, os.waitstatus_to_exitcode(status), flush=True)
        except ChildProcessError:
            time.sleep(0.01)
threading.Thread(target=reap, daemon=True).start()
started = []
for line in sys.stdin:
    words, errors = json.loads(line)
    output = [(os.POSIX_SPAWN_OPEN, fd, errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for fd in (1, 2)]
    silence = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
    started.append(os.posix_spawn(words[0], words, os.environ, file_actions=silence + output, setsid=True))
    print("started", started[-1], 0, flush=True)
"""


class Keeper:
    """Starts daemons, reaps them and their orphans, and says how each ended."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-c", _KEEPER]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._news = threading.Condition()
        self._started: list[int] = []
        self._ended: dict[int, int] = {}
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def start(self, words: Sequence[str], errors: Path) -> int:
        """Start a program and return its pid."""
        assert self._process.stdin is not None
        with self._news:
            before = len(self._started)
            self._process.stdin.write(json.dumps([list(words), str(errors)]) + "\n")
            self._process.stdin.flush()
            assert self._news.wait_for(lambda: len(self._started) > before, 10)
            pid = self._started[-1]
            self._ended.pop(pid, None)
            return pid

    def ended(self, pid: int, timeout_s: float) -> int | None:
        """Wait for the end of what ``start`` started, and return its exit code; None when it goes on."""
        with self._news:
            self._news.wait_for(lambda: pid in self._ended, timeout_s)
            return self._ended.get(pid)

    def close(self) -> None:
        """End the keeper."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._listener.join()
        self._process.stdout.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            what, pid, code = line.split()
            with self._news:
                if what == "started":
                    self._started.append(int(pid))
                else:
                    self._ended[int(pid)] = int(code)
                self._news.notify_all()


# --- a client --------------------------------------------------------------------------------------------------------


def _sh(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


@dataclass
class Daemon:
    """One daemon, dead or alive, and everything on the host that is its own."""

    keeper: Keeper
    loop: Loop
    registry: Registry
    directory: Path
    bridge: str
    subnets: tuple[str, str]
    config: dict[str, dict[str, Any]] = field(default_factory=dict)
    prelude: str = ""  # Python that runs before the daemon: shorter time limits
    root: Path = Path()
    pid: int = 0
    lives: int = 0
    _events: list[Envelope] = field(default_factory=list)  # what was read of the log so far
    _view: View = field(default_factory=lambda: View(lambda digest: b""))  # the same, folded

    def __post_init__(self) -> None:
        if self.root == Path():
            self.root = self.directory / "root"
        self.run = self.directory / "run"
        self.socket = self.directory / "s"
        self.errors = self.directory / "stderr"
        self.cgroup_parent = nodes.cgroup_parent(self.bridge)

    # --- lives ---

    def words(self, **changes: str) -> list[str]:
        """Return the command line; *changes* are further arguments by name."""
        program = [str(OCID)]
        if self.prelude:
            code = f"{self.prelude}\nimport sys\nfrom ocid.main import main\nsys.exit(main())"
            program = [sys.executable, "-c", code]
        extra = [word for name, value in changes.items() for word in (f"--{name}", value)]
        return [*program, "serve", "--config", str(self._write_config()), *extra]

    def start(self, *, ready: bool = True) -> None:
        """Start the daemon and wait until it serves."""
        assert not self.alive
        self.pid = self.keeper.start(self.words(), self.errors)
        self.lives += 1
        if ready:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until the daemon serves; show what it said when it does not."""
        deadline = time.monotonic() + START_S
        trouble = ""
        while time.monotonic() < deadline:
            code = self.keeper.ended(self.pid, 0)
            assert code is None, f"the daemon ended with {code}:\n{self.said()}"
            try:
                with self.client() as cri:
                    cri.call("Version", wait_s=5)
                    cri.call("ImageFsInfo", wait_s=5)
                    return
            except (*GONE, GRPCError) as error:
                trouble = str(error)
                time.sleep(0.05)
        raise AssertionError(f"the daemon does not serve: {trouble}\n{self.said()}")

    @property
    def alive(self) -> bool:
        """Whether the daemon's process is there."""
        return self.pid != 0 and self.keeper.ended(self.pid, 0) is None

    def kill(self) -> None:
        """Send SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)
        assert self.keeper.ended(self.pid, 10) == -signal.SIGKILL
        self.pid = 0

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        os.kill(self.pid, signal.SIGTERM)
        code = self.keeper.ended(self.pid, 15)
        assert code is not None, f"the daemon does not stop:\n{self.said()}"
        self.pid = 0
        return code

    def said(self) -> str:
        """Return what the daemon wrote to its standard error."""
        return self.errors.read_text(errors="replace")[-8000:] if self.errors.exists() else ""

    @contextlib.contextmanager
    def client(self) -> Iterator[Cri]:
        """Connect to the daemon."""
        cri = Cri(self.loop, self.socket)
        try:
            yield cri
        finally:
            cri.close()

    def _write_config(self) -> Path:
        tables: dict[str, dict[str, Any]] = {
            "network": {
                "bridge": self.bridge,
                "subnets": list(self.subnets),
                "cni_conf_dir": str(self.directory / "net.d"),
            },
            "cgroup": {"driver": nodes.DRIVER, "parent": self.cgroup_parent},
            "log": {"map_bytes": 1 << 30},
            'registries."docker.io"': {"mirrors": [self.registry.url]},
            f'registries."{self.registry.host}"': {"plain_http": True},
        }
        for name, table in self.config.items():
            tables.setdefault(name, {}).update(table)
        top = {"root": str(self.root), "run": str(self.run), "socket": str(self.socket)}
        lines = [f"{key} = {json.dumps(value)}" for key, value in top.items()]
        for name, table in tables.items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
        text = "\n".join(lines) + "\n"
        tomllib.loads(text)
        path = self.directory / "ocid.toml"
        path.write_text(text)
        return path

    # --- the log ---

    @contextlib.contextmanager
    def log(self) -> Iterator[Reader]:
        """Open the log beside the daemon."""
        with Reader(self.root / "log", map_bytes=1 << 30) as reader:
            yield reader

    def events(self, from_seq: int = 1) -> list[Envelope]:
        """Return the log from *from_seq* on."""
        with self.log() as reader:
            while some := reader.read(len(self._events) + 1):
                self._events += some
        return self._events[from_seq - 1 :]

    def last_seq(self) -> int:
        """Return the seq of the log's end."""
        with self.log() as reader:
            return reader.last_seq()

    def types(self, from_seq: int = 1) -> list[str]:
        """Return the types of the events from *from_seq* on."""
        return [one.type for one in self.events(from_seq)]

    def view(self) -> View:
        """Fold the whole log. The view has no documents."""
        for one in self.events(self._view.seq + 1):
            self._view.apply(one)
        return self._view

    def check_log(self, *, empty: bool = True) -> None:
        """The log must verify, and every stream in it be at rest; *empty*: of pods and containers there are none."""
        with self.log() as reader:
            report = verify(reader)
        assert report.fault is None, report.fault
        assert report.last_good_seq == report.records
        view = self.view()
        assert not view.unknown
        assert not view.node.given_up
        assert not [one.event for one in self.events() if one.type == "node.actor_crashed"]
        for fold, decider in (
            (view.pods, pod),
            (view.containers, container),
            (view.execs, execution),
            (view.sessions, session),
            (view.pulls, pull),
            (view.layers, layer),
            (view.catalog, catalog),
        ):
            owed = {name: decider.plan(row.state) for name, row in fold.rows.items()}
            if empty:
                assert not {name: effect for name, effect in owed.items() if effect is not None}
        if empty:
            assert not {**view.pods.rows, **view.containers.rows, **view.execs.rows, **view.pulls.rows}
            assert not view.pods.leases

    # --- leaks ---

    def leaks(self) -> list[str]:
        """List what of the daemon's is left on the host, when nothing should be: no pod, container, pull or command."""
        found = [f"mount {one}" for one in self._mounts()]
        for place in ("pods", "containers", "exits", "tmp", *self._state_directories()):
            directory = self.run / place
            if directory.is_dir():
                names = set(os.listdir(directory)) - {".cache"}  # of compiled seccomp filters, crun's own
                found += [f"in run directory: {place}/{name}" for name in sorted(names)]
        for place in ("containers", "staging", "cni"):
            directory = self.root / place
            if directory.is_dir():
                found += [f"in root directory: {place}/{name}" for name in os.listdir(directory)]
        found += [f"cgroup {one}" for one in self._cgroups()]
        found += [f"process {one}" for one in self._processes()]
        found += [f"link {one}" for one in self._links()]
        found += [f"host port {one}" for one in self._host_ports()]
        found += [f"runc container {one}" for one in self._containers_of_runc()]
        view = self.view()
        found += [f"lease {one}" for one in view.pods.leases]
        found += [f"pod in log {one}" for one in view.pods.rows]
        found += [f"container in log {one}" for one in view.containers.rows]
        found += [f"command in log {one}" for one in view.execs.rows]
        found += [f"session in log {one}" for one in view.sessions.rows]
        found += [f"pull in log {one}" for one in view.pulls.rows]
        return found

    def assert_no_leaks(self) -> None:
        """Wait for what still goes on, then assert that nothing is left."""
        deadline = time.monotonic() + SETTLE_S
        while (found := self.leaks()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not found, "\n".join(found)

    def _state_directories(self) -> list[str]:
        """Return where the OCI runtimes keep their state of containers and of pause processes."""
        found = [*self.run.glob("runtime/*"), *self.run.glob("pause/*")]
        return [str(one.relative_to(self.run)) for one in found if one.is_dir()]

    def _mounts(self) -> list[str]:
        standing = (os.path.realpath(self.run / "pods"), str(self.root))
        return [one for one in mounts.targets_below(os.path.realpath(self.directory)) if one not in standing]

    def _cgroups(self) -> list[str]:
        inner = nodes.hierarchy_path(self.cgroup_parent)
        tops = [*Cgroups("cgroupfs").directories(inner), f"/sys/fs/cgroup/unified{inner}"]
        found = []
        for top in dict.fromkeys(tops):
            found += [parent for parent, _, _ in os.walk(top) if parent != top]
        return found

    def _processes(self) -> list[str]:
        """Return processes but the daemon that have one of our paths among their words, or are in our cgroups."""
        ours = str(self.directory).encode()
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path("/proc", name, "cmdline").read_bytes()
                groups = Path("/proc", name, "cgroup").read_text()
                status = Path("/proc", name, "status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if "State:\tZ" in status and re.search(r"NSpid:\t\d+$", status, re.MULTILINE):
                continue  # of a container with the host's PIDs: who cannot be told from a tool is reaped after a while
            if int(name) not in (self.pid, os.getpid()) and (
                ours in words or f":{nodes.hierarchy_path(self.cgroup_parent)}/" in groups
            ):
                found.append(f"{name} {words.replace(bytes(1), b' ').decode(errors='replace')}")
        return found

    def _links(self) -> list[str]:
        """Return the host ends of the pairs of all pods that the log knows, and what else is on the bridge."""
        interfaces = {one.event.interface for one in self.events() if isinstance(one.event, pod_events.Declared)}
        interfaces |= {detour_of(one) for one in interfaces if one}
        found = [name for name in os.listdir("/sys/class/net") if name in interfaces]
        ports = Path("/sys/class/net", self.bridge, "brif")
        return sorted({*found, *(os.listdir(ports) if ports.is_dir() else ())})

    def _host_ports(self) -> list[str]:
        listed = _sh("nft", "list", "table", "inet", f"ocid_{self.bridge}")
        lines = [line.strip() for line in listed.splitlines()]
        return [line for line in lines if "elements" in line and not line.startswith('elements = { "')]  # interfaces

    def _containers_of_runc(self) -> list[str]:
        root = self.run / "runtime" / "runc"
        return _sh("runc", f"--root={root}", "list", "-q").split() if root.is_dir() else []

    def destroy(self) -> None:
        """Take everything down by force: for the end, also after a failure."""
        if self.alive:
            self.kill()
        for _ in range(3):
            for line in self._processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(line.split()[0]), signal.SIGKILL)
            time.sleep(0.02)
        mounts.unmount_below(str(self.directory))
        for link in (*self._links(), self.bridge) if (self.root / "log" / "data.mdb").exists() else (self.bridge,):
            _sh("ip", "link", "delete", link)
        _sh("nft", "delete", "table", "inet", f"ocid_{self.bridge}")
        for _ in range(20):
            if not any(_remove_cgroup(root, nodes.hierarchy_path(self.cgroup_parent)) for root in _hierarchies()):
                break
            time.sleep(0.05)
        shutil.rmtree(self.directory)


def _hierarchies() -> list[str]:
    return list(dict.fromkeys([*Cgroups("cgroupfs").hierarchies.values(), "/sys/fs/cgroup/unified"]))


def _remove_cgroup(root: str, name: str) -> bool:
    """Remove a cgroup with all below it; say whether something is left."""
    top = f"{root}{name}"
    for parent, _, _ in os.walk(top, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(parent)
    return os.path.isdir(top)


# --- fixtures --------------------------------------------------------------------------------------------------------


class Stage:
    """Makes daemons and takes them down, whatever happens."""

    def __init__(self, keeper: Keeper, loop: Loop, server: Registry) -> None:
        self.keeper = keeper
        self.loop = loop
        self.registry = server

    @contextlib.contextmanager
    def daemon(
        self,
        config: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        prelude: str = "",
        root: Path | None = None,
        start: bool = True,
    ) -> Iterator[Daemon]:
        """Run a daemon while the block lasts. At its end nothing may be left; a failure of the block goes first."""
        number = next(_numbers)
        one = Daemon(
            keeper=self.keeper,
            loop=self.loop,
            registry=self.registry,
            directory=Path(tempfile.mkdtemp(prefix="ocidd-")),
            bridge=f"ocidd{os.getpid() % 100_000:x}x{number:x}"[:15],
            subnets=(_free_subnet(), f"fd00:201:{os.getpid() & 0xFFFF:x}:{number:x}::/64"),
            config={name: dict(table) for name, table in (config or {}).items()},
            prelude=prelude,
            root=root or Path(),
        )
        try:
            if start:
                one.start()
            yield one
            if one.alive:
                one.assert_no_leaks()
                assert one.stop() == 0, one.said()
            assert not one._processes()
        finally:
            one.destroy()


def _free_subnet() -> str:
    taken = _sh("ip", "-4", "-o", "addr")
    return next(net for net in (f"10.201.{n}.0/24" for n in range(os.getpid() % 200, 256)) if net[:-4] not in taken)


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    """What daemons need that all of them share: a keeper, a loop for clients, a registry with the test's image."""
    keeper, loop = Keeper(), Loop()
    try:
        with registry() as server:
            server.put("test/busybox", "1", images.image([busybox_layer()], config={"Cmd": ["sleep", "1000"]}))
            yield Stage(keeper, loop, server)
    finally:
        loop.close()
        keeper.close()


@pytest.fixture(scope="module")
def daemon(stage: Stage, private_mounts: None) -> Iterator[Daemon]:
    """The module's daemon, with the test's image in its store."""
    with stage.daemon() as one:
        with one.client() as cri:
            cri.call("PullImage", image=pb.ImageSpec(image=IMAGE))
        yield one
        one.check_log()


@pytest.fixture
def kubelet(daemon: Daemon) -> Iterator[Kubelet]:
    """A kubelet of the module's daemon; whatever the test leaves is removed, and then nothing may be left."""
    if not daemon.alive:
        daemon.start()
    with daemon.client() as cri:
        one = Kubelet(cri, daemon.directory, daemon.cgroup_parent)
        yield one
        print(daemon.said())  # shown where the test fails, or what comes now
        if not daemon.alive:
            daemon.start()
        one.remove_everything()
        daemon.assert_no_leaks()
        shutil.rmtree(one.logs, ignore_errors=True)


@pytest.fixture
def nothing_leaks() -> None:
    """In the place of the check around every other host test: daemons are checked by ``Daemon.leaks``."""
