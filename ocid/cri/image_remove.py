"""CRI RemoveImage: forget an image by any of its names. All its names go, in whatever registry."""

from __future__ import annotations

from ocid.cri import validate
from ocid.cri.facade import Facade
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.catalog import Remove
from ocid.errors import NotFound
from ocid.events.envelope import Context


async def remove_image(facade: Facade, request: pb.RemoveImageRequest, context: Context) -> pb.RemoveImageResponse:
    """Return when lists do not show it any more; layers that nothing else needs go soon after.

    Raises:
        InvalidRequest: the request names no image.
    """
    validate.image(request.image)
    try:
        image_id = facade.image_id(request.image.image)
    except NotFound:
        return pb.RemoveImageResponse()
    await facade.core.catalog.get("images").ask(Remove(image_id=image_id), context)
    return pb.RemoveImageResponse()
