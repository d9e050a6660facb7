"""Image manifests and indexes, of OCI and of Docker schema 2, from the bytes that a registry sent.

Everything here comes from outside: sizes, counts and types are checked, and an error says what the document has.

Source: OCI image-spec manifest.md, image-index.md, config.md "Layer ChainID"; Docker image manifest v2 schema 2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec

from ocid.errors import EffectFailed, Exhausted, InvalidRequest, NotFound, Unsupported
from ocid.ids import ChainId, Digest, digest

MANIFEST_BYTES_MAX: Final = 4 << 20  # OCI distribution-spec: registries refuse larger ones
LAYERS_MAX: Final = 128
INDEX_ENTRIES_MAX: Final = 4096
BLOB_BYTES_MAX: Final = 64 << 30

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
ACCEPT: Final = (OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST)  # for the request's Accept header

_SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1+"  # json or prettyjws
_CONFIGS: Final = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
)
_OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_OCI_LAYER_KEPT_BACK: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar"
_DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
_DOCKER_LAYER_KEPT_BACK: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar"
_COMPRESSIONS: Final = {
    _OCI_LAYER: "plain",
    _OCI_LAYER + "+gzip": "gzip",
    _OCI_LAYER + "+zstd": "zstd",
    _OCI_LAYER_KEPT_BACK: "plain",
    _OCI_LAYER_KEPT_BACK + "+gzip": "gzip",
    _OCI_LAYER_KEPT_BACK + "+zstd": "zstd",
    _DOCKER_LAYER: "plain",
    _DOCKER_LAYER + ".gzip": "gzip",
    _DOCKER_LAYER + ".zstd": "zstd",
    _DOCKER_LAYER_KEPT_BACK: "plain",
    _DOCKER_LAYER_KEPT_BACK + ".gzip": "gzip",
}
_ATTESTATION: Final = "vnd.docker.reference.type"  # annotation of BuildKit's provenance entries


class Platform(msgspec.Struct, frozen=True, kw_only=True):
    """What a program runs on, in the words of Go's GOOS and GOARCH."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(msgspec.Struct, frozen=True, kw_only=True):
    """A pointer to content: what it is, its digest, its size."""

    media_type: str
    digest: Digest
    size_bytes: int
    platform: Platform | None = None
    attestation: bool = False


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One platform's image: its configuration and its layers, the base layer first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """A choice of manifests."""

    manifests: tuple[Descriptor, ...]


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One layer, as manifest and configuration together describe it."""

    chain_id: ChainId
    diff_id: Digest
    blob: Descriptor


def parse(raw: bytes, media_type: str = "") -> Manifest | Index:
    """Read a manifest or an index.

    Args:
        raw: the document, at most ``MANIFEST_BYTES_MAX``.
        media_type: the registry's Content-Type; the document's own ``mediaType`` wins over it.
    Raises:
        EffectFailed: the document is malformed, or could be read both ways.
        Exhausted: it is larger, or has more layers, than the limits here allow.
        Unsupported: it is of Docker schema 1, or no container image at all.
    """
    document = _object(raw, "image manifest")
    own = document.get("mediaType", media_type)
    own = own if isinstance(own, str) else ""
    if document.get("schemaVersion") == 1 or own.startswith(_SCHEMA_1):
        raise Unsupported("image manifest is of Docker schema 1, which was retired in 2019: push the image again")
    if document.get("schemaVersion") != 2:
        raise EffectFailed(f"image manifest: schemaVersion is {document.get('schemaVersion')!r:.40}, wanted 2")
    one, many = "layers" in document or "config" in document, "manifests" in document
    if one and many:  # CVE-2021-41190: what it means must not depend on who reads it
        raise EffectFailed("image manifest has layers and manifests: refused, as it can be read both ways")
    if many and own not in (OCI_MANIFEST, DOCKER_MANIFEST):
        entries = _list(document["manifests"], "manifests", INDEX_ENTRIES_MAX)
        return Index(manifests=tuple(_descriptor(entry, "manifests") for entry in entries))
    if not one or own in (OCI_INDEX, DOCKER_LIST):
        raise EffectFailed(f"image manifest calls itself {own[:100]!r} but has not the fields of one")
    layers = _list(document.get("layers"), "layers", LAYERS_MAX)
    return Manifest(
        config=_descriptor(document.get("config"), "config"),
        layers=tuple(_descriptor(entry, "layers") for entry in layers),
    )


def annotation(raw: bytes, names: Sequence[str]) -> str:
    """Return a manifest's first annotation of these *names*, "" when it has none of them.

    Raises:
        EffectFailed: the manifest is no JSON object.
    """
    annotations = _object(raw, "image manifest").get("annotations")
    if not isinstance(annotations, dict):
        return ""
    values = (annotations.get(name) for name in names)
    return next((value[:1024] for value in values if isinstance(value, str) and value), "")


def _object(raw: bytes, what: str) -> dict[str, object]:
    if len(raw) > MANIFEST_BYTES_MAX:
        raise Exhausted(f"{what} has {len(raw)} bytes, the limit is {MANIFEST_BYTES_MAX}")
    try:
        document: object = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EffectFailed(f"{what} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise EffectFailed(f"{what} is a JSON {type(document).__name__}, wanted an object")
    return document


def _list(value: object, field: str, limit: int) -> list[object]:
    if not isinstance(value, list):
        raise EffectFailed(f"image manifest: {field} is no list")
    if len(value) > limit:
        raise Exhausted(f"image manifest: {field} has {len(value)} entries, the limit is {limit}")
    return value


def _descriptor(value: object, field: str) -> Descriptor:
    if not isinstance(value, dict):
        raise EffectFailed(f"image manifest: an entry of {field} is no object")
    media_type, size, name = value.get("mediaType"), value.get("size"), value.get("digest")
    if not isinstance(media_type, str) or not media_type or len(media_type) > 255:
        raise EffectFailed(f"image manifest: an entry of {field} has no mediaType")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= BLOB_BYTES_MAX:
        raise EffectFailed(f"image manifest: an entry of {field} has size {size!r:.40}, wanted 0 to {BLOB_BYTES_MAX}")
    if not isinstance(name, str):
        raise EffectFailed(f"image manifest: an entry of {field} has no digest")
    annotations = value.get("annotations")
    return Descriptor(
        media_type=media_type,
        digest=_digest(name, field),
        size_bytes=size,
        platform=_platform(value.get("platform")),
        attestation=isinstance(annotations, dict) and _ATTESTATION in annotations,
    )


def _digest(text: str, field: str) -> Digest:
    try:
        return digest(text)
    except InvalidRequest as error:
        raise EffectFailed(f"image manifest: {field}: {error.message}") from error


def _platform(value: object) -> Platform | None:
    if not isinstance(value, dict):
        return None
    os, architecture, variant = (value.get(key) for key in ("os", "architecture", "variant"))
    if not isinstance(os, str) or not isinstance(architecture, str):
        return None
    return Platform(os=os, architecture=architecture, variant=variant if isinstance(variant, str) else "")


# --- platforms -------------------------------------------------------------------------------------------------------

_ARCHITECTURES: Final = {
    "x86_64": ("amd64", ""), "aarch64": ("arm64", "v8"), "armv8l": ("arm", "v8"), "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"), "i386": ("386", ""), "i686": ("386", ""), "loongarch64": ("loong64", ""),
    "mips64": ("mips64le", ""),
}  # fmt: skip
_DEFAULT_VARIANTS: Final = {"arm64": "v8", "arm": "v7", "amd64": "v1"}


def host_platform(machine: str) -> Platform:
    """Name the platform of a Linux host whose uname(2) machine is *machine*, for instance ``x86_64``."""
    architecture, variant = _ARCHITECTURES.get(machine, (machine, ""))
    return Platform(os="linux", architecture=architecture, variant=variant)


def choose(index: Index, platform: Platform) -> Descriptor:
    """Return the entry that *platform* runs best: its own variant, else the highest below; attestations never.

    Raises:
        NotFound: there is none; the message lists what there is.
        Unsupported: the best one is an index again.
    """
    candidates = [entry for entry in index.manifests if not _is_attestation(entry)]
    ranked = [(rank, -place, entry) for place, entry in enumerate(candidates) if (rank := _rank(entry, platform)) >= 0]
    if not ranked:
        there = ", ".join(sorted({str(entry.platform) for entry in candidates if entry.platform})[:20]) or "none"
        raise NotFound("image for platform", f"{platform} (the index has: {there})")
    best = max(ranked, key=lambda item: item[:2])[2]
    if best.media_type in (OCI_INDEX, DOCKER_LIST):
        raise Unsupported(f"index entry {best.digest} is an index again: refer to it by its digest")
    return best


def _is_attestation(entry: Descriptor) -> bool:
    return entry.attestation or (entry.platform is not None and entry.platform.os == "unknown")


def _rank(entry: Descriptor, platform: Platform) -> int:
    """Larger is better, below zero does not run. An entry that names no platform is the last resort."""
    offered = entry.platform
    if offered is None:
        return 0
    return 1 + _variant_rank(offered, platform) if runs(offered, platform) else -1


def runs(offered: Platform, platform: Platform) -> bool:
    """Say whether a program for *offered* runs on *platform*: lower variants of ARM and x86-64 do."""
    if (offered.os, offered.architecture) != (platform.os, platform.architecture):
        return False
    return _variant_rank(offered, platform) >= 0


def _variant_rank(offered: Platform, platform: Platform) -> int:
    default = _DEFAULT_VARIANTS.get(platform.architecture, "")
    wanted, has = platform.variant or default, offered.variant or default
    if wanted == has:
        return 100
    if _level(wanted) is None or _level(has) is None:
        return -1
    level, limit = _level(has) or 0, _level(wanted) or 0
    return level if level <= limit else -1


def _level(variant: str) -> int | None:
    number = variant[1:]
    return int(number) if variant[:1] == "v" and number.isascii() and number.isdigit() and len(number) <= 2 else None


# --- layers ----------------------------------------------------------------------------------------------------------


def compression(media_type: str) -> str:
    """Return how a layer of this media type is packed: "plain", "gzip" or "zstd".

    Raises:
        Unsupported: the media type is not one of a layer.
    """
    found = _COMPRESSIONS.get(media_type)
    if found is None:
        raise Unsupported(f"layer of media type {media_type[:100]!r}: wanted a tar archive, plain, gzip or zstd")
    return found


def chain_ids(listed: Sequence[Digest]) -> tuple[ChainId, ...]:
    """Name each layer together with all below it, the base layer first. OCI config.md "Layer ChainID"."""
    chain: list[ChainId] = []
    for diff_id in listed:
        text = f"{chain[-1]} {diff_id}" if chain else None
        chain.append(ChainId(diff_id if text is None else "sha256:" + hashlib.sha256(text.encode()).hexdigest()))
    return tuple(chain)


def diff_ids(config: bytes) -> tuple[Digest, ...]:
    """Return the digests of the uncompressed layers that an image configuration lists, the base layer first.

    Raises:
        EffectFailed: the configuration is malformed.
    """
    return _diff_ids(_object(config, "image config"))


def layers(manifest: Manifest, config: bytes, platform: Platform) -> tuple[Layer, ...]:
    """Match the manifest's layers with the configuration's diff ids, the base layer first.

    Raises:
        EffectFailed: the two do not fit together, or the configuration is malformed.
        NotFound: the image is for another platform.
        Unsupported: it is no container image, or a layer is packed in an unknown way.
    """
    if manifest.config.media_type not in _CONFIGS:
        raise Unsupported(f"{manifest.config.media_type[:100]!r} is no container image: this artifact cannot be run")
    document = _object(config, "image config")
    offered = Platform(
        os=_text(document, "os") or platform.os,
        architecture=_text(document, "architecture") or platform.architecture,
        variant=_text(document, "variant"),
    )
    if not runs(offered, platform):
        raise NotFound("image for platform", f"{platform} (the image is for {offered})")
    listed = _diff_ids(document)
    if len(listed) != len(manifest.layers):
        raise EffectFailed(f"image manifest has {len(manifest.layers)} layers, its config {len(listed)} diff ids")
    for blob in manifest.layers:
        compression(blob.media_type)
    return tuple(
        Layer(chain_id=chain_id, diff_id=diff_id, blob=blob)
        for chain_id, diff_id, blob in zip(chain_ids(listed), listed, manifest.layers, strict=True)
    )


def _text(document: dict[str, object], key: str) -> str:
    value = document.get(key)
    return value if isinstance(value, str) else ""


def _diff_ids(document: dict[str, object]) -> tuple[Digest, ...]:
    rootfs = document.get("rootfs")
    listed = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if listed is None:
        return ()  # an image without layers may leave them out
    if not isinstance(listed, list) or len(listed) > LAYERS_MAX or not all(isinstance(item, str) for item in listed):
        raise EffectFailed(f"image config: rootfs.diff_ids is no list of at most {LAYERS_MAX} digests")
    return tuple(_digest(item, "rootfs.diff_ids") for item in listed)


def total_bytes(raw: bytes, manifest: Manifest) -> int:
    """Return the size of the image as registries and image lists count it: manifest, configuration and blobs."""
    return len(raw) + manifest.config.size_bytes + sum(layer.size_bytes for layer in manifest.layers)
