"""Where a container's layers are, and which container is meant."""

from __future__ import annotations

import json

import pytest

from ocid.domain.changes import Lower
from ocid.domain.manifest import chain_ids
from ocid.errors import EffectFailed, InvalidRequest, NotFound
from ocid.events import container
from ocid.ids import Digest, digest_of
from ocid.projections.changes import find_container, layers_of
from tests.fakes.declared import container_declared, pod_declared
from tests.projections.logs import Log

LAYERS = [digest_of(b"one"), digest_of(b"two")]
CONFIG = json.dumps({"rootfs": {"type": "layers", "diff_ids": LAYERS}}).encode()
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest_of(CONFIG),
            "size": len(CONFIG),
        },
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": one, "size": 1} for one in LAYERS],
    }
).encode()
SPEC = json.dumps({"mounts": [{"destination": "/proc"}, {"destination": "/etc/hosts/"}]}).encode()


def log() -> Log:
    one = Log((CONFIG, MANIFEST, SPEC))
    one.add("pod/p1", pod_declared())
    prepared = container.Prepared(spec=digest_of(SPEC), uid=0, gid=0)
    one.add("container/abc1", container_declared("abc1", image_manifest=digest_of(MANIFEST)), prepared)
    one.add("container/abc2", container_declared("abc2", name="other"))
    one.add("container/abc3", container_declared("abc3", name="other"))
    return one


@pytest.mark.parametrize(("wanted", "found"), [("abc1", "abc1"), ("app", "abc1"), ("abc2", "abc2")])
def test_a_container_is_found_by_id_and_name(wanted: str, found: str) -> None:
    assert find_container(log().view, wanted).container_id == found


@pytest.mark.parametrize("wanted", ["abc", "other"])
def test_several_are_refused_by_name(wanted: str) -> None:
    with pytest.raises(InvalidRequest, match="abc2, abc3"):
        find_container(log().view, wanted)


@pytest.mark.parametrize("wanted", ["nonesuch", ""])
def test_none_is_not_found(wanted: str) -> None:
    with pytest.raises(NotFound):
        find_container(log().view, wanted)


def test_the_uppermost_layer_comes_first() -> None:
    one = log()
    layers = layers_of(one.view, find_container(one.view, "app"), "/root", one.document)
    names = [str(name) for name in chain_ids([Digest(layer) for layer in LAYERS])]

    assert layers.upper == "/var/lib/ocid/containers/abc1/upper"
    assert layers.lowers == tuple(
        Lower(chain_id=name, number=number, directory=f"/root/layers/{name.removeprefix('sha256:')}/diff")
        for number, name in ((2, names[1]), (1, names[0]))
    )
    assert layers.mount_points == {"/proc", "/etc/hosts"}
    assert (layers.uids, layers.gids) == ((), ())


def test_an_index_in_the_place_of_a_manifest_is_an_error() -> None:
    index = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
    one = Log((index,))
    one.add("container/c1", container_declared(image_manifest=digest_of(index)))
    with pytest.raises(EffectFailed):
        layers_of(one.view, find_container(one.view, "c1"), "/root", one.document)


def test_an_image_whose_manifest_is_gone_is_not_found() -> None:
    one = log()
    one.documents = {key: text for key, text in one.documents.items() if text != MANIFEST}
    with pytest.raises(NotFound, match="document"):
        layers_of(one.view, find_container(one.view, "app"), "/root", one.document)
