"""``ocid drift`` beside a real daemon: silent on a quiet node, loud about what was done behind the daemon's back."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ocid.adapters import mounts
from ocid.adapters.cgroups import Cgroups
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.changes import ADDED, CHANGED, DELETED, MOUNT_POINT
from ocid.domain.spec.cgroups import directory_of
from tests.host import daemon as host, nodes
from tests.host.cnifixtures import PLUGINS
from tests.host.daemon import IMAGE, OCID, Daemon, Stage
from tests.host.kubelet import Kubelet, wait_for

pytestmark = [pytest.mark.host, pytest.mark.timeout(120 * nodes.SLOW)]
stage, daemon, kubelet, nothing_leaks = host.stage, host.daemon, host.kubelet, host.nothing_leaks

LOOP = ("sh", "-c", "trap 'exit 3' TERM; while :; do sleep 1000 & wait $!; done")


def drift(one: Daemon, *words: str) -> tuple[int, Any]:
    """Run ``ocid drift -o json`` and return its exit code and what it said."""
    command = [str(OCID), "drift", "-o", "json", "--config", str(one.directory / "ocid.toml"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def differences(one: Daemon) -> list[dict[str, Any]]:
    code, said = drift(one)
    assert isinstance(said, dict), said
    assert code == (8 if said["differences"] else 0)
    return list(said["differences"])


def told(found: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(each["kind"], each["subject"]) for each in found}


@pytest.fixture
def pods(kubelet: Kubelet) -> tuple[str, str]:
    """Two pods with a container each: one with a PID namespace for each container, one that shares its own."""
    apart = kubelet.run_pod(pid=pb.CONTAINER)
    ports = [pb.PortMapping(protocol=pb.TCP, container_port=80, host_port=24_680)]
    shared = kubelet.run_pod(config=kubelet.pod_config(pid=pb.POD, port_mappings=ports))
    return apart, shared


@pytest.fixture
def containers(kubelet: Kubelet, pods: tuple[str, str]) -> tuple[str, str]:
    apart, shared = pods
    security = {"namespace_options": pb.NamespaceOption(pid=pb.POD)}
    return kubelet.start(apart, *LOOP), kubelet.start(shared, *LOOP, security=security)


@contextlib.contextmanager
def made(*commands: list[str], undo: list[list[str]]) -> Iterator[None]:
    try:
        for command in commands:
            subprocess.run(command, check=True, capture_output=True)
        yield
    finally:
        for command in undo:
            subprocess.run(command, check=False, capture_output=True)


def test_a_quiet_node_does_not_differ_from_its_log(
    kubelet: Kubelet, daemon: Daemon, pods: tuple[str, str], containers: tuple[str, str]
) -> None:
    ended = kubelet.start(pods[0], "true", name="ended")
    kubelet.exited(ended)
    created = kubelet.create(pods[1], *LOOP, name="created")
    wait_for(lambda: daemon.view().containers.rows[created].state.created, "it is created")

    assert differences(daemon) == []

    daemon.kill()
    assert differences(daemon) == [], "nor with the daemon dead"


@pytest.mark.parametrize("shared", ["network", "pid", "ipc"])
def test_the_hosts_namespaces_are_no_difference(kubelet: Kubelet, daemon: Daemon, shared: str) -> None:
    pod_id = kubelet.run_pod(config=kubelet.pod_config(**{shared: pb.NODE}))
    options = pb.NamespaceOption(**{"pid": pb.CONTAINER, shared: pb.NODE})
    container_id = kubelet.start(
        pod_id, "sh", "-c", "(sleep 500 &) ; sleep 1000", security={"namespace_options": options}
    )

    assert differences(daemon) == []
    assert kubelet.status(container_id).state == pb.CONTAINER_RUNNING


def test_commands_that_the_daemon_runs_are_no_intruders(
    kubelet: Kubelet, daemon: Daemon, containers: tuple[str, str]
) -> None:
    running = [kubelet.begin("ExecSync", container_id=one, cmd=["sleep", "30"]) for one in containers]
    wait_for(lambda: len(daemon.view().execs.rows) == len(running), "the commands are in the log")
    found = differences(daemon)
    left = kubelet.sh(containers[0], "sleep 400 >/dev/null 2>&1 & echo $!")
    for one in running:
        one.cancel()
    wait_for(lambda: not daemon.view().execs.rows, "the commands are over")

    assert found == []
    assert left
    assert differences(daemon) == [], "what a command left behind is the container's own"


def test_crun_and_plugins_networks_are_understood(stage: Stage, crun_refusal: str, tmp_path: Path) -> None:
    if crun_refusal or Path() == PLUGINS:
        pytest.skip(f"crun: {crun_refusal or 'runs'}; CNI plugins: {PLUGINS}")
    network = {"cni_bin_dirs": [str(PLUGINS)]}
    with stage.daemon({"network": network, "runtime": {"default": "crun"}}, start=False) as one:
        (one.directory / "net.d").mkdir()
        ipam = {"type": "host-local", "dataDir": str(tmp_path), "ranges": [[{"subnet": "10.93.0.0/24"}]]}
        document = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "ptp", "ipam": ipam}]}
        (one.directory / "net.d" / "10-net.conflist").write_text(json.dumps(document))
        one.start()
        with one.client() as cri:
            kubelet = Kubelet(cri, one.directory, one.cgroup_parent)
            kubelet.call("PullImage", image=pb.ImageSpec(image=IMAGE))
            ports = [pb.PortMapping(protocol=pb.TCP, container_port=80, host_port=24_681)]
            pod_id = kubelet.run_pod(config=kubelet.pod_config(pid=pb.POD, port_mappings=ports))
            options = pb.NamespaceOption(pid=pb.POD)
            container_id = kubelet.start(pod_id, *LOOP, security={"namespace_options": options})
            quiet = differences(one)
            crun = ["crun", f"--root={one.run}/runtime/crun"]
            with made([*crun, "pause", container_id], undo=[[*crun, "resume", container_id]]):
                paused = told(differences(one))
            address = f"{kubelet.addresses(pod_id)[0]}/24"
            row = one.view().pods.rows[pod_id].state.declared
            assert row is not None
            inside = ["nsenter", f"--net={row.netns}", "ip", "address"]
            with made([*inside, "delete", address, "dev", "eth0"], undo=[[*inside, "add", address, "dev", "eth0"]]):
                moved = told(differences(one))
            kubelet.remove_everything()

    assert quiet == []
    assert paused == {("freezer", f"container/{container_id}")}
    assert moved == {("addresses", f"pod/{pod_id}")}


def test_pods_come_and_go_without_a_difference(kubelet: Kubelet, daemon: Daemon) -> None:
    command = [str(OCID), "drift", "-o", "jsonl", "--config", str(daemon.directory / "ocid.toml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as looking:
        while looking.poll() is None:
            pod_id = kubelet.run_pod()
            kubelet.start(pod_id, *LOOP)
            kubelet.end_pod(pod_id)
        assert looking.stdout is not None
        said = looking.stdout.read()

    assert (looking.returncode, said) == (0, "")


def test_what_runc_is_told_behind_the_daemons_back_is_named(
    kubelet: Kubelet, daemon: Daemon, containers: tuple[str, str]
) -> None:
    apart, _ = containers
    runc = ["runc", f"--root={daemon.run}/runtime/runc"]
    with made([*runc, "pause", apart], undo=[[*runc, "resume", apart]]):
        assert told(differences(daemon)) == {("freezer", f"container/{apart}")}

    with subprocess.Popen([*runc, "exec", apart, "sleep", "500"]) as entered:
        pid = wait_for(lambda: _sleeper(apart, daemon), "runc exec runs its command")
        found = differences(daemon)
        os.kill(pid, signal.SIGKILL)
        entered.wait()
    assert told(found) == {("intruder", f"container/{apart} pid {pid}")}
    assert found[0]["found"].startswith("sleep, begun by pid ")


def test_a_process_in_the_wrong_place_is_named(kubelet: Kubelet, daemon: Daemon, containers: tuple[str, str]) -> None:
    """One that came in by nsenter, and an init that was moved to another cgroup."""
    apart, shared = containers
    states = [daemon.view().containers.rows[one].state for one in containers]
    inits = [state.created.pid for state in states if state.created is not None]
    cgroup = Cgroups(nodes.DRIVER)
    home = states[1].declared
    assert home is not None
    with subprocess.Popen(["nsenter", "-m", "-t", str(inits[0]), "/bin/sleep", "500"]) as entered:
        name = "" if cgroup.version == 2 else "pids"
        Path(cgroup.hierarchies[name], "cgroup.procs").write_text(str(inits[1]))
        found = differences(daemon)
        Path(cgroup.hierarchies[name] + directory_of(home.cgroup), "cgroup.procs").write_text(str(inits[1]))
        entered.kill()

    by_kind = {each["kind"]: each for each in found}
    assert told(found) == {
        ("intruder", f"container/{apart} pid {entered.pid}"),
        ("membership", f"container/{shared}"),
    }
    assert by_kind["intruder"]["found"] == "sleep, in its mount namespace, but not in its cgroup"
    assert by_kind["membership"]["expected"] == directory_of(home.cgroup)
    assert by_kind["membership"]["found"].startswith("/ of the ")
    assert differences(daemon) == []


def _sleeper(container_id: str, one: Daemon) -> int | None:
    declared = one.view().containers.rows[container_id].state.declared
    assert declared is not None
    for pid in Cgroups(nodes.DRIVER).processes(declared.cgroup):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00500\x00":
                return pid
    return None


def test_a_container_of_nobodys_is_named(daemon: Daemon, kubelet: Kubelet, tmp_path: Path, rootfs: Path) -> None:
    subprocess.run(["runc", "spec"], cwd=tmp_path, check=True)
    spec = json.loads((tmp_path / "config.json").read_text())
    spec["root"] = {"path": str(rootfs), "readonly": True}
    spec["process"] |= {"terminal": False, "args": ["sleep", "500"]}
    cgroup = f"{nodes.hierarchy_path(daemon.cgroup_parent)}/stranger"
    spec["linux"]["cgroupsPath"] = cgroup
    (tmp_path / "config.json").write_text(json.dumps(spec))
    runc = ["runc", f"--root={daemon.run}/runtime/runc"]
    pid_file = tmp_path / "pid"
    run = [*runc, "run", "--detach", "--pid-file", str(pid_file), "--bundle", str(tmp_path), "stranger"]
    with made(undo=[[*runc, "delete", "--force", "stranger"]]):
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(run, check=True, **quiet)  # type: ignore[call-overload]
        found = differences(daemon)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(int(pid_file.read_text()), 0)  # ours, where an earlier test has made this process a subreaper

    assert told(found) == {("runtime state", "stranger"), ("cgroup", cgroup)}
    assert {each["expected"] for each in found} == {""}
    assert next(each["found"] for each in found if each["kind"] == "cgroup").startswith("1 process: ")


def test_a_missing_and_a_strange_nftables_rule_are_named(
    kubelet: Kubelet, daemon: Daemon, pods: tuple[str, str]
) -> None:
    table = f"ocid_{daemon.bridge}"
    subprocess.run(["nft", "flush", "chain", "inet", table, "guard"], check=True)
    subprocess.run(["nft", "add", "rule", "inet", table, "to_pods", "tcp", "dport", "99", "accept"], check=True)
    element = "{ tcp . 24680 }"
    subprocess.run(["nft", "delete", "element", "inet", table, "ports4", element], check=True)
    strange = "{ type ipv4_addr : ipv4_addr; }"
    subprocess.run(["nft", "add", "map", "inet", table, "ports_strange", strange], check=True)
    strange = '{ 192.0.2.1 comment "x" : 192.0.2.2 }'
    subprocess.run(["nft", "add", "element", "inet", table, "ports_strange", strange], check=True)
    found = differences(daemon)
    daemon.kill()
    daemon.start()

    lines = {(each["subject"].partition(", ")[2], each["expected"], each["found"]) for each in found}
    assert ("chain guard", "iifname @guarded ip saddr 127.0.0.0/8 drop", "") in lines
    assert ("chain guard", "iifname @guarded ip daddr 127.0.0.0/8 drop", "") in lines
    assert ("chain to_pods", "", "tcp dport 99 accept") in lines
    ports = [each for each in found if each["subject"].endswith("map ports4")]
    assert [each["found"] for each in ports] == [""]
    assert f'tcp . 24680 comment "{pods[1]}"' in ports[0]["expected"]
    assert ports[0]["seq"] == daemon.view().pods.rows[pods[1]].seq
    assert [each["subject"].partition(", ")[2] for each in found if "strange" in each["subject"]] == [
        "map ports_strange"
    ]
    assert len(found) == 5
    assert differences(daemon) == [], "a start repairs the table"


def test_a_container_killed_while_the_daemon_was_away_is_named(
    kubelet: Kubelet, daemon: Daemon, containers: tuple[str, str]
) -> None:
    apart, _ = containers
    row = daemon.view().containers.rows[apart]
    assert row.state.created is not None
    daemon.kill()
    os.kill(row.state.created.pid, signal.SIGKILL)
    wait_for(lambda: not os.path.exists(f"/proc/{row.state.created.pid}"), "the process is reaped")
    found = differences(daemon)

    process = [each for each in found if each["kind"] == "process"]
    assert [(each["subject"], each["found"], each["seq"]) for each in process] == [(f"container/{apart}", "", row.seq)]
    assert process[0]["expected"].startswith(f"pid {row.state.created.pid}, ")
    assert told(found) == {("process", f"container/{apart}")}

    daemon.start()
    kubelet.exited(apart)
    assert differences(daemon) == []


def test_stray_mounts_cgroups_directories_and_links_are_named(
    kubelet: Kubelet, daemon: Daemon, pods: tuple[str, str], containers: tuple[str, str]
) -> None:
    stray = daemon.run / "containers" / "stray"
    cgroup = f"{nodes.hierarchy_path(daemon.cgroup_parent)}/stray"
    directories = Cgroups(nodes.DRIVER).directories(cgroup)
    link = f"st{os.getpid()}"
    try:
        stray.mkdir()
        mounts.tmpfs(str(stray), 1 << 20, 0o700, 0)
        os.mkdir(directories[0])
        subprocess.run(["ip", "link", "add", link, "type", "veth", "peer", "name", f"{link}p"], check=True)
        subprocess.run(["ip", "link", "set", link, "master", daemon.bridge], check=True)
        found = differences(daemon)
    finally:
        mounts.unmount(str(stray))
        stray.rmdir()
        os.rmdir(directories[0])
        subprocess.run(["ip", "link", "delete", link], check=False)

    assert {(each["kind"], each["subject"]): each["found"] for each in found} == {
        ("mount", str(stray)): "tmpfs",
        ("directory", str(stray)): "there",
        ("cgroup", cgroup): "empty",
        ("link", link): f"in bridge {daemon.bridge}",
    }
    assert {(each["expected"], each["seq"]) for each in found} == {("", 0)}


def test_what_was_taken_from_a_pod_is_named(kubelet: Kubelet, daemon: Daemon, pods: tuple[str, str]) -> None:
    declared = daemon.view().pods.rows[pods[0]].state.declared
    assert declared is not None
    subprocess.run(["ip", "link", "delete", declared.interface], check=True)
    mounts.unmount(f"{declared.run_dir}/shm")
    found = {(each["kind"], each["subject"]): (each["expected"], each["found"]) for each in differences(daemon)}

    assert found.pop(("addresses", f"pod/{pods[0]}"))[1] == ""
    assert found == {
        ("link", declared.interface): (f"in bridge {daemon.bridge}", ""),
        ("mount", f"{declared.run_dir}/shm"): ("tmpfs", ""),
    }


def test_it_refuses_another_mount_namespace(kubelet: Kubelet, daemon: Daemon) -> None:
    command = [str(OCID), "drift", "--config", str(daemon.directory / "ocid.toml")]
    done = subprocess.run(["unshare", "-m", *command], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert f"nsenter -m -t {daemon.pid}" in done.stderr


# --- what a container changed -----------------------------------------------------------------------------------------


def test_what_a_container_changed_is_listed_with_hashes(
    kubelet: Kubelet, daemon: Daemon, containers: tuple[str, str]
) -> None:
    apart, _ = containers
    kubelet.sh(apart, "echo evil >/tmp/new; echo more >>/etc/passwd; rm /etc/group; echo >'/line\x1b\nbreak'")
    code, said = drift(daemon, apart[:20])

    assert code == 8
    found = {each["path"]: each for each in said["changes"]}
    assert MOUNT_POINT not in {each["change"] for each in found.values()}
    assert said["container"] == apart
    assert found["/tmp/new"]["change"] == ADDED
    assert found["/tmp/new"]["now"]["mode"] == 0o644
    assert found["/tmp/new"]["now"]["sha256"] == hashlib.sha256(b"evil\n").hexdigest()
    assert found["/etc/passwd"]["change"] == CHANGED
    assert found["/etc/passwd"]["what"] == ["size", "content"]
    assert found["/etc/passwd"]["layer"] == said["layers"][0]
    assert found["/etc/group"]["change"] == DELETED
    assert set(found) == {"/tmp/new", "/etc/passwd", "/etc/group", "/line\x1b\nbreak"}

    command = [str(OCID), "drift", "--config", str(daemon.directory / "ocid.toml"), apart]
    table = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert r"/line\x1b\nbreak" in table
    assert "\x1b" not in table
    assert "mount points that the OCI runtime made are left out" in table

    kubelet.call("StopContainer", container_id=apart)
    assert {each["path"] for each in drift(daemon, apart)[1]["changes"]} == set(found), "and when it has ended"
    code, said = drift(daemon, "nonesuch")
    assert (code, "container 'nonesuch' not found" in said) == (1, True)
