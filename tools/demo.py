"""The demonstration that tools/run gives: a daemon of its own, one pod from pull to removal, and the log's account.

Everything lives in three places that are the demonstration's alone: STATE, RUN and the bridge BRIDGE.
"""

import argparse
import asyncio
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from demo_registry import Registry
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.cri.stubs import api_grpc, api_pb2 as api

STATE, RUN, BRIDGE = Path("/var/lib/ocid-demo"), Path("/run/ocid-demo"), "ociddemo0"
CGROUP = "/ocid-demo"
SOCKET, CONFIG, LOG, PODS = RUN / "ocid.sock", RUN / "ocid.toml", RUN / "daemon.log", RUN / "pods"
BIN = Path(sys.executable).parent
CALL_S, START_S, STOP_S = 60, 30, 20

CONFIG_TEXT = """\
root = "{state}"
run = "{run}/run"
socket = "{socket}"

[cgroup]
parent = "{cgroup}"

[network]
bridge = "{bridge}"
subnets = ["10.85.240.0/24", "fd00:85:240::/64"]
cni_conf_dir = "{run}/cni"

[registries."{registry}"]
mirrors = ["http://{registry}"]
"""

SCRIPT = """\
trap 'echo "asked to stop: goodbye"; exit 0' TERM
echo "hello from pod $(hostname), as process $$ of its own PID namespace"
ip -o addr show dev eth0 | sed 's/^[^ ]* *//; s/ *\\\\.*//'
cat /etc/motd
echo "this line goes to stderr" >&2
sleep 1000 & wait
"""


class DemoError(Exception):
    """The demonstration cannot go on, for a reason that is said."""


# --- The story ---


async def show() -> None:
    port = 0
    running = daemon_pid() is not None
    if running:
        [address] = tomllib.loads(CONFIG.read_text())["registries"]
        port = int(address.rpartition(":")[2])
    with Registry(port) as registry:
        if running:
            title(f"A demonstration daemon runs already on {SOCKET}: using it")
        else:
            title("Starting the daemon")
            await start(registry.address)
        async with Client() as client:
            version = await ready(client)
            note(
                f"{version.runtime_name} {version.runtime_version} serves CRI {version.runtime_api_version} on {SOCKET}"
            )
            await one_pod(client, registry.reference)


async def ready(client: "Client") -> api.VersionResponse:
    """Wait until the daemon has compared its log with the host, which it does before it takes work."""
    began = time.monotonic()
    while True:
        try:
            await client.runtime.Status(api.StatusRequest(), timeout=CALL_S)
            return await client.runtime.Version(api.VersionRequest(version="v1"), timeout=CALL_S)
        except GRPCError as error:
            if error.status is not Status.UNAVAILABLE or time.monotonic() - began > START_S:
                raise
        await asyncio.sleep(0.02)


async def one_pod(client: "Client", reference: str) -> None:
    title(f"Pulling {reference}, made from this machine's busybox")
    with timed("PullImage"):
        pull = api.PullImageRequest(image=api.ImageSpec(image=reference))
        image = (await client.images.PullImage(pull, timeout=CALL_S)).image_ref
    ocid("images")

    title("Running a pod with one container")
    name = f"demo-{os.getpid()}"
    directory = PODS / name
    (directory / "hello").mkdir(parents=True)
    pod_config, container_config = configs(name, directory, reference, image)
    with timed("RunPodSandbox"):
        run = api.RunPodSandboxRequest(config=pod_config)
        pod = (await client.runtime.RunPodSandbox(run, timeout=CALL_S)).pod_sandbox_id
    try:
        with timed("CreateContainer"):
            create = api.CreateContainerRequest(pod_sandbox_id=pod, config=container_config, sandbox_config=pod_config)
            container = (await client.runtime.CreateContainer(create, timeout=CALL_S)).container_id
        with timed("StartContainer"):
            await client.runtime.StartContainer(api.StartContainerRequest(container_id=container), timeout=CALL_S)
        with timed("ExecSync"):
            request = api.ExecSyncRequest(container_id=container, cmd=["uname", "-sr"], timeout=10)
            answer = await client.runtime.ExecSync(request, timeout=CALL_S)
        note(f"exec `uname -sr` in the container says: {answer.stdout.decode().strip()}")
        await wait_for_log(directory / "hello" / "0.log", b"stderr F")
        title("ocid ps")
        ocid("ps")

        title("Stopping and removing it")
        with timed("StopContainer"):
            stop = api.StopContainerRequest(container_id=container, timeout=10)
            await client.runtime.StopContainer(stop, timeout=CALL_S)
        status = api.ContainerStatusRequest(container_id=container)
        ended = (await client.runtime.ContainerStatus(status, timeout=CALL_S)).status
        note(f"the container ended with exit code {ended.exit_code}, reason {ended.reason}")
        await client.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=container), timeout=CALL_S)
    finally:
        with timed("StopPodSandbox and RemovePodSandbox"):
            await client.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=pod), timeout=CALL_S)
            await client.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=pod), timeout=CALL_S)

    title("The container's log, as kubectl logs reads it")
    print((directory / "hello" / "0.log").read_text(), end="")

    title("The pod is gone; its story stays (ocid-replay explain)")
    command(BIN / "ocid-replay", "explain", pod, "--log", str(STATE / "log"))

    title("And the log can be checked (ocid-replay verify)")
    command(BIN / "ocid-replay", "verify", "--log", str(STATE / "log"))


