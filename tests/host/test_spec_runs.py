"""runc as the judge of our specs: what a container is told to be, it finds itself to be.

Root, runc and a static busybox. Each container has its own runc root and cgroup, and is gone when the test ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ocid.domain import configs as c
from ocid.domain.image_config import ImageConfig
from ocid.domain.spec.build import (
    DeviceNode,
    HostFacts,
    NamespacePaths,
    PauseInputs,
    PodPaths,
    ResolvedMount,
    Rlimit,
    SpecInputs,
    SpecPolicy,
    build_container_spec,
    build_pause_spec,
)
from ocid.domain.spec.capabilities import ALL_CAPABILITIES

BUSYBOX = Path("/bin/busybox")
NODE = c.NamespaceMode.NODE

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("runc") is None, reason="needs runc"),
    pytest.mark.skipif(not BUSYBOX.exists(), reason="needs busybox-static"),
]


def _facts() -> HostFacts:
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    bounding = int(status["CapBnd"], 16)
    held = tuple(name for number, name in enumerate(ALL_CAPABILITIES) if bounding >> number & 1)
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    return HostFacts(
        capabilities=held,
        can_lower_oom_score_adj="CAP_SYS_RESOURCE" in held,
        oom_score_adj=int(Path("/proc/self/oom_score_adj").read_text()),
        cgroup_version=2 if unified else 1,
        cgroup_controllers=("cpu", "memory", "pids"),
        swap_accounting=unified or Path("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists(),
        kernel=(6, 1),
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle directory with a busybox root file system."""
    return _furnished(tmp_path)


