"""Pods' namespaces, mounts, files and pause processes."""

# ruff: noqa: ASYNC240

from __future__ import annotations

import os
import signal
import stat
import subprocess
from pathlib import Path

import pytest
import trio

from ocid.adapters import mounts, process as processes
from ocid.adapters.sandbox import PodSandboxes
from ocid.domain.configs import DnsConfig
from ocid.errors import InvalidRequest
from ocid.ports import SandboxOrder
from tests.host.nodes import SLOW
from tests.host.support import World, container_order, log_lines, oci_spec, sandbox_order


def inside(order: SandboxOrder, *command: str) -> str:
    """Run a command of the host in the pod's namespaces."""
    pins = f"{order.run_dir}/ns"
    words = ["nsenter", f"--net={order.netns}", f"--uts={pins}/uts", f"--ipc={pins}/ipc", *command]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def handler() -> str:
    return "runc"


async def test_a_pod_has_namespaces_files_and_memory_of_its_own(world: World, sandboxes: PodSandboxes) -> None:
    dns = DnsConfig(servers=("10.96.0.10",), searches=("svc.cluster.local",), options=("ndots:5",))
    order = sandbox_order(world, dns=dns, shm_bytes=8 << 20)
    assert not sandboxes.present(order)
    await sandboxes.prepare(order)

    assert sandboxes.present(order)
    run_dir = Path(order.run_dir)
    for kind, pin in (("net", order.netns), ("uts", f"{run_dir}/ns/uts"), ("ipc", f"{run_dir}/ns/ipc")):
        assert os.stat(pin).st_ino != os.stat(f"/proc/self/ns/{kind}").st_ino
    assert inside(order, "hostname") == "web-0"
    assert "UP,LOWER_UP" in inside(order, "ip", "link", "show", "lo")
    assert (run_dir / "resolv.conf").read_text() == (
        "nameserver 10.96.0.10\nsearch svc.cluster.local\noptions ndots:5\n"
    )
    assert (run_dir / "hostname").read_text() == "web-0\n"
    assert stat.S_IMODE((run_dir / "shm").stat().st_mode) == 0o1777
    shm = next(entry for entry in mounts.mountinfo() if entry.target == str(run_dir / "shm"))
    assert {"nosuid", "nodev", "noexec"} <= set(shm.options.split(","))
    assert os.statvfs(run_dir / "shm").f_frsize * os.statvfs(run_dir / "shm").f_blocks == 8 << 20
    assert os.path.isdir(order.log_directory)
    assert all(os.path.isdir(directory) for directory in world.cgroups.directories(order.cgroup_parent))

    namespaces = {kind: os.stat(run_dir / "ns" / kind).st_ino for kind in ("net", "uts", "ipc")}
    await sandboxes.prepare(order)
    assert namespaces == {kind: os.stat(run_dir / "ns" / kind).st_ino for kind in ("net", "uts", "ipc")}

    await sandboxes.release(order)
    await sandboxes.release(order)
    assert not sandboxes.present(order)
    assert not run_dir.exists()
    assert not any(os.path.exists(directory) for directory in world.cgroups.directories(order.cgroup_parent))


async def test_half_made_pins_are_made_anew(world: World, sandboxes: PodSandboxes) -> None:
    order = sandbox_order(world)
    await sandboxes.prepare(order)
    before = os.stat(f"{order.run_dir}/ns/ipc").st_ino
    mounts.unmount(order.netns)
    assert not sandboxes.present(order)
    await sandboxes.prepare(order)

    assert sandboxes.present(order)
    assert os.stat(f"{order.run_dir}/ns/ipc").st_ino != before
    assert len([t for t in mounts.targets_below(order.run_dir) if t.endswith("/ipc")]) == 1
    await sandboxes.release(order)


async def test_a_pod_of_the_hosts_network_keeps_its_name_too(world: World, sandboxes: PodSandboxes) -> None:
    order = sandbox_order(world, netns="", hostname="", host_ipc=True)
    await sandboxes.prepare(order)

    assert mounts.targets_below(order.run_dir) == []
    assert sandboxes.present(order)
    assert (Path(order.run_dir) / "resolv.conf").read_text() == Path("/etc/resolv.conf").read_text()
    await sandboxes.release(order)


async def test_sysctls_are_written_in_the_pods_namespaces_only(world: World, sandboxes: PodSandboxes) -> None:
    before = Path("/proc/sys/kernel/shm_rmid_forced").read_text()
    sysctls = {"net.ipv4.ip_unprivileged_port_start": "81", "kernel.shm_rmid_forced": "1", "net/core/somaxconn": "77"}
    order = sandbox_order(world, sysctls=sysctls)
    await sandboxes.prepare(order)
    assert inside(order, "cat", "/proc/sys/kernel/shm_rmid_forced") == "1"
    assert inside(order, "cat", "/proc/sys/net/core/somaxconn") != "77", "the network's wait for the network"
    await sandboxes.tune(order)
    await sandboxes.tune(order)

    assert inside(order, "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start") == "81"
    assert inside(order, "cat", "/proc/sys/net/core/somaxconn") == "77"
    assert inside(order, "cat", "/proc/sys/kernel/shm_rmid_forced") == "1"
    assert Path("/proc/sys/kernel/shm_rmid_forced").read_text() == before
    await sandboxes.release(order)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("vm.swappiness", {}),
        ("kernel.hostname", {}),
        ("net", {}),
        ("net.../../kernel/shmmax", {}),
        ("net.ipv4.ip_forward", {"netns": ""}),
        ("kernel.shmmax", {"host_ipc": True}),
        ("kernel.domainname", {"netns": "", "hostname": ""}),
        ("kernel.shm", {}),
    ],
)
async def test_a_sysctl_of_the_host_is_refused(
    world: World, sandboxes: PodSandboxes, name: str, fields: dict[str, object]
) -> None:
    order = sandbox_order(world, sysctls={name: "1"}, **fields)
    with pytest.raises(InvalidRequest, match="sysctl"):
        await sandboxes.prepare(order)

    assert not os.path.exists(order.run_dir)


