"""CRI RuntimeConfig and UpdateRuntimeConfig: the cgroup driver for the kubelet, the pod CIDR from it."""

from __future__ import annotations

from ocid.cri import validate
from ocid.cri.facade import Facade
from ocid.cri.stubs import api_pb2 as pb
from ocid.events.envelope import Context
from ocid.events.node import RuntimeConfigured


def runtime_config(facade: Facade, request: pb.RuntimeConfigRequest) -> pb.RuntimeConfigResponse:
    """Say it always: an absent message would leave the kubelet to its own flag."""
    systemd = facade.core.host.settings.cgroup_driver == "systemd"
    driver = pb.SYSTEMD if systemd else pb.CGROUPFS
    return pb.RuntimeConfigResponse(linux=pb.LinuxRuntimeConfiguration(cgroup_driver=driver))


async def update_runtime_config(
    facade: Facade, request: pb.UpdateRuntimeConfigRequest, context: Context
) -> pb.UpdateRuntimeConfigResponse:
    """Record the pod CIDR when it is another one. Nothing else comes of it: networks are configured on the node.

    Raises:
        InvalidRequest: it is too long, or no text.
    """
    validate.update_runtime_config(request)
    pod_cidr = request.runtime_config.network_config.pod_cidr
    if pod_cidr not in ("", facade.view.node.pod_cidr):
        await facade.core.recorder.append(RuntimeConfigured(pod_cidr=pod_cidr), context)
    return pb.UpdateRuntimeConfigResponse()