def _furnished(directory: Path) -> Path:
    rootfs = directory / "rootfs"
    for folder in ("bin", "etc", "dev", "proc", "sys", "tmp", "data", "srv"):
        (rootfs / folder).mkdir(parents=True)
    shutil.copy(BUSYBOX, rootfs / "bin" / "busybox")
    for name in ("sh", "id", "cat", "mount", "umount", "grep", "ls", "touch", "unshare", "hostname", "mkdir", "dmesg"):
        (rootfs / "bin" / name).symlink_to("busybox")
    (rootfs / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n")
    (rootfs / "etc" / "group").write_text("root:x:0:\nlogs:x:44:app\n")
    return directory


@contextlib.contextmanager
def _pinned(directory: Path) -> Iterator[NamespacePaths]:
    """A net, ipc and uts namespace of our own, held by a sleeping process."""
    holder = subprocess.Popen(["unshare", "--net", "--ipc", "--uts", "sleep", "60"])
    try:
        base = f"/proc/{holder.pid}/ns"
        own = os.readlink("/proc/self/ns/uts")
        while os.readlink(f"{base}/uts") == own:  # one unshare(2) makes all three; a dead holder has no links
            os.sched_yield()
        yield NamespacePaths(net=f"{base}/net", ipc=f"{base}/ipc", uts=f"{base}/uts")
    finally:
        holder.kill()
        holder.wait()


def _run(bundle: Path, spec: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """``runc run`` to the end; the container, its cgroup and runc's state are gone afterwards."""
    (bundle / "config.json").write_bytes(msgspec.json.encode(spec))
    name = f"ocid-test-{uuid.uuid4().hex}"
    runc = ["runc", "--root", str(bundle / "runc"), "--log", str(bundle / "log")]
    try:
        return subprocess.run(
            [*runc, "run", "--bundle", str(bundle), name], capture_output=True, text=True, timeout=30, check=False
        )
    finally:
        subprocess.run([*runc, "delete", "--force", name], capture_output=True, check=False, timeout=30)


def _spec(bundle: Path, script: str, namespaces: NamespacePaths, **fields: Any) -> dict[str, Any]:
    security = c.ContainerSecurityContext(**fields.pop("security", {}))
    options = fields.pop("options", c.NamespaceOptions(pid=c.NamespaceMode.CONTAINER))
    mounts: tuple[c.Mount, ...] = fields.pop("mounts", ())
    config = c.ContainerConfig(
        metadata=c.ContainerMetadata(name="main"),
        command=("sh", "-c", script),
        linux=c.LinuxContainerConfig(resources=fields.pop("resources", None), security_context=security),
        mounts=mounts,
    )
    inputs = SpecInputs(
        pod=c.PodConfig(linux=c.LinuxPodConfig(security_context=c.PodSecurityContext(namespace_options=options))),
        container=config,
        image=fields.pop("image", ImageConfig()),
        rootfs=str(bundle / "rootfs"),
        passwd=(bundle / "rootfs/etc/passwd").read_bytes(),
        group=(bundle / "rootfs/etc/group").read_bytes(),
        mounts=tuple(ResolvedMount(mount=one, source=one.host_path) for one in mounts),
        namespaces=namespaces,
        cgroups_path=f"/ocid-test-{uuid.uuid4().hex}",
        host=_facts(),
        **fields,
    )
    return build_container_spec(inputs)


def test_an_ordinary_container_is_what_the_spec_says(bundle: Path) -> None:
    script = """
        id -u; id -g; id -G; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status
        cat /proc/self/oom_score_adj; ulimit -Hn; echo $PATH $GREETING; pwd
        grep -c . /proc/kcore 2>/dev/null || echo kcore masked
        touch /proc/sys/kernel/domainname 2>/dev/null || echo proc sys readonly
        touch /x 2>/dev/null || echo root readonly
        mount -t tmpfs t /tmp 2>&1; unshare -U sh -c : 2>&1; ls /dev
    """
    policy = SpecPolicy(rlimits=(Rlimit(kind="RLIMIT_NOFILE", soft=512, hard=1024),))
    security = {
        "run_as_user": 1000,
        "run_as_group": 3000,
        "supplemental_groups": (2000,),
        "no_new_privs": True,
        "readonly_rootfs": True,
        "seccomp": c.SecurityProfile(),
        "capabilities": c.CapabilityChanges(drop_capabilities=("ALL",), add_capabilities=("KILL",)),
    }
    resources = c.LinuxResources(memory_limit_in_bytes=64 << 20, cpu_shares=128, oom_score_adj=500)
    image = ImageConfig(env=("GREETING=hi",), working_dir="/srv")
    with _pinned(bundle) as paths:
        spec = _spec(bundle, script, paths, policy=policy, security=security, resources=resources, image=image)
        done = _run(bundle, spec)

    assert done.returncode == 0, done.stderr
    out = done.stdout.splitlines()
    assert out[:3] == ["1000", "3000", "3000 44 2000"]
    facts = dict(line.split(":\t") for line in out[3:7])
    assert facts == {"CapEff": "0" * 16, "CapBnd": f"{1 << 5:016x}", "NoNewPrivs": "1", "Seccomp": "2"}
    assert out[7:11] == ["500", "1024", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin hi", "/srv"]
    text = done.stdout
    assert "kcore masked" in text
    assert "proc sys readonly" in text
    assert "root readonly" in text
    assert "mount: permission denied" in text.lower() or "Operation not permitted" in text
    assert "unshare" in text
    assert {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "shm"} - set(out) <= {"shm"}


def test_root_with_default_capabilities_still_cannot_mount_or_unshare(bundle: Path) -> None:
    script = (
        "grep CapEff /proc/self/status; mount -t tmpfs t /tmp && echo BAD; unshare -n sh -c 'echo BAD'; dmesg | head -1"
    )
    with _pinned(bundle) as paths:
        done = _run(bundle, _spec(bundle, script, paths, security={"seccomp": c.SecurityProfile()}))

    assert "00000000a80425fb" in done.stdout, done.stderr
    assert "BAD" not in done.stdout
    assert "Operation not permitted" in done.stderr or "permission denied" in done.stderr


def test_seccomp_lets_sys_admin_unshare(bundle: Path) -> None:
    security = {"seccomp": c.SecurityProfile(), "capabilities": c.CapabilityChanges(add_capabilities=("SYS_ADMIN",))}
    with _pinned(bundle) as paths:
        done = _run(bundle, _spec(bundle, "unshare -u hostname inner && echo done", paths, security=security))

    assert "done" in done.stdout, done.stderr


def test_ambient_capabilities_reach_an_ordinary_user(bundle: Path) -> None:
    changes = c.CapabilityChanges(add_ambient_capabilities=("NET_BIND_SERVICE",))
    with _pinned(bundle) as paths:
        security = {"run_as_username": "app", "capabilities": changes}
        done = _run(bundle, _spec(bundle, "id -u; grep -E 'CapAmb|CapEff' /proc/self/status", paths, security=security))

    assert done.stdout.split() == ["1000", "CapEff:", f"{1 << 10:016x}", "CapAmb:", f"{1 << 10:016x}"], done.stderr


def test_privileged_is_unconfined(bundle: Path) -> None:
    script = """
        grep -E '^(CapEff|Seccomp):' /proc/self/status; mount -t tmpfs t /tmp && echo mounted
        ls -l /dev/our-null | grep -c '^c'; grep -E ' /sys(/fs/cgroup)? ' /proc/mounts | grep -vc '[ ,]ro,'
    """
    node = DeviceNode(path="/dev/our-null", kind="c", major=1, minor=3)
    options = c.NamespaceOptions(network=NODE, ipc=NODE, pid=NODE)
    spec = _spec(bundle, script, NamespacePaths(), security={"privileged": True}, options=options, host_devices=(node,))
    done = _run(bundle, spec)

    bounding = sum(1 << number for number, name in enumerate(ALL_CAPABILITIES) if name in _facts().capabilities)
    assert done.stdout.splitlines()[:4] == [f"CapEff:\t{bounding:016x}", "Seccomp:\t0", "mounted", "1"], done.stderr
    assert int(done.stdout.splitlines()[4]) >= 1


def test_mounts_are_placed_and_as_writable_as_asked(bundle: Path) -> None:
    host = bundle / "host"
    (host / "inner").mkdir(parents=True)
    (host / "word").write_text("here")
    for name in ("resolv.conf", "hostname"):
        (bundle / name).write_text(f"{name} of the pod\n")
    mounts = (
        c.Mount(container_path="/data/inner", host_path=str(host / "inner")),
        c.Mount(container_path="/data", host_path=str(host), readonly=True),
        c.Mount(container_path="/recursive", host_path=str(host), readonly=True, recursive_read_only=True),
        c.Mount(container_path="/follows", host_path="/tmp", propagation=c.MountPropagation.HOST_TO_CONTAINER),
    )
    script = """
        cat /data/word; touch /data/no 2>/dev/null || echo ' ro'; touch /data/inner/yes && echo rw
        cat /etc/resolv.conf /etc/hostname; touch /recursive/no 2>/dev/null || echo rro
        grep -c ' /follows .*master:' /proc/self/mountinfo; grep ' /dev/shm ' /proc/mounts | cut -d' ' -f3
    """.replace("| cut -d' ' -f3", "| grep -o tmpfs | head -1")
    (bundle / "rootfs/bin/head").symlink_to("busybox")
    (bundle / "shm").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "shm", str(bundle / "shm")], check=True)
    try:
        with _pinned(bundle) as paths:
            files = PodPaths(
                shm=str(bundle / "shm"), resolv_conf=str(bundle / "resolv.conf"), hostname=str(bundle / "hostname")
            )
            done = _run(bundle, _spec(bundle, script, paths, mounts=mounts, paths=files))
    finally:
        subprocess.run(["umount", str(bundle / "shm")], check=True)

    lines = done.stdout.splitlines()
    assert lines[:5] == ["here ro", "rw", "resolv.conf of the pod", "hostname of the pod", "rro"], done.stderr
    assert lines[6] == "tmpfs"


def test_the_pause_process_holds_a_pid_namespace(bundle: Path) -> None:
    catatonit = Path("/usr/bin/catatonit")
    if not catatonit.exists():
        pytest.skip("needs catatonit")
    (bundle / "empty").mkdir()
    name = f"ocid-test-{uuid.uuid4().hex}"
    runc = ["runc", "--root", str(bundle / "runc")]
    with _pinned(bundle) as paths:
        spec = build_pause_spec(
            PauseInputs(
                pod=c.PodConfig(),
                rootfs=str(bundle / "empty"),
                binary=str(catatonit),
                namespaces=paths,
                cgroups_path=f"/{name}",
                host=_facts(),
            )
        )
        (bundle / "config.json").write_bytes(msgspec.json.encode(spec))
        try:
            subprocess.run(
                [*runc, "create", "--bundle", str(bundle), name], check=True, timeout=30, stdin=-3, stdout=-3
            )
            subprocess.run([*runc, "start", name], check=True, timeout=30)
            state = json.loads(subprocess.run([*runc, "state", name], check=True, capture_output=True).stdout)
            assert state["status"] == "running"
            status = Path(f"/proc/{state['pid']}/status").read_text()
            assert "Uid:\t65535" in status
            assert "CapEff:\t0000000000000000" in status
            assert "Seccomp:\t2" in status
            assert os.readlink(f"/proc/{state['pid']}/ns/pid") != os.readlink("/proc/self/ns/pid")
            shared = msgspec.structs.replace(paths, pid=f"/proc/{state['pid']}/ns/pid")
            done = _run(bundle, _spec(bundle, "cat /proc/1/comm", shared, options=c.NamespaceOptions()))
            assert done.stdout == "catatonit\n", done.stderr
        finally:
            subprocess.run([*runc, "delete", "--force", name], capture_output=True, check=False, timeout=30)


@pytest.fixture
def open_bundle() -> Iterator[Path]:
    """A bundle where every user can look: pytest's own directories are for root only."""
    with tempfile.TemporaryDirectory(prefix="ocid-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield _furnished(directory)


def test_a_user_namespace_is_joined_with_the_namespaces_it_owns(open_bundle: Path) -> None:
    """Joined, not made: Debian's runc 1.1.5 fails to pass bind sources into one it makes itself on newer kernels."""
    ids = c.IdMapping(host_id=200_000, container_id=0, length=65_536)
    users = c.UserNamespace(uids=(ids,), gids=(ids,))
    options = c.NamespaceOptions(pid=c.NamespaceMode.CONTAINER, userns_options=users)
    mounts = (c.Mount(container_path="/data", host_path="/usr", readonly=True),)
    script = "id -u; cat /proc/self/uid_map; grep -c sysfs /proc/mounts; ls /data"
    holder = subprocess.Popen(["unshare", "--user", "--net", "--ipc", "--uts", "sleep", "60"])
    try:
        base = Path(f"/proc/{holder.pid}")
        while os.readlink(base / "ns/uts") == os.readlink("/proc/self/ns/uts"):
            os.sched_yield()
        for kind in ("uid_map", "gid_map"):
            (base / kind).write_text("0 200000 65536")
        paths = NamespacePaths(**{kind: str(base / "ns" / kind) for kind in ("net", "ipc", "uts", "user")})
        done = _run(
            open_bundle,
            _spec(open_bundle, script, paths, options=options, mounts=mounts),
        )
    finally:
        holder.kill()
        holder.wait()

    assert done.stdout.split()[:4] == ["0", "0", "200000", "65536"], done.stderr
    assert int(done.stdout.split()[4]) >= 1
    assert "bin" in done.stdout.split()
