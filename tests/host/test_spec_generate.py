"""runc and crun as the judges of ``ocid spec generate``: what it makes runs as it is, and is what was asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

BUSYBOX = Path("/bin/busybox")
OCID = Path(sys.executable).with_name("ocid")

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not BUSYBOX.exists(), reason="needs busybox-static"),
]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle directory with a busybox root file system."""
    rootfs = tmp_path / "rootfs"
    for folder in ("bin", "etc", "dev", "proc", "sys", "tmp", "srv"):
        (rootfs / folder).mkdir(parents=True)
    shutil.copy(BUSYBOX, rootfs / "bin" / "busybox")
    for name in ("sh", "id", "cat", "mount", "grep", "ls", "touch", "hostname", "readlink", "true"):
        (rootfs / "bin" / name).symlink_to("busybox")
    (rootfs / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n")
    (rootfs / "etc" / "group").write_text("root:x:0:\nlogs:x:44:app\n")
    return tmp_path


@pytest.fixture(params=["runc", "crun"])
def run(request: pytest.FixtureRequest, bundle: Path) -> Run:
    """Return what generates a spec from options, validates it, and runs it, with runc or crun, to its end."""
    program = shutil.which(request.param)
    if program is None:
        pytest.skip(f"needs {request.param}")

    def generate_and_run(*options: str, script: str = "", template: str = "") -> subprocess.CompletedProcess[str]:
        name = f"ocid-test-{uuid.uuid4().hex}"
        words = [*options, *(("--template", template) if template else ())]
        if not template:
            words += ["--cgroups-path", f"/{name}"]
        command = ["--", "sh", "-c", script] if script else []
        subprocess.run(
            [OCID, "spec", "generate", "-o", "config.json", *words, *command], cwd=bundle, check=True, timeout=30
        )
        checked = subprocess.run([OCID, "spec", "validate", bundle], capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stdout) == (0, ""), checked
        oci = [program, "--root", str(bundle / "state")]
        try:
            return subprocess.run(
                [*oci, "run", "--bundle", str(bundle), name], capture_output=True, text=True, timeout=30, check=False
            )
        finally:
            subprocess.run([*oci, "delete", "--force", name], capture_output=True, check=False, timeout=30)

    return generate_and_run


def test_a_bare_spec_runs_in_namespaces_of_its_own(run: Run) -> None:
    done = run(
        "--hostname", "inside", script="hostname; for n in net uts ipc pid mnt; do readlink /proc/self/ns/$n; done"
    )

    assert done.returncode == 0, done.stderr
    name, *inside = done.stdout.split()
    assert name == "inside"
    outside = {os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "uts", "ipc", "pid", "mnt")}
    assert len(inside) == 5
    assert not outside & set(inside)


def test_the_process_is_as_asked_for(run: Run) -> None:
    script = """
        id -u; id -G; pwd; echo $GREETING; cat /proc/self/oom_score_adj; ulimit -n
        grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status; touch /x 2>/dev/null || echo readonly
        cat /proc/sys/net/core/somaxconn
    """
    done = run(
        *("--user", "app", "--group-add", "2000", "--cwd", "/srv", "--env", "GREETING=hi you", "--read-only"),
        *("--oom-score-adj", "300", "--ulimit", "nofile=100:200", "--cap-drop", "all", "--cap-add", "kill"),
        *("--no-new-privileges", "--sysctl", "net.core.somaxconn=77"),
        script=script,
    )

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:6] == ["1000", "1000 44 2000", "/srv", "hi you", "300", "100"], done.stderr
    status = dict(line.split(":\t") for line in lines[6:9])
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert int(status["CapEff"], 16) in (0, 1 << 5)  # an ordinary user's effective set is emptied by some
    assert lines[9:] == ["readonly", "77"]


