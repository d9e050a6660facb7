"""Tiny images, built on the spot: fixed times and order, so that digests are the same in every run.

Good layers are made with ``tarfile``, which is not what reads them. Hostile ones have a function each.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import zstandard

from ocid.domain import manifest as manifests
from ocid.ids import Digest, ImageId, digest_of
from ocid.ports import LayerBlob

OCI_TAR: Final = "application/vnd.oci.image.layer.v1.tar"
DOCKER_TAR: Final = "application/vnd.docker.image.rootfs.diff.tar"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
PACKERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "": lambda raw: raw,
    "+gzip": lambda raw: gzip.compress(raw, mtime=0),
    "+zstd": lambda raw: zstandard.ZstdCompressor().compress(raw),
    ".gzip": lambda raw: gzip.compress(raw, mtime=0),
}

# --- archives --------------------------------------------------------------------------------------------------------


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """One entry; *fields* are attributes of ``tarfile.TarInfo``."""
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    for key, value in fields.items():
        setattr(entry, key, value)
    return entry, data


def directory(name: str, mode: int = 0o755, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.DIRTYPE, mode=mode, **fields)


def symlink(name: str, target: str, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.SYMTYPE, linkname=target, mode=0o777, **fields)


def hardlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.LNKTYPE, linkname=target)


def device(name: str, major: int, minor: int, kind: bytes = tarfile.CHRTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=kind, devmajor=major, devminor=minor, mode=0o666)


def fifo(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.FIFOTYPE, mode=0o644)


def whiteout(path: str) -> tuple[tarfile.TarInfo, bytes]:
    """Hides *path* of the layers below."""
    above, slash, name = path.rpartition("/")
    return member(f"{above}{slash}.wh.{name}")


def opaque(path: str) -> tuple[tarfile.TarInfo, bytes]:
    """Hides all that the layers below have in *path*."""
    return member(f"{path}/.wh..wh..opq" if path else ".wh..wh..opq")


def archive(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar archive of *members* in this order."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=format) as tar:
        for entry, data in members:
            tar.addfile(entry, io.BytesIO(data))
    return raw.getvalue()


def files(**contents: bytes) -> bytes:
    """A tar archive of plain files."""
    return archive(*(member(name, data) for name, data in sorted(contents.items())))


def escaping_symlink() -> bytes:
    """A link out of the layer, and a file that would go through it."""
    return archive(symlink("out", "../../../../tmp"), member("out/ocid-escaped", b"x"))


def bomb(size_bytes: int) -> bytes:
    """A gzip blob a thousandth as large as what it unpacks to: one file of zeros."""
    entry = tarfile.TarInfo("zeros")
    entry.size = size_bytes
    raw = io.BytesIO()
    with gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as packed:
        packed.write(entry.tobuf(tarfile.GNU_FORMAT))
        piece = bytes(1 << 20)
        for _ in range(size_bytes >> 20):
            packed.write(piece)
        packed.write(bytes(1024))
    return raw.getvalue()


# --- images ----------------------------------------------------------------------------------------------------------


@dataclass
class BuiltImage:
    """An image as a registry holds it: documents and blobs by digest."""

    manifest: bytes
    media_type: str
    config: bytes
    layers: tuple[LayerBlob, ...]
    blobs: dict[Digest, bytes] = field(default_factory=dict)

    @property
    def digest(self) -> Digest:
        return digest_of(self.manifest)

    @property
    def image_id(self) -> ImageId:
        return ImageId(digest_of(self.config))


def layer(raw: bytes, packing: str = "+gzip", *, docker: bool = False) -> tuple[LayerBlob, bytes]:
    """A lone layer and its blob, named as if it were the base layer."""
    blob = PACKERS[packing](raw)
    diff_id = digest_of(raw)
    found = LayerBlob(
        chain_id=manifests.chain_ids([diff_id])[0],
        diff_id=diff_id,
        blob=digest_of(blob),
        media_type=(DOCKER_TAR if docker else OCI_TAR) + packing,
        size_bytes=len(blob),
    )
    return found, blob


def image(
    archives: Sequence[bytes],
    *,
    packings: Sequence[str] = (),
    docker: bool = False,
    annotations: Mapping[str, str] | None = None,
    **config: Any,
) -> BuiltImage:
    """An image of these tar archives, the base layer first, for this host's platform unless *config* says otherwise."""
    host = manifests.host_platform("x86_64")
    packed = list(packings) or [".gzip" if docker else "+gzip"] * len(archives)
    made = [layer(raw, packing, docker=docker) for raw, packing in zip(archives, packed, strict=True)]
    diff_ids = [one.diff_id for one, _ in made]
    document = {"os": host.os, "architecture": host.architecture, "config": {}, **config}
    raw_config = json.dumps({**document, "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()
    media_type = manifests.DOCKER_MANIFEST if docker else manifests.OCI_MANIFEST
    raw_manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": _descriptor(raw_config, DOCKER_CONFIG if docker else OCI_CONFIG),
            "layers": [_descriptor(blob, one.media_type) for one, blob in made],
            **({"annotations": dict(annotations)} if annotations else {}),
        }
    ).encode()
    layers = tuple(
        LayerBlob(
            chain_id=chain_id, diff_id=one.diff_id, blob=one.blob, media_type=one.media_type, size_bytes=one.size_bytes
        )
        for chain_id, (one, _) in zip(manifests.chain_ids(diff_ids), made, strict=True)
    )
    blobs = {digest_of(content): content for content in (raw_config, *(blob for _, blob in made))}
    return BuiltImage(raw_manifest, media_type, raw_config, layers, blobs)


def index(*images: tuple[BuiltImage, str, str], docker: bool = False) -> tuple[bytes, str]:
    """An index of (image, os, architecture), with an attestation in front as BuildKit writes them."""
    entries = [
        {**_descriptor(one.manifest, one.media_type), "platform": {"os": os, "architecture": architecture}}
        for one, os, architecture in images
    ]
    attestation = {
        **_descriptor(b"attestation", manifests.OCI_MANIFEST),
        "platform": {"os": "unknown", "architecture": "unknown"},
        "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
    }
    media_type = manifests.DOCKER_LIST if docker else manifests.OCI_INDEX
    document = {"schemaVersion": 2, "mediaType": media_type, "manifests": [attestation, *entries]}
    return json.dumps(document).encode(), media_type


def _descriptor(content: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}
