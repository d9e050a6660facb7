"""Real daemons for tests: each with its own root, run directory, socket, bridge, subnets and cgroup parent.

``Daemon`` is one daemon over many lives: it can be killed and started again. ``Cri`` is a client of its socket, with
the calls in a thread of their own, so that tests are plain functions. ``Kubelet`` makes the calls as a kubelet does.
Whatever a daemon has made is named in its log; ``Daemon.leaks`` looks for all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from grpclib.client import Channel
from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from ocid.adapters import mounts
from ocid.adapters.cgroups import Cgroups
from ocid.adapters.shaping import detour_of
from ocid.cri.stubs import api_grpc, api_pb2 as pb
from ocid.domain import catalog, container, exec as execution, layer, pod, pull, session
from ocid.events import pod as pod_events
from ocid.events.envelope import Envelope
from ocid.journal.reader import Reader
from ocid.journal.verify import verify
from ocid.projections.view import View
from tests import images
from tests.host import nodes
from tests.host.support import build_rootfs
from tests.registry import Registry, registry

OCID: Final = Path(sys.executable).with_name("ocid")
START_S: Final = 20.0 * nodes.SLOW
SETTLE_S: Final = (
    5.0 * nodes.SLOW
)  # for what goes on after an answer: a failed pod takes itself down, layers are collected
IMAGE: Final = "docker.io/test/busybox:1"
GONE: Final = (StreamTerminatedError, ProtocolError, OSError)  # the daemon died under a call
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


class Loop:
    """An asyncio loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.SelectorEventLoop()  # not the default one, which trio_asyncio replaces
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def begin(self, work: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Cri:
    """One connection to a CRI socket, as the kubelet has it; it comes back when the daemon does."""

    def __init__(self, loop: Loop, socket: Path) -> None:
        self._loop = loop
        self._socket = socket
        self._channel = loop.begin(self._connect()).result(10)
        self._stubs = [api_grpc.RuntimeServiceStub(self._channel), api_grpc.ImageServiceStub(self._channel)]

    async def _connect(self) -> Channel:
        windows = Configuration(http2_connection_window_size=4 << 20, http2_stream_window_size=4 << 20)
        return Channel(path=str(self._socket), config=windows)

    def close(self) -> None:
        self._loop.begin(self._close()).result(10)

    async def _close(self) -> None:
        self._channel.close()

    def begin(self, rpc: str, request: Any = None, *, deadline_s: float | None = None, **fields: Any) -> Future[Any]:
        """Begin a call; ``cancel`` of the future cancels the call, as a client does that does not want it any more."""
        message = request if request is not None else getattr(pb, f"{rpc}Request")(**fields)
        method = next(getattr(stub, rpc) for stub in self._stubs if hasattr(stub, rpc))
        return self._loop.begin(method(message, timeout=deadline_s))

    def call(self, rpc: str, request: Any = None, *, wait_s: float = 60, **fields: Any) -> Any:
        """Make a call and return the answer.

        Raises:
            GRPCError: the daemon refused.
        """
        future = self.begin(rpc, request, **fields)
        try:
            return future.result(wait_s * nodes.SLOW)
        except FutureTimeoutError:
            if future.done():
                raise
            future.cancel()
            raise AssertionError(f"{rpc} did not answer within {wait_s} s") from None

    @contextlib.contextmanager
    def container_events(self) -> Iterator[list[pb.ContainerEventResponse]]:
        """Follow GetContainerEvents while the block lasts; the list grows."""
        found: list[pb.ContainerEventResponse] = []
        listening = threading.Event()

        async def follow() -> None:
            with contextlib.suppress(*GONE, GRPCError):
                async with self._stubs[0].GetContainerEvents.open() as stream:
                    await stream.send_message(pb.GetEventsRequest(), end=True)
                    await stream.recv_initial_metadata()
                    listening.set()
                    while (event := await stream.recv_message()) is not None:
                        found.append(event)

        following = self._loop.begin(follow())
        assert listening.wait(10), "GetContainerEvents does not begin"
        try:
            yield found
        finally:
            following.cancel()
            with contextlib.suppress(BaseException):
                following.result(5)


def refused(error: pytest.ExceptionInfo[GRPCError]) -> tuple[Status, str]:
    """Return code and message of a refusal."""
    return error.value.status, error.value.message or ""


# --- a kubelet -------------------------------------------------------------------------------------------------------


class Kubelet:
    """Makes CRI requests as a kubelet does, with fields of one's own where a test needs them."""

    def __init__(self, cri: Cri, directory: Path, cgroup_parent: str, image: str = IMAGE) -> None:
        self.cri = cri
        self.call = cri.call
        self.begin = cri.begin
        self.logs = directory / "log-of-pods"
        self.cgroup_parent = cgroup_parent
        self.image = image
        self.pods: dict[str, pb.PodSandboxConfig] = {}  # by id

    # --- messages ---

    def pod_config(self, name: str = "", *, pid: Any = pb.CONTAINER, **fields: Any) -> pb.PodSandboxConfig:
        """A pod's configuration. *fields*: of PodSandboxConfig; *network*, *ipc* and *linux* go where they belong."""
        name = name or f"pod-{next(_numbers)}"
        options = pb.NamespaceOption(pid=pid, network=fields.pop("network", pb.POD), ipc=fields.pop("ipc", pb.POD))
        uid = fields.pop("uid", f"uid-{name}")
        attempt = fields.pop("attempt", 0)
        linux = fields.pop("linux", {})
        config = pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name=name, uid=uid, namespace="tests", attempt=attempt),
            hostname=fields.pop("hostname", name if options.network == pb.POD else ""),
            log_directory=str(self.logs / f"tests_{name}_{uid}"),
            labels={"io.kubernetes.pod.name": name, "io.kubernetes.pod.uid": uid, **fields.pop("labels", {})},
            linux=pb.LinuxPodSandboxConfig(
                cgroup_parent=linux.pop("cgroup_parent", nodes.pod_cgroup(self.cgroup_parent, uid)),
                security_context=pb.LinuxSandboxSecurityContext(
                    namespace_options=options, privileged=linux.pop("privileged", False)
                ),
                **linux,
            ),
        )
        config.MergeFrom(pb.PodSandboxConfig(**fields))
        return config

    def container_config(self, *command: str, name: str = "main", **fields: Any) -> pb.ContainerConfig:
        """A container's configuration. *security*: fields of LinuxContainerSecurityContext; *memory*: a limit."""
        attempt = fields.pop("attempt", 0)
        resources = {"memory_limit_in_bytes": fields.pop("memory")} if "memory" in fields else {}
        security = fields.pop("security", {})
        security.setdefault("namespace_options", pb.NamespaceOption(pid=pb.CONTAINER))
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=name, attempt=attempt),
            image=pb.ImageSpec(image=fields.pop("image", self.image), user_specified_image="busybox:1"),
            command=command,
            log_path=fields.pop("log_path", f"{name}/{attempt}.log"),
            labels={"io.kubernetes.container.name": name, **fields.pop("labels", {})},
            envs=[pb.KeyValue(key=k, value=v.encode()) for k, v in fields.pop("env", {}).items()],
            linux=pb.LinuxContainerConfig(
                resources=pb.LinuxContainerResources(oom_score_adj=500, cpu_shares=102, **resources),
                security_context=pb.LinuxContainerSecurityContext(**security),
            ),
        )
        config.MergeFrom(pb.ContainerConfig(**fields))
        return config

    # --- pods ---

    def run_pod(self, config: pb.PodSandboxConfig | None = None, handler: str = "", **fields: Any) -> str:
        """RunPodSandbox."""
        config = config or self.pod_config(**fields)
        found = self.call("RunPodSandbox", config=config, runtime_handler=handler).pod_sandbox_id
        self.pods[found] = config
        return str(found)

    def pod_status(self, pod_id: str) -> pb.PodSandboxStatus:
        return self.call("PodSandboxStatus", pod_sandbox_id=pod_id).status

    def addresses(self, pod_id: str) -> list[str]:
        network = self.pod_status(pod_id).network
        return [network.ip, *(one.ip for one in network.additional_ips)]

    def end_pod(self, pod_id: str) -> None:
        """StopPodSandbox and RemovePodSandbox."""
        self.call("StopPodSandbox", pod_sandbox_id=pod_id)
        self.call("RemovePodSandbox", pod_sandbox_id=pod_id)
        self.pods.pop(pod_id, None)

    # --- containers ---

    def create(self, pod_id: str, *command: str, config: pb.ContainerConfig | None = None, **fields: Any) -> str:
        """CreateContainer."""
        config = config or self.container_config(*command, **fields)
        sandbox = self.pods.get(pod_id)
        answer = self.call("CreateContainer", pod_sandbox_id=pod_id, config=config, sandbox_config=sandbox)
        return str(answer.container_id)

    def start(self, pod_id: str, *command: str, **fields: Any) -> str:
        """CreateContainer and StartContainer."""
        container_id = self.create(pod_id, *command, **fields)
        self.call("StartContainer", container_id=container_id)
        return container_id

    def status(self, container_id: str) -> pb.ContainerStatus:
        return self.call("ContainerStatus", container_id=container_id).status

    def info(self, container_id: str) -> Any:
        """Return the verbose part of ContainerStatus."""
        return json.loads(self.call("ContainerStatus", container_id=container_id, verbose=True).info["info"])

    def exited(self, container_id: str, timeout_s: float = 20) -> pb.ContainerStatus:
        """Wait until a container has ended."""
        wait_for(lambda: self.status(container_id).state == pb.CONTAINER_EXITED, "the container ends", timeout_s)
        return self.status(container_id)

    def run(self, pod_id: str, *command: str, **fields: Any) -> tuple[int, str]:
        """Run a container to its end and return exit code and output; the container is removed."""
        container_id = self.start(pod_id, *command, **fields)
        status = self.exited(container_id)
        output = "".join(text + "\n" * (tag == "F") for _, tag, text in log_lines(Path(status.log_path))).rstrip("\n")
        self.call("RemoveContainer", container_id=container_id)
        Path(status.log_path).unlink()
        return status.exit_code, output

    def exec(self, container_id: str, *command: str, timeout_s: int = 10, wait_s: float = 30) -> pb.ExecSyncResponse:
        """ExecSync."""
        return self.call("ExecSync", container_id=container_id, cmd=command, timeout=timeout_s, wait_s=wait_s)

    def sh(self, container_id: str, script: str) -> str:
        """Run a shell script in a container and return its output; it must succeed."""
        done = self.exec(container_id, "sh", "-c", script)
        assert done.exit_code == 0, (script, done.stdout, done.stderr)
        return done.stdout.decode().strip()

    def remove_everything(self) -> None:
        """Stop and remove whatever is listed, as the kubelet's garbage collection does."""
        listed = [item.id for item in self.call("ListPodSandbox").items]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self.end_pod, listed))
        assert not self.call("ListPodSandbox").items
        assert not self.call("ListContainers").containers