async def test_a_sysctl_that_the_kernel_refuses_fails_with_its_name(world: World, sandboxes: PodSandboxes) -> None:
    order = sandbox_order(world, sysctls={"net.ipv4.no_such_thing": "1"})
    await sandboxes.prepare(order)
    with pytest.raises(InvalidRequest, match=r"sysctl 'net.ipv4.no_such_thing' = '1': No such file"):
        await sandboxes.tune(order)
    await sandboxes.release(order)

    order = sandbox_order(world, sysctls={"kernel.shmmni": "many"})
    with pytest.raises(InvalidRequest, match=r"sysctl 'kernel.shmmni' = 'many': Invalid argument"):
        await sandboxes.prepare(order)
    assert not sandboxes.present(order)
    await sandboxes.release(order)


@pytest.mark.parametrize(
    ("path", "why"), [("/dev/null", "File exists"), ("/dev/null/x", "Not a directory"), (f"/{'x' * 300}", "too long")]
)
async def test_a_log_directory_that_cannot_be_one(world: World, sandboxes: PodSandboxes, path: str, why: str) -> None:
    order = sandbox_order(world, log_directory=path)
    with pytest.raises(InvalidRequest, match=f"log directory .* cannot be made: .*{why}"):
        await sandboxes.prepare(order)
    await sandboxes.release(order)


async def test_containers_of_a_pod_share_its_namespaces(world: World, sandboxes: PodSandboxes) -> None:
    pod = sandbox_order(world)
    await sandboxes.prepare(pod)
    order = container_order(world)
    pins = f"{pod.run_dir}/ns"
    namespaces = [
        {"type": "mount"},
        {"type": "pid"},
        {"type": "network", "path": pod.netns},
        {"type": "uts", "path": f"{pins}/uts"},
        {"type": "ipc", "path": f"{pins}/ipc"},
    ]
    spec = oci_spec(world, order, "/bin/sh", "-c", "hostname; ls -L -i /proc/self/ns/net", namespaces=namespaces)
    await world.runtime.write_bundle(order, spec)
    init = await world.runtime.create(order)
    await world.runtime.start(order)
    await world.runtime.wait(order, init)

    words = [content for _, _, content in log_lines(order)]
    assert words[0] == "web-0"
    assert int(words[1].split()[0]) == os.stat(pod.netns).st_ino
    await world.runtime.delete(order)
    await sandboxes.release(pod)


class TestPause:
    @pytest.fixture(params=["runc", "crun"])
    def handler(self, request: pytest.FixtureRequest, crun_refusal: str) -> str:
        if request.param == "crun" and crun_refusal:
            pytest.skip(f"crun cannot run here: {crun_refusal}")
        return str(request.param)

    async def test_a_pause_process_holds_the_pid_namespace_until_release(
        self, world: World, sandboxes: PodSandboxes
    ) -> None:
        pod = sandbox_order(world, shared_pid=True)
        await sandboxes.prepare(pod)
        pause = await sandboxes.start_pause(pod)

        assert processes.name_of(pause.pid) == "catatonit"
        assert await sandboxes.start_pause(pod) == pause
        for kind in ("net", "uts", "ipc"):
            assert os.stat(f"/proc/{pause.pid}/ns/{kind}").st_ino == os.stat(f"{pod.run_dir}/ns/{kind}").st_ino
        assert await world.runtime.container_ids() == frozenset()

        order = container_order(world)
        namespaces = [{"type": "mount"}, {"type": "pid", "path": f"/proc/{pause.pid}/ns/pid"}]
        spec = oci_spec(world, order, "/bin/sh", "-c", "/bin/sleep 0.05 & exec cat /proc/1/comm", namespaces=namespaces)
        await world.runtime.write_bundle(order, spec)
        init = await world.runtime.create(order)
        await world.runtime.start(order)
        await world.runtime.wait(order, init)
        assert log_lines(order)[0][2] == "catatonit"
        await world.runtime.delete(order)

        with trio.fail_after(1 * SLOW):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sandboxes.wait_pause, pause)
                await sandboxes.release(pod)
        assert not processes.alive(pause)
        await sandboxes.release(pod)

    async def test_a_pause_process_that_died_is_noticed_and_replaced(
        self, world: World, sandboxes: PodSandboxes
    ) -> None:
        pod = sandbox_order(world, shared_pid=True)
        await sandboxes.prepare(pod)
        pause = await sandboxes.start_pause(pod)
        processes.send(pause, signal.SIGKILL)
        with trio.fail_after(1 * SLOW):
            await sandboxes.wait_pause(pause)
        await sandboxes.wait_pause(pause)
        again = await sandboxes.start_pause(pod)

        assert again != pause
        assert processes.alive(again)
        await sandboxes.release(pod)


async def test_release_unmounts_whatever_is_below_and_never_deletes_through_it(
    world: World, sandboxes: PodSandboxes, tmp_path: Path
) -> None:
    order = sandbox_order(world)
    await sandboxes.prepare(order)
    (tmp_path / "precious").write_text("kept")
    extra = Path(order.run_dir, "extra/deep")
    extra.mkdir(parents=True)
    mounts.bind(str(tmp_path), str(extra))
    mounts.bind(str(tmp_path), str(extra))
    await sandboxes.release(order)

    assert not os.path.exists(order.run_dir)
    assert (tmp_path / "precious").read_text() == "kept"
