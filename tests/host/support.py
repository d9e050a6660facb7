"""What the host tests share: root file systems of busybox, plain OCI specifications, and orders."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ocid.adapters.cgroups import Cgroups
from ocid.adapters.runc import OciRuntime
from ocid.ids import ContainerId, ExecId, PodId
from ocid.ports import ContainerOrder, ExecProcess, SandboxOrder

APPLETS = (
    "sh sleep true false echo cat head yes dd kill mkdir touch ls id hostname sysctl ip stat mount tr seq wc env "
    "stty tty nc"
)
_numbers = itertools.count(os.getpid() << 16)


class World(msgspec.Struct, frozen=True, kw_only=True):
    """One daemon's directories and names, and the handler under test."""

    run: Path
    logs: Path
    rootfs: Path
    cgroup_parent: str
    cgroups: Cgroups
    runtime: OciRuntime
    handler: str


def build_rootfs(directory: Path) -> Path:
    """A root file system of static busybox."""
    for name in ("bin", "proc", "sys", "dev", "tmp", "etc"):
        (directory / name).mkdir(parents=True)
    shutil.copy("/usr/bin/busybox", directory / "bin/busybox")
    for applet in APPLETS.split():
        (directory / "bin" / applet).symlink_to("busybox")
    for name, content, mode in (
        ("garbage", b"\x00\x01 no program", 0o755),
        ("orphan", b"#!/no/such/interpreter\n", 0o755),
        ("closed", b"#!/bin/sh\n", 0o644),
    ):
        (directory / "bin" / name).write_bytes(content)
        (directory / "bin" / name).chmod(mode)
    return directory


def oci_spec(world: World, order: ContainerOrder, *args: str, memory: int = 0, **linux: Any) -> dict[str, Any]:
    """A plain specification: new mount, PID, IPC and UTS namespaces, the host's network."""
    resources: dict[str, Any] = {"devices": [{"allow": True, "access": "rwm"}]}
    if memory:
        resources["memory"] = {"limit": memory, "swap": memory}
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(world.rootfs), "readonly": True},
        "process": process_spec(*args),
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["newinstance", "ptmxmode=0666"],
            },
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
        ],
        "linux": {
            "cgroupsPath": order.cgroup,
            "resources": resources,
            "namespaces": [{"type": kind} for kind in ("mount", "pid", "ipc", "uts")],
            **linux,
        },
    }


def process_spec(*args: str) -> dict[str, Any]:
    """A process object with no capabilities."""
    return {
        "terminal": False,
        "user": {"uid": 0, "gid": 0},
        "args": list(args),
        "env": ["PATH=/bin"],
        "cwd": "/",
        "capabilities": {},
    }


def exec_process(*args: str, limit: int = 16 << 20) -> ExecProcess:
    return ExecProcess(spec=process_spec(*args), output_bytes_max=limit)


def container_order(world: World, **fields: Any) -> ContainerOrder:
    container_id = ContainerId(f"{next(_numbers):064x}")
    return ContainerOrder(
        container_id=container_id,
        pod_id=PodId("f" * 64),
        handler=world.handler,
        bundle=f"{world.run}/containers/{container_id}",
        writable="",
        cgroup=f"{world.cgroup_parent}/ocid-{container_id}",
        log_path=f"{world.logs}/{container_id[-8:]}/0.log",
        **fields,
    )


def exec_id() -> ExecId:
    return ExecId(f"{next(_numbers):032x}")


def sandbox_order(world: World, **fields: Any) -> SandboxOrder:
    pod_id = PodId(f"{next(_numbers):064x}")
    run_dir = f"{world.run}/pods/{pod_id}"
    defaults: Mapping[str, Any] = {
        "pod_id": pod_id,
        "run_dir": run_dir,
        "netns": f"{run_dir}/ns/net",
        "hostname": "web-0",
        "dns": None,
        "log_directory": f"{world.logs}/{pod_id}",
        "cgroup_parent": world.cgroup_parent,
        "host_ipc": False,
        "shared_pid": False,
        "handler": world.handler,
        "sysctls": {},
    }
    return SandboxOrder(**{**defaults, **fields})


def log_lines(order: ContainerOrder) -> list[tuple[str, str, str]]:
    """The (stream, tag, content) of a CRI log's lines."""
    lines = Path(order.log_path).read_text().splitlines()
    return [(stream, tag, content) for _, stream, tag, content in (line.split(" ", 3) for line in lines)]
