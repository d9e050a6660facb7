"""CRI Version: the first call a kubelet makes."""

from __future__ import annotations

from ocid import __version__
from ocid.cri.facade import Facade
from ocid.cri.stubs import api_pb2 as pb

KUBELET_API_VERSION = "0.1.0"  # of the kubelet's runtime API, not of ocid
CRI_VERSION = "v1"


def version(facade: Facade, request: pb.VersionRequest) -> pb.VersionResponse:
    """Name runtime and versions; the kubelet fails when one of the four is empty."""
    return pb.VersionResponse(
        version=KUBELET_API_VERSION, runtime_name="ocid", runtime_version=__version__, runtime_api_version=CRI_VERSION
    )
