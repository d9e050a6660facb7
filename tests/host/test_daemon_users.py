"""Pods with a user namespace: who is who inside and outside, and that nothing on disk changes hands.

They need an OCI runtime that maps ids: the one that OCID_TEST_RUNC names, else the runc on PATH, when it can.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.adapters import mounts
from ocid.cri.stubs import api_pb2 as pb
from tests import images
from tests.host import daemon as host
from tests.host.daemon import IMAGE, Daemon, Kubelet, Stage, refused, wait_for
from tests.host.nodes import SLOW
from tests.images import archive, directory, member

pytestmark = [pytest.mark.host, pytest.mark.timeout(90 * SLOW)]
stage, nothing_leaks = host.stage, host.nothing_leaks

HOST_ID = 1_048_576
NS_GET_USERNS = 0xB701  # ioctl_ns(2)


def _maps_ids(path: str) -> bool:
    said = subprocess.run([path, "features"], capture_output=True, check=False)
    try:
        features = json.loads(said.stdout)
    except ValueError:
        return False
    return bool(features.get("linux", {}).get("mountExtensions", {}).get("idmap", {}).get("enabled"))


def _runtime() -> str:
    path = os.environ.get("OCID_TEST_RUNC") or shutil.which("runc") or ""
    if not path or not _maps_ids(path):
        pytest.skip(
            f"no runtime that maps ids: {path or 'runc'!r} cannot; set OCID_TEST_RUNC to a runc of 1.2 or later"
        )
    return path


@pytest.fixture(scope="module")
def daemon(stage: Stage, private_mounts: None) -> Iterator[Daemon]:
    config = {"runtime": {"default": "users"}, "runtime.handlers.users": {"path": _runtime()}}
    with stage.daemon(config) as one:
        one.directory.chmod(0o711)  # as a node's /run is: a pod's root is nobody here
        with one.client() as cri:
            cri.call("PullImage", image=pb.ImageSpec(image=IMAGE))
        yield one
        one.check_log()


kubelet = host.kubelet


def users(host_id: int = HOST_ID, length: int = 65_536) -> pb.UserNamespace:
    one = pb.IDMapping(host_id=host_id, container_id=0, length=length)
    return pb.UserNamespace(mode=pb.POD, uids=[one], gids=[one])


def pod_config(kubelet: Kubelet, **fields: Any) -> pb.PodSandboxConfig:
    config = kubelet.pod_config(**fields)
    config.linux.security_context.namespace_options.userns_options.CopyFrom(users())
    return config


def start(kubelet: Kubelet, pod_id: str, *command: str, pid: Any = pb.CONTAINER, **fields: Any) -> str:
    security = {"namespace_options": pb.NamespaceOption(pid=pid, userns_options=users())}
    return kubelet.start(pod_id, *command, security=security, **fields)


def owner_of(namespace: str) -> int:
    """Return the inode of the user namespace that owns a pinned one."""
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        owner = fcntl.ioctl(descriptor, NS_GET_USERNS)
        try:
            return os.fstat(owner).st_ino
        finally:
            os.close(owner)
    finally:
        os.close(descriptor)


def test_root_inside_is_nobody_outside(daemon: Daemon, kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod(pod_config(kubelet))
    options = kubelet.pod_status(pod_id).linux.namespaces.options
    assert options.userns_options == users()
    pins = daemon.run / "pods" / pod_id / "ns"
    assert sorted(os.listdir(pins)) == ["ipc", "net", "user", "uts"]
    owner = os.stat(pins / "user").st_ino
    assert {kind: owner_of(str(pins / kind)) for kind in ("net", "ipc", "uts")} == dict.fromkeys(
        ["net", "ipc", "uts"], owner
    )

    container_id = start(kubelet, pod_id, "sleep", "1000")
    said = kubelet.sh(container_id, "id -u; cat /proc/self/uid_map; stat -c %u:%g / /bin/busybox /dev/shm; hostname")
    assert [line.split() for line in said.splitlines()] == [
        ["0"], ["0", str(HOST_ID), "65536"], ["0:0"], ["0:0"], ["0:0"], [kubelet.pods[pod_id].hostname]
    ]  # fmt: skip
    pid = kubelet.info(container_id)["pid"]
    status = Path(f"/proc/{pid}/status").read_text()
    assert re.search(rf"^Uid:\t{HOST_ID}\t{HOST_ID}", status, re.MULTILINE)
    assert os.stat(f"/proc/{pid}/ns/user").st_ino == owner
    assert (
        kubelet.sh(container_id, "ip -4 addr show eth0 | grep -c inet; ip link set lo down; ip link set lo up") == "1"
    )

    before = {path: path.stat().st_uid for path in (daemon.root / "layers").rglob("*")}
    assert set(before.values()) == {0}
    kubelet.sh(
        container_id, "touch /new /dev/shm/new; chown 33:44 /etc/group; echo >>/etc/passwd; chmod 600 /etc/hostname"
    )
    upper = daemon.root / "containers" / container_id / "upper"
    owners = {str(path.relative_to(upper)): (path.stat().st_uid, path.stat().st_gid) for path in upper.rglob("*")}
    root = (HOST_ID, HOST_ID)
    assert owners["new"] == owners["etc"] == owners["etc/passwd"] == root
    assert owners["etc/group"] == (HOST_ID + 33, HOST_ID + 44)
    assert {path: path.stat().st_uid for path in (daemon.root / "layers").rglob("*")} == before
    assert kubelet.sh(container_id, "stat -c %u:%g /etc/group /new") == "33:44\n0:0"
    for script in ("echo 1 >/proc/sys/kernel/pid_max", "mount -t tmpfs x /sys/kernel", "mknod /x b 8 0"):
        assert kubelet.exec(container_id, "sh", "-c", script).exit_code != 0, script
    mapped = [one for one in mounts.targets_below(str(daemon.run / "containers")) if not one.endswith("/rootfs")]
    assert mapped == [], "the mapped store is mounted no longer than the root file system is made of it"


def test_a_user_of_the_image(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod(pod_config(kubelet))
    security = {
        "namespace_options": pb.NamespaceOption(pid=pb.CONTAINER, userns_options=users()),
        "run_as_username": "alice",
    }
    container_id = kubelet.start(pod_id, "sleep", "1000", security=security)
    assert kubelet.sh(container_id, "id -u; id -G") == "1234\n1234 50"
    pid = kubelet.info(container_id)["pid"]
    assert f"\nUid:\t{HOST_ID + 1234}\t" in Path(f"/proc/{pid}/status").read_text()


def test_an_unmasked_proc_is_given_where_it_is_the_pods_own(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod(pod_config(kubelet))
    script = (
        "head -c 1 /proc/timer_list | wc -c; grep -c ' /proc/' /proc/mounts; touch /proc/sys/kernel/shmmni; echo $?"
    )
    unmasked = start(kubelet, pod_id, "sleep", "1000", name="unmasked")
    assert kubelet.sh(unmasked, script).split()[1:] == ["0", "0"]
    security = {
        "namespace_options": pb.NamespaceOption(pid=pb.CONTAINER, userns_options=users()),
        "masked_paths": ["/proc/timer_list"],
        "readonly_paths": ["/proc/sys"],
    }
    masked = kubelet.start(pod_id, "sleep", "1000", name="masked", security=security)
    assert kubelet.sh(masked, script).split() == ["0", "2", "1"]


def test_volumes_keep_their_owners(daemon: Daemon, kubelet: Kubelet) -> None:
    volume = daemon.directory / "volume"
    volume.mkdir(mode=0o700)
    (volume / "kept").write_text("kept\n")
    os.chown(volume / "kept", 1234, 50)
    mapping = users().uids
    mount = pb.Mount(container_path="/v", host_path=str(volume), uidMappings=mapping, gidMappings=mapping)
    pod_id = kubelet.run_pod(pod_config(kubelet))
    container_id = start(kubelet, pod_id, "sleep", "1000", mounts=[mount])
    assert kubelet.sh(container_id, "stat -c %u:%g /v /v/kept; touch /v/new; chown 7:8 /v/new") == "0:0\n1234:50"
    assert (os.stat(volume / "new").st_uid, os.stat(volume / "new").st_gid) == (7, 8)
    shutil.rmtree(volume)


def test_images_are_mapped_too(stage: Stage, daemon: Daemon, kubelet: Kubelet) -> None:
    name = "docker.io/test/owned:1"
    raw = archive(directory("d", uid=5, gid=6), member("d/f", b"text\n", uid=5, gid=6))
    stage.registry.put("test/owned", "1", images.image([raw]))
    kubelet.call("PullImage", image=pb.ImageSpec(image=name))
    pod_id = kubelet.run_pod(pod_config(kubelet))
    mount = pb.Mount(container_path="/i", readonly=True, image=pb.ImageSpec(image=name), image_sub_path="d")
    container_id = start(kubelet, pod_id, "sleep", "1000", mounts=[mount])
    assert kubelet.sh(container_id, "stat -c %u:%g /i /i/f; cat /i/f") == "5:6\n5:6\ntext"
    kubelet.call("RemoveContainer", container_id=container_id)
    kubelet.call("RemoveImage", image=pb.ImageSpec(image=name))
    wait_for(lambda: not daemon.view().catalog.rows["images"].state.collect, "its layers are collected")


def test_a_shared_pid_namespace_is_owned_too_and_all_outlives_the_daemon(daemon: Daemon, kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod(pod_config(kubelet, pid=pb.POD))
    container_id = start(kubelet, pod_id, "sleep", "1000", pid=pb.POD)
    daemon.kill()
    daemon.start()
    assert kubelet.sh(container_id, "cat /proc/1/comm; id -u") == "catatonit\n0"
    again = start(kubelet, pod_id, "sleep", "1000", pid=pb.POD, name="again")
    assert kubelet.sh(again, "cat /proc/1/comm") == "catatonit"
    pause = json.loads(kubelet.call("PodSandboxStatus", pod_sandbox_id=pod_id, verbose=True).info["info"])["pid"]
    owner = os.stat(daemon.run / "pods" / pod_id / "ns/user").st_ino
    assert owner_of(f"/proc/{pause}/ns/pid") == owner


def test_sysctls_of_every_kind(kubelet: Kubelet) -> None:
    wanted = {"kernel.shmmni": "1234", "net.ipv4.conf.eth0.accept_local": "1", "kernel.domainname": "nis"}
    pod_id = kubelet.run_pod(pod_config(kubelet, linux={"sysctls": wanted}))
    container_id = start(kubelet, pod_id, "sleep", "1000")
    names = "kernel/shmmni net/ipv4/conf/eth0/accept_local kernel/domainname"
    assert kubelet.sh(container_id, f"cd /proc/sys; cat {names}") == "1234\n1\nnis"
    with pytest.raises(GRPCError) as error:
        kubelet.run_pod(pod_config(kubelet, linux={"sysctls": {"kernel.shmmni": "many"}}))
    assert "sysctl 'kernel.shmmni' = 'many': Invalid argument" in refused(error)[1]


def test_what_the_host_would_have_to_share_is_refused(kubelet: Kubelet) -> None:
    for fields, says in (({"network": pb.NODE}, "network"), ({"ipc": pb.NODE}, "ipc"), ({"pid": pb.NODE}, "pid")):
        with pytest.raises(GRPCError) as error:
            kubelet.run_pod(pod_config(kubelet, **fields))
        assert refused(error)[0] is Status.UNIMPLEMENTED
        assert f"user namespaces with the host's {says} namespace" in refused(error)[1]


def test_a_handler_that_cannot_is_told_by_name(daemon: Daemon, kubelet: Kubelet) -> None:
    status = kubelet.call("Status")
    able = {one.name: one.features.user_namespaces for one in status.runtime_handlers}
    assert able[""] is able["users"] is True
    unable = [name for name, can in able.items() if not can]
    if not unable:
        pytest.skip("every runtime of this host maps ids")
    with pytest.raises(GRPCError) as error:
        kubelet.run_pod(pod_config(kubelet), handler=unable[0])
    assert refused(error)[0] is Status.UNIMPLEMENTED
    assert re.search(r"user namespaces: /\S+ \S+ has no linux.mountExtensions.idmap", refused(error)[1])
