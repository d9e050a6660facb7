"""CreateContainer from a container checkpoint: an archive's absolute path as the image, or an image that holds one."""

from __future__ import annotations

from typing import Final

import msgspec

from ocid.actors.restoring import image_source
from ocid.cri.facade import Facade
from ocid.domain.checkpoint_facts import CheckpointFacts, inherited
from ocid.domain.configs import ContainerConfig, ImageSpec
from ocid.domain.pod import Pod
from ocid.errors import InvalidRequest, NotFound, Unsupported
from ocid.events.container import Origin
from ocid.ids import ImageId
from ocid.ports.archives import ArchiveSource

NAME_MAX: Final = 100  # of a name that a stranger chose, in the log
PATH_BYTES_MAX: Final = 1024  # as for the location of a checkpoint


class Restore(msgspec.Struct, frozen=True, kw_only=True):
    """The checkpoint that a container is to go on from, as it was found."""

    origin: Origin
    image_id: ImageId  # of the root file system
    config: ContainerConfig  # the request's, with what it takes over


async def restore_of(facade: Facade, config: ContainerConfig, pod: Pod) -> Restore | None:
    """Look at the checkpoint that a request names as its image; None when it names an image to begin anew from.

    Security, resources, mounts, labels: all is the request's. Of the checkpoint come annotations that the request does
    not have, and the image that its files are changes to, which must be here.

    Raises:
        Unsupported: containers do not go on from checkpoints on this node, or in this pod.
        NotFound: the archive is not there, or the image below it is not.
        InvalidRequest: it is no checkpoint, or one that is refused.
    """
    name, archives = config.image.image, facade.core.host.archives
    if name.startswith("/"):
        _check_path(name)
        source, digest, what = ArchiveSource(archive=name), None, f"checkpoint archive {name!r}"
    else:
        image = facade.catalog_state().images[facade.image_id(name)]
        facts = facade.core.images.facts(image.manifest)
        if not facts.checkpoint:
            return None
        source, digest, what = image_source(facts), image.manifest, f"checkpoint image {name!r}"
    archives.require()
    assert pod.declared is not None, "checked by the caller"
    if pod.declared.userns:
        raise Unsupported(
            f"{what}: restoring into a pod with a user namespace is not supported: its files' owners differ"
        )
    found, checkpoint = await archives.read(source)
    if config.tty is not checkpoint.terminal:
        had = "had a terminal" if checkpoint.terminal else "had no terminal"
        raise InvalidRequest(f"config.tty is {str(config.tty).lower()}, but the container of {what} {had}")
    digest = digest or found
    assert digest is not None, "an archive has one, and an image, too"
    origin = Origin(digest=digest, archive=source.archive, name=checkpoint.name[:NAME_MAX])
    image_id, root = _root_image(facade, checkpoint, what)
    prefixes = facade.core.host.settings.spec_policy.annotation_prefixes
    annotations = {**inherited(checkpoint.annotations, prefixes), **config.annotations}
    spec = ImageSpec(image=root, annotations=config.image.annotations, runtime_handler=config.image.runtime_handler)
    config = msgspec.structs.replace(config, image=spec, annotations=annotations)
    return Restore(origin=origin, image_id=image_id, config=config)


def _root_image(facade: Facade, checkpoint: CheckpointFacts, what: str) -> tuple[ImageId, str]:
    for name in checkpoint.image_refs:
        try:
            image_id = facade.image_id(name)
        except NotFound:
            continue
        image = facade.catalog_state().images[image_id]
        if facade.core.images.facts(image.manifest).checkpoint:
            raise InvalidRequest(f"{what} is based on image {name!r}, which is a checkpoint itself")
        return image_id, next((one for one in reversed(checkpoint.image_refs) if one in image.names), name)
    names = " or ".join(checkpoint.image_refs) or "(it names none)"
    raise NotFound(f"{what}: pull the image that it is based on first: image", names)


def _check_path(path: str) -> None:
    if len(path.encode()) > PATH_BYTES_MAX:
        raise InvalidRequest(f"image is a path of {len(path.encode())} bytes, the limit is {PATH_BYTES_MAX}")
    if any(part in (".", "..") for part in path.split("/")):
        raise InvalidRequest(f"image is {path[:200]!r}, wanted an absolute path without '.' and '..'")