def configs(name: str, directory: Path, reference: str, image: str) -> tuple[api.PodSandboxConfig, api.ContainerConfig]:
    uid = f"{name}-{time.time_ns()}"
    owner = {"io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": "default", "io.kubernetes.pod.uid": uid}
    alone = api.NamespaceOption(pid=api.CONTAINER)
    pod = api.PodSandboxConfig(
        metadata=api.PodSandboxMetadata(name=name, namespace="default", uid=uid),
        hostname=name,
        log_directory=str(directory),
        labels=owner,
        linux=api.LinuxPodSandboxConfig(
            cgroup_parent=f"{CGROUP}/{uid}",
            security_context=api.LinuxSandboxSecurityContext(namespace_options=alone),
        ),
    )
    container = api.ContainerConfig(
        metadata=api.ContainerMetadata(name="hello"),
        image=api.ImageSpec(image=image, user_specified_image=reference),
        command=["/bin/sh", "-c", SCRIPT],
        labels={"io.kubernetes.container.name": "hello", **owner},
        log_path="hello/0.log",
        linux=api.LinuxContainerConfig(
            security_context=api.LinuxContainerSecurityContext(
                namespace_options=alone,
                seccomp=api.SecurityProfile(profile_type=api.SecurityProfile.RuntimeDefault),
            )
        ),
    )
    return pod, container


async def wait_for_log(path: Path, wanted: bytes) -> None:
    for _ in range(500):
        if wanted in content(path):
            return
        await asyncio.sleep(0.01)
    raise DemoError(f"the container's log {path} did not fill within 5 s")


def content(path: Path) -> bytes:
    with suppress(FileNotFoundError):
        return path.read_bytes()
    return b""


def how_to_use(kept: bool) -> None:
    endpoint = f"unix://{SOCKET if kept else '/run/ocid/ocid.sock'}"
    title("To use ocid")
    print(f"""\
the daemon  sudo {BIN / "ocid"} serve     configured by /etc/ocid/ocid.toml; `ocid config` shows what is in force
kubelet     containerRuntimeEndpoint: {endpoint}     in its configuration file
crictl      crictl --runtime-endpoint {endpoint} --image-endpoint {endpoint} ps""")
    if kept:
        print(f"The demonstration daemon still runs; its messages are in {LOG}. Stop it with: sudo tools/run --stop")
        print(f"Try: sudo {BIN / 'ocid'} events --config {CONFIG}")


# --- The daemon ---


async def start(registry: str) -> None:
    remove_remains()
    for directory in (STATE, RUN, RUN / "cni", PODS):
        directory.mkdir(mode=0o700, parents=True)
    CONFIG.write_text(
        CONFIG_TEXT.format(state=STATE, run=RUN, socket=SOCKET, cgroup=CGROUP, bridge=BRIDGE, registry=registry)
    )
    daemon = launch()
    began = time.monotonic()
    while daemon_pid() is None:
        if daemon.poll() is not None:
            raise DemoError(f"the daemon ended with {daemon.returncode}")
        if time.monotonic() - began > START_S:
            raise DemoError(f"the daemon did not serve {SOCKET} within {START_S} s")
        await asyncio.sleep(0.02)
    note(f"it serves after {time.monotonic() - began:.1f} s; its messages are in {LOG}")


def launch() -> "subprocess.Popen[bytes]":
    """The daemon in a session of its own, so that ^C reaches the demonstration alone."""
    command = [str(BIN / "ocid"), "serve", "--config", str(CONFIG)]
    with LOG.open("wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def daemon_pid() -> int | None:
    """Who listens on the socket; nobody is None."""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(SOCKET))
            return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])
    except OSError:
        return None


