"""What containers of a real daemon see and may do, as their security contexts, namespaces and mounts say."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.cri.stubs import api_pb2 as pb
from tests.host import daemon as host
from tests.host.daemon import IMAGE, Daemon, Kubelet, Stage, refused, wait_for
from tests.host.nodes import SLOW

pytestmark = [pytest.mark.host, pytest.mark.timeout(90 * SLOW)]
stage, daemon, kubelet, nothing_leaks = host.stage, host.daemon, host.kubelet, host.nothing_leaks

PROCESSES = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done; true"
RUNTIME_DEFAULT = pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault)
UNCONFINED = pb.SecurityProfile(profile_type=pb.SecurityProfile.Unconfined)


def options(pid: Any = pb.CONTAINER, **fields: Any) -> pb.NamespaceOption:
    return pb.NamespaceOption(pid=pid, **fields)


def number(value: int) -> pb.Int64Value:
    return pb.Int64Value(value=value)


# --- namespaces ------------------------------------------------------------------------------------------------------


def test_host_network(daemon: Daemon, kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod(network=pb.NODE)
    pod = kubelet.pod_status(pod_id)
    assert pod.linux.namespaces.options.network == pb.NODE
    security = {"namespace_options": options(network=pb.NODE)}
    code, said = kubelet.run(
        pod_id, "sh", "-c", "readlink /proc/self/ns/net; readlink /proc/self/ns/uts; hostname", security=security
    )
    net, uts, name = said.splitlines()
    assert code == 0
    assert (net, uts) == (os.readlink("/proc/self/ns/net"), os.readlink("/proc/self/ns/uts"))
    assert name == socket.gethostname()


def test_host_pid_and_ipc(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod(pid=pb.NODE, ipc=pb.NODE)
    security = {"namespace_options": options(pid=pb.NODE, ipc=pb.NODE)}
    container_id = kubelet.start(pod_id, "sleep", "1000", security=security)
    script = f"cat /proc/{os.getpid()}/comm; readlink /proc/self/ns/ipc; readlink /proc/self/ns/pid"
    said = kubelet.sh(container_id, script)
    assert said.splitlines() == [
        Path("/proc/self/comm").read_text().strip(),
        os.readlink("/proc/self/ns/ipc"),
        os.readlink("/proc/self/ns/pid"),
    ]
    seen = Path(f"/dev/shm/ocid-test-{os.getpid()}")
    seen.touch()
    try:
        assert seen.name in kubelet.sh(container_id, "ls /dev/shm")
    finally:
        seen.unlink()
    kubelet.call("StopContainer", container_id=container_id, timeout=0)
    assert kubelet.status(container_id).exit_code == 137


def test_a_shared_pid_namespace_has_catatonit_for_its_init(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod(pid=pb.POD)
    security = {"namespace_options": options(pid=pb.POD)}
    first = kubelet.start(pod_id, "sleep", "111", name="a", security=security)
    second = kubelet.start(pod_id, "sleep", "222", name="b", security=security)
    said = kubelet.sh(second, "cat /proc/1/comm; " + PROCESSES)
    assert said.startswith("catatonit\n")
    assert "sleep 111" in said
    assert "sleep 222" in said
    assert json.loads(kubelet.call("PodSandboxStatus", pod_sandbox_id=pod_id, verbose=True).info["info"])["pid"] > 0
    # A child of a container's init is left to catatonit, and ends with the container all the same.
    kubelet.exec(first, "sh", "-c", "sleep 333 & true")
    kubelet.call("StopContainer", container_id=first, timeout=0)
    wait_for(lambda: "sleep 333" not in kubelet.sh(second, PROCESSES), "what the container left is killed")
    assert "sleep 222" in kubelet.sh(second, PROCESSES)


def test_a_pod_whose_init_is_killed_is_not_ready(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod(pid=pb.POD)
    container_id = kubelet.start(pod_id, "sleep", "1000", security={"namespace_options": options(pid=pb.POD)})
    pid = json.loads(kubelet.call("PodSandboxStatus", pod_sandbox_id=pod_id, verbose=True).info["info"])["pid"]
    os.kill(pid, 9)
    wait_for(lambda: kubelet.pod_status(pod_id).state == pb.SANDBOX_NOTREADY, "the pod is not ready")
    assert kubelet.exited(container_id).exit_code == 137


def test_a_pid_namespace_of_its_own(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    kubelet.start(pod_id, "sleep", "111", name="a")
    container_id = kubelet.start(pod_id, "sleep", "222", name="b")
    said = kubelet.sh(container_id, PROCESSES)
    assert said.startswith("sleep 222")
    assert "sleep 111" not in said


def test_the_pid_namespace_of_another_container(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    target = kubelet.start(pod_id, "sleep", "111", name="a")
    security = {"namespace_options": options(pid=pb.TARGET, target_id=target)}
    debugger = kubelet.start(pod_id, "sleep", "222", name="b", security=security)
    assert kubelet.sh(debugger, PROCESSES).startswith("sleep 111")
    assert kubelet.sh(target, "readlink /proc/self/ns/pid") == kubelet.sh(debugger, "readlink /proc/self/ns/pid")
    kubelet.call("StopContainer", container_id=target, timeout=0)
    assert kubelet.exited(debugger).exit_code == 137  # init of its namespace is gone
    other = kubelet.run_pod()
    with pytest.raises(GRPCError) as error:
        kubelet.create(other, "true", security=security)
    assert f"target container {target} does not run in pod" in refused(error)[1]


# --- privileges ------------------------------------------------------------------------------------------------------


def status_of(kubelet: Kubelet, pod_id: str, **fields: Any) -> dict[str, str]:
    code, said = kubelet.run(pod_id, "cat", "/proc/self/status", **fields)
    assert code == 0, said
    return {key: value.strip() for key, _, value in (line.partition(":") for line in said.splitlines())}


def test_privileged(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod(linux={"privileged": True})
    security: dict[str, Any] = {"privileged": True}
    ours = re.search(r"CapEff:\s*(\w+)", Path("/proc/self/status").read_text())
    assert ours is not None
    seen = status_of(kubelet, pod_id, security=dict(security))
    assert (seen["CapEff"], seen["Seccomp"]) == (ours[1], "0")
    script = (
        "mount -t tmpfs none /tmp && ls /dev/loop-control && cat /proc/sys/kernel/pid_max >/proc/sys/kernel/pid_max"
    )
    assert kubelet.run(pod_id, "sh", "-c", script, security=dict(security)) == (0, "/dev/loop-control")
    code, said = kubelet.run(pod_id, "sh", "-c", "mount -t tmpfs none /tmp")
    assert code != 0, said


def test_capabilities(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    default = status_of(kubelet, pod_id)
    assert default["CapEff"] == default["CapBnd"] == "00000000a80425fb"
    none = status_of(kubelet, pod_id, security={"capabilities": pb.Capability(drop_capabilities=["ALL"])})
    assert (none["CapEff"], none["CapBnd"]) == ("0" * 16, "0" * 16)
    one = pb.Capability(drop_capabilities=["ALL"], add_capabilities=["NET_ADMIN"])
    assert status_of(kubelet, pod_id, security={"capabilities": one})["CapEff"] == f"{1 << 12:016x}"


def test_a_read_only_root(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    code, said = kubelet.run(pod_id, "touch", "/x", security={"readonly_rootfs": True})
    assert code != 0
    assert "Read-only file system" in said
    assert kubelet.run(pod_id, "touch", "/x") == (0, "")


def test_users_and_groups(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    show = ("sh", "-c", "id -u; id -g; id -G")

    def ids(**security: Any) -> list[str]:
        code, said = kubelet.run(pod_id, *show, security=security)
        assert code == 0, said
        return said.splitlines()

    assert ids() == ["0", "0", "0"]
    assert ids(run_as_user=number(5)) == ["5", "0", "0"]
    assert ids(run_as_user=number(5), run_as_group=number(6)) == ["5", "6", "6"]
    assert ids(run_as_username="alice") == ["1234", "1234", "1234 50"]
    assert ids(run_as_username="alice", supplemental_groups=[7]) == ["1234", "1234", "1234 7 50"]
    strict = {"supplemental_groups_policy": pb.SupplementalGroupsPolicy.Strict}
    assert ids(run_as_username="alice", supplemental_groups=[7], **strict) == ["1234", "1234", "1234 7"]
    container_id = kubelet.start(pod_id, "sleep", "9", security={"run_as_username": "alice"})
    user = kubelet.status(container_id).user.linux
    assert (user.uid, user.gid, set(user.supplemental_groups)) == (1234, 1234, {1234, 50})
    assert kubelet.sh(container_id, "id -u") == "1234"


def test_a_user_that_the_image_does_not_have(daemon: Daemon, kubelet: Kubelet) -> None:
    pod_id, seq = kubelet.run_pod(), daemon.last_seq()
    with pytest.raises(GRPCError) as error:
        kubelet.create(pod_id, "true", security={"run_as_username": "nobody-here"})
    assert "nobody-here" in refused(error)[1]
    assert refused(error)[0] in (Status.INVALID_ARGUMENT, Status.NOT_FOUND)
    assert {"container.prepare_failed", "node.request_refused"} <= set(daemon.types(seq + 1))
    wait_for(lambda: not kubelet.call("ListContainers").containers, "nothing of it is listed")


def test_no_new_privileges_and_seccomp(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    seen = status_of(kubelet, pod_id, security={"no_new_privs": True, "seccomp": RUNTIME_DEFAULT})
    assert (seen["NoNewPrivs"], seen["Seccomp"]) == ("1", "2")
    seen = status_of(kubelet, pod_id, security={"seccomp": UNCONFINED})
    assert (seen["NoNewPrivs"], seen["Seccomp"]) == ("0", "0")
    unshare = ("unshare", "-U", "true")
    assert kubelet.run(pod_id, *unshare, security={"seccomp": UNCONFINED})[0] == 0
    code, said = kubelet.run(pod_id, *unshare, security={"seccomp": RUNTIME_DEFAULT})
    assert code != 0
    assert "Operation not permitted" in said


def test_masked_and_read_only_paths(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    security = {"masked_paths": ["/proc/timer_list", "/proc/driver"], "readonly_paths": ["/proc/sys", "/proc/irq"]}
    script = "cat /proc/timer_list; ls /proc/driver; echo 1 >/proc/sys/kernel/pid_max"
    code, said = kubelet.run(pod_id, "sh", "-c", script, security=security)
    assert code != 0
    assert [line for line in said.splitlines() if "Read-only file system" not in line] == []


# --- files and names -------------------------------------------------------------------------------------------------


def test_names_of_hosts(kubelet: Kubelet) -> None:
    dns = pb.DNSConfig(servers=["192.0.2.53", "2001:db8::53"], searches=["a.test", "b.test"], options=["ndots:5"])
    pod_id = kubelet.run_pod(hostname="web-0", dns_config=dns)
    code, said = kubelet.run(pod_id, "sh", "-c", "hostname; cat /etc/hostname; cat /etc/resolv.conf")
    assert code == 0
    assert said.splitlines()[:2] == ["web-0", "web-0"]
    assert set(said.splitlines()[2:]) == {
        "search a.test b.test",
        "nameserver 192.0.2.53",
        "nameserver 2001:db8::53",
        "options ndots:5",
    }
    assert (
        kubelet.run(kubelet.run_pod(), "cat", "/etc/resolv.conf")[1].split()
        == Path("/etc/resolv.conf").read_text().split()
    )


def test_shared_memory_is_the_pods(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    first = kubelet.start(pod_id, "sleep", "1000", name="a")
    second = kubelet.start(pod_id, "sleep", "1000", name="b")
    kubelet.sh(first, "echo mine >/dev/shm/x")
    assert kubelet.sh(second, "cat /dev/shm/x; df -k /dev/shm | tail -n1 | tr -s ' '").splitlines()[0] == "mine"
    assert not Path("/dev/shm/x").exists()


def test_sysctls(kubelet: Kubelet) -> None:
    sysctls = {"net.ipv4.ip_unprivileged_port_start": "80", "kernel.shm_rmid_forced": "1"}
    pod_id = kubelet.run_pod(linux={"sysctls": sysctls})
    script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced"
    assert kubelet.run(pod_id, "sh", "-c", script) == (0, "80\n1")


def test_sysctls_of_an_interface_are_written_when_it_is_there(daemon: Daemon, kubelet: Kubelet) -> None:
    sysctls = {"net.ipv4.conf.eth0.accept_local": "1", "net/ipv6/conf/eth0/accept_ra": "0", "kernel.domainname": "nis"}
    pod_id = kubelet.run_pod(linux={"sysctls": sysctls})
    names = "net/ipv4/conf/eth0/accept_local net/ipv6/conf/eth0/accept_ra kernel/domainname"
    assert kubelet.run(pod_id, "sh", "-c", f"cd /proc/sys; cat {names}") == (0, "1\n0\nnis")

    with pytest.raises(GRPCError) as error:
        kubelet.run_pod(linux={"sysctls": {"net.ipv4.conf.eth9.accept_local": "1"}})
    assert "Attach: sysctl 'net.ipv4.conf.eth9.accept_local' = '1': No such file" in refused(error)[1]

    with pytest.raises(GRPCError) as error:
        kubelet.run_pod(network=pb.NODE, linux={"sysctls": {"net.core.somaxconn": "1"}})
    assert refused(error)[0] is Status.INVALID_ARGUMENT


def test_bind_mounts(daemon: Daemon, kubelet: Kubelet) -> None:
    volume = daemon.directory / "volume"
    volume.mkdir(exist_ok=True)
    (volume / "hello").write_text("world\n")
    (daemon.directory / "link").symlink_to(volume)
    pod_id = kubelet.run_pod()
    mounts = [
        pb.Mount(container_path="/rw", host_path=str(volume)),
        pb.Mount(container_path="/ro", host_path=str(daemon.directory / "link"), readonly=True),
        pb.Mount(container_path="/new", host_path=str(daemon.directory / "made-by-ocid")),
    ]
    script = "cat /ro/hello; echo written >/rw/file; touch /ro/x || echo refused; ls -a /new"
    container_id = kubelet.start(pod_id, "sh", "-c", script, mounts=mounts)
    status = kubelet.exited(container_id)
    log = Path(status.log_path).read_text()
    assert "world" in log
    assert "refused" in log
    assert (volume / "file").read_text() == "written\n"
    assert [(one.container_path, one.host_path, one.readonly) for one in status.mounts] == [
        (one.container_path, one.host_path, one.readonly) for one in mounts
    ]
    assert (daemon.directory / "made-by-ocid").is_dir()


def test_environment_and_working_directory(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    code, said = kubelet.run(
        pod_id, "sh", "-c", "pwd; echo $A $B", working_dir="/tmp", env={"A": "1", "B": "two words"}
    )
    assert (code, said) == (0, "/tmp\n1 two words")


def test_what_the_image_says_is_used_where_the_request_says_nothing(stage: Stage, kubelet: Kubelet) -> None:
    defaults = {"Entrypoint": ["sh", "-c"], "Cmd": ["id -u; pwd; echo $X"], "Env": ["X=y", "PATH=/bin"]}
    built = host.images.image([host.busybox_layer()], config={**defaults, "User": "alice", "WorkingDir": "/made/up"})
    name = stage.registry.put("test/defaults", "1", built)
    image = kubelet.call("PullImage", image=pb.ImageSpec(image=name)).image_ref
    pod_id = kubelet.run_pod()
    assert kubelet.run(pod_id, image=image) == (0, "1234\n/made/up\ny")
    assert kubelet.run(pod_id, image=image, args=["echo other"]) == (0, "other")
    kubelet.call("RemoveImage", image=pb.ImageSpec(image=image))


# --- network ---------------------------------------------------------------------------------------------------------


def test_pods_reach_each_other(daemon: Daemon, kubelet: Kubelet) -> None:
    first, second = kubelet.run_pod(), kubelet.run_pod()
    script = "while true; do echo hello | nc -l -p 8080; done"
    kubelet.start(first, "sh", "-c", script)
    container_id = kubelet.start(second, "sleep", "1000")
    four, six = kubelet.addresses(first)
    assert (
        kubelet.sh(container_id, f"ping -c1 -W2 {four} >/dev/null && ping6 -c1 -W2 {six} >/dev/null && echo ok") == "ok"
    )
    wait_for(
        lambda: kubelet.exec(container_id, "nc", "-w", "2", four, "8080").stdout == b"hello\n", "the server answers"
    )
    own = kubelet.sh(container_id, "ip -o addr show dev eth0")
    assert all(address in own for address in kubelet.addresses(second))
    gateway = daemon.subnets[0].replace("0/24", "1")
    assert kubelet.sh(container_id, f"ping -c1 -W2 {gateway} >/dev/null && echo ok") == "ok"


def test_host_ports(kubelet: Kubelet) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    mapping = pb.PortMapping(container_port=8080, host_port=port)
    pod_id = kubelet.run_pod(port_mappings=[mapping])
    kubelet.start(pod_id, "sh", "-c", "while true; do echo hello | nc -l -p 8080; done")

    def said() -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", port), 2) as client:
                return client.recv(100)
        except OSError:
            return b""

    wait_for(lambda: said() == b"hello\n", "the host's port leads to the pod")
    with pytest.raises(GRPCError) as error:
        kubelet.run_pod(port_mappings=[mapping])
    assert str(port) in refused(error)[1]
    kubelet.call("StopPodSandbox", pod_sandbox_id=pod_id)
    assert said() == b""


def test_a_pod_of_a_cni_network(stage: Stage, private_mounts: None) -> None:
    with stage.daemon(start=False) as one:
        leases, bridge = one.directory / "leases", f"{one.bridge[:-1]}c"
        conflist = {
            "cniVersion": "1.0.0",
            "name": "test-net",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": bridge,
                    "isGateway": True,
                    "ipam": {"type": "host-local", "dataDir": str(leases), "ranges": [[{"subnet": one.subnets[0]}]]},
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
        (one.directory / "net.d").mkdir()
        (one.directory / "net.d" / "10-test.conflist").write_text(json.dumps(conflist))
        one.start()
        try:
            with one.client() as cri:
                kubelet = Kubelet(cri, one.directory, one.cgroup_parent)
                kubelet.call("PullImage", image=pb.ImageSpec(image=IMAGE))
                pods = [kubelet.run_pod() for _ in range(2)]
                addresses = [kubelet.pod_status(pod).network.ip for pod in pods]
                assert len(set(addresses)) == 2
                assert {f"{address}" for address in addresses} <= set(os.listdir(leases / "test-net"))
                container_id = kubelet.start(pods[0], "sleep", "1000")
                assert kubelet.sh(container_id, f"ping -c1 -W2 {addresses[1]} >/dev/null && echo ok") == "ok"
                one.kill()
                one.start()
                assert kubelet.pod_status(pods[0]).network.ip == addresses[0]
                for pod in pods:
                    kubelet.end_pod(pod)
                assert not [name for name in os.listdir(leases / "test-net") if name[0].isdigit()]
                one.assert_no_leaks()
            attached = [each.event for each in one.events() if each.type == "pod.network_attached"]
            assert [each.via for each in attached] == ["cni:test-net"] * 2
        finally:
            subprocess.run(["ip", "link", "delete", bridge], check=False, capture_output=True)
