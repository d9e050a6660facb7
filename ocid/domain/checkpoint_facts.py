"""What the documents in an archive of a container checkpoint say, as far as a restore asks them. Pure.

They are claims of whoever wrote the archive. Nothing of the specification in it is ever used for the new container; it
is only compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ocid.errors import InvalidRequest

ANNOTATIONS_BYTES_MAX: Final = 64 << 10
BINDS_MAX: Final = 10_000
DELETED_MAX: Final = 200_000
TEXT_MAX: Final = 1024  # of a name or an image reference
IMAGE_ANNOTATIONS: Final = ("org.criu.checkpoint.container.name", "io.kubernetes.cri-o.annotations.checkpoint.name")
_CRIO_ANNOTATIONS: Final = "io.kubernetes.cri-o.Annotations"
_STEERING: Final = ("io.kubernetes.", "cdi.k8s.io/")  # of the kubelet's own, and of devices
_STEERING_DOMAINS: Final = ("nri.io", "noderesource.dev")  # of plugins


class CheckpointFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint says of its container."""

    name: str = ""
    image_refs: tuple[str, ...] = ()  # of the image below its changed files, the surest first
    annotations: dict[str, str] = {}
    binds: tuple[str, ...] = ()  # where it had bind mounts; CRIU wants one at each of these
    terminal: bool = False


class _Config(msgspec.Struct, frozen=True, rename="camel"):
    """The part of config.dump that we read. checkpointctl metadata.ContainerConfig."""

    name: str = ""
    rootfs_image: str = ""
    rootfs_image_ref: str = ""
    rootfs_image_name: str = ""


class _Mount(msgspec.Struct, frozen=True):
    destination: str = ""
    type: str = ""
    options: tuple[str, ...] = ()


class _Process(msgspec.Struct, frozen=True):
    terminal: bool = False


class _Spec(msgspec.Struct, frozen=True):
    """The part of spec.dump that we read. OCI runtime-spec config.md."""

    process: _Process = _Process()
    mounts: tuple[_Mount, ...] = ()
    annotations: dict[str, str] = {}


class _Status(msgspec.Struct, frozen=True):
    """The part of status.dump that we read. CRI ContainerStatus as JSON, as containerd writes it."""

    annotations: dict[str, str] = {}


def facts_of(documents: Mapping[str, bytes]) -> CheckpointFacts:
    """Read the *documents* by their names in the archive.

    Raises:
        InvalidRequest: one is malformed, or says too much.
    """
    config = _decode(documents, "config.dump", _Config)
    spec = _decode(documents, "spec.dump", _Spec)
    status = _decode(documents, "status.dump", _Status) if "status.dump" in documents else _Status()
    annotations = status.annotations
    if _CRIO_ANNOTATIONS in spec.annotations:
        inner = {"spec.dump": spec.annotations[_CRIO_ANNOTATIONS].encode("utf-8", "surrogatepass")}
        annotations = {**annotations, **_decode(inner, "spec.dump", dict[str, str])}
    size_bytes = sum(len(key) + len(value) for key, value in annotations.items())
    if size_bytes > ANNOTATIONS_BYTES_MAX:
        raise InvalidRequest(f"its annotations have {size_bytes} characters, the limit is {ANNOTATIONS_BYTES_MAX}")
    binds = tuple(dict.fromkeys(mount.destination for mount in spec.mounts if _is_bind(mount)))
    if len(binds) > BINDS_MAX:
        raise InvalidRequest(f"its container had {len(binds)} bind mounts, the limit is {BINDS_MAX}")
    refs = (config.rootfs_image_ref, config.rootfs_image_name, config.rootfs_image)
    for text in (config.name, *refs):
        if len(text) > TEXT_MAX or not text.isprintable():
            raise InvalidRequest(f"its 'config.dump' has the name {text[:100]!r}, wanted at most {TEXT_MAX} characters")
    image_refs = tuple(dict.fromkeys(ref for ref in refs if ref))
    return CheckpointFacts(
        name=config.name,
        image_refs=image_refs,
        annotations=annotations,
        binds=binds,
        terminal=spec.process.terminal,
    )


def deleted_names(raw: bytes) -> tuple[str, ...]:
    """Read deleted.files.

    Raises:
        InvalidRequest: it is malformed, or too long.
    """
    names: tuple[str, ...] = _decode({"deleted.files": raw}, "deleted.files", tuple[str, ...])
    if len(names) > DELETED_MAX:
        raise InvalidRequest(f"its 'deleted.files' has {len(names)} names, the limit is {DELETED_MAX}")
    return names


def inherited(annotations: Mapping[str, str], prefixes: tuple[str, ...]) -> dict[str, str]:
    """Return what of a checkpoint's *annotations* a new container may take over: only what steers nobody.

    What the kubelet keeps there for itself is of the old container; what picks devices, speaks to plugins or, by
    *prefixes*, to the OCI runtime would be a stranger's word about the new one's rights.
    """
    return {key: value for key, value in annotations.items() if not _steers(key, prefixes)}


def _steers(key: str, prefixes: tuple[str, ...]) -> bool:
    domain = key.partition("/")[0]
    return key.startswith((*_STEERING, *prefixes)) or any(
        domain == one or domain.endswith("." + one) for one in _STEERING_DOMAINS
    )


def missing_binds(binds: tuple[str, ...], spec: Mapping[str, Any]) -> list[str]:
    """Return which of the checkpoint's bind mounts the new container's *spec* lacks."""
    there = {mount["destination"].rstrip("/") for mount in spec.get("mounts", ())}
    return [one for one in binds if one.rstrip("/") not in there]


def _is_bind(mount: _Mount) -> bool:
    return mount.type == "bind" or "bind" in mount.options or "rbind" in mount.options


def _decode(documents: Mapping[str, bytes], name: str, kind: Any) -> Any:
    try:
        return msgspec.json.decode(documents[name], type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"its {name!r} cannot be read: {error}") from error
