"""CDI devices of a real daemon: what a container has of them, and what is recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.cri.stubs import api_pb2 as pb
from ocid.domain import cdi
from ocid.ids import digest_of
from tests.host import daemon as host
from tests.host.daemon import IMAGE, Daemon, Kubelet, Stage, refused, wait_for
from tests.host.nodes import SLOW

pytestmark = [pytest.mark.host, pytest.mark.timeout(90 * SLOW)]
stage, kubelet, nothing_leaks = host.stage, host.kubelet, host.nothing_leaks


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cdi")


@pytest.fixture(scope="module")
def daemon(stage: Stage, private_mounts: None, specs: Path) -> Iterator[Daemon]:
    with stage.daemon({"containers": {"cdi_spec_dirs": [str(specs / "none"), str(specs)]}}) as one:
        with one.client() as cri:
            cri.call("PullImage", image=pb.ImageSpec(image=IMAGE))
        yield one
        one.check_log()


def write(specs: Path, **edits: Any) -> bytes:
    """Write a specification with one device, and return it."""
    device = {"name": "0", "containerEdits": edits}
    spec = {
        "cdiVersion": "0.6.0",
        "kind": "vendor.com/null",
        "containerEdits": {"env": ["DRIVER=5"]},
        "devices": [device],
    }
    content = json.dumps(spec).encode()
    (specs / "vendor.json").write_bytes(content)
    return content


def test_a_device_with_everything(daemon: Daemon, kubelet: Kubelet, specs: Path) -> None:
    (specs / "library").write_text("of the driver\n")
    content = write(
        specs,
        env=["DEVICE=0"],
        deviceNodes=[{"path": "/dev/nil", "hostPath": "/dev/null", "permissions": "rw"}],
        mounts=[{"hostPath": str(specs / "library"), "containerPath": "/lib/driver", "options": ["ro"]}],
        hooks=[{"hookName": "poststop", "path": "/usr/bin/touch", "args": ["touch", str(specs / "ended")]}],
        additionalGids=[4711],
    )
    pod_id = kubelet.run_pod()
    name = "vendor.com/null=0"
    annotations = {"cdi.k8s.io/plugin_x": name}
    for number, fields in enumerate(({"CDI_devices": [pb.CDIDevice(name=name)]}, {"annotations": annotations})):
        container_id = kubelet.start(pod_id, "sleep", "1000", name=f"c{number}", **fields)
        script = "echo $DRIVER $DEVICE; id -G; cat /lib/driver; echo x >/dev/nil && stat -c %F:%t:%T /dev/nil"
        assert kubelet.sh(container_id, script) == "5 0\n0 4711\nof the driver\ncharacter special file:1:3"
        source = cdi.Source(path="", priority=0, content=content)
        added = cdi.edits_of(cdi.registry([source]), [name])
        recorded = kubelet.info(container_id)["runtimeSpec"]
        assert recorded["annotations"]["io.ocid.cdi"] == digest_of(cdi.document(added))
        assert list(recorded["hooks"]) == ["poststop"]
        assert not (specs / "ended").exists()
        kubelet.call("StopContainer", container_id=container_id, timeout=0)
        wait_for((specs / "ended").exists, "the hook runs when the container is taken down")
        (specs / "ended").unlink()


def test_what_is_not_there_is_refused_by_name(daemon: Daemon, kubelet: Kubelet, specs: Path) -> None:
    pod_id = kubelet.run_pod()
    (specs / "other.yaml").write_text("cdiVersion: 0.6.0\n")
    write(specs, deviceNodes=[{"path": "/dev/no-such-device"}])
    for name, code, says in (
        ("vendor.com/null=1", Status.INVALID_ARGUMENT, "CDI device 'vendor.com/null=1' is in no specification"),
        ("vendor.com/null=0", Status.INVALID_ARGUMENT, "device '/dev/no-such-device' does not exist"),
    ):
        with pytest.raises(GRPCError) as error:
            kubelet.create(pod_id, "true", CDI_devices=[pb.CDIDevice(name=name)])
        assert refused(error)[0] is code
        assert says in refused(error)[1]
    (specs / "other.yaml").unlink()
