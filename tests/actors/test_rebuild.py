"""What of a damaged log begins the new one."""

from __future__ import annotations

import msgspec
import pytest

from ocid.actors import rebuild
from ocid.domain.configs import ContainerConfig, ImageSpec, Mount
from ocid.events.container import Declared
from ocid.ids import digest_of
from tests.events.samples import sample


@pytest.mark.parametrize("mounts", [(), ("sha256:" + "1" * 64, "sha256:" + "2" * 64)])
def test_what_mounted_images_are_made_of_is_needed_too(mounts: tuple[str, ...]) -> None:
    named = (Mount(container_path=f"/{one[-1]}", image=ImageSpec(image="x", image_ref=one)) for one in mounts)
    config = msgspec.json.encode(ContainerConfig(mounts=(Mount(container_path="/plain"), *named)))
    event = sample(Declared)
    assert isinstance(event, Declared)
    event = msgspec.structs.replace(event, config=digest_of(config))
    assert rebuild._of_mounted_images([event], {event.config: config}) == set(mounts)
    assert rebuild._of_mounted_images([event], {}) == set(), "a document that is missing is told of elsewhere"
