"""One CRI socket, used the way a kubelet uses it: the same configs, the same order of calls, the same deadlines."""

import asyncio
import os
import shutil
import socket
import struct
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import Message
from grpclib.client import Channel
from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.exceptions import GRPCError

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed

from ocid.cri.stubs import api_grpc, api_pb2 as api

LABEL = "ocid.dev/benchmark"  # on every pod made here, so that none is ever left behind
TOKEN = "CRI_BENCHMARK_WORKLOAD"  # in the environment of every workload, so that memory counts leave it out
CGROUP = "cri-benchmark"
RPC_S, SANDBOX_S, PULL_S, GRACE_S = 120, 240, 600, 10  # what a kubelet waits; GRACE_S is the pod's own

# PID 1 of a PID namespace gets no default signal actions, so the script must ask to end at once on TERM.
WORKLOAD = "trap 'exit 0' TERM; echo ready; sleep 100000 & wait"

MASKED = ("asound", "acpi", "kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "scsi")
READONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")


@dataclass
class Pod:
    """A pod with one container, and how long each call for it took (ms)."""

    uid: str
    config: api.PodSandboxConfig
    directory: Path
    cgroups: list[Path] = field(default_factory=list)
    sandbox: str = ""
    container: str = ""
    ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def clock(self, step: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.ms[step] = (time.perf_counter() - began) * 1e3

    def took(self, *steps: str) -> float:
        return sum(self.ms[step] for step in steps)


CONTAINER_RUNNING = api.CONTAINER_RUNNING
UP = ("RunPodSandbox", "CreateContainer", "StartContainer")
DOWN = ("StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox")

SECCOMP = ("Unconfined", "RuntimeDefault")


class Kubelet:
    """A client of one runtime. Calls are serial per pod; pods run side by side when the caller wants it."""

    def __init__(self, name: str, path: str, handler: str, scratch: Path, seccomp: str) -> None:
        self.name, self.path, self.handler = name, path, handler
        self.scratch = scratch / name
        self.scratch.mkdir(parents=True)
        self.image = api.ImageSpec()
        self.systemd = False
        self.seccomp = api.SecurityProfile(profile_type=api.SecurityProfile.ProfileType.Value(seccomp))
        self._serial = 0
        self.connect()

    def connect(self) -> None:
        window = Configuration(http2_stream_window_size=16 << 20, http2_connection_window_size=16 << 20)
        # The host serves only as the :authority that gRPC servers in Go insist on.
        self._channel = Channel(path=self.path, config=window)
        self._channel._authority = "localhost"
        self.runtime = api_grpc.RuntimeServiceStub(self._channel)
        self.images = api_grpc.ImageServiceStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def daemon_pid(self) -> int:
        """Who listens on the socket, by the kernel's word."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(self.path)
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            return int(struct.unpack("3i", credentials)[0])

    async def greet(self) -> str:
        version = await self._first_word()
        try:
            linux = (await self.runtime.RuntimeConfig(api.RuntimeConfigRequest(), timeout=RPC_S)).linux
            self.systemd = linux is not None and linux.cgroup_driver == api.SYSTEMD
        except GRPCError as error:  # older runtimes leave the driver to the kubelet's own flag
            if error.status is not Status.UNIMPLEMENTED:
                raise
        return f"{version.runtime_name} {version.runtime_version}"

    async def _first_word(self) -> api.VersionResponse:
        """Version, asked until the daemon has finished starting, as a kubelet asks."""
        for _ in range(300):
            try:
                return await self.version()
            except GRPCError as error:
                if error.status is not Status.UNAVAILABLE:
                    raise
            await asyncio.sleep(0.1)
        return await self.version()

    # --- Pods ---

    async def up(self) -> Pod:
        """Make a pod and start its container: three timed calls, after what the kubelet itself prepares."""
        pod = self._prepare()
        with pod.clock("RunPodSandbox"):
            request = api.RunPodSandboxRequest(config=pod.config, runtime_handler=self.handler)
            pod.sandbox = (await self.runtime.RunPodSandbox(request, timeout=SANDBOX_S)).pod_sandbox_id
        container = self._container(pod)
        with pod.clock("CreateContainer"):
            create = api.CreateContainerRequest(pod_sandbox_id=pod.sandbox, config=container, sandbox_config=pod.config)
            pod.container = (await self.runtime.CreateContainer(create, timeout=RPC_S)).container_id
        with pod.clock("StartContainer"):
            await self.runtime.StartContainer(api.StartContainerRequest(container_id=pod.container), timeout=RPC_S)
        return pod

    async def ready(self, pod: Pod) -> None:
        """Wait until the workload has said so in its log: only then does it end on the first TERM."""
        log = pod.directory / "workload" / "0.log"
        for _ in range(2000):
            if log.exists() and b"ready" in log.read_bytes():
                return
            await asyncio.sleep(0.005)
        raise TimeoutError(f"{self.name}: the container's log {log} did not say 'ready' within 10 s")

    async def down(self, pod: Pod) -> None:
        """Take a pod away as the kubelet does: four timed calls."""
        rt = self.runtime
        with pod.clock("StopContainer"):
            stop = api.StopContainerRequest(container_id=pod.container, timeout=GRACE_S)
            await rt.StopContainer(stop, timeout=RPC_S + GRACE_S)
        with pod.clock("RemoveContainer"):
            await rt.RemoveContainer(api.RemoveContainerRequest(container_id=pod.container), timeout=RPC_S)
        with pod.clock("StopPodSandbox"):
            await rt.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=pod.sandbox), timeout=RPC_S)
        with pod.clock("RemovePodSandbox"):
            await rt.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=pod.sandbox), timeout=RPC_S)
        self._tidy(pod)

    async def many_up(self, count: int, width: int = 8) -> list[Pod]:
        pods: list[Pod] = []
        while len(pods) < count:
            pods += await asyncio.gather(*(self.up() for _ in range(min(width, count - len(pods)))))
        for pod in pods:
            await self.ready(pod)
        return pods

    async def many_down(self, pods: list[Pod], width: int = 8) -> None:
        for start in range(0, len(pods), width):
            await asyncio.gather(*(self.down(pod) for pod in pods[start : start + width]))

    async def sweep(self) -> int:
        """Remove every pod that a benchmark made, also an earlier one that was killed. Returns how many there were."""
        wanted = api.PodSandboxFilter(label_selector={LABEL: "yes"})
        listed = await self.runtime.ListPodSandbox(api.ListPodSandboxRequest(filter=wanted), timeout=RPC_S)
        for item in listed.items:
            await self.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=item.id), timeout=RPC_S)
            await self.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=item.id), timeout=RPC_S)
        return len(listed.items)

    # --- Images ---

    async def has(self, ref: str) -> bool:
        request = api.ImageStatusRequest(image=api.ImageSpec(image=ref))
        return bool((await self.images.ImageStatus(request, timeout=RPC_S)).image.id)

    async def pull(self, ref: str) -> str:
        request = api.PullImageRequest(image=api.ImageSpec(image=ref))
        return (await self.images.PullImage(request, timeout=PULL_S)).image_ref

    async def remove_image(self, ref: str) -> None:
        await self.images.RemoveImage(api.RemoveImageRequest(image=api.ImageSpec(image=ref)), timeout=RPC_S)

    async def use(self, ref: str) -> None:
        """Have this image and run it in the pods to come."""
        self.image = api.ImageSpec(image=await self.pull(ref), user_specified_image=ref)

    async def store(self) -> str:
        """Where the runtime keeps images, for a look at how full the disk is."""
        usage = await self.images.ImageFsInfo(api.ImageFsInfoRequest(), timeout=RPC_S)
        return usage.image_filesystems[0].fs_id.mountpoint

    # --- Small calls ---

    async def version(self) -> api.VersionResponse:
        return await self.runtime.Version(api.VersionRequest(version="v1"), timeout=RPC_S)

    async def status(self, pod: Pod) -> api.ContainerStatusResponse:
        request = api.ContainerStatusRequest(container_id=pod.container)
        return await self.runtime.ContainerStatus(request, timeout=RPC_S)

    async def exec_true(self, pod: Pod) -> None:
        request = api.ExecSyncRequest(container_id=pod.container, cmd=["true"], timeout=10)
        result = await self.runtime.ExecSync(request, timeout=RPC_S + 10)
        if result.exit_code:
            raise RuntimeError(f"{self.name}: `true` ended with {result.exit_code}: {result.stderr!r}")

    async def list_containers(self) -> list[api.Container]:
        return list((await self.runtime.ListContainers(api.ListContainersRequest(), timeout=RPC_S)).containers)

    async def list_pods(self) -> list[api.PodSandbox]:
        return list((await self.runtime.ListPodSandbox(api.ListPodSandboxRequest(), timeout=RPC_S)).items)

    async def ask(self, rpc: str) -> Message:
        """Call a method of RuntimeService with an empty request: a list of everything."""
        answer: Message = await getattr(self.runtime, rpc)(getattr(api, f"{rpc}Request")(), timeout=RPC_S)
        return answer

    async def has_rpc(self, rpc: str) -> bool:
        try:
            await self.ask(rpc)
        except GRPCError as error:
            return error.status is not Status.UNIMPLEMENTED
        return True

    async def address(self, pod: Pod) -> str:
        request = api.PodSandboxStatusRequest(pod_sandbox_id=pod.sandbox)
        return (await self.runtime.PodSandboxStatus(request, timeout=RPC_S)).status.network.ip

    # --- What a kubelet prepares ---

    def _prepare(self) -> Pod:
        self._serial += 1
        uid, name = str(uuid.uuid4()), f"bench-{self._serial}"
        directory = self.scratch / f"default_{name}_{uid}"
        (directory / "workload").mkdir(parents=True)
        (directory / "hosts").write_text("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n")
        (directory / "termination-log").touch()
        parent, cgroups = self._cgroup(uid)
        config = api.PodSandboxConfig(
            metadata=api.PodSandboxMetadata(name=name, uid=uid, namespace="default", attempt=0),
            hostname=name,
            log_directory=str(directory),
            dns_config=api.DNSConfig(
                servers=["10.96.0.10"],
                searches=["default.svc.cluster.local", "svc.cluster.local", "cluster.local"],
                options=["ndots:5"],
            ),
            labels={
                LABEL: "yes",
                "app": "bench",
                "io.kubernetes.pod.name": name,
                "io.kubernetes.pod.namespace": "default",
                "io.kubernetes.pod.uid": uid,
            },
            annotations={
                "kubernetes.io/config.seen": "2026-01-01T00:00:00.000000000Z",
                "kubernetes.io/config.source": "api",
            },
            linux=api.LinuxPodSandboxConfig(
                cgroup_parent=parent,
                security_context=api.LinuxSandboxSecurityContext(
                    namespace_options=api.NamespaceOption(pid=api.CONTAINER),
                    seccomp=self.seccomp,
                ),
                overhead=api.LinuxContainerResources(),
                resources=api.LinuxContainerResources(cpu_period=100_000, cpu_shares=2),
            ),
        )
        return Pod(uid, config, directory, cgroups)

    def _container(self, pod: Pod) -> api.ContainerConfig:
        identity = {k: v for k, v in pod.config.labels.items() if k.startswith("io.kubernetes.pod.")}
        return api.ContainerConfig(
            metadata=api.ContainerMetadata(name="workload", attempt=0),
            image=self.image,
            command=["/bin/sh", "-c", WORKLOAD],
            envs=[
                api.KeyValue(key=TOKEN, value=b"1"),
                api.KeyValue(key="KUBERNETES_SERVICE_HOST", value=b"10.96.0.1"),
                api.KeyValue(key="KUBERNETES_SERVICE_PORT", value=b"443"),
            ],
            mounts=[
                api.Mount(container_path="/etc/hosts", host_path=str(pod.directory / "hosts")),
                api.Mount(container_path="/dev/termination-log", host_path=str(pod.directory / "termination-log")),
            ],
            labels={"io.kubernetes.container.name": "workload", **identity},
            annotations={
                "io.kubernetes.container.hash": "5f3a9c1e",
                "io.kubernetes.container.restartCount": "0",
                "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
                "io.kubernetes.container.terminationMessagePolicy": "File",
                "io.kubernetes.pod.terminationGracePeriod": str(GRACE_S),
            },
            log_path="workload/0.log",
            linux=api.LinuxContainerConfig(
                resources=api.LinuxContainerResources(cpu_period=100_000, cpu_shares=2, oom_score_adj=1000),
                security_context=api.LinuxContainerSecurityContext(
                    namespace_options=api.NamespaceOption(pid=api.CONTAINER),
                    run_as_user=api.Int64Value(value=0),
                    masked_paths=[f"/proc/{name}" for name in MASKED] + ["/sys/firmware"],
                    readonly_paths=[f"/proc/{name}" for name in READONLY],
                    seccomp=self.seccomp,
                ),
            ),
        )

    def _cgroup(self, uid: str) -> tuple[str, list[Path]]:
        """The pod's cgroup: a name, and the directories made for it. systemd makes a slice's directories itself."""
        if self.systemd:
            slice_ = CGROUP.replace("-", "_")
            return f"/{slice_}.slice/{slice_}-pod{uid.replace('-', '_')}.slice", []
        made = []
        for root in hierarchies():
            path = root / CGROUP / f"pod{uid}"
            path.mkdir(parents=True)
            made.append(path)
        return f"/{CGROUP}/pod{uid}", made

    def _tidy(self, pod: Pod) -> None:
        shutil.rmtree(pod.directory, ignore_errors=True)
        for path in pod.cgroups:
            remove_cgroups(path)


def hierarchies() -> list[Path]:
    """Where cgroups are made: the unified tree, or every controller's own except cpuset, which needs values first."""
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2" or (kind == "cgroup" and "cpuset" not in options.split(",")):
            found.append(Path(where))
    return found


def remove_cgroups(path: Path) -> None:
    if path.is_dir():
        for directory, _, _ in os.walk(path, topdown=False):
            try:
                os.rmdir(directory)
            except OSError:  # a process is still in it; the sweep at the end comes back
                return


def sweep_cgroups() -> None:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            remove_cgroups(Path(where) / CGROUP)