async def stop() -> None:
    """Remove the pods that are left, then end the daemon and take away all that it had."""
    pid = daemon_pid()
    if pid is not None:
        with suppress(GRPCError, OSError, TimeoutError):
            async with Client() as client:
                pods = await client.runtime.ListPodSandbox(api.ListPodSandboxRequest(), timeout=CALL_S)
                for pod in pods.items:
                    request = api.StopPodSandboxRequest(pod_sandbox_id=pod.id)
                    await client.runtime.StopPodSandbox(request, timeout=CALL_S)
                    remove = api.RemovePodSandboxRequest(pod_sandbox_id=pod.id)
                    await client.runtime.RemovePodSandbox(remove, timeout=CALL_S)
        end(pid)
    remove_remains()


def end(pid: int) -> None:
    """SIGTERM, and SIGKILL to what does not heed it."""
    with suppress(ProcessLookupError):
        for sig in (signal.SIGTERM, signal.SIGKILL):
            os.kill(pid, sig)
            for _ in range(STOP_S * 50):
                if not alive(pid):
                    return
                time.sleep(0.02)
            note(f"process {pid} did not end within {STOP_S} s of {sig.name}")


def alive(pid: int) -> bool:
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def remove_remains() -> None:
    """Whatever a daemon leaves that was killed: monitors, mounts, files, bridge, firewall table, cgroups."""
    for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[0].endswith((b"conmon", b"catatonit")) and any(w.startswith(f"{RUN}/".encode()) for w in words):
                end(pid)
    for mounted in mounts_below(RUN, STATE):
        subprocess.run(["umount", "-l", mounted], check=False)
    if left := mounts_below(RUN, STATE):
        raise DemoError(f"still mounted, so nothing is removed: {', '.join(left)}")
    for directory in (RUN, STATE):
        shutil.rmtree(directory, ignore_errors=True)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}
    subprocess.run(["ip", "link", "delete", BRIDGE], **quiet)  # type: ignore[call-overload]
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
    for line in tables.splitlines():
        _, family, table = line.split()
        if table.startswith("ocid") and table.endswith(BRIDGE):
            subprocess.run(["nft", "delete", "table", family, table], **quiet)  # type: ignore[call-overload]
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            for path, _, _ in os.walk(where + CGROUP, topdown=False):
                with suppress(OSError):
                    os.rmdir(path)


def mounts_below(*roots: Path) -> list[str]:
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    below = [path for path in mounted if any(Path(path).is_relative_to(root) for root in roots)]
    return sorted(below, reverse=True)


# --- Small things ---


class Client:
    async def __aenter__(self) -> "Client":
        self._channel = Channel(path=str(SOCKET))
        self.runtime = api_grpc.RuntimeServiceStub(self._channel)
        self.images = api_grpc.ImageServiceStub(self._channel)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._channel.close()


def title(text: str) -> None:
    print(f"\n\033[1m=== {text}\033[0m" if sys.stdout.isatty() else f"\n=== {text}", flush=True)


def note(text: str) -> None:
    print(text, flush=True)


@contextmanager
def timed(what: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    note(f"{what:36}{(time.perf_counter() - began) * 1e3:8.1f} ms")


def ocid(*words: str) -> None:
    command(BIN / "ocid", *words, "--config", str(CONFIG))


def command(*words: str | Path) -> None:
    if subprocess.run(words, check=False).returncode:
        raise DemoError(f"failed: {' '.join(map(str, words))}")


async def main(keep: bool) -> int:
    task = asyncio.current_task()
    assert task is not None
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(sig, task.cancel)
    was_there = daemon_pid() is not None
    rc = 0
    try:
        await show()
        how_to_use(keep or was_there)
    except (DemoError, GRPCError, OSError, TimeoutError) as error:
        print(f"\nThe demonstration failed: {error}", file=sys.stderr)
        last = content(LOG).decode(errors="replace").splitlines()[-30:]
        print(f"The daemon's last messages ({LOG}):", *last, sep="\n  ", file=sys.stderr)
        rc = 1
    except asyncio.CancelledError:
        print("\nInterrupted.", file=sys.stderr)
        rc = 130
    if was_there or (keep and rc == 0):
        return rc
    title("Cleaning up")
    await stop()
    note("The daemon is stopped, and nothing of the demonstration is left.")
    return rc


if __name__ == "__main__":
    parser = argparse.ArgumentParser("tools/run", description="Shows ocid at work, then cleans up.")
    parser.add_argument("--keep", action="store_true", help="leave the daemon running")
    parser.add_argument("--stop", action="store_true", help="stop a daemon that was kept, and clean up")
    args = parser.parse_args()
    if args.stop:
        asyncio.run(stop())
        note("The demonstration daemon is stopped, and nothing of it is left.")
    else:
        sys.exit(asyncio.run(main(args.keep)))