def test_mounts_and_devices_are_as_asked_for(run: Run, bundle: Path) -> None:
    shared = bundle / "shared"
    shared.mkdir()
    (shared / "word").write_text("here\n")
    script = """
        cat /data/word; touch /data/x 2>/dev/null || echo ro; touch /both/y && echo rw
        grep ' /scratch ' /proc/mounts; ls -l /dev/other; echo x > /dev/other && echo written
        grep -c ' /follows .* master:' /proc/self/mountinfo
    """
    followed = bundle / "followed"
    followed.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "followed", followed], check=True)
    try:
        subprocess.run(["mount", "--make-shared", followed], check=True)
        done = run(
            *("--bind", f"{shared}:/data:ro", "--mount", f"type=bind,src={shared},dst=/both"),
            *("--tmpfs", "/scratch:size=64k,nosuid", "--device", "/dev/null:/dev/other:rw"),
            *("-v", f"{followed}:/follows:rslave"),
            script=script,
        )
    finally:
        subprocess.run(["umount", followed], check=True)

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:3] == ["here", "ro", "rw"]
    assert "tmpfs" in lines[3]
    assert "size=64k" in lines[3]
    assert lines[4].startswith("c")
    assert lines[5:] == ["written", "1"]
    assert (shared / "y").exists()


def test_namespaces_of_the_host_and_of_others(run: Run) -> None:
    holder = subprocess.Popen(["unshare", "--net", "sleep", "60"])
    try:
        while os.readlink(f"/proc/{holder.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            os.sched_yield()
        theirs = os.readlink(f"/proc/{holder.pid}/ns/net")
        done = run(
            *("--network", f"ns:/proc/{holder.pid}/ns/net", "--uts", "host", "--ipc", "host"),
            script="for n in net uts ipc; do readlink /proc/self/ns/$n; done",
        )
    finally:
        holder.kill()
        holder.wait()

    assert done.stdout.split() == [theirs, *(os.readlink(f"/proc/self/ns/{kind}") for kind in ("uts", "ipc"))]


def test_limits_reach_the_cgroup(run: Run) -> None:
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        pytest.skip("reads cgroup v1's files")
    script = """
        cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us
        cat /sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/pids/pids.max
    """
    done = run("-m", "64m", "--cpus", "0.5", "--cpu-shares", "256", "--pids-limit", "50", script=script)

    assert done.stdout.split() == [str(64 << 20), "50000", "256", "50"], done.stderr


def test_privileged_is_unconfined(run: Run) -> None:
    script = "grep Seccomp: /proc/self/status; mount -t tmpfs t /tmp && echo mounted; ls /dev/full"
    done = run("--privileged", script=script)

    assert done.stdout.splitlines() == ["Seccomp:\t0", "mounted", "/dev/full"], done.stderr


def test_seccomp_of_a_file(run: Run, bundle: Path) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}],
    }
    (bundle / "profile.json").write_text(json.dumps(profile))
    (bundle / "rootfs/bin/mkdir").symlink_to("busybox")
    done = run("--seccomp", str(bundle / "profile.json"), script="mkdir /tmp/x; true")

    assert "Function not implemented" in done.stderr


def test_hooks_run(run: Run, bundle: Path) -> None:
    hook = bundle / "hook"
    hook.write_text(f'#!/bin/sh\necho "$1" > {bundle}/ran\n')
    hook.chmod(0o755)
    done = run("--hooks-prestart", f"{hook}:word", script="true")

    assert done.returncode == 0, done.stderr
    assert (bundle / "ran").read_text() == "word\n"


@pytest.mark.parametrize("maker", ["runc", "crun"])
def test_a_template_of_theirs_is_changed_only_where_asked(run: Run, bundle: Path, maker: str) -> None:
    if shutil.which(maker) is None:
        pytest.skip(f"needs {maker}")
    subprocess.run([maker, "spec"], cwd=bundle, check=True, timeout=30)
    before = json.loads((bundle / "config.json").read_text())
    (bundle / "config.json").rename(bundle / "template.json")
    # Their templates' limits and terminals are theirs; only arguments, terminal and one variable are ours.
    changed = json.loads(json.dumps(before))
    changed["process"]["terminal"] = False
    (bundle / "template.json").write_text(json.dumps(changed))

    done = run("--env", "WORD=ours", "--args", "sh", "--args=-c", "--args=echo $WORD", template="template.json")

    assert done.stdout == "ours\n", done.stderr
    after = json.loads((bundle / "config.json").read_text())
    assert after["process"].pop("args") == ["sh", "-c", "echo $WORD"]
    changed["process"].pop("args")
    assert after["process"].pop("env") == [*changed["process"].pop("env"), "WORD=ours"]
    assert after == changed
