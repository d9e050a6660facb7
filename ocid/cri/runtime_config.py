"""CRI RuntimeConfig: which cgroup driver the kubelet must use."""

from __future__ import annotations

from ocid.cri.facade import Facade
from ocid.cri.stubs import api_pb2 as pb


def runtime_config(facade: Facade, request: pb.RuntimeConfigRequest) -> pb.RuntimeConfigResponse:
    """Say it always: an absent message would leave the kubelet to its own flag."""
    systemd = facade.core.host.settings.cgroup_driver == "systemd"
    driver = pb.SYSTEMD if systemd else pb.CGROUPFS
    return pb.RuntimeConfigResponse(linux=pb.LinuxRuntimeConfiguration(cgroup_driver=driver))
