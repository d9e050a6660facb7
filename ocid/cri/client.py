"""A client of the CRI socket, for the command line."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import trio_asyncio
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from ocid import errors
from ocid.cri.status import STATUS_OF
from ocid.cri.stubs import api_grpc, api_pb2 as pb
from ocid.ports import Credentials, LayerProgress

Staged = Callable[[], Mapping[str, int]]
ERROR_OF: dict[Status, type[errors.OcidError]] = {status: error for error, status in STATUS_OF.items()}


class CriClient:
    """A connection to the daemon. Trio-flavoured; an asyncio loop must be open."""

    def __init__(self, channel: Channel, staged: Staged) -> None:
        self._staged = staged
        self._images = api_grpc.ImageServiceStub(channel)

    async def pull_image(self, reference: str, credentials: Credentials | None) -> str:
        """CRI PullImage: return the image id.

        Raises:
            OcidError: what the daemon refused with, or ``Unavailable`` when the connection broke.
        """
        request = pb.PullImageRequest(image=pb.ImageSpec(image=reference))
        if credentials is not None:
            request.auth.CopyFrom(
                pb.AuthConfig(
                    username=credentials.username,
                    password=credentials.password,
                    auth=credentials.auth,
                    identity_token=credentials.identity_token,
                    registry_token=credentials.registry_token,
                )
            )
        response: pb.PullImageResponse = await self._call(self._images.PullImage, request)
        return response.image_ref

    async def progress(self, reference: str) -> Sequence[Any]:
        """Return how far downloads have come. The CRI has no such call, so the store's staging files are looked at."""
        return [LayerProgress(digest=digest, done_bytes=size, total_bytes=0) for digest, size in self._staged().items()]

    async def _call(self, method: Any, request: Any) -> Any:
        try:
            return await trio_asyncio.aio_as_trio(method)(request)
        except GRPCError as error:
            kind = ERROR_OF.get(error.status, errors.EffectFailed)
            raise errors.revive(kind.__name__, error.message or error.status.name) from None
        except (ProtocolError, StreamTerminatedError, OSError) as error:
            raise errors.Unavailable(f"the connection to the daemon broke: {error}") from error


@contextlib.asynccontextmanager
async def connect(path: Path, staged: Staged) -> AsyncIterator[CriClient]:
    """Connect to the CRI socket at *path*; *staged* tells the bytes that downloads have, by blob.

    Raises:
        OSError: nothing listens there, or this user may not connect.
    """
    async with trio_asyncio.open_loop():
        channel = Channel(path=str(path))
        try:
            await trio_asyncio.aio_as_trio(channel.__connect__)()
            yield CriClient(channel, staged)
        finally:
            channel.close()
