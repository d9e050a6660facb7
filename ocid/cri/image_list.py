"""CRI ListImages and ImageStatus."""

from __future__ import annotations

import msgspec

from ocid.cri import validate
from ocid.cri.facade import Facade
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.catalog import Image
from ocid.domain.spec.users import ID_MAX
from ocid.errors import NotFound


def list_images(facade: Facade, request: pb.ListImagesRequest) -> pb.ListImagesResponse:
    """Answer from memory. The filter may name an image in any form; one that is not there gives an empty list.

    Raises:
        InvalidRequest: the filter is malformed.
    """
    validate.list_images(request)
    return pb.ListImagesResponse(images=matching_images(facade, request.filter))


def matching_images(facade: Facade, wanted: pb.ImageFilter) -> list[pb.Image]:
    """Return every image that fits the filter."""
    images = facade.catalog_state().images
    if wanted.image.image:
        try:
            image_id = facade.image_id(wanted.image.image)
        except NotFound:
            return []
        images = {image_id: images[image_id]}
    return [image_message(facade, image) for image in images.values()]


def image_status(facade: Facade, request: pb.ImageStatusRequest) -> pb.ImageStatusResponse:
    """Answer from memory. An image that is not there is no error: the response has none.

    Raises:
        InvalidRequest: the request names no image.
    """
    validate.image(request.image)
    try:
        image_id = facade.image_id(request.image.image)
    except NotFound:
        return pb.ImageStatusResponse()
    image = facade.catalog_state().images[image_id]
    response = pb.ImageStatusResponse(image=image_message(facade, image))
    if request.verbose:
        journal = facade.core.host.journal
        info = {
            "manifestDigest": image.manifest,
            "manifest": msgspec.Raw(journal.document(image.manifest)),
            "imageSpec": msgspec.Raw(journal.document(image.config)),
            "chainIDs": facade.core.images.facts(image.manifest).layers,
        }
        response.info["info"] = msgspec.json.encode(info).decode()
    return response


def image_message(facade: Facade, image: Image) -> pb.Image:
    """CRI Image. Its id is the digest of its configuration, everywhere."""
    user = facade.core.images.facts(image.manifest).config.user.partition(":")[0]
    message = pb.Image(
        id=image.image_id,
        repo_tags=[name for name in image.names if "@" not in name],
        repo_digests=[name for name in image.names if "@" in name],
        size=image.size_bytes,
        spec=pb.ImageSpec(image=image.image_id),
        pinned=False,
    )
    if user.isascii() and user.isdigit() and int(user[:20]) <= ID_MAX:
        message.uid.value = int(user)
    else:
        message.username = user
    return message
