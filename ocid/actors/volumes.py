"""Image volumes: what the mounts of a container's configuration that name an image need of the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ocid.domain.configs import ContainerConfig, Mount
from ocid.errors import EffectFailed, OcidError
from ocid.ids import ChainId, ImageId
from ocid.ports import ContainerOrder, ImageView, Layers

FAILED = "ImageVolumeMountFailed"  # CRI: how the kubelet tells this from other failures, at the beginning of a message

LayersOf = Callable[[ImageId], Sequence[ChainId]]


def failure(mount: Mount, why: str) -> EffectFailed:
    """Return the error that the kubelet knows for an image that could not be mounted."""
    image = "" if mount.image is None else mount.image.user_specified_image or mount.image.image
    return EffectFailed(f"{FAILED}: mount of image {image[:200]!r} at {mount.container_path[:200]!r}: {why}")


async def mount_images(
    layers: Layers,
    layers_of: LayersOf,
    container: ContainerConfig,
    order: ContainerOrder,
    view: ImageView,
) -> dict[int, str]:
    """Mount the images that the container's mounts name; return what to bind, by the mount's position. Idempotent.

    Raises:
        EffectFailed: one cannot be mounted, or has no such sub path; the message begins as the kubelet expects.
    """
    sources = {}
    for number, mount in enumerate(container.mounts):
        if mount.image is None:
            continue
        try:
            chain = layers_of(ImageId(mount.image.image_ref))
            source = await layers.mount_image(order, number, chain, mount.image_sub_path, view)
        except OcidError as error:
            raise failure(mount, error.message) from error
        sources[number] = str(source)
    return sources
