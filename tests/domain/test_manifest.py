"""Manifests, indexes and configurations, good and hostile."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from ocid.domain import manifest as manifests
from ocid.domain.manifest import Index, Manifest, Platform
from ocid.errors import EffectFailed, Exhausted, NotFound, OcidError, Unsupported
from ocid.ids import Digest, digest_of

AMD64 = manifests.host_platform("x86_64")
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG = "application/vnd.oci.image.config.v1+json"


def descriptor(content: bytes = b"x", media_type: str = LAYER, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content), **more}


def manifest(**more: Any) -> dict[str, Any]:
    fields = {"config": descriptor(b"{}", CONFIG), "layers": [descriptor(b"1"), descriptor(b"2")]}
    return {"schemaVersion": 2, "mediaType": manifests.OCI_MANIFEST, **fields, **more}


def index(*entries: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": manifests.OCI_INDEX, "manifests": list(entries), **more}


def entry(architecture: str, variant: str = "", os: str = "linux", **more: Any) -> dict[str, Any]:
    platform = {"os": os, "architecture": architecture, **({"variant": variant} if variant else {})}
    content = f"{os}{architecture}{variant}".encode()
    return descriptor(content, manifests.OCI_MANIFEST, platform=platform, **more)


def parse(document: object, media_type: str = "") -> Manifest | Index:
    return manifests.parse(json.dumps(document).encode(), media_type)


def parsed(document: object) -> Manifest:
    found = parse(document)
    assert isinstance(found, Manifest)
    return found


def chosen(platform: Platform, *entries: dict[str, Any]) -> str:
    found = parse(index(*entries))
    assert isinstance(found, Index)
    best = manifests.choose(found, platform).platform
    return str(best) if best is not None else "none"


def config(*diff_ids: str, **more: Any) -> bytes:
    document = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}, **more}
    return json.dumps(document).encode()


D1, D2, D3 = (digest_of(text) for text in (b"d1", b"d2", b"d3"))


def test_a_manifest_of_either_family_is_read() -> None:
    for media_type in (manifests.OCI_MANIFEST, manifests.DOCKER_MANIFEST):
        found = parsed(manifest(mediaType=media_type))
        assert [layer.digest for layer in found.layers] == [digest_of(b"1"), digest_of(b"2")]
        assert found.config.size_bytes == 2


def test_the_content_type_helps_where_the_document_names_no_type() -> None:
    plain = {key: value for key, value in manifest().items() if key != "mediaType"}
    assert isinstance(parse(plain, manifests.OCI_MANIFEST), Manifest)
    assert isinstance(parse(plain), Manifest)


def test_total_bytes_counts_manifest_config_and_blobs() -> None:
    assert manifests.total_bytes(b"12345", parsed(manifest())) == 5 + 2 + 1 + 1


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ([], EffectFailed),
        ("text", EffectFailed),
        ({}, EffectFailed),
        ({"schemaVersion": 2}, EffectFailed),
        ({"schemaVersion": "2", "layers": []}, EffectFailed),
        ({"schemaVersion": 1, "fsLayers": []}, Unsupported),
        (manifest(mediaType="application/vnd.docker.distribution.manifest.v1+prettyjws"), Unsupported),
        (manifest(manifests=[]), EffectFailed),
        (manifest(mediaType=manifests.OCI_INDEX), EffectFailed),
        (index(mediaType=manifests.OCI_MANIFEST), EffectFailed),
        (manifest(config=None), EffectFailed),
        (manifest(config=[]), EffectFailed),
        (manifest(layers=None), EffectFailed),
        (manifest(layers={}), EffectFailed),
        (manifest(layers=[7]), EffectFailed),
        (manifest(layers=[descriptor()] * 129), Exhausted),
        (manifest(layers=[descriptor(size=-1)]), EffectFailed),
        (manifest(layers=[descriptor(size=True)]), EffectFailed),
        (manifest(layers=[descriptor(size="5")]), EffectFailed),
        (manifest(layers=[descriptor(size=1.5)]), EffectFailed),
        (manifest(layers=[descriptor(size=10**30)]), EffectFailed),
        (manifest(layers=[descriptor(digest="sha256:../../x")]), EffectFailed),
        (manifest(layers=[descriptor(digest="sha512:" + "0" * 128)]), EffectFailed),
        (manifest(layers=[descriptor(digest=5)]), EffectFailed),
        (manifest(layers=[descriptor(media_type="")]), EffectFailed),
        (index(*[entry("amd64")] * 4097), Exhausted),
    ],
)
def test_a_malformed_document_is_refused(document: object, error: type[OcidError]) -> None:
    with pytest.raises(error):
        parse(document)


def test_a_document_that_is_no_json_or_too_large_is_refused() -> None:
    with pytest.raises(EffectFailed, match="not JSON"):
        manifests.parse(b"<html>")
    with pytest.raises(EffectFailed, match="not JSON"):
        manifests.parse(b"[" * 100_000)
    with pytest.raises(Exhausted, match="4194304"):
        manifests.parse(b" " * (manifests.MANIFEST_BYTES_MAX + 1))


@pytest.mark.parametrize(
    ("machine", "platform"),
    [
        ("x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64/v8"),
        ("armv7l", "linux/arm/v7"),
        ("riscv64", "linux/riscv64"),
    ],
)
def test_the_host_platform_is_named_as_go_does(machine: str, platform: str) -> None:
    assert str(manifests.host_platform(machine)) == platform


AMD64_V3 = Platform(os="linux", architecture="amd64", variant="v3")
ARM64, ARM7 = manifests.host_platform("aarch64"), manifests.host_platform("armv7l")


@pytest.mark.parametrize(
    ("platform", "entries", "best"),
    [
        (AMD64, [entry("arm64"), entry("amd64")], "linux/amd64"),
        (AMD64, [entry("amd64", os="windows"), entry("amd64")], "linux/amd64"),
        (AMD64, [entry("amd64", "v3"), entry("amd64")], "linux/amd64"),
        (ARM64, [entry("arm", "v7"), entry("arm64", "v8")], "linux/arm64/v8"),
        (ARM64, [entry("arm64")], "linux/arm64"),
        (ARM7, [entry("arm", "v5"), entry("arm", "v6"), entry("arm", "v8")], "linux/arm/v6"),
        (ARM7, [entry("arm", "v6"), entry("arm", "v7")], "linux/arm/v7"),
        (AMD64_V3, [entry("amd64"), entry("amd64", "v2")], "linux/amd64/v2"),
        (AMD64, [descriptor(b"m", manifests.OCI_MANIFEST)], "none"),
        (AMD64, [entry("unknown", os="unknown"), entry("amd64")], "linux/amd64"),
        (AMD64, [entry("amd64", annotations={"vnd.docker.reference.type": "x"}), entry("amd64")], "linux/amd64"),
    ],
)  # fmt: skip
def test_the_best_entry_is_chosen(platform: Platform, entries: list[dict[str, Any]], best: str) -> None:
    assert chosen(platform, *entries) == best


def test_the_first_of_equals_wins() -> None:
    first = entry("amd64", digest=str(D1))
    found = parse(index(first, entry("amd64", digest=str(D2))))
    assert isinstance(found, Index)
    assert manifests.choose(found, AMD64).digest == D1


def test_an_index_without_this_platform_says_what_it_has() -> None:
    with pytest.raises(NotFound, match=r"linux/amd64.*linux/arm64, linux/s390x"):
        chosen(AMD64, entry("s390x"), entry("arm64"), entry("unknown", os="unknown"))


def test_an_index_in_an_index_is_refused() -> None:
    with pytest.raises(Unsupported):
        chosen(AMD64, {**entry("amd64"), "mediaType": manifests.OCI_INDEX})


def test_chain_ids_are_those_of_the_specification() -> None:
    two = "sha256:" + hashlib.sha256(f"{D1} {D2}".encode()).hexdigest()
    three = "sha256:" + hashlib.sha256(f"{two} {D3}".encode()).hexdigest()
    assert manifests.chain_ids([D1, D2, D3]) == (D1, two, three)
    assert manifests.chain_ids([]) == ()


def test_layers_join_manifest_and_config() -> None:
    found = manifests.layers(parsed(manifest()), config(D1, D2), AMD64)
    assert [layer.diff_id for layer in found] == [D1, D2]
    assert [layer.blob.digest for layer in found] == [digest_of(b"1"), digest_of(b"2")]
    assert manifests.diff_ids(config(D1, D2)) == (D1, D2)


def test_an_image_without_layers_is_an_image() -> None:
    assert manifests.layers(parsed(manifest(layers=[])), b'{"os": "linux"}', AMD64) == ()


@pytest.mark.parametrize(
    ("document", "raw_config", "error"),
    [
        (manifest(), config(D1), EffectFailed),
        (manifest(), config(D1, "sha256:zz"), EffectFailed),
        (manifest(), config(D1, D2, architecture="arm64"), NotFound),
        (manifest(), config(D1, D2, os="windows"), NotFound),
        (manifest(), b'{"rootfs": {"diff_ids": "x"}}', EffectFailed),
        (manifest(), b'{"rootfs": {"diff_ids": [1, 2]}}', EffectFailed),
        (manifest(), b"nonsense", EffectFailed),
        (manifest(layers=[descriptor(media_type="text/plain")]), config(D1), Unsupported),
        (manifest(layers=[descriptor(media_type=LAYER + "+encrypted")]), config(D1), Unsupported),
        (manifest(config=descriptor(b"{}", "application/vnd.cncf.helm.config.v1+json")), config(D1, D2), Unsupported),
    ],
)
def test_what_does_not_fit_together_is_refused(
    document: dict[str, Any], raw_config: bytes, error: type[OcidError]
) -> None:
    with pytest.raises(error):
        manifests.layers(parsed(document), raw_config, AMD64)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["schemaVersion", "mediaType", "config", "layers", "manifests", "digest", "size", "platform"])


@given(st.dictionaries(FIELDS, JSON | st.just(2) | st.just([descriptor()]) | st.just(descriptor()), max_size=6))
def test_any_document_is_read_or_refused(document: dict[str, Any]) -> None:
    try:
        found = parse(document)
        if isinstance(found, Manifest):
            manifests.layers(found, json.dumps(document).encode(), AMD64)
        else:
            manifests.choose(found, AMD64)
    except OcidError:
        pass


@given(st.lists(st.binary(min_size=1, max_size=4), max_size=6))
def test_a_chain_id_names_everything_below(contents: list[bytes]) -> None:
    diff_ids: list[Digest] = [digest_of(content) for content in contents]
    chain = manifests.chain_ids(diff_ids)
    assert len(chain) == len(diff_ids)
    assert len(set(chain)) == len(chain)
    for upto in range(len(diff_ids)):
        assert manifests.chain_ids(diff_ids[:upto]) == chain[:upto]
