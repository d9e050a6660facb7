"""CRI ImageFsInfo: what images and containers take of the disk. The kubelet collects garbage by it."""

from __future__ import annotations

from ocid.cri.facade import Facade
from ocid.cri.stubs import api_pb2 as pb
from ocid.errors import Unavailable


def image_fs_info(facade: Facade, request: pb.ImageFsInfoRequest) -> pb.ImageFsInfoResponse:
    """Answer from memory; what writable layers take is as of the last measurement, made in the background.

    Raises:
        Unavailable: none was finished since the daemon started.
    """
    if not facade.sampler.measured:
        raise Unavailable("the store is being measured for the first time; try again in a moment")
    usage = facade.core.host.layers.usage()
    return pb.ImageFsInfoResponse(
        image_filesystems=[_usage(usage.at_ns, usage.image_path, usage.image_bytes, usage.image_inodes)],
        container_filesystems=[
            _usage(usage.at_ns, usage.container_path, usage.container_bytes, usage.container_inodes)
        ],
    )


def _usage(at_ns: int, path: str, used_bytes: int, inodes: int) -> pb.FilesystemUsage:
    return pb.FilesystemUsage(
        timestamp=at_ns,
        fs_id=pb.FilesystemIdentifier(mountpoint=path),
        used_bytes=pb.UInt64Value(value=used_bytes),
        inodes_used=pb.UInt64Value(value=inodes),
    )