def log_lines(path: Path) -> list[tuple[str, str, str]]:
    """Return stream, tag and content of a CRI log's lines, each checked for its form."""
    found = []
    for line in path.read_text().splitlines():
        moment, stream, tag, content = line.split(" ", 3)
        assert moment[10] == "T", line
        assert stream in ("stdout", "stderr"), line
        assert tag in ("P", "F"), line
        found.append((stream, tag, content))
    return found


# --- a daemon --------------------------------------------------------------------------------------------------------


def wait_for(holds: Callable[[], Any], what: str, timeout_s: float = 10.0) -> Any:
    """Wait until *holds* returns something true, and return that."""
    deadline = time.monotonic() + timeout_s * nodes.SLOW
    while not (found := holds()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s for this: {what}"
        time.sleep(0.02)
    return found


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
                found += [f"in run directory: {place}/{name}" for name in os.listdir(directory)]
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
            except (FileNotFoundError, ProcessLookupError):
                continue
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


# --- images ----------------------------------------------------------------------------------------------------------

_PASSWD: Final = b"root:x:0:0:root:/root:/bin/sh\nalice:x:1234:1234:Alice:/home:/bin/sh\n"
_GROUP: Final = b"root:x:0:\nalice:x:1234:\nstaff:x:50:alice\n"


def busybox_layer() -> bytes:
    """The layer of a root file system of static busybox, with users, and programs that cannot run."""
    with tempfile.TemporaryDirectory(prefix="ocid-rootfs-") as scratch:
        rootfs = build_rootfs(Path(scratch))
        for applet in ("unshare", "umount", "ping", "ping6", "nc", "wget", "rm", "df", "readlink", "grep", "nslookup"):
            if not (rootfs / "bin" / applet).exists():
                (rootfs / "bin" / applet).symlink_to("busybox")
        (rootfs / "etc/passwd").write_bytes(_PASSWD)
        (rootfs / "etc/group").write_bytes(_GROUP)
        (rootfs / "tmp").chmod(0o1777)
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w") as tar:
            for path in sorted(rootfs.rglob("*")):
                tar.add(path, str(path.relative_to(rootfs)), recursive=False, filter=_anonymous)
        return raw.getvalue()


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = "root"
    return entry


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
