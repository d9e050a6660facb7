"""Block I/O classes of a real daemon: what the kernel has of them, and what is refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.adapters.cgroups import Cgroups
from ocid.adapters.hostfiles import HostDirectory
from ocid.cri.stubs import api_pb2 as pb
from tests.host import daemon as host
from tests.host.daemon import IMAGE, Daemon, Kubelet, Stage, refused

pytestmark = [pytest.mark.host, pytest.mark.timeout(90)]
stage, kubelet, nothing_leaks = host.stage, host.kubelet, host.nothing_leaks

OF_POD = "blockio.resources.beta.kubernetes.io/pod"
OF_CONTAINER = "io.kubernetes.cri.blockio-class"
FILE = """
Classes:
  slow:
  - Devices: [{disk}, "/dev/no-such-disk*"]
    ThrottleReadBps: 50M
    ThrottleWriteIOPS: 5k
  faster:
  - Devices: [{disk}]
    ThrottleReadBps: 1G
"""


def disk() -> tuple[str, int, int]:
    """A whole disk of this machine: its path, major and minor."""
    if "io" not in Cgroups().controllers():
        pytest.skip(f"needs the io or blkio controller; here are {', '.join(Cgroups().controllers())}")
    for path in sorted(Path("/dev").iterdir()):
        if stat.S_ISBLK(path.stat().st_mode) and path.name.startswith(("vd", "sd", "nvme", "xvd")):
            numbers = HostDirectory().block_devices([str(path)])
            if numbers:
                return str(path), *numbers[0]
    pytest.skip("needs a disk: none of /dev/vd*, /dev/sd*, /dev/nvme*, /dev/xvd* is one")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("blockio") / "classes.yaml"
    path.write_text(FILE.format(disk=disk()[0]))
    return path


@pytest.fixture(scope="module")
def daemon(stage: Stage, private_mounts: None, file: Path) -> Iterator[Daemon]:
    with stage.daemon({"blockio": {"config_file": str(file)}}) as one:
        with one.client() as cri:
            cri.call("PullImage", image=pb.ImageSpec(image=IMAGE))
        yield one
        one.check_log()


def kernel(kubelet: Kubelet, container_id: str) -> dict[str, int]:
    """The limits that the kernel has for the disk: "rbps" and "wiops"; what is not limited is left out."""
    pid = kubelet.info(container_id)["pid"]
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    groups = {line.split(":")[1]: line.split(":", 2)[2] for line in lines}
    _, major, minor = disk()
    found = {}
    if Cgroups().version == 2:
        for line in Path(f"/sys/fs/cgroup{groups['']}/io.max").read_text().splitlines():
            numbers, *limits = line.split()
            if numbers == f"{major}:{minor}":
                found = dict(one.split("=") for one in limits)
    else:
        for key, name in (("rbps", "read_bps"), ("wiops", "write_iops")):
            text = Path(f"/sys/fs/cgroup/blkio{groups['blkio']}/blkio.throttle.{name}_device").read_text()
            limits = [line.split()[1] for line in text.splitlines() if line.split()[0] == f"{major}:{minor}"]
            found |= {key: limits[0]} if limits else {}
    return {key: int(value) for key, value in found.items() if key in ("rbps", "wiops") and value != "max"}


@pytest.mark.parametrize("handler", ["runc", "crun"])
def test_the_kernel_has_what_the_class_says(daemon: Daemon, kubelet: Kubelet, handler: str) -> None:
    pod_id = kubelet.run_pod(handler=handler, annotations={OF_POD: "slow"})
    slow = kubelet.start(pod_id, "sleep", "1000", name="slow")
    assert kernel(kubelet, slow) == {"rbps": 50_000_000, "wiops": 5000}
    faster = kubelet.start(pod_id, "sleep", "1000", name="faster", annotations={OF_CONTAINER: "faster"})
    assert kernel(kubelet, faster) == {"rbps": 10**9}
    _, major, minor = disk()
    recorded = kubelet.info(slow)["runtimeSpec"]["linux"]["resources"]["blockIO"]
    assert recorded["throttleReadBpsDevice"] == [{"major": major, "minor": minor, "rate": 50_000_000}]
    free = kubelet.start(kubelet.run_pod(handler=handler), "sleep", "1000", name="free")
    assert kernel(kubelet, free) == {}


def test_what_cannot_be_had_is_refused_by_name(daemon: Daemon, kubelet: Kubelet, file: Path) -> None:
    pod_id = kubelet.run_pod(annotations={OF_POD: "unknown"})
    before = file.read_text()
    for text, says in (
        (before, f"block I/O class 'unknown' is not in {file}, which has faster, slow"),
        ("Classes: [", f"block I/O classes in {file}: no YAML"),
    ):
        file.write_text(text)
        try:
            with pytest.raises(GRPCError) as error:
                kubelet.create(pod_id, "true")
        finally:
            file.write_text(before)
        assert refused(error)[0] is Status.INVALID_ARGUMENT
        assert says in refused(error)[1]


def test_disks_are_found_by_path_pattern_and_link(tmp_path: Path) -> None:
    path, major, minor = disk()
    files = HostDirectory()
    assert files.block_devices([path, f"{path[:-1]}*", "/dev/no-such*"])[0] == (major, minor)
    assert files.block_devices(["/dev/null", "/dev/pts"]) == ()
    (tmp_path / "disk").symlink_to(path)
    os.mknod(tmp_path / "node", stat.S_IFBLK | 0o600, os.makedev(major, minor))
    assert files.block_devices([str(tmp_path / "disk")]) == ((major, minor),)
    assert files.block_devices([str(tmp_path / "node")]) == (), "outside of /dev"
    part = tmp_path / "sysfs" / f"{major}:{minor}"
    part.mkdir(parents=True)
    (part / "partition").write_text("1\n")
    assert HostDirectory(block_sysfs=str(tmp_path / "sysfs")).block_devices([path]) == ()
